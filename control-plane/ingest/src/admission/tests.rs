//! Each rule of admission, with an accepted and a denied object in the form that an API server sends.

use std::borrow::Cow;

use evermesh_model::{Kind, ObjectRef};
use json_patch::Patch;
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

fn filled(
    new: &Value,
    operation: Operation<'_>,
    family: IpFamily,
) -> Result<Patch, AdmissionDenial> {
    fill(&write(new, operation), &snapshot(), family)
}

/// The spec after the patch at creation. Asserts that the patch changes nothing else.
fn created(new: &Value) -> Result<Value, String> {
    let patch =
        filled(new, Operation::Create, IpFamily::Ipv4).map_err(|denial| denial.to_string())?;
    let mut patched = new.clone();
    json_patch::patch(&mut patched, &patch).unwrap();
    let spec = patched["spec"].take();
    let mut rest = new.clone();
    rest["spec"].take();
    assert_eq!(patched, rest);
    Ok(spec)
}

fn denied(new: &Value) -> String {
    created(new).unwrap_err()
}

#[test]
fn creation_sets_name_and_mesh_only() {
    for (kind, name) in [
        (Kind::VirtualNode, "x_shop"),
        (Kind::VirtualService, "x.shop"),
        (Kind::VirtualRouter, "x_shop"),
        (Kind::VirtualGateway, "x_shop"),
    ] {
        let expected = json!({ "awsName": name, "meshRef": { "name": "m", "uid": "u-m" } });
        assert_eq!(created(&object(kind, "{}")), Ok(expected.clone()), "{kind}");
        let empty = object(kind, "{awsName: ''}");
        assert_eq!(created(&empty), Ok(expected.clone()), "{kind}");
        let mut without_spec = object(kind, "{}");
        without_spec["spec"].take();
        assert_eq!(created(&without_spec), Ok(expected), "{kind}");
    }
    let group = json!({ "meshRef": { "name": "m", "uid": "u-m" } });
    assert_eq!(created(&object(Kind::BackendGroup, "{}")), Ok(group));
    let mesh = json!({ "awsName": "x" });
    assert_eq!(created(&object(Kind::Mesh, "{}")), Ok(mesh));
    let route = object(Kind::Route, "{virtualRouterRef: {name: r}}");
    assert_eq!(
        created(&route),
        Ok(json!({"virtualRouterRef": {"name": "r"}}))
    );
}

#[test]
fn creation_keeps_explicit_and_unknown_fields() {
    let node = object(
        Kind::VirtualNode,
        "{awsName: mine, tomorrow: {a: [1, 2]}, listeners: [{portMapping: {port: 1, protocol: http}, new: 1}]}",
    );
    let mut expected = node["spec"].clone();
    expected["meshRef"] = json!({ "name": "m", "uid": "u-m" });
    assert_eq!(created(&node), Ok(expected));
}

#[test]
fn generated_name_and_invalid_spec_are_not_patched() {
    let mut nameless = object(Kind::VirtualNode, "{}");
    nameless["metadata"]["name"].take();
    let expected = json!({ "meshRef": { "name": "m", "uid": "u-m" } });
    assert_eq!(created(&nameless), Ok(expected));
    for spec in ["[]", "7", "text"] {
        let broken = object(Kind::VirtualNode, spec);
        assert_eq!(created(&broken), Ok(yaml(spec)));
    }
    let number = object(Kind::VirtualNode, "{awsName: 7}");
    assert_eq!(created(&number).unwrap()["awsName"], json!(7));
}

#[test]
fn update_sets_no_defaults() {
    let old = object(Kind::VirtualNode, "{}");
    let update = Operation::Update {
        old: Cow::Borrowed(&old),
    };
    let new = object(Kind::VirtualNode, "{meshRef: {name: o, uid: any}}");
    assert_eq!(filled(&new, update, IpFamily::Ipv6), Ok(Patch(vec![])));
}

