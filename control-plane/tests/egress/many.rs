//! Envoy accepts a node with a thousand backends and a router with a thousand routes.

use evermesh_ingest::{BuildMemo, Inputs, build, object::parse};
use evermesh_proto::{ResourceType, json::encoded_to_json};
use evermesh_testkit::{
    envoy::{EnvoyVersion, validate},
    static_bootstrap::{ServedResources, static_bootstrap},
};
use evermesh_translate::{DeriveMemo, derive};
use serde_json::{Value, json};

const COUNT: usize = 1_000;

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2",
        "kind": kind,
        "metadata": { "name": name, "namespace": "shop" },
        "spec": spec,
    })
}

/// A node with a thousand backends, one of which has a router with a thousand routes.
fn manifests() -> Vec<Value> {
    let listeners = json!([{ "portMapping": { "port": 8080, "protocol": "http" } }]);
    let name = |index: usize| format!("service-{index}");
    let services = (0..COUNT).flat_map(|index| {
        let name = name(index);
        let node = json!({
            "listeners": listeners,
            "serviceDiscovery": { "dns": { "hostname": format!("{name}.shop.svc.cluster.local") } },
        });
        let provider = if index == 0 {
            json!({ "virtualRouter": { "virtualRouterRef": { "name": "routes" } } })
        } else {
            json!({ "virtualNode": { "virtualNodeRef": { "name": name } } })
        };
        let service = json!({ "provider": provider });
        [
            object("VirtualNode", &name, &node),
            object("VirtualService", &name, &service),
        ]
    });
    let routes: Vec<Value> = (0..COUNT)
        .map(|index| {
            json!({
                "name": format!("route-{index}"),
                "httpRoute": {
                    "match": { "prefix": format!("/route-{index}") },
                    "action": { "weightedTargets": [
                        { "virtualNodeRef": { "name": name(index) }, "weight": 9 },
                        { "virtualNodeRef": { "name": name((index + 1) % COUNT) }, "weight": 1 },
                    ] },
                },
            })
        })
        .collect();
    let router_spec = json!({ "listeners": listeners, "routes": routes });
    let backends: Vec<Value> = (0..COUNT)
        .map(|index| json!({ "virtualService": { "virtualServiceRef": { "name": name(index) } } }))
        .collect();
    let mesh = json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2",
        "kind": "Mesh",
        "metadata": { "name": "shop" },
        "spec": { "namespaceSelector": {} },
    });
    services
        .chain([
            mesh,
            object("VirtualRouter", "routes", &router_spec),
            object("VirtualNode", "front", &json!({ "backends": backends })),
        ])
        .collect()
}

/// Everything that the Envoy of `front` is served.
fn served() -> ServedResources {
    let mut inputs = Inputs::default();
    for document in manifests() {
        let (reference, object) = parse(document).object.unwrap();
        inputs.apply(reference, Some(object));
    }
    let built = build(&inputs, &mut BuildMemo::default());
    assert!(built.problems.is_empty(), "{:?}", built.problems);
    let derived = derive(&built.graph, &mut DeriveMemo::default());
    let mut served = ServedResources::default();
    for key in derived.views["mesh/shop/virtualNode/front_shop"].keys() {
        let resource = &derived.resources[key];
        let of_type = match resource.kind {
            ResourceType::Cluster => &mut served.clusters,
            ResourceType::Endpoint => &mut served.endpoints,
            ResourceType::Listener => &mut served.listeners,
            ResourceType::Route => &mut served.routes,
            ResourceType::Secret => &mut served.secrets,
        };
        let message = resource.kind.message_name();
        of_type.push(encoded_to_json(message, &resource.body).unwrap());
    }
    served
}

#[test]
fn both_envoys_accept_a_thousand_backends_and_routes() {
    let served = served();
    assert!(served.clusters.len() > COUNT);
    let hosts = served.routes[0]["virtual_hosts"].as_array().unwrap();
    assert_eq!(hosts.len(), COUNT);
    assert_eq!(hosts[0]["routes"].as_array().unwrap().len(), COUNT);
    let bootstrap = static_bootstrap(&served).unwrap().to_string();
    for version in EnvoyVersion::ALL {
        validate(version, &bootstrap).unwrap();
    }
}
