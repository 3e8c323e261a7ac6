//! Measures an update of the translation: with an empty memo, after a change of one router, and after a change of one
//! node's endpoints. Measures the whole way from a manifest to resources for a node with a thousand backends and for a
//! router with a thousand routes.

#![allow(missing_docs)] // a program, not an API
#![allow(clippy::unwrap_used)] // a benchmark may panic

#[path = "../tests/support/builders.rs"]
#[allow(dead_code, unreachable_pub)] // shared with the tests
mod builders;
#[path = "../tests/support/settings.rs"]
#[allow(dead_code, unreachable_pub)] // shared with the tests
mod settings;
#[path = "../tests/support/tls.rs"]
#[allow(dead_code, unreachable_pub)] // shared with the tests
mod tls;

use std::sync::Arc;

use divan::Bencher;
use evermesh_ingest::{BuildMemo, Inputs, build, object::parse};
use evermesh_model::{Graph, Health};
use evermesh_translate::{DeriveMemo, derive, derive_changes, load_assignments};
use serde_json::{Value, json};

const SIZES: [usize; 2] = [1_000, 5_000];
/// Numbers of a gateway's host names and routes.
const HOSTS: [usize; 3] = [1_250, 2_500, 5_000];

fn main() {
    for size in SIZES {
        print_sizes(size);
    }
    for hosts in HOSTS {
        let graph = build(&gateway_inputs(hosts), &mut BuildMemo::default()).graph;
        print_resources(&format!("gateway with {hosts} hosts"), &graph);
    }
    divan::main();
}

/// Prints the number of resources and their average size in bytes, by type.
fn print_sizes(n: usize) {
    print_resources(&format!("{n} nodes"), &builders::large(n));
}

#[allow(clippy::print_stdout)] // a benchmark's result
fn print_resources(title: &str, graph: &Graph) {
    let derived = derive(graph, &mut DeriveMemo::default());
    println!("{title}: {} views", derived.views.len());
    for kind in evermesh_proto::ResourceType::ALL {
        let of_kind = derived.resources.values().filter(|it| it.kind == kind);
        let (count, bytes) = of_kind.fold((0, 0), |(count, bytes), resource| {
            (count + 1, bytes + resource.body.len())
        });
        if let Some(each) = bytes.checked_div(count) {
            println!("  {kind}: {count}, {each} bytes each on average");
        }
    }
}

#[divan::bench(args = SIZES, sample_count = 10)]
fn empty_memo(bencher: Bencher<'_, '_>, n: usize) {
    let graph = builders::large(n);
    bencher.bench_local(|| derive(&graph, &mut DeriveMemo::default()));
}

#[divan::bench(args = SIZES)]
fn one_router(bencher: Bencher<'_, '_>, n: usize) {
    let graphs = [10, 90].map(|weight| {
        let mut graph = builders::large(n);
        builders::add_router(&mut graph, builders::large_router(n / 2, n, weight));
        graph
    });
    alternate(bencher, &shared(graphs));
}

/// The same change if each node has TLS, client policies, health checks, ejections, limits and an access log.
#[divan::bench(args = SIZES)]
fn one_router_with_every_setting(bencher: Bencher<'_, '_>, n: usize) {
    let graphs = [10, 90].map(|weight| {
        let mut graph = builders::large(n);
        for node in Arc::make_mut(&mut graph.nodes).values_mut() {
            let node = Arc::make_mut(node);
            for listener in &mut node.listeners {
                settings::add(listener, 2);
                listener.tls = tls::server(2);
            }
            for backend in &mut node.backends {
                backend.tls = tls::policy(2);
            }
            node.access_log = settings::access_log(1);
        }
        builders::add_router(&mut graph, builders::large_router(n / 2, n, weight));
        graph
    });
    alternate(bencher, &shared(graphs));
}

