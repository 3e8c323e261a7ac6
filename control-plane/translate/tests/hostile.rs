//! No value of a manifest makes a resource that violates Envoy's own rules ([`evermesh_proto::rules`]).
//!
//! Each golden case of ingest and translation is a valid input. The test replaces one scalar of one document after the
//! other by hostile values, and checks every resource that changes. Ingest has to refuse such a value, or leave out what
//! contains it. The ledger of fields makes sure that the cases contain each field of the CRDs.
//!
//! The values of a field are spread over its first two places in a case; with the environment variable
//! `HOSTILE_EVERYWHERE`, each value is tried in all places of all cases.

#![allow(clippy::unwrap_used)] // a test may panic, and so may its helpers

#[path = "support/case.rs"]
#[allow(dead_code)] // this test needs a part of the module
mod translated;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    path::Path,
};

use evermesh_golden::GoldenCase;
use evermesh_ingest::{BuildMemo, Inputs, build, object::parse};
use evermesh_proto::{Resource, rules};
use evermesh_translate::{DeriveMemo, ResourceChanges, derive_changes};
use serde_json::{Value, json};

/// The places of a field in a case over which its values are spread, unless each value is tried in all of them.
const PLACES: usize = 2;

#[test]
fn no_value_violates_a_rule_of_envoy() {
    #[allow(clippy::disallowed_methods)] // the code under test is pure, and a test has settings
    let everywhere = env::var_os("HOSTILE_EVERYWHERE").is_some();
    let mut fields = BTreeSet::new();
    let mut findings = BTreeSet::new();
    let mut count = 0;
    for golden in golden_cases() {
        let mut case = HostileCase::new(&golden);
        for violation in violations(&case.changes()) {
            findings.insert(format!("{violation} ({})", golden.name));
        }
        let mut places: BTreeMap<String, Vec<(usize, String)>> = BTreeMap::new();
        for (document, pointer) in case.scalars() {
            let name = case.field(document, &pointer);
            places.entry(name).or_default().push((document, pointer));
        }
        for (name, places) in places {
            if !fields.insert(name.clone()) && !everywhere {
                continue;
            }
            let spread = places.len().min(PLACES);
            for (place, (document, pointer)) in places.iter().enumerate() {
                let scalar = case.documents[*document].pointer(pointer).unwrap();
                for (index, value) in hostile(scalar).into_iter().enumerate() {
                    if !everywhere && index % spread != place {
                        continue;
                    }
                    count += 1;
                    for violation in case.violations_with(*document, pointer, &value) {
                        let shown: String = value.to_string().chars().take(40).collect();
                        findings.insert(format!("{name} = {shown}: {violation} ({})", golden.name));
                    }
                }
            }
        }
    }
    println!("{} fields, {count} inputs", fields.len());
    let findings: Vec<String> = findings.into_iter().collect();
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

fn golden_cases() -> impl Iterator<Item = GoldenCase> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    ["translate", "ingest"]
        .into_iter()
        .flat_map(move |name| evermesh_golden::cases(root.join(name).join("testdata")))
}

/// The values that replace a text or a number. The schema refuses some of them.
fn hostile(value: &Value) -> Vec<Value> {
    match value {
        Value::String(text) => {
            let mut values: Vec<String> = ["", " ", "/", ":", ".", "*", "%", "0", "\u{e9}", "-1s"]
                .map(ToOwned::to_owned)
                .into();
            let letters = [
                "\0", "\n", "\r\n", "\t", "\u{1}", "\u{7f}", " ", "\u{2028}", "\\1", "{",
            ];
            values.extend(letters.iter().map(|it| format!("{text}{it}")));
            values.extend(letters.iter().map(|it| format!("{it}{text}")));
            values.extend(
                [257, 1_025, 10_000, 20_000].map(|size| format!("{text}{}", "x".repeat(size))),
            );
            values.into_iter().map(Value::String).collect()
        }
        Value::Number(_) => {
            let mut values = vec![json!(0), json!(-1), json!(1)];
            values.extend(
                [
                    99,
                    101,
                    600,
                    1_000,
                    65_535,
                    65_536,
                    1 << 24,
                    1 << 31,
                    1_u64 << 32,
                ]
                .map(|it| json!(it)),
            );
            values.extend([u64::MAX, i64::MAX as u64].map(|it| json!(it)));
            values.push(json!(i64::MIN));
            values
        }
        _ => Vec::new(),
    }
}

struct HostileCase {
    documents: Vec<Value>,
    inputs: Inputs,
    memos: (BuildMemo, DeriveMemo),
}

impl HostileCase {
    fn new(golden: &GoldenCase) -> Self {
        Self {
            documents: serde_saphyr::from_multiple(&golden.input).unwrap(),
            inputs: translated::fixture::inputs(&golden.input),
            memos: Default::default(),
        }
    }

    fn changes(&mut self) -> ResourceChanges {
        let built = build(&self.inputs, &mut self.memos.0);
        derive_changes(&built.graph, &mut self.memos.1)
    }

    /// The scalars of all objects, as index of the document and JSON pointer.
    fn scalars(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for (index, document) in self.documents.iter().enumerate() {
            let is_object = document["apiVersion"].is_string();
            for part in document.as_object().into_iter().flatten() {
                if is_object && !matches!(part.0.as_str(), "apiVersion" | "kind") {
                    collect(part.1, format!("/{}", part.0), &mut |pointer| {
                        found.push((index, pointer));
                    });
                }
            }
        }
        found
    }

    /// The kind and the path of a field, without the indexes of lists.
    fn field(&self, document: usize, pointer: &str) -> String {
        let kind = self.documents[document]["kind"].as_str().unwrap();
        let is_index = |step: &str| step.bytes().all(|byte| byte.is_ascii_digit());
        let steps = pointer.split('/').skip(1);
        let steps = steps.map(|step| if is_index(step) { "[]" } else { step });
        format!("{kind} {}", steps.collect::<Vec<_>>().join("."))
    }

    /// The rules that resources violate if a scalar has another value. The next call derives the resources of the original
    /// value again.
    fn violations_with(&mut self, document: usize, pointer: &str, value: &Value) -> Vec<String> {
        let original = self.documents[document].clone();
        let mut changed = original.clone();
        *changed.pointer_mut(pointer).unwrap() = value.clone();
        let parsed = parse(changed);
        let Some((reference, object)) = parsed.object.filter(|_| parsed.problems.is_empty()) else {
            return Vec::new();
        };
        let (before, unchanged) = parse(original).object.unwrap();
        if before != reference {
            self.inputs.apply(before.clone(), None);
        }
        self.inputs.apply(reference.clone(), Some(object));
        let found = violations(&self.changes());
        if before != reference {
            self.inputs.apply(reference, None);
        }
        self.inputs.apply(before, Some(unchanged));
        found
    }
}

/// Calls `each` with the pointer of each text and number.
fn collect(value: &Value, at: String, each: &mut impl FnMut(String)) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let step = name.replace('~', "~0").replace('/', "~1");
                collect(value, format!("{at}/{step}"), each);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                collect(value, format!("{at}/{index}"), each);
            }
        }
        Value::String(_) | Value::Number(_) => each(at),
        Value::Bool(_) | Value::Null => {}
    }
}

fn violations(changes: &ResourceChanges) -> Vec<String> {
    let resources = changes.resources.values().flatten();
    let found = resources.flat_map(|resource: &std::sync::Arc<Resource>| {
        let found = rules::violations(resource.kind.message_name(), &resource.body);
        let name = &resource.name;
        found.into_iter().map(move |it| format!("{name}: {it}"))
    });
    found.collect()
}
