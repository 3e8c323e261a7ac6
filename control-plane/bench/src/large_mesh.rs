//! The mesh of the benchmark `counting`: every node has ten backends, and every router splits between two nodes.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// Number of services that each node calls.
const BACKENDS: usize = 10;
/// Number of pods of each node.
const PODS: usize = 10;
/// The namespace of all objects.
pub(crate) const NAMESPACE: &str = "bench";

/// The namespace with its service account, and the meshes `bench` and `idle`. They have to exist before the rest.
pub(crate) fn first() -> Vec<Value> {
    let mesh = |name: &str, namespace: &str| {
        json!({
            "apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "Mesh", "metadata": {"name": name},
            "spec": {"namespaceSelector": {"matchLabels": {"mesh": namespace}}},
        })
    };
    let namespace = |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"mesh": name}}});
    vec![
        namespace(NAMESPACE),
        namespace(IDLE),
        object("v1", "ServiceAccount", "default"),
        mesh("bench", NAMESPACE),
        mesh("idle", IDLE),
    ]
}

/// For each service its virtual node, virtual service and router, the Kubernetes Service with an `EndpointSlice`,
/// and the pods, which are not scheduled.
pub(crate) fn services(count: usize) -> Vec<Value> {
    (0..count).flat_map(|index| service(index, count)).collect()
}

fn service(index: usize, count: usize) -> Vec<Value> {
    let listeners = json!([{"portMapping": {"port": 8080, "protocol": "http"}}]);
    let backends: Vec<Value> = callees(index, count)
        .map(|callee| json!({"virtualService": {"virtualServiceRef": {"name": format!("service-{callee}")}}}))
        .collect();
    let labels = json!({"app": format!("node-{index}")});
    let mut node = object("appmesh.k8s.aws/v1beta2", "VirtualNode", &node(index));
    node["spec"] = json!({
        "podSelector": {"matchLabels": labels},
        "listeners": listeners,
        "serviceDiscovery": {"dns": {"hostname": format!("node-{index}.{NAMESPACE}")}},
        "backends": backends,
    });
    let mut virtual_service = object(
        "appmesh.k8s.aws/v1beta2",
        "VirtualService",
        &format!("service-{index}"),
    );
    virtual_service["spec"] = json!({
        "awsName": format!("service-{index}.{NAMESPACE}"),
        "provider": {"virtualRouter": {"virtualRouterRef": {"name": router(index)}}},
    });
    let mut virtual_router = object("appmesh.k8s.aws/v1beta2", "VirtualRouter", &router(index));
    virtual_router["spec"] = json!({"listeners": listeners, "routes": routes(index, count, 1)});
    let mut service = object("v1", "Service", &format!("node-{index}"));
    service["spec"] = json!({"selector": labels, "ports": [{"name": "http", "port": 8080}]});
    let mut slice = object(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        &format!("node-{index}"),
    );
    slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": format!("node-{index}")});
    slice["addressType"] = json!("IPv4");
    slice["ports"] = json!([{"name": "http", "port": 8080, "protocol": "TCP"}]);
    let endpoints = (0..PODS).map(
        |pod| json!({"addresses": [address(index * PODS + pod)], "conditions": {"ready": true}}),
    );
    slice["endpoints"] = endpoints.collect();
    let pods = (0..PODS).map(|pod| {
        let mut object = object("v1", "Pod", &format!("node-{index}-{pod}"));
        object["metadata"]["labels"] = labels.clone();
        object["spec"] = json!({"containers": [{"name": "app", "image": "app:1"}]});
        object
    });
    let others = [node, virtual_service, virtual_router, service, slice];
    others.into_iter().chain(pods).collect()
}

/// Virtual nodes of the mesh `idle`, which no proxy uses: each has a status.
pub(crate) fn idle_nodes(count: usize) -> Vec<Value> {
    let nodes = (0..count).map(|index| {
        let name = format!("idle-{index}");
        let mut node = object("appmesh.k8s.aws/v1beta2", "VirtualNode", &name);
        node["metadata"]["namespace"] = json!(IDLE);
        node["spec"] = json!({"podSelector": {"matchLabels": {"app": name}}});
        node
    });
    nodes.collect()
}

/// The namespace of [`idle_nodes`].
const IDLE: &str = "idle";

fn object(version: &str, kind: &str, name: &str) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}})
}

fn node(index: usize) -> String {
    format!("node-{index}")
}

pub(crate) fn router(index: usize) -> String {
    format!("router-{index}")
}

/// The node ID of the proxies of a service.
pub(crate) fn node_id(index: usize) -> String {
    format!("mesh/bench/virtualNode/node-{index}_{NAMESPACE}")
}

/// The services that a node calls.
fn callees(index: usize, count: usize) -> impl Iterator<Item = usize> {
    (1..=BACKENDS).map(move |distance| (index + distance) % count)
}

/// The number of nodes that call a service.
pub(crate) const CALLERS: usize = BACKENDS;

/// The routes of a router: one to the node of the service and, with weight 1, to a node far from it.
pub(crate) fn routes(index: usize, count: usize, weight: usize) -> Value {
    let target = |index: usize, weight: usize| json!({"virtualNodeRef": {"name": node(index)}, "weight": weight});
    let targets = [
        target(index, weight),
        target((index + count / 2) % count, 1),
    ];
    json!([{"name": "all", "httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": targets}}}])
}

/// An address in `10.128.0.0/9`.
fn address(number: usize) -> Ipv4Addr {
    let number = u32::try_from(number).unwrap_or(u32::MAX) & 0x007f_ffff;
    Ipv4Addr::from_bits(0x0a80_0000 | number)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_of_each_kind_and_addresses_are_unique() {
        let objects = services(30);
        let names: BTreeSet<(&str, &str)> = objects
            .iter()
            .map(|it| {
                (
                    it["kind"].as_str().unwrap(),
                    it["metadata"]["name"].as_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(names.len(), objects.len());
        assert_eq!(objects.len(), 30 * (5 + PODS));
        let endpoints = objects.iter().filter_map(|it| it["endpoints"].as_array());
        let addresses: BTreeSet<_> = endpoints
            .flatten()
            .map(|it| it["addresses"][0].as_str())
            .collect();
        assert_eq!(addresses.len(), 30 * PODS);
    }

    #[test]
    fn each_service_has_the_same_number_of_callers() {
        let mut callers = [0; 30];
        for index in 0..30 {
            callees(index, 30).for_each(|callee| callers[callee] += 1);
        }
        assert_eq!(callers, [CALLERS; 30]);
    }
}