#[test]
fn object_needs_exactly_one_mesh() {
    let of = |namespace: &str| {
        let mut node = object(Kind::VirtualNode, "{}");
        node["metadata"]["namespace"] = namespace.into();
        node
    };
    assert_eq!(
        denied(&of("nowhere")),
        "spec.meshRef: no mesh selects namespace `nowhere`; label the namespace to match a mesh's namespaceSelector (known meshes: `gone`, `m`, `o` and `selects-nothing`) (MeshNotFound)"
    );
    assert_eq!(
        denied(&of("both")),
        "spec.meshRef: several meshes select namespace `both`: `m` and `o`; narrow their namespaceSelectors until only one matches (MeshAmbiguous)"
    );
    assert_eq!(
        denied(&of("leaving")),
        "spec.meshRef: mesh `gone` is being deleted and accepts no new members; wait for its deletion, then create the mesh again (MeshTerminating)"
    );
    let node = of("nowhere");
    let denial = filled(&node, Operation::Create, IpFamily::Ipv4).unwrap_err();
    assert!(
        denial.may_be_stale,
        "a newer snapshot may contain a mesh that matches"
    );
}

#[test]
fn object_in_unknown_namespace_is_denied() {
    let mesh = yaml(
        "
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {name: m, uid: u-m}
spec: {namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [a]}]}}",
    );
    let mut inputs = Inputs::default();
    let (reference, mesh) = parse(mesh).object.unwrap();
    inputs.apply(reference, Some(mesh));
    let node = object(Kind::VirtualNode, "{}");
    let of_node = write(&node, Operation::Create);
    let result = fill(&of_node, &ClusterSnapshot::from(&inputs), IpFamily::Ipv4);
    let denial = result.unwrap_err();
    assert_eq!(
        denial.to_string(),
        "spec.meshRef: namespace `shop` is not known to the control plane yet; try again in a few seconds (MeshNotFound)"
    );
    assert!(denial.may_be_stale, "the watch will deliver the namespace");
}

#[test]
fn references_are_read_only_at_creation() {
    for (kind, field) in [
        (Kind::VirtualNode, "meshRef"),
        (Kind::VirtualService, "meshRef"),
        (Kind::VirtualRouter, "meshRef"),
        (Kind::VirtualGateway, "meshRef"),
        (Kind::BackendGroup, "meshRef"),
        (Kind::GatewayRoute, "meshRef"),
        (Kind::GatewayRoute, "virtualGatewayRef"),
    ] {
        let node = object(kind, &format!("{{{field}: {{name: m, uid: u-m}}}}"));
        let denial = filled(&node, Operation::Create, IpFamily::Ipv4).unwrap_err();
        assert_eq!(
            denial.to_string(),
            format!(
                "spec.{field}: is set by the control plane when the object is created; remove it (ReadOnly)"
            )
        );
        assert!(
            !denial.may_be_stale,
            "the denial does not depend on other objects"
        );
    }
}

fn gateway_route(namespace: &str, labels: &str) -> Value {
    let mut route = object(Kind::GatewayRoute, "{}");
    route["metadata"]["namespace"] = namespace.into();
    route["metadata"]["labels"] = yaml(labels);
    route
}

#[test]
fn gateway_route_needs_exactly_one_gateway_of_its_mesh() {
    let attached = created(&gateway_route("shop", "{gate: one}")).unwrap();
    assert_eq!(
        attached,
        json!({
            "awsName": "x_shop",
            "meshRef": { "name": "m", "uid": "u-m" },
            "virtualGatewayRef": { "name": "gate", "namespace": "shop", "uid": "u-gate" },
        })
    );
    let by_namespace = created(&gateway_route("edge", "{}")).unwrap();
    assert_eq!(
        by_namespace["virtualGatewayRef"],
        json!({ "name": "second", "namespace": "edge", "uid": "u-second" }),
        "a gateway without meshRef belongs to the mesh of its namespace"
    );
    assert_eq!(
        denied(&gateway_route("shop", "{gate: other}")),
        "spec.virtualGatewayRef: no virtual gateway of mesh `m` selects this route and its namespace; label them to match a gateway's gatewayRouteSelector and namespaceSelector (GatewayNotFound)"
    );
    assert_eq!(
        denied(&gateway_route("edge", "{gate: one}")),
        "spec.virtualGatewayRef: several virtual gateways select this route: `VirtualGateway/edge/second` and `VirtualGateway/shop/gate`; narrow their selectors until only one matches (GatewayAmbiguous)"
    );
}

