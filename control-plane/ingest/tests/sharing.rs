//! Unchanged values of the graph keep their pointers after a change.

mod fixture;

use std::{collections::BTreeMap, sync::Arc};

use evermesh_ingest::{BuildMemo, build, cloud_map_users, object::parse};
use evermesh_model::{CloudMapService, Kind, ObjectRef};
use serde_json::json;

const SHOP: &str = include_str!("../testdata/start/two-colors/in.yaml");

/// The keys of values whose pointer changed.
fn changed<K: Ord + ToString, V>(
    before: &BTreeMap<K, Arc<V>>,
    after: &BTreeMap<K, Arc<V>>,
) -> Vec<String> {
    after
        .iter()
        .filter(|(key, value)| !before.get(key).is_some_and(|last| Arc::ptr_eq(last, value)))
        .map(|(key, _)| key.to_string())
        .collect()
}

#[test]
fn changed_route_changes_only_its_router() {
    let mut inputs = fixture::inputs(SHOP);
    let mut memo = BuildMemo::default();
    let before = build(&inputs, &mut memo);
    let route = json!({
        "apiVersion": "evermesh.dev/v1alpha1",
        "kind": "Route",
        "metadata": { "name": "beta", "namespace": "shop" },
        "spec": {
            "virtualRouterRef": { "name": "color" },
            "httpRoute": {
                "match": { "prefix": "/beta" },
                "action": { "weightedTargets": [
                    { "virtualNodeRef": { "name": "green" }, "weight": 1 },
                ] },
            },
        },
    });
    let (reference, object) = parse(route).object.unwrap();

    assert!(inputs.apply(reference.clone(), Some(object.clone())));
    let after = build(&inputs, &mut memo);
    assert_eq!(
        changed(&before.graph.routers, &after.graph.routers),
        ["mesh/shop/virtualRouter/color_shop"]
    );
    assert!(Arc::ptr_eq(&before.graph.meshes, &after.graph.meshes));
    assert!(Arc::ptr_eq(&before.graph.nodes, &after.graph.nodes));
    assert!(Arc::ptr_eq(&before.graph.services, &after.graph.services));
    assert!(Arc::ptr_eq(&before.graph.gateways, &after.graph.gateways));
    assert!(Arc::ptr_eq(&before.graph.endpoints, &after.graph.endpoints));

    assert!(
        !inputs.apply(reference.clone(), Some(object)),
        "storing an equal object does not change the inputs"
    );
    assert!(inputs.apply(reference.clone(), None));
    assert!(
        !inputs.apply(reference, None),
        "removing an unknown object does not change the inputs"
    );
    let restored = build(&inputs, &mut memo);
    assert_eq!(restored.graph, before.graph);
}

#[test]
fn changed_instances_change_only_endpoints() {
    let mut inputs = fixture::inputs(include_str!("../testdata/cloud-map/endpoints/in.yaml"));
    let mut memo = BuildMemo::default();
    let before = build(&inputs, &mut memo);
    let color = CloudMapService {
        namespace: "shop.local".into(),
        service: "color".into(),
    };
    let users = cloud_map_users(&before.graph);
    let users: Vec<String> = users[&color].iter().map(ToString::to_string).collect();
    assert!(
        users.contains(&"mesh/m/virtualNode/all_a".to_owned()),
        "{users:?}"
    );

    inputs.set_cloud_map(color, Some(Arc::default()));
    let after = build(&inputs, &mut memo);
    assert_eq!(
        changed(&before.graph.endpoints, &after.graph.endpoints),
        users
    );
    assert_eq!(after.graph, build(&inputs, &mut BuildMemo::default()).graph);
    assert!(Arc::ptr_eq(&before.graph.nodes, &after.graph.nodes));
}

#[test]
fn changed_slice_changes_only_endpoints() {
    let mut inputs = fixture::inputs(include_str!("../testdata/slices/endpoints/in.yaml"));
    let mut memo = BuildMemo::default();
    let before = build(&inputs, &mut memo);
    assert!(inputs.apply(ObjectRef::new(Kind::EndpointSlice, "a", "x-2"), None));
    let after = build(&inputs, &mut memo);
    assert_eq!(
        changed(&before.graph.endpoints, &after.graph.endpoints),
        ["mesh/m/virtualNode/x_a"]
    );
    assert_eq!(after.graph, build(&inputs, &mut BuildMemo::default()).graph);
    assert!(Arc::ptr_eq(&before.graph.nodes, &after.graph.nodes));
}