#[divan::bench(args = SIZES)]
fn one_set_of_endpoints(bencher: Bencher<'_, '_>, n: usize) {
    let graphs = [10, 90].map(|last| {
        let mut graph = builders::large(n);
        let name = graph.nodes.keys().nth(n / 2).unwrap().clone();
        let endpoint = builders::endpoint("eu-west-1a", [10, 9, 9, last], Health::Healthy);
        Arc::make_mut(&mut graph.endpoints).insert(name, Arc::new(vec![endpoint]));
        graph
    });
    alternate(bencher, &shared(graphs));
}

/// Measures a copy of all resources, which [`derive`] makes after an update.
#[divan::bench(args = SIZES)]
fn copy_of_everything(bencher: Bencher<'_, '_>, n: usize) {
    let mut memo = DeriveMemo::default();
    derive_changes(&builders::large(n), &mut memo);
    bencher.bench_local(|| drop(memo.derived().clone()));
}

#[divan::bench]
fn load_assignments_of_one_node(bencher: Bencher<'_, '_>) {
    let graph = builders::large(10);
    let (name, node) = graph.nodes.first_key_value().unwrap();
    let endpoints = &graph.endpoints[name];
    bencher.bench_local(|| load_assignments(node, endpoints));
}

/// The manifest of one object changes: it is parsed, the graph is rebuilt, and the changed resources are derived.
fn change_manifest(bencher: Bencher<'_, '_>, manifests: &[Value; 2]) {
    let mut inputs = Inputs::default();
    for manifest in thousand().chain([manifests[0].clone()]) {
        apply(&mut inputs, manifest);
    }
    change(bencher, inputs, manifests);
}

fn change(bencher: Bencher<'_, '_>, mut inputs: Inputs, manifests: &[Value; 2]) {
    let (mut built, mut derived) = (BuildMemo::default(), DeriveMemo::default());
    derive_changes(&build(&inputs, &mut built).graph, &mut derived);
    let mut count = 0;
    bencher.bench_local(|| {
        count += 1;
        apply(&mut inputs, manifests[count % 2].clone());
        let changes = derive_changes(&build(&inputs, &mut built).graph, &mut derived);
        assert!(!changes.resources.is_empty());
        changes
    });
}

fn apply(inputs: &mut Inputs, manifest: Value) {
    let (reference, object) = parse(manifest).object.unwrap();
    assert!(inputs.apply(reference, Some(object)));
}

fn manifest(kind: &str, name: &str, spec: &Value) -> Value {
    let metadata = json!({ "name": name, "namespace": "shop" });
    json!({ "apiVersion": "appmesh.k8s.aws/v1beta2", "kind": kind, "metadata": metadata, "spec": spec })
}

fn name(index: usize) -> String {
    format!("service-{index}")
}

/// A mesh with a thousand nodes, each with a service, of which the first has a router and a caller.
fn thousand() -> impl Iterator<Item = Value> {
    let mesh = json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "Mesh",
        "metadata": { "name": "shop" }, "spec": { "namespaceSelector": {} },
    });
    let services = (0..1_000).flat_map(|index| {
        let name = name(index);
        let node = json!({
            "listeners": [{ "portMapping": { "port": 8080, "protocol": "http" } }],
            "serviceDiscovery": { "dns": { "hostname": format!("{name}.shop.svc.cluster.local") } },
        });
        let provider = if index == 0 {
            json!({ "virtualRouter": { "virtualRouterRef": { "name": "routes" } } })
        } else {
            json!({ "virtualNode": { "virtualNodeRef": { "name": name } } })
        };
        [
            manifest("VirtualNode", &name, &node),
            manifest("VirtualService", &name, &json!({ "provider": provider })),
        ]
    });
    let backend = json!({ "virtualService": { "virtualServiceRef": { "name": name(0) } } });
    let caller = manifest("VirtualNode", "caller", &json!({ "backends": [backend] }));
    services.chain([mesh, caller])
}

/// A node with a thousand backends gets another one, or loses it.
#[divan::bench]
fn node_with_a_thousand_backends(bencher: Bencher<'_, '_>) {
    let manifests = [1_000, 999].map(|count| {
        let backends: Vec<Value> = (0..count)
            .map(|index| json!({ "virtualService": { "virtualServiceRef": { "name": name(index) } } }))
            .collect();
        manifest("VirtualNode", "front", &json!({ "backends": backends }))
    });
    change_manifest(bencher, &manifests);
}

