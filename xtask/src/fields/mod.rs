//! The ledger of fields: what becomes of each field of the CRDs, and the tests that prove it.
//!
//! `docs/fields.yaml` is written by hand: rules, each for one or several leaves. `docs/fields.md` lists every leaf with
//! its rule. The test `fields` of `evermesh-translate` changes each leaf in the named golden cases and compares the
//! change of the output with the page.

mod evidence;
mod leaves;
mod page;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, Result};
use serde::Deserialize;

use self::evidence::Evidence;
use crate::{Finding, files};

pub(crate) const RULES: &str = "docs/fields.yaml";
const PAGE: &str = "docs/fields.md";

/// What becomes of some leaves.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldRule {
    /// Full names of the Envoy fields that the leaves set, such as `envoy.config.core.v3.HealthCheck.timeout`.
    #[serde(default)]
    envoy: Vec<String>,
    /// The effect in words, if it is not an Envoy field.
    effect: Option<String>,
    /// The difference from App Mesh.
    difference: Option<String>,
    /// Golden cases and test functions by leaf. A leaf is written as `Kind path`, where `{a,b}` stands for each of `a`
    /// and `b`.
    leaves: BTreeMap<String, Vec<String>>,
}

/// A leaf's rule and tests.
#[derive(Debug, Clone, Copy)]
struct Entry<'a> {
    rule: &'a FieldRule,
    tests: &'a [String],
}

/// Writes the page, with the leaves that have an entry.
///
/// # Errors
///
/// If a file cannot be read or written.
pub(crate) fn write() -> Result<Vec<Finding>> {
    let rules = Rules::read()?;
    let (entries, findings) = rules.entries_of_workspace()?;
    fs::write(files::root().join(PAGE), page::render(&entries)).context(PAGE)?;
    Ok(findings)
}

/// Checks the rules and the page.
///
/// # Errors
///
/// If a file cannot be read.
pub(crate) fn check() -> Result<Vec<Finding>> {
    let rules = Rules::read()?;
    let (entries, mut findings) = rules.entries_of_workspace()?;
    let written = fs::read_to_string(files::root().join(PAGE)).unwrap_or_default();
    if findings.is_empty() && written != page::render(&entries) {
        findings.push(Finding {
            path: PAGE.to_owned(),
            line: 1,
            message: format!("the page does not equal {RULES}; run `cargo run -p xtask -- fields`"),
        });
    }
    Ok(findings)
}

/// The file of rules.
struct Rules {
    text: String,
    rules: Vec<FieldRule>,
}

impl Rules {
    fn read() -> Result<Self> {
        Self::parse(fs::read_to_string(files::root().join(RULES)).context(RULES)?)
    }

    fn parse(text: String) -> Result<Self> {
        let rules = serde_saphyr::from_str(&text).context(RULES)?;
        Ok(Self { text, rules })
    }

    fn entries_of_workspace(&self) -> Result<(BTreeMap<String, Entry<'_>>, Vec<Finding>)> {
        let evidence = Evidence::of_workspace()?;
        Ok(self.entries(&leaves::of_all_kinds()?, |name| evidence.contains(name)))
    }

    /// The entry of each leaf, and what is wrong with the rules.
    fn entries(
        &self,
        leaves: &BTreeSet<String>,
        is_test: impl Fn(&str) -> bool,
    ) -> (BTreeMap<String, Entry<'_>>, Vec<Finding>) {
        let mut entries = BTreeMap::new();
        let mut findings = Vec::new();
        for rule in &self.rules {
            for (pattern, tests) in &rule.leaves {
                let mut find = |message| findings.push(self.finding(pattern, message));
                for leaf in expand(pattern) {
                    if !leaves.contains(&leaf) {
                        find(format!("no schema has the leaf `{leaf}`"));
                    } else if entries
                        .insert(leaf.clone(), Entry { rule, tests })
                        .is_some()
                    {
                        find(format!("`{leaf}` has two entries"));
                    }
                }
                if rule.envoy.is_empty() && rule.effect.is_none() {
                    find(format!("`{pattern}` has neither `envoy` nor `effect`"));
                }
                if tests.is_empty() {
                    find(format!("`{pattern}` has no test"));
                }
                for test in tests.iter().filter(|test| !is_test(test)) {
                    find(format!("the test `{test}` of `{pattern}` does not exist"));
                }
            }
        }
        for leaf in leaves.iter().filter(|leaf| !entries.contains_key(*leaf)) {
            findings.push(self.finding(leaf, format!("`{leaf}` has no entry")));
        }
        (entries, findings)
    }

    /// A finding on the line of a pattern.
    fn finding(&self, pattern: &str, message: String) -> Finding {
        let mut lines = self.text.lines();
        Finding {
            path: RULES.to_owned(),
            line: lines.position(|line| line.contains(pattern)).unwrap_or(0) + 1,
            message,
        }
    }
}

