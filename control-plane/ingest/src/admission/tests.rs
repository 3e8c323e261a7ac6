//! Each rule of admission, with an accepted and a denied object in the form that an API server sends.

mod check;
mod fill;

use std::borrow::Cow;

use evermesh_model::{Kind, ObjectRef};
use serde_json::{Value, json};

use super::*;
use crate::{Inputs, object::parse};

/// Namespaces of one mesh, of none, of two and of a terminating one; gateways of several meshes.
const SNAPSHOT: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {mesh: m}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: both, labels: {mesh: m, other: o}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: nowhere}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: leaving, labels: {mesh: gone}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: edge, labels: {mesh: m, ingress: two}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {name: m, uid: u-m}
spec: {namespaceSelector: {matchLabels: {mesh: m}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {name: o, uid: u-o}
spec: {namespaceSelector: {matchLabels: {other: o}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {name: gone, uid: u-gone, deletionTimestamp: 2026-09-30T00:00:00Z}
spec: {namespaceSelector: {matchLabels: {mesh: gone}}}
---
{apiVersion: appmesh.k8s.aws/v1beta2, kind: Mesh, metadata: {name: selects-nothing}, spec: {}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualGateway
metadata: {name: gate, namespace: shop, uid: u-gate}
spec:
  namespaceSelector: {matchLabels: {mesh: m}}
  gatewayRouteSelector: {matchLabels: {gate: one}}
  meshRef: {name: m, uid: u-m}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualGateway
metadata: {name: second, namespace: edge, uid: u-second}
spec:
  namespaceSelector: {matchLabels: {ingress: two}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualGateway
metadata: {name: stranger, namespace: shop, uid: u-stranger}
spec:
  namespaceSelector: {matchLabels: {mesh: m}}
  meshRef: {name: o, uid: u-o}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualGateway
metadata: {name: stale, namespace: shop, uid: u-stale}
spec:
  namespaceSelector: {matchLabels: {mesh: m}}
  meshRef: {name: m, uid: u-m-of-last-year}
";

fn snapshot() -> ClusterSnapshot {
    let mut inputs = Inputs::default();
    for value in serde_saphyr::from_multiple::<Value>(SNAPSHOT).unwrap() {
        let (reference, object) = parse(value).object.unwrap();
        inputs.apply(reference, Some(object));
    }
    ClusterSnapshot::from(&inputs)
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// An object with name `x` in namespace `shop`.
fn object(kind: Kind, spec: &str) -> Value {
    let mut metadata = json!({ "name": "x", "uid": "u-x" });
    if kind.is_namespaced() {
        metadata["namespace"] = "shop".into();
    }
    json!({
        "apiVersion": kind.api_version(),
        "kind": kind.as_str(),
        "metadata": metadata,
        "spec": yaml(spec),
    })
}

fn write<'a>(new: &'a Value, operation: Operation<'a>) -> ObjectWrite<'a> {
    let text = |field: &str| new["metadata"][field].as_str().unwrap_or_default();
    let kind = Kind::find(
        new["apiVersion"].as_str().unwrap(),
        new["kind"].as_str().unwrap(),
    );
    ObjectWrite {
        object: ObjectRef::new(kind.unwrap(), text("namespace"), text("name")),
        operation,
        new: Cow::Borrowed(new),
    }
}

#[test]
fn denial_lists_all_problems() {
    let node = ObjectRef::new(Kind::VirtualNode, "shop", "x");
    let problem = |field, message| Problem::new(&node, field, Reason::InvalidValue, message);
    let denial = AdmissionDenial::from_problems(vec![
        problem(FieldPath::spec(), "one"),
        problem(FieldPath::root(), "two"),
    ]);
    assert_eq!(
        denial.unwrap_err().to_string(),
        "spec: one (InvalidValue); two (InvalidValue)"
    );
}

#[test]
fn writes_that_depend_on_other_objects_need_a_snapshot() {
    let route = |router: &str| {
        object(
            Kind::Route,
            &format!("{{virtualRouterRef: {{name: {router}}}}}"),
        )
    };
    let mut leaving = route("a");
    leaving["metadata"]["deletionTimestamp"] = "2026-09-30T00:00:00Z".into();
    let (node, mesh) = (object(Kind::VirtualNode, "{}"), object(Kind::Mesh, "{}"));
    let (old, new) = (route("a"), route("b"));
    let update = |old| Operation::Update {
        old: Cow::Borrowed(old),
    };
    for (new, operation, expected) in [
        (&mesh, Operation::Create, false),
        (&node, Operation::Create, true),
        (&node, update(&node), false),
        (&object(Kind::Service, "{}"), Operation::Create, false),
        (&new, Operation::Create, true),
        (&new, update(&old), true),
        (&old, update(&old), false),
        (&leaving, Operation::Create, false),
    ] {
        let needed = write(new, operation).needs_cluster_snapshot();
        assert_eq!(needed, expected, "{new}");
    }
}

#[test]
fn snapshot_changes_with_the_objects_on_which_admission_depends() {
    let mut inputs = Inputs::default();
    let mut last = ClusterSnapshot::from(&inputs);
    let target = "action: {target: {virtualService: {virtualServiceRef: {name: s}}}}";
    let route = format!("{{httpRoute: {{match: {{prefix: /}}, {target}}}}}");
    for (kind, spec, expected) in [
        (Kind::Namespace, "{}", true),
        (Kind::Mesh, "{}", true),
        (Kind::VirtualNode, "{}", true),
        (Kind::VirtualService, "{}", true),
        (Kind::VirtualRouter, "{}", true),
        (Kind::VirtualGateway, "{}", true),
        (Kind::GatewayRoute, &*route, true),
        (Kind::BackendGroup, "{}", false),
        (Kind::Service, "{}", false),
    ] {
        let (reference, object) = parse(object(kind, spec)).object.unwrap();
        assert!(inputs.apply(reference, Some(object)));
        let snapshot = ClusterSnapshot::from(&inputs);
        assert_eq!(!snapshot.is_same(&last), expected, "{kind}");
        last = snapshot;
    }
}
