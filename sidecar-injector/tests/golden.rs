//! Decisions and patches: `testdata/FEATURE/CASE/in.yaml` → the decision, the warnings, the patch and Envoy's bootstrap
//! in `out.snap` beside it.
//!
//! Most of what is put into a pod is the same in every case. `pod/whole-pod` shows a pod with its default sidecar in
//! full, and `telemetry/xray` the container `xray-daemon`. The other cases show differences from these:
//!
//! ```text
//! - add /spec/initContainers:
//!     - proxyinit as in pod/whole-pod
//! - add /spec/initContainers/-:
//!     envoy unlike pod/whole-pod:
//!       restartPolicy: (absent)
//! ```
//!
//! The bootstrap, one long argument of Envoy, is shown as a document of its own.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod comparison;
mod fixture;

use std::process::ExitCode;

use comparison::differences;
use evermesh_golden::{GoldenCase, cases};
use evermesh_injector::Decision;
use fixture::{Case, take_bootstrap};
use serde::Serialize;
use serde_json::{Value, json};

/// The case that shows a patched pod in full.
const WHOLE_POD: &str = "pod/whole-pod";

/// The case that shows the container `xray-daemon` in full.
const XRAY_DAEMON: &str = "telemetry/xray";

/// A patch with everything that a snapshot shows of it.
struct Patched {
    decision: String,
    warnings: Vec<String>,
    /// Pairs of operation and path, and of the value.
    operations: Vec<(String, Value)>,
    pod: Value,
    bootstrap: Option<Value>,
}

#[derive(Serialize)]
struct Shown {
    decision: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    patch: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bootstrap: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<Value>,
}

/// The results of the two cases that others are compared with.
struct References {
    whole_pod: Patched,
    xray_daemon: Value,
}

fn main() -> ExitCode {
    let testdata = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/testdata");
    let references = References::read(&cases(testdata));
    evermesh_golden::run(testdata, move |case| {
        pods_become_decisions_and_patches(&references, case);
    })
}

fn pods_become_decisions_and_patches(references: &References, golden: &GoldenCase) {
    match outcome(&Case::read(&golden.input)) {
        Ok(patched) => golden.assert_snapshot(&references.show(&golden.name, patched)),
        Err(decision) => golden.assert_snapshot(&decision),
    }
}

/// The patch, or what is shown of a decision without one.
fn outcome(case: &Case) -> Result<Patched, Value> {
    let member = match case.decide() {
        Decision::Skip(warning) => return Err(json!({ "decision": "skip", "warning": warning })),
        Decision::Reject(rejected) => {
            return Err(json!({
                "decision": "reject",
                "message": rejected.message,
                "may_be_stale": rejected.may_be_stale,
            }));
        }
        Decision::Unready(message) => {
            return Err(json!({ "decision": "unready", "message": message }));
        }
        Decision::Inject(member) => member,
    };
    let made = match case.patch(&case.pod).unwrap() {
        Ok(made) => made,
        Err(error) => {
            return Err(json!({ "decision": "reject", "message": error.to_string() }));
        }
    };
    let mut pod = case.pod.clone();
    json_patch::patch(&mut pod, &made.patch).unwrap();
    let again = case.patch(&pod).unwrap().unwrap();
    assert_eq!(json!(again.patch), json!([]), "a second patch is empty");
    let mut patch = json!(made.patch);
    let bootstrap = take_bootstrap(&mut patch);
    take_bootstrap(&mut pod);
    Ok(Patched {
        decision: format!("inject {}", member.id),
        warnings: made.warnings,
        operations: operations(patch.as_array().unwrap()),
        pod,
        bootstrap,
    })
}

