//! Duration of a rebuild: the first one, one without changes, and one with a changed `Route`.
//!
//! The argument is the number of virtual services, virtual routers, virtual nodes and `Route` objects each.

#![allow(clippy::unwrap_used)] // a failed setup fails the benchmark

use divan::Bencher;
use evermesh_ingest::{BuildMemo, Inputs, build, object::parse};
use serde_json::{Value, json};

fn main() {
    divan::main();
}

fn apply(inputs: &mut Inputs, value: Value) {
    let (reference, object) = parse(value).object.unwrap();
    assert!(inputs.apply(reference, Some(object)));
}

fn appmesh(kind: &str, name: &str, namespace: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2",
        "kind": kind,
        "metadata": { "name": name, "namespace": namespace },
        "spec": spec,
    })
}

fn route(name: &str, namespace: &str, weight: u32) -> Value {
    json!({
        "apiVersion": "evermesh.dev/v1alpha1",
        "kind": "Route",
        "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "virtualRouterRef": { "name": name },
            "httpRoute": {
                "match": { "prefix": "/" },
                "action": { "weightedTargets": [
                    { "virtualNodeRef": { "name": name }, "weight": weight },
                ] },
            },
        },
    })
}

fn mesh(size: usize) -> Inputs {
    let mut inputs = Inputs::default();
    apply(
        &mut inputs,
        json!({
            "apiVersion": "appmesh.k8s.aws/v1beta2",
            "kind": "Mesh",
            "metadata": { "name": "shop" },
            "spec": { "namespaceSelector": {} },
        }),
    );
    for index in 0..size {
        let namespace = format!("team-{}", index / 50);
        let name = format!("service-{index}");
        let callee = format!("service-{}", (index * 7 + 1) % size);
        let callee_namespace = format!("team-{}", (index * 7 + 1) % size / 50);
        let listeners = json!([{ "portMapping": { "port": 8080, "protocol": "http" } }]);
        for object in [
            appmesh(
                "VirtualNode",
                &name,
                &namespace,
                &json!({
                    "listeners": listeners,
                    "serviceDiscovery": { "dns": {
                        "hostname": format!("{name}.{namespace}.svc.cluster.local"),
                    } },
                    "backends": [{ "virtualService": { "virtualServiceRef": {
                        "name": callee, "namespace": callee_namespace,
                    } } }],
                }),
            ),
            appmesh(
                "VirtualRouter",
                &name,
                &namespace,
                &json!({ "listeners": listeners }),
            ),
            appmesh(
                "VirtualService",
                &name,
                &namespace,
                &json!({ "provider": { "virtualRouter": { "virtualRouterRef": { "name": name } } } }),
            ),
            route(&name, &namespace, 1),
        ] {
            apply(&mut inputs, object);
        }
        apply(
            &mut inputs,
            json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{name}-1"),
                    "namespace": namespace,
                    "labels": { "kubernetes.io/service-name": name },
                },
                "addressType": "IPv4",
                "endpoints": [{ "addresses": [format!("10.0.{}.{}", index / 250, index % 250)] }],
                "ports": [{ "port": 8080 }],
            }),
        );
    }
    inputs
}

#[divan::bench(args = [1000, 5000], sample_count = 5)]
fn first(bencher: Bencher<'_, '_>, size: usize) {
    let inputs = mesh(size);
    bencher
        .with_inputs(BuildMemo::default)
        .bench_local_refs(|memo| build(&inputs, memo));
}

#[divan::bench(args = [1000, 5000])]
fn unchanged(bencher: Bencher<'_, '_>, size: usize) {
    let inputs = mesh(size);
    let mut memo = BuildMemo::default();
    build(&inputs, &mut memo);
    bencher.bench_local(|| build(&inputs, &mut memo));
}

#[divan::bench(args = [1000, 5000])]
fn one_route(bencher: Bencher<'_, '_>, size: usize) {
    let mut inputs = mesh(size);
    let mut memo = BuildMemo::default();
    build(&inputs, &mut memo);
    let mut weight = 1;
    bencher.bench_local(|| {
        weight = 3 - weight;
        apply(&mut inputs, route("service-500", "team-10", weight));
        build(&inputs, &mut memo)
    });
}
