//! The page `docs/fields.md`.

use std::collections::BTreeMap;

use super::Entry;

const INTRODUCTION: &str = "\
# Fields

This page lists every field of the CRDs, with what becomes of it and with the tests that prove it.
`cargo run -p xtask -- fields` writes it from the rules in [fields.yaml](fields.yaml); `make check` fails if a field has no rule or a named test does not exist.

- **field**: the path, named as in the schema. Listed are scalars, label selectors, lists with limits, and every required field. For a required object or a list, the fields inside it have rows of their own.
- **becomes**: full names of Envoy fields, or the effect in words.
- **proof**: golden cases, below `control-plane/`, and test functions with their crate.
- **difference from App Mesh**: empty if there is none. [compatibility.md](compatibility.md) has the reasons.

The test `fields` of `evermesh-translate` verifies this page. In each golden case that a row names, it removes the field and gives it other values: the output must change, and for a case of `translate` the change must contain the Envoy fields of the row. So the case fails if the field is not translated.
";

/// The page with the entries of all leaves.
pub(crate) fn render(entries: &BTreeMap<String, Entry<'_>>) -> String {
    let mut lines = vec![INTRODUCTION.to_owned()];
    let mut table = "";
    for (leaf, entry) in entries {
        let (kind, path) = leaf.split_once(' ').unwrap_or((leaf, ""));
        if kind != table {
            if !table.is_empty() {
                lines.push(String::new());
            }
            table = kind;
            lines.push(format!("## {kind}\n"));
            lines.push("| field | becomes | proof | difference from App Mesh |".to_owned());
            lines.push("|---|---|---|---|".to_owned());
        }
        lines.push(row(path, entry));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn row(path: &str, Entry { rule, tests }: &Entry<'_>) -> String {
    let code = |text: &String| format!("`{text}`");
    let envoy = rule.envoy.iter().map(code);
    let effects: Vec<String> = envoy.chain(rule.effect.clone()).collect();
    let tests: Vec<String> = tests.iter().map(code).collect();
    let difference = rule.difference.as_deref().map(|text| format!("{text} "));
    let cells = [
        format!("`{path}` "),
        format!("{} ", effects.join(", ")),
        format!("{} ", tests.join(", ")),
        difference.unwrap_or_default(),
    ];
    let cells = cells.map(|cell| cell.replace('|', "\\|"));
    format!("| {}|", cells.join("| "))
}
