//! TCP services share a port with each other and with HTTP: the virtual IPs of their Kubernetes Services distinguish them.

use std::net::{IpAddr, Ipv4Addr};

use evermesh_testkit::{envoy::EnvoyVersion, hosts::LabHost};
use http::StatusCode;

use crate::{
    common::eventually,
    egress_lab::{EgressLab, call, greeting, try_call},
};

const PORT: u16 = 6379;

/// The virtual IPs are addresses that no host has, so only interception answers there. With a preference for an IP family,
/// Envoy listens on both.
const MANIFESTS: &str = r#"
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {name: shop}
spec:
  namespaceSelector: {matchLabels: {mesh: shop}}
  meshServiceDiscovery: {ipPreference: IPv4_ONLY}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: BackendGroup
metadata: {name: all, namespace: shop}
spec: {virtualservices: [{name: cache}, {name: db}, {name: app}]}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: front, namespace: shop}
spec: {backendGroups: [{name: all}]}
---
apiVersion: v1
kind: Service
metadata: {name: cache, namespace: shop}
spec: {clusterIPs: [10.77.200.1, "fd77::c8:1"]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIPs: [DB]}
"#;

/// A node on the host `back` with a port of its own there, behind the common port, and a service of the same name.
fn service(name: &str, protocol: &str, back: &LabHost, port: u16) -> String {
    format!(
        "---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {{name: {name}, namespace: shop}}
spec:
  listeners: [{{portMapping: {{port: {port}, protocol: {protocol}}}}}]
  serviceDiscovery: {{dns: {{hostname: {back}, responseType: ENDPOINTS}}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualRouter
metadata: {{name: {name}, namespace: shop}}
spec:
  listeners: [{{portMapping: {{port: {PORT}, protocol: {protocol}}}}}]
  routes:
    - name: all
      {protocol}Route:
        {matches}
        action: {{weightedTargets: [{{virtualNodeRef: {{name: {name}}}, weight: 1}}]}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualService
metadata: {{name: {name}, namespace: shop}}
spec: {{provider: {{virtualRouter: {{virtualRouterRef: {{name: {name}}}}}}}}}
",
        back = back.ip(),
        matches = if protocol == "http" {
            "match: {prefix: /}"
        } else {
            "match: {}"
        },
    )
}

async fn virtual_ips_distinguish_services(version: EnvoyVersion) {
    let mut lab = EgressLab::start(version).await;
    let (front, back) = (lab.host("front").await, lab.host("back").await);
    lab.tcp_app(&back, "cache", "0.0.0.0:7001").await;
    lab.tcp_app(&back, "db", "0.0.0.0:7002").await;
    lab.http_app(&back, "app", "0.0.0.0:7003").await;
    let manifests = [
        MANIFESTS,
        &service("cache", "tcp", &back, 7001),
        &service("db", "tcp", &back, 7002),
        &service("app", "http", &back, 7003),
    ]
    .concat();
    lab.write(&manifests.replace("DB", "10.77.200.2"));
    lab.serve().await;
    let _envoy = lab.sidecar(&front, "front", &[]).await;

    let at = |last| (IpAddr::from(Ipv4Addr::new(10, 77, 200, last)), PORT);
    let ipv6 = |text: &str| (text.parse::<IpAddr>().unwrap(), PORT);
    assert_eq!(greeting(&front, at(1), b"").await.unwrap(), "cache");
    let answer = greeting(&front, ipv6("fd77::c8:1"), b"").await;
    assert_eq!(answer.unwrap(), "cache");
    assert_eq!(greeting(&front, at(2), b"").await.unwrap(), "db");
    // HTTP takes every other address, in both families.
    for address in [at(3), at(4), ipv6("fd77::c8:2")] {
        let response = call(&front, address, "app.shop").await;
        assert_eq!(response.body, "app", "{address:?}");
        let unknown = call(&front, address, "db.shop").await;
        assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    }
    lab.has_no_problem().await;

    // The Service gets another address.
    lab.write(&manifests.replace("DB", "10.77.200.4, \"fd77::c8:4\""));
    eventually("the new address of the service", async || {
        try_call(&front, at(2), "app.shop").await.is_ok()
    })
    .await;
    assert_eq!(greeting(&front, at(4), b"").await.unwrap(), "db");
    let answer = greeting(&front, ipv6("fd77::c8:4"), b"").await;
    assert_eq!(answer.unwrap(), "db");
    assert_eq!(greeting(&front, at(1), b"").await.unwrap(), "cache");
    assert_eq!(call(&front, at(2), "app.shop").await.body, "app");

    // Without an address of its own, the service is left out and reported; the others are served as before.
    lab.write(&manifests.replace("DB", "None"));
    eventually("the service without address", async || {
        try_call(&front, at(4), "app.shop").await.is_ok()
    })
    .await;
    assert_eq!(call(&front, at(2), "app.shop").await.body, "app");
    assert_eq!(greeting(&front, at(1), b"").await.unwrap(), "cache");
    let problems = lab.control_plane().admin().get("/debug/problems").await;
    let problems = problems.unwrap();
    assert!(problems.contains("PortConflict"), "{problems}");
    assert!(problems.contains("spec.backendGroups[0]"), "{problems}");
    let nacks = lab.control_plane().metric("evermesh_xds_nacks_total");
    assert_eq!(nacks.await.unwrap(), 0);
}

#[tokio::test]
async fn oldest_envoy_distinguishes_services_by_virtual_ip() {
    virtual_ips_distinguish_services(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_distinguishes_services_by_virtual_ip() {
    virtual_ips_distinguish_services(EnvoyVersion::Newest).await;
}
