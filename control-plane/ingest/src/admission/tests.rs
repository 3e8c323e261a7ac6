//! Every rule once accepted and once refused, on objects as a cluster sends them.

use evermesh_model::{Kind, ObjectRef};
use json_patch::Patch;
use serde_json::{Value, json};

use super::*;
use crate::{Inputs, object::parse};

/// Two namespaces of one mesh each, one of none and one of two; gateways; a mesh that is going.
const SURROUNDINGS: &str = "
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
kind: ResolvedMesh
metadata: {name: m, uid: u-m}
spec: {namespaceSelector: {matchLabels: {mesh: m}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: ResolvedMesh
metadata: {name: o, uid: u-o}
spec: {namespaceSelector: {matchLabels: {other: o}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: ResolvedMesh
metadata: {name: gone, uid: u-gone, deletionTimestamp: 2026-09-30T00:00:00Z}
spec: {namespaceSelector: {matchLabels: {mesh: gone}}}
---
{apiVersion: appmesh.k8s.aws/v1beta2, kind: ResolvedMesh, metadata: {name: selects-nothing}, spec: {}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: ResolvedGateway
metadata: {name: gate, namespace: shop, uid: u-gate}
spec:
  namespaceSelector: {matchLabels: {mesh: m}}
  gatewayRouteSelector: {matchLabels: {gate: one}}
  meshRef: {name: m, uid: u-m}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: ResolvedGateway
metadata: {name: second, namespace: edge, uid: u-second}
spec:
  namespaceSelector: {matchLabels: {ingress: two}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: ResolvedGateway
metadata: {name: stranger, namespace: shop, uid: u-stranger}
spec:
  namespaceSelector: {matchLabels: {mesh: m}}
  meshRef: {name: o, uid: u-o}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: ResolvedGateway
metadata: {name: stale, namespace: shop, uid: u-stale}
spec:
  namespaceSelector: {matchLabels: {mesh: m}}
  meshRef: {name: m, uid: u-m-of-last-year}
";

fn surroundings() -> ClusterSnapshot {
    let mut inputs = Inputs::default();
    for value in serde_saphyr::from_multiple::<Value>(SURROUNDINGS).unwrap() {
        let (reference, object) = parse(value).object.unwrap();
        inputs.apply(reference, Some(object));
    }
    ClusterSnapshot::from(&inputs)
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// An object of the name `x` in the namespace `shop`.
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
        new,
    }
}

fn filled(
    new: &Value,
    operation: Operation<'_>,
    family: IpFamily,
) -> Result<Patch, AdmissionDenial> {
    fill(&write(new, operation), &surroundings(), family)
}

/// The spec after the patch of a creation; the rest must be as it was.
fn created(new: &Value) -> Result<Value, String> {
    let patch = filled(new, Operation::Create, IpFamily::Ipv4).map_err(|it| it.to_string())?;
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
fn fills_the_names_and_the_mesh_and_nothing_else() {
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
fn keeps_what_is_written_and_what_it_does_not_know() {
    let node = object(
        Kind::VirtualNode,
        "{awsName: mine, tomorrow: {a: [1, 2]}, listeners: [{portMapping: {port: 1, protocol: http}, new: 1}]}",
    );
    let mut expected = node["spec"].clone();
    expected["meshRef"] = json!({ "name": "m", "uid": "u-m" });
    assert_eq!(created(&node), Ok(expected));
}

#[test]
fn leaves_a_name_to_be_generated_and_a_broken_spec_alone() {
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
fn an_update_fills_nothing() {
    let old = object(Kind::VirtualNode, "{}");
    let update = Operation::Update { old: &old };
    let new = object(Kind::VirtualNode, "{meshRef: {name: o, uid: any}}");
    assert_eq!(filled(&new, update, IpFamily::Ipv6), Ok(Patch(vec![])));
}

#[test]
fn exactly_one_mesh_takes_an_object() {
    let of = |namespace: &str| {
        let mut node = object(Kind::VirtualNode, "{}");
        node["metadata"]["namespace"] = namespace.into();
        node
    };
    assert_eq!(
        denied(&of("nowhere")),
        "spec.meshRef: no mesh selects the namespace `nowhere`; there is `gone`, `m`, `o` and `selects-nothing`: label the namespace as its namespaceSelector wants (MeshNotFound)"
    );
    assert_eq!(
        denied(&of("both")),
        "spec.meshRef: the meshes `m` and `o` all select the namespace `both`: narrow their namespaceSelectors to one (MeshAmbiguous)"
    );
    assert_eq!(
        denied(&of("leaving")),
        "spec.meshRef: the mesh `gone` is being deleted and takes no new members: wait until it is gone, and create the mesh again (MeshTerminating)"
    );
    let node = of("nowhere");
    let refused = filled(&node, Operation::Create, IpFamily::Ipv4).unwrap_err();
    assert!(refused.may_be_stale, "a mesh may have come since");
}

#[test]
fn a_namespace_that_is_not_known_is_in_no_mesh_yet() {
    let mesh = yaml(
        "
apiVersion: appmesh.k8s.aws/v1beta2
kind: ResolvedMesh
metadata: {name: m, uid: u-m}
spec: {namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [a]}]}}",
    );
    let mut inputs = Inputs::default();
    let (reference, mesh) = parse(mesh).object.unwrap();
    inputs.apply(reference, Some(mesh));
    let node = object(Kind::VirtualNode, "{}");
    let of_node = write(&node, Operation::Create);
    let unseen = fill(&of_node, &ClusterSnapshot::from(&inputs), IpFamily::Ipv4);
    let denial = unseen.unwrap_err();
    assert_eq!(
        denial.to_string(),
        "spec.meshRef: the namespace `shop` is not known here yet: try again in a moment (MeshNotFound)"
    );
    assert!(denial.may_be_stale, "the namespace is on its way");
}

#[test]
fn references_cannot_be_written_at_creation() {
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
        let refused = filled(&node, Operation::Create, IpFamily::Ipv4).unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!(
                "spec.{field}: is filled in by the control plane when the object is created: leave it out (ReadOnly)"
            )
        );
        assert!(!refused.may_be_stale, "no newer knowledge changes that");
    }
}

fn gateway_route(namespace: &str, labels: &str) -> Value {
    let mut route = object(Kind::GatewayRoute, "{}");
    route["metadata"]["namespace"] = namespace.into();
    route["metadata"]["labels"] = yaml(labels);
    route
}

#[test]
fn exactly_one_gateway_of_the_mesh_takes_a_gateway_route() {
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
        "a gateway without a meshRef is of its namespace's mesh"
    );
    assert_eq!(
        denied(&gateway_route("shop", "{gate: other}")),
        "spec.virtualGatewayRef: no virtual gateway of the mesh `m` selects this route and its namespace: label them as a gateway's gatewayRouteSelector and namespaceSelector want (GatewayNotFound)"
    );
    assert_eq!(
        denied(&gateway_route("edge", "{gate: one}")),
        "spec.virtualGatewayRef: `VirtualGateway/edge/second` and `VirtualGateway/shop/gate` all select this route: narrow their selectors to one (GatewayAmbiguous)"
    );
}

#[test]
fn a_mesh_has_the_family_of_its_cluster() {
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
        let patch = filled(&mesh, Operation::Update { old: &old }, family).unwrap();
        json_patch::patch(&mut mesh, &patch).unwrap();
        assert_eq!(mesh["spec"], expected, "{spec} {family:?}");
        let again = filled(&mesh, Operation::Update { old: &old }, family).unwrap();
        assert_eq!(again, Patch(vec![]), "nothing is left to do");
    }
    let mut going = object(Kind::Mesh, "{}");
    going["metadata"]["deletionTimestamp"] = "2026-09-30T00:00:00Z".into();
    let patch = filled(&going, Operation::Update { old: &going }, IpFamily::Ipv6);
    assert_eq!(patch, Ok(Patch(vec![])));
}

fn checked(new: &Value, operation: Operation<'_>) -> String {
    check(&write(new, operation)).map_or_else(|denial| denial.to_string(), |()| "passes".into())
}

#[test]
fn every_kind_keeps_what_cannot_be_changed() {
    const REF: &str = "{name: m, uid: u}";
    const OTHER: &str = "{name: m, uid: another}";
    const ROUTE: &str = "httpRoute: {match: {prefix: /}, action: {target: {virtualService: {virtualServiceRef: {name: s}}}}}";
    fn with(kind: Kind, field: &str, value: &str) -> Value {
        let rest = if kind == Kind::GatewayRoute {
            ROUTE
        } else {
            ""
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
    ] {
        let old = with(kind, field, old);
        let changed = checked(&with(kind, field, new), Operation::Update { old: &old });
        let message = format!("spec.{field}: cannot be changed from ");
        assert!(changed.starts_with(&message), "{kind} {field}: {changed}");
        assert!(changed.ends_with("(Immutable)"), "{changed}");
        let mut kept = old.clone();
        kept["spec"]["unknown"] = json!(1);
        let kept = checked(&kept, Operation::Update { old: &old });
        assert_eq!(kept, "passes", "{kind} {field}");
    }
}

#[test]
fn cloud_map_discovery_stays_once_it_is_there() {
    const DNS: &str = "{serviceDiscovery: {dns: {hostname: a}}}";
    const MAP: &str = "{serviceDiscovery: {awsCloudMap: {namespaceName: ns, serviceName: s}}}";
    const OTHER: &str = "{serviceDiscovery: {awsCloudMap: {namespaceName: ns, serviceName: t}}}";
    let change = |old: &str, new: &str| {
        let old = object(Kind::VirtualNode, old);
        let new = object(Kind::VirtualNode, new);
        checked(&new, Operation::Update { old: &old })
    };
    assert_eq!(change(DNS, MAP), "passes");
    assert_eq!(
        change(MAP, OTHER),
        r#"spec.serviceDiscovery.awsCloudMap: cannot be changed from {"namespaceName":"ns","serviceName":"s"} to {"namespaceName":"ns","serviceName":"t"}: keep it, or delete the object and create it again (Immutable)"#
    );
    assert!(
        change(MAP, DNS)
            .ends_with("to absent: keep it, or delete the object and create it again (Immutable)")
    );
}

#[test]
fn the_rules_of_each_kind_are_asked() {
    let target = "action: {target: {virtualService: {virtualServiceRef: {name: s}}}}";
    for (kind, accepted, refused, message) in [
        (
            Kind::VirtualNode,
            "{serviceDiscovery: {dns: {hostname: a.}}, listeners: [{portMapping: {port: 1, protocol: http}}]}".to_owned(),
            "{listeners: [{portMapping: {port: 1, protocol: http}}]}".to_owned(),
            "spec.serviceDiscovery: a node with listeners needs a serviceDiscovery",
        ),
        (
            Kind::VirtualRouter,
            "{routes: [{name: a}, {name: b}]}".to_owned(),
            "{routes: [{name: a}, {name: a}]}".to_owned(),
            "spec.routes[1].name: there is a route `a` before it",
        ),
        (
            Kind::VirtualGateway,
            "{listeners: [{portMapping: {port: 1, protocol: http}, connectionPool: {http: {maxConnections: 1}}}]}".to_owned(),
            "{listeners: [{portMapping: {port: 1, protocol: http}, connectionPool: {http: {maxConnections: 1}, http2: {maxRequests: 1}}}]}".to_owned(),
            "spec.listeners[0].connectionPool: several kinds",
        ),
        (
            Kind::GatewayRoute,
            format!("{{httpRoute: {{match: {{prefix: /}}, {target}}}}}"),
            format!("{{httpRoute: {{match: {{}}, {target}}}}}"),
            "spec.httpRoute.match: set at least one of prefix, path and hostname",
        ),
        (
            Kind::Mesh,
            "{meshServiceDiscovery: {ipPreference: IPv4_ONLY}}".to_owned(),
            "{meshServiceDiscovery: {ipPreference: IPv5_ONLY}}".to_owned(),
            "spec.meshServiceDiscovery.ipPreference: must be one of IPv6_ONLY, IPv4_ONLY",
        ),
    ] {
        let accepted = object(kind, &accepted);
        let refused = object(kind, &refused);
        assert_eq!(checked(&accepted, Operation::Create), "passes", "{kind}");
        for operation in [Operation::Create, Operation::Update { old: &accepted }] {
            let answer = checked(&refused, operation);
            assert!(answer.starts_with(message), "{kind}: {answer}");
        }
    }
}

#[test]
fn a_route_is_one_that_envoy_takes() {
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
    for (refused, message) in [
        (
            http("httpRoute", "{path: {regex: '/('}}"),
            "spec.httpRoute.match.path.regex: `/(` is not a regular expression that Envoy takes (RE2), so the route is left out: unclosed group (InvalidValue)",
        ),
        (
            http("http2Route", "{path: {exact: a}}"),
            "spec.http2Route.match.path.exact: `a` fits no path: begin it with `/` (InvalidValue)",
        ),
        (
            http(
                "httpRoute",
                "{prefix: /, headers: [{name: a, match: {regex: '['}}]}",
            ),
            "spec.httpRoute.match.headers[0].match.regex: `[` is not a regular expression that Envoy takes (RE2), so the route is left out: unclosed character class (InvalidValue)",
        ),
        (
            http("grpcRoute", "{metadata: [{name: a, match: {regex: '*'}}]}"),
            "spec.grpcRoute.match.metadata[0].match.regex: `*` is not a regular expression that Envoy takes (RE2), so the route is left out: repetition operator missing expression (InvalidValue)",
        ),
    ] {
        assert_eq!(checked(&refused, Operation::Create), message);
    }
    let two_kinds = checked(&route("tcpRoute: {}, httpRoute: {}"), Operation::Create);
    assert!(
        two_kinds.contains("weightedTargets") || two_kinds.contains("action"),
        "{two_kinds}"
    );
}

#[test]
fn an_object_that_is_going_and_a_spec_that_stays_always_pass() {
    let invalid = object(
        Kind::VirtualNode,
        "{awsName: a, listeners: [{portMapping: {port: 1, protocol: http}}]}",
    );
    assert_ne!(checked(&invalid, Operation::Create), "passes");
    let update = Operation::Update { old: &invalid };
    let mut labelled = invalid.clone();
    labelled["metadata"]["labels"] = json!({ "a": "b" });
    assert_eq!(checked(&labelled, update), "passes");
    let mut changed = invalid.clone();
    changed["spec"]["awsName"] = "b".into();
    assert_ne!(checked(&changed, update), "passes");
    changed["metadata"]["deletionTimestamp"] = "2026-09-30T00:00:00Z".into();
    assert_eq!(checked(&changed, update), "passes");
}