#[test]
fn mesh_gets_the_ip_family_of_the_kubernetes_cluster() {
    let v4 = json!({ "meshServiceDiscovery": { "ipPreference": "IPv4_ONLY" } });
    let v6 = json!({ "meshServiceDiscovery": { "ipPreference": "IPv6_ONLY" } });
    for (spec, family, expected) in [
        ("{}", IpFamily::Ipv4, json!({})),
        ("{meshServiceDiscovery: {}}", IpFamily::Ipv4, v4.clone()),
        (
            "{meshServiceDiscovery: {ipPreference: IPv6_ONLY}}",
            IpFamily::Ipv4,
            v4,
        ),
        ("{}", IpFamily::Ipv6, v6.clone()),
        ("{meshServiceDiscovery: {}}", IpFamily::Ipv6, v6.clone()),
        (
            "{meshServiceDiscovery: {ipPreference: IPv4_ONLY}}",
            IpFamily::Ipv6,
            v6,
        ),
    ] {
        let mut mesh = object(Kind::Mesh, spec);
        let old = mesh.clone();
        let patch = filled(
            &mesh,
            Operation::Update {
                old: Cow::Borrowed(&old),
            },
            family,
        )
        .unwrap();
        json_patch::patch(&mut mesh, &patch).unwrap();
        assert_eq!(mesh["spec"], expected, "{spec} {family:?}");
        let again = filled(
            &mesh,
            Operation::Update {
                old: Cow::Borrowed(&old),
            },
            family,
        )
        .unwrap();
        assert_eq!(again, Patch(vec![]), "a second patch is empty");
    }
    let mut going = object(Kind::Mesh, "{}");
    going["metadata"]["deletionTimestamp"] = "2026-09-30T00:00:00Z".into();
    let patch = filled(
        &going,
        Operation::Update {
            old: Cow::Borrowed(&going),
        },
        IpFamily::Ipv6,
    );
    assert_eq!(patch, Ok(Patch(vec![])));
}

fn checked(new: &Value, operation: Operation<'_>) -> String {
    check(write(new, operation)).map_or_else(|denial| denial.to_string(), |()| "passes".into())
}

#[test]
fn immutable_fields_cannot_be_changed() {
    const REF: &str = "{name: m, uid: u}";
    const OTHER: &str = "{name: m, uid: another}";
    const ROUTE: &str = "httpRoute: {match: {prefix: /}, action: {target: {virtualService: {virtualServiceRef: {name: s}}}}}";
    fn with(kind: Kind, field: &str, value: &str) -> Value {
        let rest = match kind {
            Kind::GatewayRoute => ROUTE,
            Kind::Route => {
                "httpRoute: {match: {prefix: /}, action: {weightedTargets: [{virtualNodeRef: {name: x}, weight: 1}]}}"
            }
            _ => "",
        };
        object(kind, &format!("{{{field}: {value}, {rest}}}"))
    }
    let gateway = "{name: g, namespace: shop, uid: u}";
    for (kind, field, old, new) in [
        (Kind::Mesh, "awsName", "a", "b"),
        (Kind::VirtualNode, "awsName", "a", "b"),
        (Kind::VirtualService, "awsName", "a", "b"),
        (Kind::VirtualRouter, "awsName", "a", "b"),
        (Kind::VirtualGateway, "awsName", "a", "b"),
        (Kind::GatewayRoute, "awsName", "a", "b"),
        (Kind::VirtualNode, "meshRef", REF, OTHER),
        (Kind::VirtualService, "meshRef", REF, OTHER),
        (Kind::VirtualRouter, "meshRef", REF, OTHER),
        (Kind::VirtualGateway, "meshRef", REF, OTHER),
        (Kind::GatewayRoute, "meshRef", REF, OTHER),
        (Kind::BackendGroup, "meshRef", REF, OTHER),
        (Kind::GatewayRoute, "virtualGatewayRef", gateway, REF),
        (Kind::VirtualNode, "meshRef", REF, "null"),
        (Kind::Route, "virtualRouterRef", "{name: a}", "{name: b}"),
    ] {
        let old = with(kind, field, old);
        let changed = checked(
            &with(kind, field, new),
            Operation::Update {
                old: Cow::Borrowed(&old),
            },
        );
        let message = format!("spec.{field}: cannot be changed from ");
        assert!(changed.starts_with(&message), "{kind} {field}: {changed}");
        assert!(changed.ends_with("(Immutable)"), "{changed}");
        let mut kept = old.clone();
        kept["spec"]["unknown"] = json!(1);
        let kept = checked(
            &kept,
            Operation::Update {
                old: Cow::Borrowed(&old),
            },
        );
        assert_eq!(kept, "passes", "{kind} {field}");
    }
}