/// Replaces `{a,b}` by each of its alternatives. A group without a comma, such as `{*}`, stays.
fn expand(pattern: &str) -> Vec<String> {
    let group = pattern.match_indices('{').find_map(|(start, _)| {
        let length = pattern[start..].find('}')?;
        let alternatives = &pattern[start + 1..start + length];
        alternatives.contains(',').then_some((start, length))
    });
    let Some((start, length)) = group else {
        return vec![pattern.to_owned()];
    };
    let (before, rest) = (&pattern[..start], &pattern[start + length + 1..]);
    pattern[start + 1..start + length]
        .split(',')
        .flat_map(|alternative| expand(&format!("{before}{alternative}{rest}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Rules {
        Rules::parse(text.to_owned()).unwrap()
    }

    fn leaves(leaves: &[&str]) -> BTreeSet<String> {
        leaves.iter().map(|&leaf| leaf.to_owned()).collect()
    }

    fn findings(text: &str, schema: &[&str]) -> Vec<(usize, String)> {
        let rules = rules(text);
        let (_, findings) = rules.entries(&leaves(schema), |test| test == "golden");
        findings
            .into_iter()
            .map(|it| (it.line, it.message))
            .collect()
    }

    #[test]
    fn complete_rules_have_no_findings() {
        let rules = "- effect: names\n  leaves: {K .a: [golden], 'K .{b,c}.d': [golden]}\n";
        assert_eq!(findings(rules, &["K .a", "K .b.d", "K .c.d"]), []);
    }

    #[test]
    fn leaf_without_an_entry_is_a_finding() {
        let rules = "- effect: names\n  leaves: {K .a: [golden]}\n";
        assert_eq!(
            findings(rules, &["K .a", "K .b"]),
            [(1, "`K .b` has no entry".to_owned())]
        );
    }

    #[test]
    fn entry_without_a_leaf_is_a_finding() {
        let rules = "- effect: names\n  leaves:\n    K .a: [golden]\n    K .{b,c}: [golden]\n";
        assert_eq!(
            findings(rules, &["K .a", "K .b"]),
            [(4, "no schema has the leaf `K .c`".to_owned())]
        );
    }

    #[test]
    fn second_entry_of_a_leaf_is_a_finding() {
        let rules = "- effect: names\n  leaves:\n    K .a: [golden]\n    K .{a,b}: [golden]\n";
        assert_eq!(
            findings(rules, &["K .a", "K .b"]),
            [(4, "`K .a` has two entries".to_owned())]
        );
    }

    #[test]
    fn test_that_does_not_exist_is_a_finding() {
        let rules = "- effect: names\n  leaves:\n    K .a: [golden, evermesh::gone]\n";
        assert_eq!(
            findings(rules, &["K .a"]),
            [(
                3,
                "the test `evermesh::gone` of `K .a` does not exist".to_owned()
            )]
        );
    }

    #[test]
    fn entry_without_effect_or_test_is_a_finding() {
        assert_eq!(
            findings("- leaves: {K .a: []}\n", &["K .a"]),
            [
                (1, "`K .a` has neither `envoy` nor `effect`".to_owned()),
                (1, "`K .a` has no test".to_owned())
            ]
        );
    }

    #[test]
    fn groups_expand_to_all_combinations() {
        assert_eq!(
            expand("K{1,2}.{a,b}[]{,.c}"),
            [
                "K1.a[]", "K1.a[].c", "K1.b[]", "K1.b[].c", "K2.a[]", "K2.a[].c", "K2.b[]",
                "K2.b[].c"
            ]
        );
        assert_eq!(expand("K .m.{*}.{a,b}"), ["K .m.{*}.a", "K .m.{*}.b"]);
    }

    #[test]
    fn page_lists_each_leaf_below_its_kind() {
        let rules = rules(
            "- envoy: [envoy.A.b, envoy.A.c]\n  leaves: {L .a: [golden]}\n\
             - effect: a name\n  difference: none | some\n  leaves: {'K .{a,b}': [golden, golden]}\n",
        );
        let schema = leaves(&["K .a", "K .b", "L .a"]);
        let (entries, _) = rules.entries(&schema, |_| true);
        let page = page::render(&entries);
        let tables: Vec<&str> = page.lines().skip_while(|line| *line != "## K").collect();
        assert_eq!(
            tables,
            [
                "## K",
                "",
                "| field | becomes | proof | difference from App Mesh |",
                "|---|---|---|---|",
                "| `.a` | a name | `golden`, `golden` | none \\| some |",
                "| `.b` | a name | `golden`, `golden` | none \\| some |",
                "",
                "## L",
                "",
                "| field | becomes | proof | difference from App Mesh |",
                "|---|---|---|---|",
                "| `.a` | `envoy.A.b`, `envoy.A.c` | `golden` | |",
            ]
        );
    }
}
