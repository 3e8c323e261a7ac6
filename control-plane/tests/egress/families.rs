//! Hosts with one IP family: applications, Envoys and xDS use only IPv6, or only IPv4, by the preference of the mesh.

use std::net::IpAddr;

use evermesh_testkit::{envoy::EnvoyVersion, hosts::LabHost};

use crate::egress_lab::{EgressLab, call, greeting, ipv6};

const MANIFESTS: &str = "
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {name: shop}
spec:
  namespaceSelector: {matchLabels: {mesh: shop}}
  meshServiceDiscovery: {PREFERENCE}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: color, namespace: shop}
spec:
  listeners:
    - portMapping: {port: 8080, protocol: http}
    - portMapping: {port: 6379, protocol: tcp}
  serviceDiscovery: {dns: {hostname: 'BACK', responseType: ENDPOINTS}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualService
metadata: {name: color, namespace: shop}
spec: {provider: {virtualNode: {virtualNodeRef: {name: color}}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: front, namespace: shop}
spec:
  backends: [{virtualService: {virtualServiceRef: {name: color}}}]
";

/// Runs the mesh with the address of the host `back` in one family, and calls the service at `called`, addresses that no
/// host has. The application listens on the loopback address that Envoy is expected to call.
async fn traffic_passes_both_envoys(
    version: EnvoyVersion,
    preference: &str,
    loopback: &str,
    only: impl Fn(&LabHost),
    address: impl Fn(&LabHost) -> IpAddr,
    called: &[&str],
) {
    let mut lab = EgressLab::start(version).await;
    let (front, back) = (lab.host("front").await, lab.host("back").await);
    for (kind, name, port) in [("http", "color", 8080), ("tcp", "redis", 6379)] {
        let listen = format!("{loopback}:{port}");
        lab.run(&back, &[kind, "--name", name, "--listen", &listen]);
    }
    let manifests = MANIFESTS.replace("PREFERENCE", preference);
    lab.write(&manifests.replace("BACK", &address(&back).to_string()));
    lab.serve_at(address(lab.control())).await;
    for host in [&front, &back] {
        only(host);
    }
    let back_envoy = lab.sidecar(&back, "color", &[8080, 6379]).await;
    let front_envoy = lab.sidecar(&front, "front", &[]).await;
    for called in called {
        let called: IpAddr = called.parse().unwrap();
        let response = call(&front, (called, 8080), "color.shop").await;
        assert_eq!(response.body, "color", "{called}");
        let answer = greeting(&front, (called, 6379), b"").await;
        assert_eq!(answer.unwrap(), "redis", "{called}");
    }
    let count = u64::try_from(called.len()).unwrap();
    for (envoy, stat) in [
        (&front_envoy, "http.egress.downstream_rq_2xx"),
        (&front_envoy, "tcp.egress.downstream_cx_total"),
        (&back_envoy, "http.ingress.http.8080.downstream_rq_2xx"),
        (&back_envoy, "tcp.ingress.tcp.6379.downstream_cx_total"),
    ] {
        assert_eq!(envoy.stat(stat).await.unwrap(), count, "{stat}");
    }
    lab.has_no_problem().await;
}

/// Removes the host's IPv4 address, also from loopback.
fn only_ipv6(host: &LabHost) {
    host.shell("ip -4 address flush dev eth0 && ip -4 address flush dev lo")
        .unwrap();
}

fn only_ipv4(host: &LabHost) {
    host.shell("ip -6 address flush dev eth0 && ip -6 address flush dev lo")
        .unwrap();
}

async fn ipv6_only(version: EnvoyVersion) {
    let address = |host: &LabHost| ipv6(host).into();
    let preference = "ipPreference: IPv6_ONLY";
    traffic_passes_both_envoys(
        version,
        preference,
        "[::1]",
        only_ipv6,
        address,
        &["fd77::c8:1"],
    )
    .await;
}

async fn ipv4_only(version: EnvoyVersion) {
    let address = |host: &LabHost| host.ip().into();
    let called = ["10.77.200.1"];
    for preference in ["", "ipPreference: IPv4_ONLY"] {
        traffic_passes_both_envoys(
            version,
            preference,
            "127.0.0.1",
            only_ipv4,
            address,
            &called,
        )
        .await;
    }
}

/// With a preference the listeners accept both families, whichever the endpoints have.
async fn both_families(version: EnvoyVersion) {
    let called = ["10.77.200.1", "fd77::c8:1"];
    let keep = |_: &LabHost| ();
    let preference = "ipPreference: IPv4_ONLY";
    let ipv4 = |host: &LabHost| host.ip().into();
    traffic_passes_both_envoys(version, preference, "127.0.0.1", keep, ipv4, &called).await;
    let preference = "ipPreference: IPv6_ONLY";
    let ipv6 = |host: &LabHost| ipv6(host).into();
    traffic_passes_both_envoys(version, preference, "[::1]", keep, ipv6, &called).await;
}

#[tokio::test]
async fn oldest_envoy_works_on_hosts_with_ipv6_only() {
    ipv6_only(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_works_on_hosts_with_ipv6_only() {
    ipv6_only(EnvoyVersion::Newest).await;
}

#[tokio::test]
async fn oldest_envoy_works_on_hosts_with_ipv4_only() {
    ipv4_only(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_works_on_hosts_with_ipv4_only() {
    ipv4_only(EnvoyVersion::Newest).await;
}

#[tokio::test]
async fn oldest_envoy_accepts_both_families_with_a_preference() {
    both_families(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_accepts_both_families_with_a_preference() {
    both_families(EnvoyVersion::Newest).await;
}