#[test]
fn annotations_by_which_a_router_admits_routes_are_checked_when_they_change() {
    let router = |selector: &str| {
        let mut router = object(Kind::VirtualRouter, "{}");
        router["metadata"]["annotations"] = json!({ "evermesh.dev/allowed-routes": selector });
        router
    };
    let (good, bad) = (router("team in (red)"), router("team in (red"));
    let (of_good, of_bad) = (
        Operation::Update {
            old: Cow::Borrowed(&good),
        },
        Operation::Update {
            old: Cow::Borrowed(&bad),
        },
    );
    for (new, operation, passes) in [
        (&good, Operation::Create, true),
        (&bad, Operation::Create, false),
        (&bad, of_good, false),
        (&good, of_bad.clone(), true),
        (&bad, of_bad, true),
    ] {
        let answer = checked(new, operation);
        assert_eq!(answer == "passes", passes, "{answer}");
        assert!(
            passes || answer.starts_with("metadata.annotations[evermesh.dev/allowed-routes]: ")
        );
    }
}

#[test]
fn cloud_map_discovery_is_immutable_once_set() {
    const DNS: &str = "{serviceDiscovery: {dns: {hostname: a}}}";
    const MAP: &str = "{serviceDiscovery: {awsCloudMap: {namespaceName: ns, serviceName: s}}}";
    const OTHER: &str = "{serviceDiscovery: {awsCloudMap: {namespaceName: ns, serviceName: t}}}";
    let change = |old: &str, new: &str| {
        let old = object(Kind::VirtualNode, old);
        let new = object(Kind::VirtualNode, new);
        checked(
            &new,
            Operation::Update {
                old: Cow::Borrowed(&old),
            },
        )
    };
    assert_eq!(change(DNS, MAP), "passes");
    assert_eq!(
        change(MAP, OTHER),
        r#"spec.serviceDiscovery.awsCloudMap: cannot be changed from `{"namespaceName":"ns","serviceName":"s"}` to `{"namespaceName":"ns","serviceName":"t"}`; keep the value, or delete and recreate the object (Immutable)"#
    );
    assert!(
        change(MAP, DNS)
            .ends_with("to absent; keep the value, or delete and recreate the object (Immutable)")
    );
}

#[test]
fn rules_of_each_kind_are_checked() {
    let target = "action: {target: {virtualService: {virtualServiceRef: {name: s}}}}";
    let rewrite = "action: {target: {virtualService: {virtualServiceRef: {name: s}}}, rewrite: {prefix: {value: /}}}";
    for (kind, accepted, rejected, message) in [
        (
            Kind::VirtualNode,
            "{serviceDiscovery: {dns: {hostname: a.}}, listeners: [{portMapping: {port: 1, protocol: http}}]}".to_owned(),
            "{listeners: [{portMapping: {port: 1, protocol: http}}]}".to_owned(),
            "spec.serviceDiscovery: a node with listeners requires serviceDiscovery",
        ),
        (
            Kind::VirtualRouter,
            "{routes: [{name: a}, {name: b}]}".to_owned(),
            "{routes: [{name: a}, {name: a}]}".to_owned(),
            "spec.routes[1].name: route name `a` is already used",
        ),
        (
            Kind::VirtualGateway,
            "{listeners: [{portMapping: {port: 1, protocol: http}, connectionPool: {http: {maxConnections: 1}}}]}".to_owned(),
            "{listeners: [{portMapping: {port: 1, protocol: http}, connectionPool: {http: {maxConnections: 1}, http2: {maxRequests: 1}}}]}".to_owned(),
            "spec.listeners[0].connectionPool: connection pools for several protocols are set",
        ),
        (
            Kind::GatewayRoute,
            format!("{{httpRoute: {{match: {{prefix: /}}, {target}}}}}"),
            format!("{{httpRoute: {{match: {{}}, {target}}}}}"),
            "spec.httpRoute.match: set at least one of prefix, path and hostname",
        ),
        (
            Kind::GatewayRoute,
            format!("{{httpRoute: {{match: {{prefix: /}}, {rewrite}}}}}"),
            format!("{{httpRoute: {{match: {{prefix: x}}, {rewrite}}}}}"),
            "spec.httpRoute.match.prefix: `x` does not match any path; begin it with `/`",
        ),
        (
            Kind::GatewayRoute,
            format!("{{grpcRoute: {{match: {{serviceName: x, metadata: [{{name: h, match: {{exact: a}}}}]}}, {target}}}}}"),
            format!("{{grpcRoute: {{match: {{serviceName: x, metadata: [{{name: h, match: {{exact: a, prefix: b}}}}]}}, {target}}}}}"),
            "spec.grpcRoute.match.metadata[0].match: set only one of exact, prefix, range, regex and suffix",
        ),
        (
            Kind::Mesh,
            "{meshServiceDiscovery: {ipPreference: IPv4_ONLY}}".to_owned(),
            "{meshServiceDiscovery: {ipPreference: IPv5_ONLY}}".to_owned(),
            "spec.meshServiceDiscovery.ipPreference: must be one of IPv6_ONLY, IPv4_ONLY",
        ),
    ] {
        let accepted = object(kind, &accepted);
        let rejected = object(kind, &rejected);
        assert_eq!(checked(&accepted, Operation::Create), "passes", "{kind}");
        for operation in [Operation::Create, Operation::Update { old: Cow::Borrowed(&accepted) }] {
            let answer = checked(&rejected, operation);
            assert!(answer.starts_with(message), "{kind}: {answer}");
        }
    }
}

