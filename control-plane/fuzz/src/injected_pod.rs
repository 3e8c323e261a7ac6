//! Invariants of pods that the injector patched.

use std::collections::BTreeSet;

use json_patch::Patch;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

/// Applies a patch to a pod.
///
/// # Panics
/// If the patch does not fit the pod, or if it makes a pod of something that Kubernetes cannot read.
pub(crate) fn patched(pod: &Value, patch: &Patch) -> Value {
    let mut after = pod.clone();
    json_patch::patch(&mut after, patch).unwrap_or_else(|error| panic!("{error}: {pod}"));
    let is_pod = |value: &Value| serde_json::from_value::<Pod>(value.clone());
    if is_pod(pod).is_ok() {
        is_pod(&after).unwrap_or_else(|error| panic!("{error}: {after}"));
        names_are_kept_unique(pod, &after);
    }
    after
}

/// Checks that a list whose names were unique before has no name twice after.
fn names_are_kept_unique(before: &Value, after: &Value) {
    let lists = ["/spec/volumes", "/spec/containers", "/spec/initContainers"];
    for list in lists {
        if duplicate(before.pointer(list)).is_none() {
            assert_eq!(duplicate(after.pointer(list)), None, "{list}: {after}");
        }
    }
    let containers = ["/spec/containers", "/spec/initContainers"];
    for list in containers.iter().filter_map(|list| after.pointer(list)) {
        for container in list.as_array().into_iter().flatten() {
            let was = containers.iter().filter_map(|it| before.pointer(it));
            let was = was.flat_map(|it| it.as_array().into_iter().flatten());
            let mut was = was.filter(|it| it["name"] == container["name"]);
            if was.all(|it| duplicate(it.get("env")).is_none()) {
                assert_eq!(duplicate(container.get("env")), None, "{container}");
            }
        }
    }
}

fn duplicate(list: Option<&Value>) -> Option<&str> {
    let mut seen = BTreeSet::new();
    let items = list.and_then(Value::as_array).into_iter().flatten();
    let mut names = items.filter_map(|item| item["name"].as_str());
    names.find(|name| !seen.insert(*name))
}
