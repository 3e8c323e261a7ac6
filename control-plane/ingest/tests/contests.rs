//! Contests of objects of two namespaces: the older object wins, whatever it is called and whenever it arrives.

#![allow(clippy::unwrap_used)] // an unreadable object fails the test

use std::sync::Arc;

use evermesh_ingest::{BuildMemo, BuildOutput, Inputs, build, object::parse};
use evermesh_model::{Graph, ObjectRef};
use proptest::prelude::*;
use serde_json::{Value, json};

const PLATFORM: &str = "
{apiVersion: appmesh.k8s.aws/v1beta2, kind: Mesh, metadata: {name: m}, spec: {namespaceSelector: {}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: database, namespace: platform}
spec:
  listeners:
  - portMapping: {port: 80, protocol: http}
  - portMapping: {port: 5432, protocol: tcp}
  serviceDiscovery: {dns: {hostname: database.example.com}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualRouter
metadata: {name: r, namespace: platform, annotations: {evermesh.dev/allowed-routes: kubernetes.io/metadata.name}}
spec:
  listeners: [{portMapping: {port: 80, protocol: http}}]
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualGateway
metadata: {name: edge, namespace: platform}
spec:
  namespaceSelector: {}
  listeners: [{portMapping: {port: 80, protocol: http}}]
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualService
metadata: {name: shop, namespace: platform}
spec: {provider: {virtualRouter: {virtualRouterRef: {name: r}}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: caller, namespace: platform}
spec:
  backendGroups: [{name: all}]
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: BackendGroup
metadata: {name: all, namespace: platform}
spec: {virtualservices: [{name: x, namespace: a}, {name: x, namespace: b}]}
";

/// A claim that two objects can make at the same time.
#[derive(Debug, Clone, Copy)]
enum Claim {
    MeshName,
    NodeName,
    HostName,
    RouterName,
    GatewayName,
    GatewayRouteName,
    GatewayRequests,
    RouteName,
    RouterRequests,
    TcpPort,
}

impl Claim {
    const ALL: [Self; 10] = [
        Self::MeshName,
        Self::NodeName,
        Self::HostName,
        Self::RouterName,
        Self::GatewayName,
        Self::GatewayRouteName,
        Self::GatewayRequests,
        Self::RouteName,
        Self::RouterRequests,
        Self::TcpPort,
    ];

    /// The object by which the owner of `namespace` makes the claim.
    fn object(self, namespace: &str, metadata: &Value) -> Value {
        let app_mesh = "appmesh.k8s.aws/v1beta2";
        let gateway_route = |name: Option<&str>, prefix: &str| {
            json!({
                "awsName": name,
                "httpRoute": {
                    "match": { "prefix": prefix },
                    "action": { "target": { "virtualService": {
                        "virtualServiceRef": { "name": "shop", "namespace": "platform" },
                        "port": 80,
                    }}},
                },
            })
        };
        let prefix = format!("/{namespace}");
        let (version, kind, spec) = match self {
            Self::MeshName => (app_mesh, "Mesh", json!({ "awsName": "contested" })),
            Self::NodeName => (app_mesh, "VirtualNode", json!({ "awsName": "contested" })),
            Self::HostName => (
                app_mesh,
                "VirtualService",
                json!({ "awsName": "contested" }),
            ),
            Self::RouterName => (app_mesh, "VirtualRouter", json!({ "awsName": "contested" })),
            Self::GatewayName => (
                app_mesh,
                "VirtualGateway",
                json!({ "awsName": "contested" }),
            ),
            Self::GatewayRouteName => (
                app_mesh,
                "GatewayRoute",
                gateway_route(Some("contested"), &prefix),
            ),
            Self::GatewayRequests => (app_mesh, "GatewayRoute", gateway_route(None, "/")),
            Self::RouteName => ("evermesh.dev/v1alpha1", "Route", route(&prefix)),
            Self::RouterRequests => ("evermesh.dev/v1alpha1", "Route", route("/")),
            Self::TcpPort => (
                app_mesh,
                "VirtualService",
                json!({ "provider": { "virtualNode": {
                    "virtualNodeRef": { "name": "database", "namespace": "platform" },
                }}}),
            ),
        };
        json!({ "apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec })
    }

    /// The namespace, or for a mesh the name, of the owner that holds the claim.
    fn winner(self, graph: &Graph) -> Arc<str> {
        fn only<'a>(objects: impl Iterator<Item = &'a ObjectRef>) -> Arc<str> {
            let found: Vec<_> = objects
                .filter(|object| &*object.namespace != "platform")
                .collect();
            let [winner] = found[..] else {
                panic!("not one winner: {found:?}");
            };
            Arc::clone(&winner.namespace)
        }
        let gateway = || &graph.gateways[&"mesh/m/virtualGateway/edge_platform".parse().unwrap()];
        let router = || &graph.routers[&"mesh/m/virtualRouter/r_platform".parse().unwrap()];
        match self {
            Self::MeshName => Arc::clone(&graph.meshes["contested"].object.name),
            Self::NodeName => only(graph.nodes.values().map(|node| &node.object)),
            Self::HostName => only(graph.services.values().map(|service| &service.object)),
            Self::RouterName => only(graph.routers.values().map(|router| &router.object)),
            Self::GatewayName => only(graph.gateways.values().map(|gateway| &gateway.object)),
            Self::GatewayRouteName => only(gateway().routes.iter().map(|route| &route.object)),
            Self::GatewayRequests => Arc::clone(&gateway().routes[0].object.namespace),
            Self::RouteName => only(router().routes.iter().map(|route| &route.object)),
            Self::RouterRequests => Arc::clone(&router().routes[0].object.namespace),
            Self::TcpPort => {
                let caller = &graph.nodes[&"mesh/m/virtualNode/caller_platform".parse().unwrap()];
                let [backend] = &caller.backends[..] else {
                    panic!("not one backend: {:?}", caller.backends);
                };
                backend.service.split_once('.').unwrap().1.into()
            }
        }
    }
}

fn route(prefix: &str) -> Value {
    json!({
        "virtualRouterRef": { "name": "r", "namespace": "platform" },
        "httpRoute": {
            "match": { "prefix": prefix },
            "action": { "weightedTargets": [{
                "virtualNodeRef": { "name": "database", "namespace": "platform" },
                "weight": 1,
                "port": 80,
            }]},
        },
    })
}

/// Age of an object: the year of its creation, or none as in a file, and a UID.
type Age = (Option<u32>, u8);

fn age() -> impl Strategy<Value = Age> {
    (prop::option::of(2020..2023_u32), any::<u8>())
}

/// Sort key of the owner who must win.
fn seniority(namespace: &str, (year, uid): Age) -> (u32, Option<String>, String) {
    let uid = year.map(|_| format!("u-{uid:03}"));
    (year.unwrap_or_default(), uid, namespace.to_owned())
}

fn put(inputs: &mut Inputs, value: Value) {
    let parsed = parse(value);
    let (reference, object) = parsed
        .object
        .unwrap_or_else(|| panic!("{:?}", parsed.problems));
    inputs.apply(reference, Some(object));
}

fn claim(inputs: &mut Inputs, claim: Claim, namespace: &str, (year, uid): Age) {
    let name = match claim {
        Claim::MeshName => namespace,
        _ => "x",
    };
    let mut metadata =
        json!({ "name": name, "namespace": namespace, "uid": format!("u-{uid:03}") });
    if let Some(year) = year {
        metadata["creationTimestamp"] = format!("{year}-01-01T00:00:00Z").into();
    }
    put(inputs, claim.object(namespace, &metadata));
}

fn platform() -> Inputs {
    let mut inputs = Inputs::default();
    for value in serde_saphyr::from_multiple::<Value>(PLATFORM).unwrap() {
        put(&mut inputs, value);
    }
    inputs
}

proptest! {
    /// The younger owner never wins, also if it is the first to arrive, and the loser is told who did.
    #[test]
    fn older_object_wins_in_any_order_of_arrival(
        contest in prop::sample::select(&Claim::ALL[..]),
        ages in (age(), age()),
        arrival in prop::sample::select(&[["a", "b"], ["b", "a"]][..]),
    ) {
        let age_of = |namespace: &str| if namespace == "a" { ages.0 } else { ages.1 };
        let winner = ["a", "b"].into_iter().min_by_key(|one| seniority(one, age_of(one))).unwrap();
        let loser = if winner == "a" { "b" } else { "a" };
        let (mut inputs, mut memo) = (platform(), BuildMemo::default());
        for namespace in arrival {
            claim(&mut inputs, contest, namespace, age_of(namespace));
            build(&inputs, &mut memo);
        }
        let BuildOutput { graph, problems } = build(&inputs, &mut memo);
        prop_assert_eq!(&*contest.winner(&graph), winner);
        let told = problems.iter().any(|problem| {
            let object = problem.object.as_ref().unwrap();
            let is_loser = [&object.namespace, &object.name].map(|one| &**one == loser);
            let is_caller = matches!(contest, Claim::TcpPort);
            (is_loser.contains(&true) || is_caller)
                && problem.message.contains(&match contest {
                    Claim::MeshName => format!("`Mesh/{winner}`"),
                    Claim::TcpPort => format!("`x.{winner}`"),
                    _ => format!("/{winner}/x`"),
                })
        });
        prop_assert!(told, "{:?}", problems);
        let fresh = build(&inputs, &mut BuildMemo::default());
        prop_assert_eq!(fresh.graph, graph);
        prop_assert_eq!(fresh.problems, problems);
    }

    /// An object that holds a claim keeps it when a younger one comes.
    #[test]
    fn younger_object_does_not_change_the_winner(
        contest in prop::sample::select(&Claim::ALL[..]),
        first in prop::sample::select(&["a", "b"][..]),
        uids in any::<(u8, u8)>(),
    ) {
        let second = if first == "a" { "b" } else { "a" };
        let (mut inputs, mut memo) = (platform(), BuildMemo::default());
        claim(&mut inputs, contest, first, (Some(2020), uids.0));
        let before = build(&inputs, &mut memo);
        prop_assert_eq!(&*contest.winner(&before.graph), first);
        claim(&mut inputs, contest, second, (Some(2021), uids.1));
        let after = build(&inputs, &mut memo);
        prop_assert_eq!(&*contest.winner(&after.graph), first);
    }
}
