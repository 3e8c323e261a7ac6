//! Health checks and outlier detection: callers avoid endpoints that fail, and call them again when they work.

use std::net::SocketAddr;

use evermesh_testkit::{app::switched, envoy::EnvoyVersion, http::HttpResponse};
use http::StatusCode;

use super::target_stat;
use crate::{
    call::{Call, get, grpc},
    common::eventually,
    manifests::Manifests,
    mesh_hosts::{MeshHosts, PAIR, PAIR_PORT, Proxy},
};

/// The shortest interval and timeout that App Mesh allows.
const CHECK: &str =
    "healthyThreshold: 2, unhealthyThreshold: 2, intervalMillis: 5000, timeoutMillis: 2000";

/// The port of a TCP application that does not always run.
const SOMETIMES: u16 = 6004;

/// Enough requests to reach both applications of [`PAIR`] if both get requests.
const REQUESTS: usize = 20;

/// Nodes with these names and services: the protocol of the check, and its path.
const CHECKED: [(&str, &str, &str); 3] = [
    ("check-http", "http", "/ready/http"),
    ("check-http2", "http2", "/ready/http2"),
    ("check-grpc", "grpc", switched::GRPC_HEALTH),
];

fn manifests() -> Manifests {
    let mut manifests = Manifests::new();
    for (name, protocol, path) in CHECKED {
        let path = if protocol == "grpc" {
            String::new()
        } else {
            format!("path: {path}, ")
        };
        let check = format!("healthCheck: {{protocol: {protocol}, {path}{CHECK}}}");
        manifests.pair(name, protocol, &check);
    }
    let check = format!("healthCheck: {{protocol: tcp, {CHECK}}}");
    let mapping = format!("portMapping: {{port: {SOMETIMES}, protocol: tcp}}");
    manifests.node("check-tcp", &format!("{{{mapping}, {check}}}"));
    manifests.node_service("check-tcp", "check-tcp");
    for (name, base) in [
        ("ejected", "{unit: s, value: 3600}"),
        ("returning", "{unit: ms, value: 1}"),
    ] {
        let detection = format!(
            "outlierDetection: {{maxServerErrors: 3, interval: {{unit: ms, value: 100}}, \
             baseEjectionDuration: {base}, maxEjectionPercent: 10}}"
        );
        manifests.pair(name, "http", &detection);
    }
    manifests
}

/// The names of the applications that answer [`REQUESTS`] requests, and the statuses of the answers.
async fn answers(hosts: &MeshHosts, service: &str, call: &Call) -> Vec<(String, StatusCode)> {
    let mut answers = Vec::new();
    for _ in 0..REQUESTS {
        let response = send(hosts, service, call).await;
        answers.push((response.body, response.status));
    }
    answers.sort();
    answers.dedup();
    answers
}

async fn send(hosts: &MeshHosts, service: &str, call: &Call) -> HttpResponse {
    let address = hosts.egress(PAIR_PORT);
    call.send(&address, &format!("{service}.shop")).await
}

fn named(names: &[&str], status: StatusCode) -> Vec<(String, StatusCode)> {
    names
        .iter()
        .map(|name| ((*name).to_owned(), status))
        .collect()
}

/// One endpoint of each checked node fails its checks for a while.
async fn checked_endpoints_leave_and_return(hosts: &MeshHosts) {
    let healthy = async |name: &str, protocol: &str| {
        let cluster = format!("{name}_shop_{protocol}_{PAIR_PORT}");
        target_stat(hosts, &cluster, "membership_healthy").await
    };
    let one_protocol = async |(name, protocol, path): (&str, &str, &str)| {
        let call = if protocol == "grpc" {
            grpc("/shop.Cart/Add")
        } else {
            get("/")
        };
        eventually("two healthy endpoints", async || {
            healthy(name, protocol).await == 2
        })
        .await;
        assert_eq!(
            answers(hosts, name, &call).await,
            named(&["one", "two"], StatusCode::OK)
        );

        hosts.switch(PAIR[0], path, 503).await;
        eventually("an unhealthy endpoint", async || {
            healthy(name, protocol).await == 1
        })
        .await;
        assert_eq!(
            answers(hosts, name, &call).await,
            named(&["two"], StatusCode::OK)
        );
        let cluster = format!("{name}_shop_{protocol}_{PAIR_PORT}");
        let failures = target_stat(hosts, &cluster, "health_check.failure").await;
        // A gRPC service that is not serving is unhealthy at once.
        let threshold = if protocol == "grpc" { 1 } else { 2 };
        assert!(failures >= threshold, "{name}: {failures}");
        assert_eq!(failed_checks(hosts, &cluster).await, [PAIR[0].1]);

        hosts.switch(PAIR[0], path, 200).await;
        eventually("two healthy endpoints again", async || {
            healthy(name, protocol).await == 2
        })
        .await;
        assert_eq!(
            answers(hosts, name, &call).await,
            named(&["one", "two"], StatusCode::OK)
        );
    };
    tokio::join!(
        one_protocol(CHECKED[0]),
        one_protocol(CHECKED[1]),
        one_protocol(CHECKED[2]),
        tcp_application_starts_and_ends(hosts)
    );
}

