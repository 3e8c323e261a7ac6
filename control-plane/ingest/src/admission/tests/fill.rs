//! Fields that admission sets, and objects whose mesh or gateway is not unique.

use json_patch::Patch;

use super::*;

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
            v4.clone(),
        ),
        ("{}", IpFamily::Dual, v4.clone()),
        ("{meshServiceDiscovery: {}}", IpFamily::Dual, v4.clone()),
        (
            "{meshServiceDiscovery: {ipPreference: IPv6_ONLY}}",
            IpFamily::Dual,
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
