//! The host names by which applications reach a virtual service: its `awsName`, with or without the port, in any case.
//! Every other form of the name belongs to no backend, as in App Mesh.

use evermesh_testkit::envoy::EnvoyVersion;
use http::StatusCode;

use crate::egress_lab::{EgressLab, call};

const MANIFESTS: &str = "
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {name: shop}
spec: {namespaceSelector: {matchLabels: {mesh: shop}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: target, namespace: shop}
spec:
  listeners: [{portMapping: {port: 8080, protocol: http}}]
  serviceDiscovery: {dns: {hostname: BACK, responseType: ENDPOINTS}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: front, namespace: shop}
spec: {backendGroups: [{name: '*'}]}
";

fn service(name: &str, aws_name: &str) -> String {
    format!(
        "---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualService
metadata: {{name: {name}, namespace: shop}}
spec: {{awsName: {aws_name}, provider: {{virtualNode: {{virtualNodeRef: {{name: target}}}}}}}}
"
    )
}

async fn names_are_matched_exactly(version: EnvoyVersion) {
    let mut lab = EgressLab::start(version).await;
    let (front, back) = (lab.host("front").await, lab.host("back").await);
    lab.http_app(&back, "target", "0.0.0.0:8080").await;
    let manifests = [
        MANIFESTS,
        &service("default", "color.shop"),
        &service("full", "tone.shop.svc.cluster.local"),
        &service("short", "shade"),
        &service("upper", "Light.Shop"),
        &service("dotted", "dark.shop."),
    ]
    .concat();
    lab.write(&manifests.replace("BACK", &back.ip().to_string()));
    lab.serve().await;
    let _envoy = lab.sidecar(&front, "front", &[]).await;
    let status = async |name: &str| call(&front, (back.ip(), 8080), name).await.status;

    for name in [
        "color.shop",
        "color.shop:8080",
        "COLOR.Shop",
        "COLOR.SHOP:8080",
        "tone.shop.svc.cluster.local",
        "shade",
        "shade:8080",
        "light.shop",
        "LIGHT.SHOP:8080",
        "dark.shop.",
        "dark.shop.:8080",
    ] {
        assert_eq!(status(name).await, StatusCode::OK, "{name}");
    }
    for name in [
        "color",
        "color:8080",
        "color.shop.",
        "color.shop.:8080",
        "color.shop:80",
        "color.shop.svc",
        "color.shop.svc.cluster.local",
        "tone",
        "tone.shop",
        "tone.shop.svc.cluster.local.",
        "shade.shop",
        "shade.",
        "dark.shop",
    ] {
        assert_eq!(status(name).await, StatusCode::NOT_FOUND, "{name}");
    }
    lab.has_no_problem().await;
}

#[tokio::test]
async fn oldest_envoy_matches_host_names_exactly() {
    names_are_matched_exactly(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_matches_host_names_exactly() {
    names_are_matched_exactly(EnvoyVersion::Newest).await;
}
