//! Targets: their ports, their weights, and the ports of the router.

use std::collections::BTreeMap;

use evermesh_testkit::{chi_square, envoy::EnvoyVersion};
use http::StatusCode;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    time::timeout,
};

use crate::{
    call::{get, grpc, seen_header, target},
    common::DEADLINE,
    manifests::{Manifests, RouteText, route},
    mesh_hosts::{MeshHosts, Proxy, TCP_PORTS},
};

/// Requests for a split that is judged.
const SPLIT: usize = 800;

fn all(name: &str, target: &str) -> RouteText {
    route(name, "httpRoute", "{prefix: /}", target)
}

/// A node whose Kubernetes Service has no pods.
fn empty_node(manifests: &mut Manifests) {
    manifests.object(
        "VirtualNode",
        "empty",
        "{listeners: [{portMapping: {port: 9001, protocol: http}}], \
          serviceDiscovery: {dns: {hostname: empty.shop.svc.cluster.local}}}",
    );
    manifests.endpoint_slice("empty", 9001, &[]);
}

fn manifests() -> Manifests {
    let mut manifests = Manifests::new();
    empty_node(&mut manifests);
    let http = [(8080, "http")];
    manifests.node(
        "several",
        "{portMapping: {port: 9003, protocol: http}}, {portMapping: {port: 9004, protocol: http2}}",
    );
    let several = |port: u16, weight: u32| {
        format!("{{virtualNodeRef: {{name: several}}, port: {port}, weight: {weight}}}")
    };
    manifests.routed_service(
        "target-port",
        &http,
        &[
            all("three", "t1")
                .matching("{prefix: /three}")
                .raw_targets(&several(9003, 1)),
            all("four", "t1")
                .matching("{prefix: /four}")
                .raw_targets(&several(9004, 1)),
            all("both", "t1").raw_targets(&format!("{}, {}", several(9003, 1), several(9004, 3))),
        ],
    );
    manifests.routed_service(
        "zero",
        &http,
        &[all("all", "t1").targets(&[("t1", 0), ("t2", 1), ("empty", 0)])],
    );
    manifests.routed_service("empty", &http, &[all("all", "empty")]);
    manifests.routed_service(
        "router-ports",
        &[(8080, "http"), (8081, "http2")],
        &[
            all("first", "t1").matching("{prefix: /, port: 8080}"),
            route("second", "http2Route", "{prefix: /, port: 8081}", "t2"),
            all("both", "t3").matching("{prefix: /both}"),
        ],
    );
    for port in TCP_PORTS {
        let listener = format!("{{portMapping: {{port: {port}, protocol: tcp}}}}");
        manifests.node(&format!("tcp-{port}"), &listener);
    }
    let tcp = route("all", "tcpRoute", "{}", "tcp-6001");
    manifests.routed_service(
        "tcp",
        &[(7000, "tcp")],
        &[tcp.clone().targets(&[("tcp-6001", 3), ("tcp-6002", 1)])],
    );
    manifests.routed_service(
        "tcp-zero",
        &[(7001, "tcp")],
        &[tcp.clone().targets(&[("tcp-6001", 0), ("tcp-6002", 1)])],
    );
    manifests.routed_service(
        "tcp-ports",
        &[(7003, "tcp"), (7004, "tcp")],
        &[
            route("first", "tcpRoute", "{port: 7003}", "tcp-6001"),
            route("second", "tcpRoute", "{port: 7004}", "tcp-6002"),
        ],
    );
    manifests.routed_service(
        "tcp-idle",
        &[(7002, "tcp")],
        &[tcp.with("timeout: {idle: {unit: ms, value: 100}}")],
    );
    manifests
}

async fn requests_reach_the_ports_of_targets(hosts: &MeshHosts) {
    for (service, path, port, expected) in [
        ("target-port", "/three", 8080, 3),
        ("target-port", "/four", 8080, 4),
        ("router-ports", "/", 8080, 1),
        ("router-ports", "/", 8081, 2),
        ("router-ports", "/both", 8080, 3),
        ("router-ports", "/both", 8081, 3),
    ] {
        let response = get(path)
            .send(&hosts.egress(port), &format!("{service}.shop"))
            .await;
        assert_eq!(
            target(&response),
            Some(expected),
            "{service}{path} on {port}"
        );
    }
}

