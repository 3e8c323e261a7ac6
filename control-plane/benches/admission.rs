//! Time of one admission decision, from the object in JSON to the patch or the check.
//!
//! `mutate` and `validate` handle a virtual node, `inject` a pod. The argument is the number of meshes and namespaces,
//! or of virtual nodes.

#![allow(clippy::unwrap_used)] // a benchmark that cannot be set up must fail

use std::borrow::Cow;

use divan::{Bencher, black_box};
use evermesh_ingest::{
    Inputs,
    admission::{ClusterSnapshot, IpFamily, ObjectWrite, Operation, check, fill},
    object::parse,
};
use evermesh_injector::{Decision, INJECTION, InjectorSettings, decide, patch};
use evermesh_model::{Kind, ObjectRef};
use serde_json::{Value, json};

fn main() {
    divan::main();
}

const SIZES: [usize; 3] = [1, 10, 100];

fn surroundings(meshes: usize) -> ClusterSnapshot {
    let mut inputs = Inputs::default();
    for index in 0..meshes {
        let labels = json!({ "mesh": format!("mesh-{index}") });
        let namespace = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": format!("team-{index}"), "labels": labels },
        });
        let mesh = json!({
            "apiVersion": "appmesh.k8s.aws/v1beta2",
            "kind": "Mesh",
            "metadata": { "name": format!("mesh-{index}"), "uid": format!("uid-{index}") },
            "spec": { "namespaceSelector": { "matchLabels": labels } },
        });
        for value in [namespace, mesh] {
            let (reference, object) = parse(value).object.unwrap();
            inputs.apply(reference, Some(object));
        }
    }
    ClusterSnapshot::from(&inputs)
}

fn node() -> Value {
    let backend = |index: usize| json!({ "virtualService": { "virtualServiceRef": { "name": format!("service-{index}") } } });
    json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2",
        "kind": "VirtualNode",
        "metadata": { "name": "blue", "namespace": "team-0" },
        "spec": {
            "listeners": [{ "portMapping": { "port": 8080, "protocol": "http" } }],
            "serviceDiscovery": { "dns": { "hostname": "blue.team-0.svc.cluster.local" } },
            "backends": (0..10).map(backend).collect::<Vec<_>>(),
        },
    })
}

fn creation(new: &Value) -> ObjectWrite<'_> {
    ObjectWrite {
        object: ObjectRef::new(Kind::VirtualNode, "team-0", "blue"),
        operation: Operation::Create,
        new: Cow::Borrowed(new),
    }
}

#[divan::bench(args = SIZES)]
fn mutate(bencher: Bencher<'_, '_>, meshes: usize) {
    let (node, surroundings) = (node(), surroundings(meshes));
    bencher.bench(|| {
        let write = creation(black_box(&node));
        fill(&write, &surroundings, IpFamily::Ipv4).unwrap()
    });
}

#[divan::bench]
fn validate(bencher: Bencher<'_, '_>) {
    let node = node();
    bencher.bench(|| check(creation(black_box(&node))).unwrap());
}

/// Decides about a pod in a namespace with this many virtual nodes, and patches it.
#[divan::bench(args = [1, 100, 1000])]
fn inject(bencher: Bencher<'_, '_>, nodes: usize) {
    let mut inputs = Inputs::default();
    let mesh = json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2",
        "kind": "Mesh",
        "metadata": { "name": "shop", "uid": "u" },
        "spec": {},
    });
    let node = |index: usize| {
        json!({
            "apiVersion": "appmesh.k8s.aws/v1beta2",
            "kind": "VirtualNode",
            "metadata": { "name": format!("node-{index}"), "namespace": "shop" },
            "spec": {
                "meshRef": { "name": "shop", "uid": "u" },
                "podSelector": { "matchLabels": { "app": format!("app-{index}") } },
            },
        })
    };
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": "shop", "labels": { INJECTION: "enabled" } },
    });
    for object in (0..nodes).map(node).chain([mesh, namespace]) {
        let (reference, object) = parse(object).object.unwrap();
        inputs.apply(reference, Some(object));
    }
    let surroundings = ClusterSnapshot::from(&inputs);
    let settings =
        InjectorSettings::new("evermesh.test:18000".parse().unwrap(), "init:1".to_owned());
    let container = |index| json!({ "name": format!("c-{index}"), "image": "app:1" });
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "namespace": "shop", "labels": { "app": "app-0" } },
        "spec": { "containers": (0..5).map(container).collect::<Vec<_>>() },
    });
    bencher.bench(|| {
        let decision = decide(
            black_box(&pod),
            "shop",
            &surroundings,
            settings.without_member,
        );
        let Decision::Inject(member) = decision else {
            panic!("{decision:?}")
        };
        patch(&pod, &member, &settings).unwrap()
    });
}
