//! Statuses while a proxy rejects a cluster: those of the objects that need it name the rejection, others stay true.

use serde_json::Value;

use crate::{
    common::eventually,
    fixture::MeshFixture,
    proxy::{Policy, TestProxy},
};

/// A service `shape` behind the gateway, which also leads to the node `color-v1`.
const SHAPE: &str = "apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualService
metadata: {name: shape, namespace: shop}
spec: {awsName: shape.shop, provider: {virtualRouter: {virtualRouterRef: {name: shape}}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualRouter
metadata: {name: shape, namespace: shop}
spec: {listeners: [{portMapping: {port: 80, protocol: http}}]}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: GatewayRoute
metadata: {name: shape, namespace: shop}
spec:
  httpRoute:
    match: {prefix: /shape}
    action: {target: {virtualService: {virtualServiceRef: {name: shape}}}}
";

/// A Route of the router `name` with equal weights of these nodes.
fn route(name: &str, nodes: &[&str]) -> String {
    let targets = nodes
        .iter()
        .map(|node| format!("{{virtualNodeRef: {{name: {node}}}, weight: 50}}"));
    let targets: Vec<String> = targets.collect();
    format!(
        "apiVersion: evermesh.dev/v1alpha1
kind: Route
metadata: {{name: {name}, namespace: shop}}
spec:
  virtualRouterRef: {{name: {name}}}
  httpRoute: {{match: {{prefix: /}}, action: {{weightedTargets: [{}]}}}}
",
        targets.join(", ")
    )
}

/// The node that the proxy rejects, with this host name.
fn third_color(hostname: &str) -> String {
    format!(
        "apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {{name: color-v3, namespace: shop}}
spec:
  podSelector: {{matchLabels: {{app: color}}}}
  listeners: [{{portMapping: {{port: 8080, protocol: http}}}}]
  serviceDiscovery: {{dns: {{hostname: {hostname}}}}}
"
    )
}

/// Waits until the condition `Programmed` of an object, for its newest generation, has this reason; returns its message.
async fn programmed(fixture: &MeshFixture, object: &str, reason: &str) -> String {
    let mut message = Value::Null;
    eventually(&format!("the reason {reason} of {object}"), async || {
        let object = fixture.api.get(object, "shop").await.unwrap().unwrap();
        let conditions = object["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        let condition = conditions.find(|it| it["type"] == "Programmed");
        let condition = condition.cloned().unwrap_or_default();
        message = condition["message"].clone();
        object["status"]["observedGeneration"] == object["metadata"]["generation"]
            && condition["reason"] == reason
    })
    .await;
    message.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn rejected_cluster_makes_only_what_needs_it_not_programmed() {
    const ACCEPTED: &str = "1/1 proxies have accepted the object";
    const COLOR: [&str; 3] = [
        "route.evermesh.dev/color",
        "virtualservice/color",
        "virtualgateway/gate",
    ];
    const OTHERS: [&str; 2] = ["route.evermesh.dev/shape", "virtualservice/shape"];

    let fixture = MeshFixture::build().await;
    let apply = async |manifests: &str| fixture.api.apply(manifests).await.unwrap();
    let proxy = TestProxy::connect(fixture.control_plane.xds()).await;
    apply(SHAPE).await;
    apply(&route("shape", &["color-v1"])).await;
    for object in COLOR.into_iter().chain(OTHERS) {
        assert_eq!(programmed(&fixture, object, "Programmed").await, ACCEPTED);
    }

    proxy.answer(Policy::NackCluster("color-v3".to_owned()));
    apply(&third_color("no-such-host")).await;
    apply(&route("color", &["color-v1", "color-v3"])).await;
    let expected = "the cluster `cds_egress_shop_color-v3_shop_http_8080`, which the object needs, was rejected: refused";
    for object in COLOR {
        let message = programmed(&fixture, object, "Rejected").await;
        assert!(message.contains(expected), "{object}: {message}");
        assert!(
            message.contains("virtualGateway/gate_shop"),
            "{object}: {message}"
        );
    }
    programmed(&fixture, "virtualnode/color-v3", "Rejected").await;
    apply(&route("shape", &["color-v1", "color-v2"])).await;
    for object in OTHERS {
        assert_eq!(programmed(&fixture, object, "Programmed").await, ACCEPTED);
    }
    programmed(&fixture, COLOR[0], "Rejected").await;

    proxy.answer(Policy::Ack);
    apply(&third_color("127.0.0.1")).await;
    for object in COLOR.into_iter().chain(["virtualnode/color-v3"]) {
        assert_eq!(programmed(&fixture, object, "Programmed").await, ACCEPTED);
    }
    assert_eq!(fixture.forbidden(), [""; 0]);
}
