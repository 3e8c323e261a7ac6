//! What becomes of pods: `testdata/<feature>/<case>/in.yaml` → the decision, the patch and the patched pod in
//! `out.snap` beside it. Regenerate with `INSTA_UPDATE=always cargo test -p evermesh-injector --test golden`, and
//! read the diff. Of the patch the places are shown, as the pod shows the values. Envoy's bootstrap, one
//! long argument, is shown on its own where the case has settings.

#![allow(clippy::unwrap_used)] // what fails here fails a test

mod fixture;

use evermesh_injector::Decision;
use fixture::Case;
use serde_json::{Value, json};

/// Stands for the bootstrap among Envoy's arguments.
const BOOTSTRAP: &str = "…bootstrap…";

/// Takes the bootstraps out of a value.
fn redact(value: &mut Value, found: &mut Option<Value>) {
    match value {
        Value::String(text) if text.starts_with(r#"{"admin""#) => {
            *found = Some(serde_json::from_str(&text.replace("$$", "$")).unwrap());
            *value = BOOTSTRAP.into();
        }
        Value::Array(values) => values.iter_mut().for_each(|it| redact(it, found)),
        Value::Object(fields) => fields.values_mut().for_each(|it| redact(it, found)),
        _ => {}
    }
}

fn outcome(case: &Case) -> Value {
    let member = match case.decide() {
        Decision::Skip(warning) => return json!({ "decision": "skip", "warning": warning }),
        Decision::Reject(refusal) => {
            return json!({
                "decision": "refuse",
                "message": refusal.message,
                "may_be_stale": refusal.may_be_stale,
            });
        }
        Decision::Unready(message) => {
            return json!({ "decision": "unready", "message": message });
        }
        Decision::Inject(member) => member,
    };
    let patched = match case.patch(&case.pod).unwrap() {
        Ok(patched) => patched,
        Err(error) => return json!({ "decision": "refuse", "message": error.to_string() }),
    };
    let mut pod = case.pod.clone();
    json_patch::patch(&mut pod, &patched.patch).unwrap();
    let again = case.patch(&pod).unwrap().unwrap();
    assert_eq!(
        json!(again.patch),
        json!([]),
        "a second patch changes nothing"
    );
    let operations: Vec<String> = json!(patched.patch)
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            format!(
                "{} {}",
                it["op"].as_str().unwrap(),
                it["path"].as_str().unwrap()
            )
        })
        .collect();
    let mut out = json!({
        "decision": format!("inject {}", member.id),
        "warnings": patched.warnings,
        "patch": operations,
        "pod": pod,
    });
    let mut bootstrap = None;
    redact(&mut out, &mut bootstrap);
    if let Some(bootstrap) = bootstrap.filter(|_| case.has_settings) {
        out["bootstrap"] = bootstrap;
    }
    out
}

#[test]
#[allow(clippy::disallowed_methods)] // a test reads its cases
fn golden() {
    insta::glob!("testdata", "*/*/in.yaml", |path| {
        let case = Case::read(&std::fs::read_to_string(path).unwrap());
        let out = outcome(&case);
        insta::with_settings!({
            snapshot_path => path.parent().unwrap(),
            prepend_module_to_snapshot => false,
            snapshot_suffix => "",
            omit_expression => true,
        }, {
            insta::assert_yaml_snapshot!("out", out);
        });
    });
}