/// The weights of one of a thousand routes of a router change.
#[divan::bench]
fn router_with_a_thousand_routes(bencher: Bencher<'_, '_>) {
    let manifests = [10, 90].map(|weight| {
        let routes: Vec<Value> = (0..1_000)
            .map(|index| {
                let weight = if index == 500 { weight } else { 50 };
                json!({ "name": format!("route-{index}"), "httpRoute": {
                    "match": { "prefix": format!("/route-{index}") },
                    "action": { "weightedTargets": [
                        { "virtualNodeRef": { "name": name(index) }, "weight": weight },
                        { "virtualNodeRef": { "name": name((index + 1) % 1_000) }, "weight": 50 },
                    ] },
                } })
            })
            .collect();
        let listeners = json!([{ "portMapping": { "port": 8080, "protocol": "http" } }]);
        manifest(
            "VirtualRouter",
            "routes",
            &json!({ "listeners": listeners, "routes": routes }),
        )
    });
    change_manifest(bencher, &manifests);
}

/// A gateway with host names of which each has a route, and as many routes for any host name. The targets are a thousand
/// services.
fn gateway_inputs(hosts: usize) -> Inputs {
    let gateway = manifest(
        "VirtualGateway",
        "edge",
        &json!({
            "namespaceSelector": {},
            "podSelector": { "matchLabels": { "app": "edge" } },
            "listeners": [{ "portMapping": { "port": 8080, "protocol": "http" } }],
        }),
    );
    let routes = (0..hosts).flat_map(|index| [named_route(index, "/"), unnamed_route(index)]);
    let mut inputs = Inputs::default();
    for manifest in thousand().chain([gateway]).chain(routes) {
        apply(&mut inputs, manifest);
    }
    inputs
}

fn named_route(index: usize, prefix: &str) -> Value {
    let matches =
        json!({ "hostname": { "exact": format!("host-{index}.example.com") }, "prefix": prefix });
    gateway_route(&format!("host-{index}"), index, &matches)
}

fn unnamed_route(index: usize) -> Value {
    let matches = json!({ "prefix": format!("/path-{index}/") });
    gateway_route(&format!("path-{index}"), index, &matches)
}

fn gateway_route(route: &str, index: usize, matches: &Value) -> Value {
    let target =
        json!({ "virtualService": { "virtualServiceRef": { "name": name(index % 1_000) } } });
    let spec = json!({ "httpRoute": { "match": matches, "action": { "target": target } } });
    manifest("GatewayRoute", route, &spec)
}

/// One route of a gateway with many host names changes.
#[divan::bench(args = HOSTS, sample_count = 10)]
fn gateway_with_hosts(bencher: Bencher<'_, '_>, hosts: usize) {
    let manifests = ["/", "/x/"].map(|prefix| named_route(7, prefix));
    change(bencher, gateway_inputs(hosts), &manifests);
}

/// Makes the graphs share equal objects and equal maps by pointer, as consecutive builds of ingest do.
fn shared([one, mut other]: [Graph; 2]) -> [Graph; 2] {
    macro_rules! share {
        ($($map:ident)+) => {$(
            for (key, value) in Arc::make_mut(&mut other.$map) {
                if let Some(same) = one.$map.get(key).filter(|it| *it == value) {
                    *value = Arc::clone(same);
                }
            }
            if one.$map == other.$map {
                other.$map = Arc::clone(&one.$map);
            }
        )+};
    }
    share!(meshes nodes services routers gateways endpoints);
    [one, other]
}

fn alternate(bencher: Bencher<'_, '_>, graphs: &[Graph; 2]) {
    let mut memo = DeriveMemo::default();
    derive_changes(&graphs[0], &mut memo);
    let mut count = 0;
    bencher.bench_local(|| {
        count += 1;
        derive_changes(&graphs[count % 2], &mut memo)
    });
}