/// The operations of a patch. The variables of a container are added one by one and shown as one list.
fn operations(patch: &[Value]) -> Vec<(String, Value)> {
    let mut operations: Vec<(String, Value)> = Vec::new();
    for entry in patch {
        let place = entry["path"].as_str().unwrap();
        let name = format!("{} {place}", entry["op"].as_str().unwrap());
        let value = &entry["value"];
        let list = name.strip_suffix("/-").filter(|it| it.ends_with("/env"));
        let list = operations
            .iter_mut()
            .find(|(earlier, _)| *earlier == name || list == Some(earlier));
        match list {
            Some((_, Value::Array(values))) => values.push(value.clone()),
            _ if name.ends_with("/env/-") => operations.push((name, json!([value]))),
            _ => operations.push((name, value.clone())),
        }
    }
    operations
}

impl References {
    fn read(cases: &[GoldenCase]) -> Self {
        let read = |name: &str| {
            let case = cases.iter().find(|case| case.name == name).unwrap();
            outcome(&Case::read(&case.input)).unwrap()
        };
        let xray = read(XRAY_DAEMON).pod;
        let containers = xray["spec"]["initContainers"].as_array().unwrap();
        let daemon = containers.iter().find(|it| it["name"] == "xray-daemon");
        Self {
            whole_pod: read(WHOLE_POD),
            xray_daemon: daemon.unwrap().clone(),
        }
    }

    fn show(&self, case: &str, patched: Patched) -> Shown {
        let is_whole = case == WHOLE_POD;
        let patch = patched.operations.into_iter().map(|(operation, value)| {
            if value.is_null() {
                return operation.into();
            }
            let value = match self.field_of_envoy(&operation) {
                Some(base) => compared("", base, WHOLE_POD, &value),
                None => self.value(case, &value),
            };
            json!({ operation: value })
        });
        let bootstrap = match (patched.bootstrap, &self.whole_pod.bootstrap) {
            (Some(bootstrap), Some(base)) if !is_whole => {
                Some(compared("", base, WHOLE_POD, &bootstrap))
            }
            (bootstrap, _) => bootstrap,
        };
        Shown {
            decision: patched.decision,
            warnings: patched.warnings,
            patch: patch.collect(),
            bootstrap,
            pod: is_whole.then_some(patched.pod),
        }
    }

    /// A value with the objects that another case shows replaced by their names and differences.
    fn value(&self, case: &str, value: &Value) -> Value {
        match value {
            Value::Array(values) => values.iter().map(|it| self.value(case, it)).collect(),
            Value::Object(_) => match self.named(value["name"].as_str().unwrap_or_default()) {
                Some((base, shown_in)) if shown_in != case || case == WHOLE_POD => {
                    let name = value["name"].as_str().unwrap();
                    compared(&format!("{name} "), base, shown_in, value)
                }
                _ => value.clone(),
            },
            _ => value.clone(),
        }
    }

    /// The container or volume of this name, and the case that shows it in full.
    fn named(&self, name: &str) -> Option<(&Value, &'static str)> {
        if name == "xray-daemon" {
            return Some((&self.xray_daemon, XRAY_DAEMON));
        }
        let spec = &self.whole_pod.pod["spec"];
        let found = ["initContainers", "volumes"]
            .iter()
            .filter_map(|list| spec[list].as_array())
            .flatten()
            .find(|it| it["name"] == name);
        found.map(|it| (it, WHOLE_POD))
    }

    /// The field of the default Envoy container that an operation sets in a container of the pod, as in `add
    /// /spec/containers/0/image`.
    fn field_of_envoy(&self, operation: &str) -> Option<&Value> {
        let (_, place) = operation.split_once(" /spec/containers/")?;
        let (_, field) = place.split_once('/')?;
        let (envoy, _) = self.named("envoy")?;
        envoy.get(field.trim_end_matches("/-"))
    }
}

/// `as in CASE` if the value equals the base, or `unlike CASE` with the differences.
fn compared(name: &str, base: &Value, shown_in: &str, value: &Value) -> Value {
    match differences(base, value) {
        None => format!("{name}as in {shown_in}").into(),
        Some(differences) if differences == *value => differences,
        Some(differences) => json!({ format!("{name}unlike {shown_in}"): differences }),
    }
}
