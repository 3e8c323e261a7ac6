//! Backend groups, and the virtual IPs that the API server gives to Services.

use evermesh_testkit::{chart::Chart, control_plane::ControlPlane, kubernetes::ApiServer};
use serde_json::{Value, json};

use crate::{
    common::eventually,
    fixture::{Cluster, USER},
};

const MESH: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {mesh: shop}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {name: shop}
spec: {namespaceSelector: {matchLabels: {mesh: shop}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: tcp, namespace: shop}
spec:
  listeners: [{portMapping: {port: 6379, protocol: tcp}}]
  serviceDiscovery: {dns: {hostname: 127.0.0.1}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: front, namespace: shop}
spec: {backendGroups: [{name: databases}]}
";

const SERVICES: [&str; 2] = ["cache", "db"];

fn group(services: &[&str]) -> String {
    let members = services.iter().map(|name| json!({ "name": name }));
    json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2",
        "kind": "BackendGroup",
        "metadata": { "name": "databases", "namespace": "shop" },
        "spec": { "virtualservices": members.collect::<Vec<_>>() },
    })
    .to_string()
}

/// A virtual service, and the Kubernetes Service of its host name.
fn service(name: &str) -> String {
    format!(
        "apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualService
metadata: {{name: {name}, namespace: shop}}
spec: {{provider: {{virtualNode: {{virtualNodeRef: {{name: tcp}}}}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{ports: [{{port: 6379}}]}}
"
    )
}

async fn backends(control_plane: &ControlPlane) -> Vec<String> {
    let graph = control_plane.admin().get("/debug/graph").await.unwrap();
    let graph: Value = serde_json::from_str(&graph).unwrap();
    let backends = &graph["nodes"]["mesh/shop/virtualNode/front_shop"]["backends"];
    let backends = backends.as_array().into_iter().flatten();
    backends
        .map(|backend| backend["service"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn changes_of_groups_and_services_are_served() {
    let api = ApiServer::start().await.unwrap();
    let cluster = Cluster::install(api, &Chart::render_open(&[]).unwrap()).await;
    let control_plane = cluster.start_replica().await;
    cluster.wait_for_webhooks().await;
    cluster.api.apply(MESH).await.unwrap();
    for name in SERVICES {
        cluster.api.apply(&service(name)).await.unwrap();
    }
    cluster.api.apply(&group(&SERVICES)).await.unwrap();
    // Both have the port 6379, so each is served only with a virtual IP of its own.
    eventually("both members of the group", async || {
        backends(&control_plane).await == ["cache.shop", "db.shop"]
    })
    .await;
    let page = "/debug/resources?proxy=mesh/shop/virtualNode/front_shop&type=listener";
    let resources = control_plane.admin().get(page).await.unwrap();
    for name in SERVICES {
        let object = format!("service/{name}");
        let object = cluster.api.get(&object, "shop").await.unwrap().unwrap();
        let ip = object["spec"]["clusterIP"].as_str().unwrap();
        assert!(
            resources.contains(&format!("tcp_6379_{name}.shop")),
            "{resources}"
        );
        assert!(
            resources.contains(&format!("\"{ip}\"")),
            "{ip}: {resources}"
        );
    }

    cluster.api.apply(&group(&["db"])).await.unwrap();
    eventually("the other member", async || {
        backends(&control_plane).await == ["db.shop"]
    })
    .await;
    let delete = ["delete", "backendgroup", "databases", "-n=shop"];
    cluster.api.kubectl(&delete).await.unwrap();
    eventually("no backend", async || {
        backends(&control_plane).await.is_empty()
    })
    .await;
    eventually("the missing group in the status", async || {
        let node = cluster.api.get("virtualnode/front", "shop").await.unwrap();
        let node = node.unwrap();
        let mut conditions = node["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten();
        let active = conditions.find(|it| it["type"] == "VirtualNodeActive");
        active.is_some_and(|it| it["reason"] == "ReferenceNotFound")
    })
    .await;
    assert!(cluster.api.forbidden(USER).unwrap().is_empty());
}