#[test]
fn changed_node_changes_only_its_dependents() {
    let mut inputs = fixture::inputs(SHOP);
    let mut memo = BuildMemo::default();
    let before = build(&inputs, &mut memo);
    let renamed = SHOP.replace("hostname: blue.", "hostname: azure.");
    let renamed = fixture::inputs(&renamed);
    for (reference, node) in renamed.virtual_nodes.iter() {
        let object = evermesh_ingest::object::Object::VirtualNode(Arc::clone(node));
        inputs.apply(reference.clone(), Some(object));
    }
    let after = build(&inputs, &mut memo);
    assert_eq!(
        changed(&before.graph.nodes, &after.graph.nodes),
        ["mesh/shop/virtualNode/blue_shop"],
        "other objects do not depend on the discovery of a node"
    );
    assert!(Arc::ptr_eq(&before.graph.routers, &after.graph.routers));
    assert!(Arc::ptr_eq(&before.graph.services, &after.graph.services));

    let other_port = fixture::inputs(&SHOP.replace("8080", "9090"));
    for (reference, node) in other_port.virtual_nodes.iter() {
        let object = evermesh_ingest::object::Object::VirtualNode(Arc::clone(node));
        inputs.apply(reference.clone(), Some(object));
    }
    let after = build(&inputs, &mut memo);
    assert_eq!(
        changed(&before.graph.routers, &after.graph.routers),
        ["mesh/shop/virtualRouter/color_shop"]
    );
    assert!(
        Arc::ptr_eq(&before.graph.services, &after.graph.services),
        "the ports of the router did not change"
    );
}

const GROUPS: &str = "
apiVersion: appmesh.k8s.aws/v1beta2
kind: BackendGroup
metadata: {name: colors, namespace: shop}
spec: {virtualservices: [{name: color}]}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: BackendGroup
metadata: {name: none, namespace: shop}
spec: {}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: of-colors, namespace: shop}
spec: {backendGroups: [{name: colors}]}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: of-none, namespace: shop}
spec: {backendGroups: [{name: none}]}
---
apiVersion: v1
kind: Service
metadata: {name: color, namespace: shop}
spec: {clusterIPs: [10.1.0.1]}
";

#[test]
fn changed_group_changes_only_its_nodes() {
    let yaml = format!("{SHOP}\n---\n{GROUPS}");
    let mut inputs = fixture::inputs(&yaml);
    let mut memo = BuildMemo::default();
    let before = build(&inputs, &mut memo);
    let group = json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2",
        "kind": "BackendGroup",
        "metadata": { "name": "colors", "namespace": "shop" },
        "spec": { "virtualservices": [] },
    });
    let (reference, object) = parse(group).object.unwrap();
    assert!(inputs.apply(reference, Some(object)));
    let after = build(&inputs, &mut memo);
    assert_eq!(
        changed(&before.graph.nodes, &after.graph.nodes),
        ["mesh/shop/virtualNode/of-colors_shop"]
    );
    assert!(Arc::ptr_eq(&before.graph.services, &after.graph.services));
    assert!(Arc::ptr_eq(&before.graph.routers, &after.graph.routers));
}

#[test]
fn changed_virtual_ip_changes_only_its_service() {
    let yaml = format!("{SHOP}\n---\n{GROUPS}");
    let mut inputs = fixture::inputs(&yaml);
    let mut memo = BuildMemo::default();
    let before = build(&inputs, &mut memo);
    let mut service = |labels, address| {
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": "color", "namespace": "shop", "labels": labels },
            "spec": { "clusterIPs": [address] },
        });
        let (reference, object) = parse(service).object.unwrap();
        assert!(inputs.apply(reference, Some(object)));
        build(&inputs, &mut memo)
    };
    let labelled = service(json!({"team": "color"}), "10.1.0.1");
    assert!(Arc::ptr_eq(&before.graph, &labelled.graph));
    let moved = service(json!({"team": "color"}), "10.1.0.2");
    assert_eq!(
        changed(&before.graph.services, &moved.graph.services),
        ["mesh/shop/virtualService/color.shop.svc.cluster.local"]
    );
    assert!(Arc::ptr_eq(&before.graph.nodes, &moved.graph.nodes));
}
