//! Writes to a Kubernetes cluster in which the namespace `prod` holds names.

use std::borrow::Cow;

use serde_json::json;

use super::*;
use crate::{Inputs, object::parse};

const HELD: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: prod, labels: {mesh: m}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: evil, labels: {mesh: m}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: red, labels: {mesh: m}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: other, labels: {mesh: o}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {name: m}
spec: {namespaceSelector: {matchLabels: {mesh: m}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {name: o}
spec: {namespaceSelector: {matchLabels: {mesh: o}}}
---
{apiVersion: appmesh.k8s.aws/v1beta2, kind: VirtualNode, metadata: {name: shop, namespace: prod}, spec: {}}
---
{apiVersion: appmesh.k8s.aws/v1beta2, kind: VirtualService, metadata: {name: shop, namespace: prod}, spec: {}}
---
{apiVersion: appmesh.k8s.aws/v1beta2, kind: VirtualRouter, metadata: {name: shop, namespace: prod}, spec: {}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualRouter
metadata:
  name: delegating
  namespace: prod
  annotations: {evermesh.dev/delegated-routes: 'new: /pay'}
spec: {}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualRouter
metadata:
  name: open
  namespace: prod
  annotations: {evermesh.dev/allowed-routes: 'kubernetes.io/metadata.name in (red, other)'}
spec: {}
---
{apiVersion: appmesh.k8s.aws/v1beta2, kind: VirtualGateway, metadata: {name: edge, namespace: prod}, spec: {}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: leaving, namespace: prod, deletionTimestamp: 2026-09-30T00:00:00Z}
spec: {}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: filled, namespace: other}
spec: {awsName: held, meshRef: {name: m, uid: u}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: GatewayRoute
metadata: {name: shop, namespace: prod}
spec:
  virtualGatewayRef: {name: edge, namespace: prod, uid: u}
  httpRoute:
    match: {prefix: /}
    action: {target: {virtualService: {virtualServiceRef: {name: shop}}}}
";

fn snapshot() -> ClusterSnapshot {
    let mut inputs = Inputs::default();
    for value in serde_saphyr::from_multiple::<Value>(HELD).unwrap() {
        let (reference, object) = parse(value).object.unwrap();
        inputs.apply(reference, Some(object));
    }
    ClusterSnapshot::from(&inputs)
}

fn denial(
    kind: Kind,
    namespace: &str,
    name: &str,
    spec: &Value,
    operation: Operation<'_>,
) -> Option<String> {
    let new = json!({
        "apiVersion": kind.api_version(),
        "kind": kind.as_str(),
        "metadata": { "name": name, "namespace": namespace },
        "spec": spec,
    });
    let write = ObjectWrite {
        object: ObjectRef::new(
            kind,
            if kind.is_namespaced() { namespace } else { "" },
            name,
        ),
        operation,
        new: Cow::Borrowed(&new),
    };
    let denial = check_claims(&write, &snapshot()).err()?;
    assert!(denial.may_be_stale, "the holder may just have been deleted");
    Some(denial.to_string())
}

fn creation(kind: Kind, namespace: &str, spec: &Value) -> Option<String> {
    denial(kind, namespace, "new", spec, Operation::Create)
}

#[test]
fn name_of_another_object_is_denied_and_its_holder_named() {
    for (kind, name, holder) in [
        (Kind::Mesh, "m", "Mesh/m"),
        (Kind::VirtualNode, "shop_prod", "VirtualNode/prod/shop"),
        (
            Kind::VirtualService,
            "Shop.Prod",
            "VirtualService/prod/shop",
        ),
        (Kind::VirtualRouter, "shop_prod", "VirtualRouter/prod/shop"),
        (
            Kind::VirtualGateway,
            "edge_prod",
            "VirtualGateway/prod/edge",
        ),
    ] {
        let reason = if kind == Kind::VirtualService {
            "DuplicateHostname"
        } else {
            "DuplicateName"
        };
        let expected = format!(
            "spec.awsName: awsName `{name}` is already used by `{holder}`, which is older and keeps it; choose another awsName ({reason})"
        );
        let spec = json!({ "awsName": name });
        assert_eq!(creation(kind, "evil", &spec), Some(expected));
        let spec = json!({ "awsName": format!("{name}-2") });
        assert_eq!(creation(kind, "evil", &spec), None, "{kind}");
    }
}

#[test]
fn name_in_another_mesh_is_free() {
    let spec = json!({ "awsName": "shop_prod" });
    assert_eq!(creation(Kind::VirtualNode, "other", &spec), None);
    let spec = json!({ "awsName": "shop_prod", "meshRef": { "name": "m" } });
    assert!(creation(Kind::VirtualNode, "other", &spec).is_some());
}

#[test]
fn holder_has_the_name_and_the_mesh_of_its_fields() {
    let claim = |namespace, name| {
        let spec = json!({ "awsName": name });
        creation(Kind::VirtualNode, namespace, &spec)
    };
    assert!(
        claim("evil", "held").is_some_and(|denial| denial.contains("`VirtualNode/other/filled`"))
    );
    assert_eq!(claim("other", "held"), None);
    assert_eq!(claim("evil", "filled_other"), None);
    assert_eq!(
        claim("evil", "Held"),
        None,
        "only host names are compared without case"
    );
}

#[test]
fn name_of_an_object_that_is_being_deleted_denies_no_one() {
    let spec = json!({ "awsName": "leaving_prod" });
    assert_eq!(creation(Kind::VirtualNode, "evil", &spec), None);
}

#[test]
fn holder_and_updates_are_accepted() {
    let node = |name, operation| {
        let spec = json!({ "awsName": "shop_prod" });
        denial(Kind::VirtualNode, "prod", name, &spec, operation)
    };
    assert_eq!(
        node("shop", Operation::Create),
        None,
        "a retry of the creation"
    );
    let old = json!({ "spec": {} });
    assert_eq!(
        node(
            "new",
            Operation::Update {
                old: Cow::Borrowed(&old)
            }
        ),
        None
    );
}

#[test]
fn names_of_gateway_routes_are_compared_on_one_gateway() {
    let on = |gateway| {
        let spec = json!({
            "awsName": "shop_prod",
            "virtualGatewayRef": { "name": gateway, "namespace": "prod" },
        });
        creation(Kind::GatewayRoute, "evil", &spec)
    };
    assert!(on("edge").is_some_and(|denial| denial.contains("`GatewayRoute/prod/shop`")));
    assert_eq!(on("second"), None);
}

fn route(router: &str, prefix: &str) -> Value {
    json!({
        "virtualRouterRef": { "name": router, "namespace": "prod" },
        "httpRoute": {
            "match": { "prefix": prefix },
            "action": { "weightedTargets": [{ "virtualNodeRef": { "name": "n" }, "weight": 1 }] },
        },
    })
}

fn route_to(router: &str, namespace: &str, operation: Operation<'_>) -> Option<String> {
    denial(
        Kind::Route,
        namespace,
        "new",
        &route(router, "/"),
        operation,
    )
}

#[test]
fn route_needs_the_consent_of_its_router() {
    let old = json!({ "spec": {} });
    for operation in [
        Operation::Create,
        Operation::Update {
            old: Cow::Borrowed(&old),
        },
    ] {
        for (router, namespace, expected) in [
            ("shop", "prod", None),
            ("open", "prod", None),
            ("open", "red", None),
            // The router may be created later.
            ("missing", "evil", None),
            (
                "shop",
                "red",
                Some("`VirtualRouter/prod/shop` accepts no route of namespace `red`, so"),
            ),
            (
                "open",
                "evil",
                Some(
                    "accepts no route of namespace `evil` (label `kubernetes.io/metadata.name` is",
                ),
            ),
            (
                "open",
                "other",
                Some("namespace `other` does not belong to mesh `m`"),
            ),
            (
                "open",
                "unknown",
                Some("namespace `unknown` does not belong to mesh `m`"),
            ),
        ] {
            let denial = route_to(router, namespace, operation.clone());
            match expected {
                None => assert_eq!(denial, None, "{router} {namespace}"),
                Some(expected) => {
                    let denial = denial.expect(namespace);
                    assert!(denial.starts_with("spec.virtualRouterRef: "), "{denial}");
                    assert!(denial.contains(expected), "{denial}");
                }
            }
        }
    }
}

#[test]
fn route_whose_spec_stays_is_accepted_without_consent() {
    let old = json!({ "spec": route("shop", "/") });
    assert_eq!(
        route_to(
            "shop",
            "evil",
            Operation::Update {
                old: Cow::Borrowed(&old)
            }
        ),
        None
    );
}

#[test]
fn route_may_not_exceed_its_grant() {
    let with = |prefix| {
        denial(
            Kind::Route,
            "prod",
            "new",
            &route("delegating", prefix),
            Operation::Create,
        )
    };
    assert_eq!(with("/pay/now"), None);
    let denial = with("/").expect("the grant is exceeded");
    assert!(
        denial.contains("delegates only paths that begin with `/pay`"),
        "{denial}"
    );
}
