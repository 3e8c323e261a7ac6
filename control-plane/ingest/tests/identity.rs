//! Authorisation of workloads to act as proxies.
#![allow(clippy::unwrap_used)] // a failure here fails the test

mod fixture;

use evermesh_ingest::{
    BuildMemo, build,
    identity::{IdentityMismatch, IdentitySnapshot, WorkloadIdentity},
};
use evermesh_model::ResourceName;

const OBJECTS: &str = "
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {name: m}
spec: {namespaceSelector: {}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: front, namespace: shop}
spec: {podSelector: {matchLabels: {app: front}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: back, namespace: shop}
spec: {podSelector: {matchLabels: {app: back}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: unselective, namespace: shop}
spec: {}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualGateway
metadata: {name: gate, namespace: shop}
spec:
  namespaceSelector: {}
  podSelector: {matchLabels: {app: gate}}
  listeners: [{portMapping: {port: 8088, protocol: http}}]
---
apiVersion: v1
kind: Pod
metadata: {name: front-1, namespace: shop, uid: u1, labels: {app: front}}
spec: {serviceAccountName: front, containers: []}
---
apiVersion: v1
kind: Pod
metadata: {name: gate-1, namespace: shop, uid: u2, labels: {app: gate}}
spec: {serviceAccountName: gate, containers: []}
---
apiVersion: v1
kind: Pod
metadata: {name: front-1, namespace: other, uid: u3, labels: {app: front}}
spec: {serviceAccountName: front, containers: []}
";

fn pod(namespace: &str, name: &str, uid: &str) -> WorkloadIdentity {
    WorkloadIdentity::Pod {
        namespace: namespace.into(),
        name: name.into(),
        uid: uid.into(),
    }
}

fn account(namespace: &str, name: &str) -> WorkloadIdentity {
    WorkloadIdentity::Account {
        namespace: namespace.into(),
        name: name.into(),
    }
}

#[test]
fn pod_may_act_as_the_proxies_that_select_it_in_its_namespace() {
    let inputs = fixture::inputs(OBJECTS);
    let graph = build(&inputs, &mut BuildMemo::default()).graph;
    let snapshot = IdentitySnapshot::from(&inputs);
    let front = pod("shop", "front-1", "u1");
    for (workload, proxy, expected) in [
        (front.clone(), "virtualNode/front_shop", Ok(())),
        (
            front.clone(),
            "virtualNode/back_shop",
            Err(IdentityMismatch::NotSelected),
        ),
        (
            front.clone(),
            "virtualNode/unselective_shop",
            Err(IdentityMismatch::NotSelected),
        ),
        (
            front.clone(),
            "virtualGateway/gate_shop",
            Err(IdentityMismatch::NotSelected),
        ),
        (
            front,
            "virtualNode/none_shop",
            Err(IdentityMismatch::ProxyNotFound),
        ),
        (
            pod("shop", "front-1", "u1"),
            "virtualRouter/front_shop",
            Err(IdentityMismatch::ProxyNotFound),
        ),
        // An earlier or later pod with the same name has another UID.
        (
            pod("shop", "front-1", "u0"),
            "virtualNode/front_shop",
            Err(IdentityMismatch::PodNotFound),
        ),
        (
            pod("shop", "front-2", "u1"),
            "virtualNode/front_shop",
            Err(IdentityMismatch::PodNotFound),
        ),
        // Selectors apply only to pods in the namespace of the node.
        (
            pod("other", "front-1", "u3"),
            "virtualNode/front_shop",
            Err(IdentityMismatch::NotSelected),
        ),
        (
            pod("shop", "gate-1", "u2"),
            "virtualGateway/gate_shop",
            Ok(()),
        ),
        (account("shop", "front"), "virtualNode/front_shop", Ok(())),
        (
            account("shop", "gate"),
            "virtualNode/front_shop",
            Err(IdentityMismatch::NotSelected),
        ),
        (
            account("other", "front"),
            "virtualNode/front_shop",
            Err(IdentityMismatch::NotSelected),
        ),
        (
            account("shop", "none"),
            "virtualNode/front_shop",
            Err(IdentityMismatch::PodNotFound),
        ),
    ] {
        let name: ResourceName = format!("mesh/m/{proxy}").parse().unwrap();
        let result = snapshot.may_act_as(&graph, &workload, &name);
        assert_eq!(result, expected, "{workload} as {proxy}");
    }
}

#[test]
fn workload_is_shown_by_kind_namespace_and_name() {
    assert_eq!(pod("shop", "front-1", "u1").to_string(), "Pod shop/front-1");
    assert_eq!(
        account("shop", "front").to_string(),
        "ServiceAccount shop/front"
    );
}