async fn weights_are_followed(hosts: &MeshHosts) {
    let mut counts = BTreeMap::new();
    for _ in 0..SPLIT {
        let response = hosts.call("target-port", &get("/")).await;
        *counts.entry(target(&response)).or_default() += 1;
    }
    assert!(counts.keys().eq(&[Some(3), Some(4)]), "{counts:?}");
    let counts: Vec<u64> = counts.into_values().collect();
    let fit = chi_square::goodness_of_fit(&counts, &[1, 3]);
    assert!(fit.is_consistent(), "{counts:?}: {fit}");
    for _ in 0..50 {
        let response = hosts.call("zero", &get("/")).await;
        assert_eq!(target(&response), Some(2));
    }
    let response = hosts.call("empty", &get("/")).await;
    assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE);
}

/// The greeting on a new connection to the port of a TCP service.
async fn greeting(hosts: &MeshHosts, port: u16) -> String {
    let mut stream = BufReader::new(hosts.egress(port).connect().await.unwrap());
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    line.trim().to_owned()
}

async fn connections_follow_weights(hosts: &MeshHosts) {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for _ in 0..SPLIT {
        *counts.entry(greeting(hosts, 7000).await).or_default() += 1;
    }
    assert!(counts.keys().eq(["tcp-6001", "tcp-6002"]), "{counts:?}");
    let counts: Vec<u64> = counts.into_values().collect();
    let fit = chi_square::goodness_of_fit(&counts, &[3, 1]);
    assert!(fit.is_consistent(), "{counts:?}: {fit}");
    for _ in 0..50 {
        assert_eq!(greeting(hosts, 7001).await, "tcp-6002");
    }
    for (port, expected) in [(7003, "tcp-6001"), (7004, "tcp-6002")] {
        assert_eq!(greeting(hosts, port).await, expected, "{port}");
    }
}

async fn idle_connections_are_closed(hosts: &MeshHosts) {
    let mut lasting = BufReader::new(hosts.egress(7000).connect().await.unwrap());
    lasting.read_line(&mut String::new()).await.unwrap();
    let mut idle = BufReader::new(hosts.egress(7002).connect().await.unwrap());
    let mut received = String::new();
    // Ends when Envoy closes the connection.
    let end = idle.read_to_string(&mut received);
    timeout(DEADLINE, end).await.unwrap().unwrap();
    assert_eq!(received, "tcp-6001\n");
    assert_eq!(hosts.stat(Proxy::Front, "tcp.egress.idle_timeout").await, 1);

    lasting.write_all(b"still open\n").await.unwrap();
    let mut echo = String::new();
    lasting.read_line(&mut echo).await.unwrap();
    assert_eq!(echo, "still open\n");
}

async fn targets_receive_their_share(version: EnvoyVersion) {
    let hosts = MeshHosts::start(version, manifests(), &[Proxy::Front]).await;
    hosts.has_no_error().await;
    requests_reach_the_ports_of_targets(&hosts).await;
    weights_are_followed(&hosts).await;
    connections_follow_weights(&hosts).await;
    idle_connections_are_closed(&hosts).await;
}

/// Flagger writes an `httpRoute` for a router with a `grpc` listener.
async fn http_routes_serve_grpc_listeners(version: EnvoyVersion) {
    let mut manifests = Manifests::new();
    let flagger = all("flagger", "g1").targets(&[("g2", 0), ("g1", 100)]);
    manifests.routed_service("flagger", &[(8080, "grpc")], &[flagger]);
    let hosts = MeshHosts::start(version, manifests, &[Proxy::Front]).await;
    for call in [grpc("/shop.Cart/Add"), get("/").http2(), get("/")] {
        let response = hosts.call("flagger", &call).await;
        assert_eq!(target(&response), Some(1), "{call:?}");
        // The target got HTTP/2, which has no `host` header.
        assert_eq!(seen_header(&response, "host"), None);
    }
    let problems = hosts.problems().await;
    assert_eq!(
        problems.matches("ProtocolMismatch").count(),
        1,
        "{problems}"
    );
    assert_eq!(problems.matches("\"reason\"").count(), 1, "{problems}");
}

#[tokio::test]
async fn oldest_envoy_spreads_traffic_over_targets() {
    targets_receive_their_share(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_spreads_traffic_over_targets() {
    targets_receive_their_share(EnvoyVersion::Newest).await;
}

#[tokio::test]
async fn oldest_envoy_serves_http_routes_on_grpc_listeners() {
    http_routes_serve_grpc_listeners(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_serves_http_routes_on_grpc_listeners() {
    http_routes_serve_grpc_listeners(EnvoyVersion::Newest).await;
}