#[test]
fn paths_and_expressions_of_routes_are_checked() {
    let route = |rest: &str| {
        object(
            Kind::Route,
            &format!("{{virtualRouterRef: {{name: r}}, {rest}}}"),
        )
    };
    let http = |word: &str, matches: &str| {
        route(&format!(
            "{word}: {{match: {matches}, action: {{weightedTargets: [{{virtualNodeRef: {{name: blue}}, weight: 1}}]}}}}"
        ))
    };
    for accepted in [
        http("httpRoute", "{path: {regex: '/v[0-9]+'}}"),
        http("http2Route", "{path: {exact: /a}}"),
        http(
            "httpRoute",
            "{prefix: /, headers: [{name: a, match: {regex: 'a.*'}}]}",
        ),
        http(
            "grpcRoute",
            "{metadata: [{name: a, match: {regex: 'a.*'}}]}",
        ),
    ] {
        assert_eq!(checked(&accepted, Operation::Create), "passes");
    }
    for (rejected, message) in [
        (
            http("httpRoute", "{path: {regex: '/('}}"),
            "spec.httpRoute.match.path.regex: `/(` is not a valid RE2 regular expression, so the route is left out: unclosed group (InvalidValue)",
        ),
        (
            http("http2Route", "{path: {exact: a}}"),
            "spec.http2Route.match.path.exact: `a` does not match any path; begin it with `/` (InvalidValue)",
        ),
        (
            http(
                "httpRoute",
                "{prefix: /, headers: [{name: a, match: {regex: '['}}]}",
            ),
            "spec.httpRoute.match.headers[0].match.regex: `[` is not a valid RE2 regular expression, so the route is left out: unclosed character class (InvalidValue)",
        ),
        (
            http("http2Route", "{prefix: /, queryParameters: [{name: ''}]}"),
            "spec.http2Route.match.queryParameters[0].name: the name has 0 bytes, so the route is left out; use a name of 1 to 1024 bytes (InvalidValue)",
        ),
        (
            http("grpcRoute", "{metadata: [{name: a, match: {regex: '*'}}]}"),
            "spec.grpcRoute.match.metadata[0].match.regex: `*` is not a valid RE2 regular expression, so the route is left out: repetition operator missing expression (InvalidValue)",
        ),
    ] {
        assert_eq!(checked(&rejected, Operation::Create), message);
    }
    let two_kinds = checked(&route("tcpRoute: {}, httpRoute: {}"), Operation::Create);
    assert!(
        two_kinds.contains("weightedTargets") || two_kinds.contains("action"),
        "{two_kinds}"
    );
}

#[test]
fn terminating_object_and_unchanged_spec_always_pass() {
    let invalid = object(
        Kind::VirtualNode,
        "{awsName: a, listeners: [{portMapping: {port: 1, protocol: http}}]}",
    );
    assert_ne!(checked(&invalid, Operation::Create), "passes");
    let update = Operation::Update {
        old: Cow::Borrowed(&invalid),
    };
    let mut labelled = invalid.clone();
    labelled["metadata"]["labels"] = json!({ "a": "b" });
    assert_eq!(checked(&labelled, update.clone()), "passes");
    let mut changed = invalid.clone();
    changed["spec"]["awsName"] = "b".into();
    assert_ne!(checked(&changed, update.clone()), "passes");
    changed["metadata"]["deletionTimestamp"] = "2026-09-30T00:00:00Z".into();
    assert_eq!(checked(&changed, update), "passes");
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