async fn tcp_application_starts_and_ends(hosts: &MeshHosts) {
    let cluster = format!("check-tcp_shop_tcp_{SOMETIMES}");
    let healthy = async || target_stat(hosts, &cluster, "membership_healthy").await;
    let failures = async || target_stat(hosts, &cluster, "health_check.failure").await;
    eventually("a failed check", async || failures().await > 0).await;
    assert_eq!(healthy().await, 0);
    let address = SocketAddr::from(([0, 0, 0, 0], SOMETIMES));
    let application = hosts.back.tcp_app("sometimes", address).await.unwrap();
    eventually("a healthy endpoint", async || healthy().await == 1).await;
    drop(application);
    eventually("an unhealthy endpoint", async || healthy().await == 0).await;
}

/// The addresses of endpoints that failed their checks, as Envoy's page of clusters lists them.
async fn failed_checks(hosts: &MeshHosts, cluster: &str) -> Vec<String> {
    let clusters = hosts.envoy(Proxy::Front).clusters().await.unwrap();
    let statuses = clusters["cluster_statuses"].as_array().unwrap().iter();
    let mut found = statuses.filter(|it| it["name"] == format!("cds_egress_shop_{cluster}"));
    let hosts = found.next().unwrap()["host_statuses"].as_array().unwrap();
    let failed = hosts
        .iter()
        .filter(|host| host["health_status"]["failed_active_health_check"] == true);
    let address = |host: &serde_json::Value| host["address"]["socket_address"]["address"].clone();
    failed
        .map(|host| address(host).as_str().unwrap().to_owned())
        .collect()
}

/// An endpoint with an ejection of an hour gets no request. The limit of 10% keeps the other endpoint.
async fn failing_endpoint_is_ejected(hosts: &MeshHosts) {
    let stat = async |stat: &str| {
        let cluster = format!("ejected_shop_http_{PAIR_PORT}");
        target_stat(hosts, &cluster, &format!("outlier_detection.{stat}")).await
    };
    // Without a retry, an error of the failing endpoint reaches the caller.
    let call = get("/ejected");
    hosts.switch(PAIR[0], "/ejected", 500).await;
    let mut errors = 0;
    eventually("an ejection", async || {
        let response = send(hosts, "ejected", &call).await;
        errors += usize::from(response.status == StatusCode::INTERNAL_SERVER_ERROR);
        stat("ejections_active").await == 1
    })
    .await;
    assert_eq!(errors, 3, "maxServerErrors");
    assert_eq!(stat("ejections_enforced_consecutive_5xx").await, 1);
    assert_eq!(
        answers(hosts, "ejected", &call).await,
        named(&["two"], StatusCode::OK)
    );

    hosts.switch(PAIR[1], "/ejected", 500).await;
    eventually("an ejection that the limit prevents", async || {
        send(hosts, "ejected", &call).await;
        stat("ejections_overflow").await > 0
    })
    .await;
    assert_eq!(stat("ejections_active").await, 1);
    assert_eq!(stat("ejections_enforced_total").await, 1);
}

async fn ejected_endpoint_returns(hosts: &MeshHosts) {
    let stat = async |stat: &str| {
        let cluster = format!("returning_shop_http_{PAIR_PORT}");
        target_stat(hosts, &cluster, &format!("outlier_detection.{stat}")).await
    };
    let call = get("/returning");
    hosts.switch(PAIR[0], "/returning", 500).await;
    eventually("an ejection", async || {
        send(hosts, "returning", &call).await;
        stat("ejections_enforced_total").await > 0
    })
    .await;
    hosts.switch(PAIR[0], "/returning", 200).await;
    eventually("an answer of the endpoint that was ejected", async || {
        send(hosts, "returning", &call).await.body == "one"
    })
    .await;
    assert_eq!(stat("ejections_active").await, 0);
}

async fn failing_endpoints_are_avoided(version: EnvoyVersion) {
    let hosts = MeshHosts::start(version, manifests(), &[Proxy::Front]).await;
    hosts.has_no_error().await;
    tokio::join!(
        checked_endpoints_leave_and_return(&hosts),
        failing_endpoint_is_ejected(&hosts),
        ejected_endpoint_returns(&hosts),
    );
}

#[tokio::test]
async fn oldest_envoy_avoids_failing_endpoints() {
    Box::pin(failing_endpoints_are_avoided(EnvoyVersion::Oldest)).await;
}

#[tokio::test]
async fn newest_envoy_avoids_failing_endpoints() {
    Box::pin(failing_endpoints_are_avoided(EnvoyVersion::Newest)).await;
}
