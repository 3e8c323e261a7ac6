//! Each field has the effect that `docs/fields.md` states, in the golden cases that the page names.
//!
//! A case that names a field would fail if ingest or translation ignored it: the test removes the field from the
//! input, and gives it other values, and compares what ingest and translation make of both inputs. Required fields
//! cannot be removed; without them the object is refused.
#![allow(clippy::unwrap_used)] // a test may panic, and so may its helpers

mod case;
mod change;
mod difference;
mod page;
mod schema;

#[path = "../support/case.rs"]
#[allow(dead_code)] // this test needs a part of the module
mod translated;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use self::{
    case::{FieldCase, Output},
    page::Row,
    schema::Schemas,
};

#[test]
fn output_of_each_named_case_depends_on_the_field() {
    let schemas = Schemas::default();
    let rows = page::rows();
    assert!(!rows.is_empty());
    let mut cases = case::all();
    let failures: Vec<String> = rows
        .iter()
        .flat_map(|row| {
            let failures = failures(row, &schemas, &mut cases);
            failures.into_iter().map(move |it| format!("{row}: {it}"))
        })
        .collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// Statements of the page about a leaf that are not true.
fn failures(row: &Row, schemas: &Schemas, cases: &mut BTreeMap<String, FieldCase>) -> Vec<String> {
    let mut failures = Vec::new();
    let mut stated: BTreeSet<&String> = row.envoy.iter().collect();
    for name in &row.cases {
        let Some(case) = cases.get_mut(name) else {
            failures.push(format!("{name} does not exist"));
            continue;
        };
        let effect = Effect::of(row, schemas, case);
        if let Some(failure) = effect.contradiction(row) {
            failures.push(format!("{name}: {failure}"));
        }
        stated.retain(|field| !effect.envoy.contains(*field));
    }
    if !stated.is_empty() {
        failures.push(format!("no named case changes {stated:?}"));
    }
    failures
}

/// The effect of a leaf on the output of a case.
#[derive(Default)]
struct Effect {
    /// Outputs without the field.
    without: Outputs,
    /// Outputs with other values of the field.
    with_others: Outputs,
    /// Full names of the Envoy fields that differ in one of the outputs.
    envoy: BTreeSet<String>,
}

/// The kinds of output that occurred.
#[derive(Default)]
struct Outputs {
    refused: bool,
    same: bool,
    other: bool,
}

impl Effect {
    fn of(row: &Row, schemas: &Schemas, case: &mut FieldCase) -> Self {
        let schema = schemas.leaf(&row.kind, &row.path);
        let occurrences = case.occurrences(&row.kind, &row.path);
        let values: Vec<Value> = occurrences
            .iter()
            .map(|it| case.value(it).clone())
            .collect();
        let mut effect = Self::default();
        for (occurrence, value) in occurrences.iter().zip(&values) {
            if effect.is_proven(row) {
                break;
            }
            let output = case.with(occurrence, None);
            effect.without.add(&output);
            effect.add_fields(output);
            for other in change::other_values(value, &values, &schema) {
                let output = case.with(occurrence, Some(other));
                effect.with_others.add(&output);
                effect.add_fields(output);
            }
        }
        effect
    }

    fn add_fields(&mut self, output: Output) {
        if let Output::Other(fields) = output {
            self.envoy.extend(fields);
        }
    }

    /// Whether further occurrences cannot change the result.
    fn is_proven(&self, row: &Row) -> bool {
        !row.has_no_effect
            && self.with_others.other
            && self.contradiction(row).is_none()
            && row.envoy.iter().all(|field| self.envoy.contains(field))
    }

    fn contradiction(&self, row: &Row) -> Option<&'static str> {
        let Self {
            without,
            with_others,
            envoy: _,
        } = self;
        let occurs = without.refused || without.same || without.other;
        if !occurs {
            Some("the input does not contain the field")
        } else if row.has_no_effect {
            let has_effect = without.other || with_others.other;
            has_effect.then_some("the output depends on the field")
        } else if !(without.refused || without.other) {
            Some("the output is the same without the field")
        } else if with_others.same && !with_others.other {
            Some("the output is the same with other values of the field")
        } else {
            None
        }
    }
}

impl Outputs {
    fn add(&mut self, output: &Output) {
        match output {
            Output::Refused => self.refused = true,
            Output::Same => self.same = true,
            Output::Other(_) => self.other = true,
        }
    }
}
