//! Removes the fields of an object that the graph cannot depend on.
//!
//! Without this, a change of a status, a heartbeat or `managedFields` would look like a change of the object, and a
//! Kubernetes cluster with thousands of pods would cost much memory. The kept fields are not checked here.

use evermesh_model::Kind;
use kube::{api::DynamicObject, core::ObjectMeta};
use serde_json::{Map, Value, json};

/// The object as a JSON document with the kept fields.
pub(super) fn trim(kind: Kind, object: DynamicObject) -> Value {
    let DynamicObject {
        types: _,
        metadata,
        data,
    } = object;
    let mut fields = match data {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    match kind {
        Kind::Mesh
        | Kind::VirtualNode
        | Kind::VirtualService
        | Kind::VirtualRouter
        | Kind::VirtualGateway
        | Kind::GatewayRoute
        | Kind::BackendGroup
        | Kind::Route
        | Kind::Service
        | Kind::Namespace => {
            fields.remove("status");
        }
        Kind::EndpointSlice | Kind::Secret => {}
        Kind::Pod => {
            let spec = ["nodeName", "readinessGates", "serviceAccountName"];
            keep(&mut fields, "spec", &spec);
            let status = ["conditions", "phase", "podIP", "podIPs"];
            keep(&mut fields, "status", &status);
        }
        Kind::Node => fields.clear(),
    }
    fields.insert("apiVersion".to_owned(), kind.api_version().into());
    fields.insert("kind".to_owned(), kind.as_str().into());
    fields.insert("metadata".to_owned(), trim_metadata(kind, metadata));
    Value::Object(fields)
}

fn trim_metadata(kind: Kind, metadata: ObjectMeta) -> Value {
    // Other controllers write annotations of these kinds, some of them all the time. `kubectl apply` writes the whole
    // Secret into one.
    let annotations = match kind {
        Kind::Pod
        | Kind::Node
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::Namespace
        | Kind::Secret => None,
        _ => metadata.annotations,
    };
    json!(ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        labels: metadata.labels,
        annotations,
        creation_timestamp: metadata.creation_timestamp,
        deletion_timestamp: metadata.deletion_timestamp,
        ..ObjectMeta::default()
    })
}

/// Removes all fields of `part`, such as `spec`, except the kept ones.
fn keep(fields: &mut Map<String, Value>, part: &str, kept: &[&str]) {
    if let Some(Value::Object(part)) = fields.get_mut(part) {
        part.retain(|name, _| kept.contains(&name.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trimmed(kind: Kind, object: Value) -> Value {
        trim(kind, serde_json::from_value(object).unwrap())
    }

    #[test]
    fn status_of_a_route_is_removed() {
        let object = json!({
            "apiVersion": "evermesh.dev/v1alpha1",
            "kind": "Route",
            "metadata": {
                "name": "r", "namespace": "n", "uid": "u", "generation": 3, "resourceVersion": "7",
                "finalizers": ["f"], "managedFields": [{"manager": "kubectl"}], "annotations": {"a": "b"},
            },
            "spec": {"priority": 1},
            "status": {"observedGeneration": 3},
        });
        let kept = json!({
            "apiVersion": "evermesh.dev/v1alpha1",
            "kind": "Route",
            "metadata": {"name": "r", "namespace": "n", "uid": "u", "annotations": {"a": "b"}},
            "spec": {"priority": 1},
        });
        assert_eq!(trimmed(Kind::Route, object), kept);
    }

    #[test]
    fn only_labels_of_a_kubernetes_node_are_kept() {
        let object = json!({
            "metadata": {"name": "n", "labels": {"zone": "a"}, "annotations": {"seen": "now"}},
            "spec": {"podCIDR": "10.0.0.0/24"},
            "status": {"conditions": [{"lastHeartbeatTime": "2026-01-01T00:00:00Z"}]},
        });
        let kept = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {"zone": "a"}}});
        assert_eq!(trimmed(Kind::Node, object), kept);
    }

    #[test]
    fn node_name_phase_and_addresses_of_a_pod_are_kept() {
        let object = json!({
            "metadata": {"name": "p", "namespace": "n"},
            "spec": {"nodeName": "node", "containers": [{"name": "c", "image": "i"}]},
            "status": {"podIP": "10.0.0.1", "phase": "Running", "startTime": "2026-01-01T00:00:00Z"},
        });
        let kept = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"},
            "spec": {"nodeName": "node"}, "status": {"podIP": "10.0.0.1", "phase": "Running"},
        });
        assert_eq!(trimmed(Kind::Pod, object), kept);
    }
}
