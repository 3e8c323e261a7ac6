//! A golden case of ingest or translation whose input can be changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use evermesh_golden::GoldenCase;
use evermesh_ingest::{BuildMemo, Inputs, build, object::parse};
use evermesh_model::{Graph, Problem};
use evermesh_translate::{DeriveMemo, derive};
use serde_json::Value;

use super::{
    difference::{Resources, changed_fields},
    translated,
};

/// The steps of a leaf's path: names, `[]` and `{*}`.
pub(crate) fn steps(path: &str) -> Vec<&str> {
    path.split('.')
        .filter(|part| !part.is_empty())
        .flat_map(|part| {
            let name = part.trim_end_matches("[]");
            let lists = part[name.len()..].len() / 2;
            [name].into_iter().chain(["[]"].repeat(lists))
        })
        .collect()
}

/// All golden cases of ingest and translation, by names such as `ingest/testdata/node/bare`.
pub(crate) fn all() -> BTreeMap<String, FieldCase> {
    let crates = ["ingest", "translate"].into_iter();
    let cases = crates.flat_map(|name| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let cases = evermesh_golden::cases(root.join(name).join("testdata"));
        cases.into_iter().map(move |golden| {
            let case = FieldCase::new(&golden, name == "translate");
            (format!("{name}/testdata/{}", golden.name), case)
        })
    });
    cases.collect()
}

/// A place in the documents of a case: the index of the document, and a JSON pointer.
pub(crate) struct Occurrence {
    document: usize,
    pointer: String,
}

/// The output of a case with a changed input, compared with that of the input as it is.
pub(crate) enum Output {
    /// The object is not valid any more.
    Refused,
    Same,
    /// Full names of the Envoy fields that differ; empty if the change adds a problem, because the object or a part of it
    /// may not be served then.
    Other(BTreeSet<String>),
}

/// A golden case.
pub(crate) struct FieldCase {
    documents: Vec<Value>,
    /// The ends of the names of the proxies that a case of translation shows, such as `/front_shop`. Absent for a case
    /// of ingest.
    shown: Option<Vec<String>>,
    inputs: Inputs,
    memos: (BuildMemo, DeriveMemo),
    output: CaseOutput,
}

impl FieldCase {
    fn new(golden: &GoldenCase, is_translated: bool) -> Self {
        let mut lines = golden.input.lines();
        let shown = lines.find_map(|line| line.strip_prefix("# Show: "));
        let shown = shown.map(|names| names.split(", ").map(|name| format!("/{name}")).collect());
        let mut case = Self {
            documents: serde_saphyr::from_multiple(&golden.input).unwrap(),
            shown: shown.filter(|_| is_translated),
            inputs: translated::fixture::inputs(&golden.input),
            memos: Default::default(),
            output: CaseOutput::default(),
        };
        case.output = case.build();
        case
    }

    /// The places at which objects of the kind have the field.
    pub(crate) fn occurrences(&self, kind: &str, path: &str) -> Vec<Occurrence> {
        let documents = self.documents.iter().enumerate();
        documents
            .filter(|(_, document)| document["kind"] == kind)
            .flat_map(|(index, document)| {
                let pointers = pointers(document, &steps(path), String::new());
                pointers.into_iter().map(move |pointer| Occurrence {
                    document: index,
                    pointer,
                })
            })
            .collect()
    }

    pub(crate) fn value(&self, occurrence: &Occurrence) -> &Value {
        let document = &self.documents[occurrence.document];
        document.pointer(&occurrence.pointer).unwrap()
    }

    /// The output with another value of one field, or without the field.
    pub(crate) fn with(&mut self, occurrence: &Occurrence, value: Option<Value>) -> Output {
        let original = self.documents[occurrence.document].clone();
        let mut changed = original.clone();
        set(&mut changed, &occurrence.pointer, value);
        let Some(()) = self.apply(changed) else {
            return Output::Refused;
        };
        let output = self.build();
        self.apply(original).unwrap();
        if output == self.output {
            return Output::Same;
        }
        let is_new = |problem: &&Problem| !self.output.problems.contains(problem);
        Output::Other(match output.problems.iter().find(is_new) {
            Some(_) => BTreeSet::new(),
            None => changed_fields(&self.output.resources, &output.resources),
        })
    }

    /// Replaces an object of the input, if it is valid.
    fn apply(&mut self, document: Value) -> Option<()> {
        let parsed = parse(document);
        let (reference, object) = parsed.object.filter(|_| parsed.problems.is_empty())?;
        self.inputs.apply(reference, Some(object));
        Some(())
    }

    fn build(&mut self) -> CaseOutput {
        let built = build(&self.inputs, &mut self.memos.0);
        let mut output = CaseOutput {
            graph: Arc::default(),
            problems: built.problems,
            resources: Resources::new(),
        };
        let Some(shown) = &self.shown else {
            output.graph = built.graph;
            return output;
        };
        let derived = derive(&built.graph, &mut self.memos.1);
        for (proxy, view) in &derived.views {
            let proxy = proxy.to_string();
            if shown.iter().any(|name| proxy.ends_with(name)) {
                let of_view = translated::resources(&derived, view);
                output.resources.extend(
                    of_view.map(|(key, resource)| {
                        ((proxy.clone(), key.clone()), Arc::clone(resource))
                    }),
                );
            }
        }
        output
    }
}

fn pointers(value: &Value, steps: &[&str], at: String) -> Vec<String> {
    let Some((step, rest)) = steps.split_first() else {
        return vec![at];
    };
    match (*step, value) {
        ("[]", Value::Array(items)) => items
            .iter()
            .enumerate()
            .flat_map(|(index, item)| pointers(item, rest, format!("{at}/{index}")))
            .collect(),
        ("{*}", Value::Object(fields)) => fields
            .iter()
            .flat_map(|(name, field)| pointers(field, rest, format!("{at}/{name}")))
            .collect(),
        (name, Value::Object(fields)) => match fields.get(name) {
            Some(field) => pointers(field, rest, format!("{at}/{name}")),
            None => Vec::new(),
        },
        _ => Vec::new(),
    }
}

fn set(document: &mut Value, pointer: &str, value: Option<Value>) {
    if let Some(value) = value {
        *document.pointer_mut(pointer).unwrap() = value;
        return;
    }
    let (parent, step) = pointer.rsplit_once('/').unwrap();
    match document.pointer_mut(parent).unwrap() {
        Value::Object(fields) => {
            fields.remove(step);
        }
        Value::Array(items) => {
            items.remove(step.parse().unwrap());
        }
        other => panic!("{pointer}: {other}"),
    }
}

/// The output that the snapshot of a case shows.
#[derive(Default, PartialEq)]
struct CaseOutput {
    /// Empty for a case of translation.
    graph: Arc<Graph>,
    problems: Arc<[Problem]>,
    /// The resources of the views.
    resources: Resources,
}
