//! Retry policies: which failures cause another attempt, and how many.
//!
//! The targets count the attempts of each request, see [`evermesh_testkit::app::scripted`].

use evermesh_testkit::envoy::EnvoyVersion;
use futures::future::join_all;
use http::StatusCode;

use crate::{
    call::{Call, get, grpc, header},
    manifests::{Manifests, RouteText, route},
    mesh_hosts::{MeshHosts, Proxy},
};

/// Ends attempts only in tests that fail.
const LONG: &str = "perRetryTimeout: {unit: s, value: 60}";

/// A service whose route has this retry policy, and what happens to its requests.
struct RetryCase {
    service: &'static str,
    /// The content of `retryPolicy`; the default policy if empty.
    policy: String,
    expected: Vec<Expected>,
}

/// A request whose attempts are answered by `script`.
struct Expected {
    script: &'static str,
    /// The status that the caller gets, in the words of a script.
    answer: &'static str,
    attempts: usize,
}

fn expected(script: &'static str, answer: &'static str, attempts: usize) -> Expected {
    Expected {
        script,
        answer,
        attempts,
    }
}

/// A policy with these events and three retries.
fn case(service: &'static str, events: &str, expected: Vec<Expected>) -> RetryCase {
    RetryCase {
        service,
        policy: format!("{events}, maxRetries: 3, {LONG}"),
        expected,
    }
}

/// Each of these failures is followed by a successful second attempt.
fn retried(failures: &[&'static str]) -> impl Iterator<Item = Expected> {
    failures.iter().map(|script| expected(script, "200", 2))
}

/// The caller gets each of these failures of the first attempt.
fn not_retried(failures: &[&'static str]) -> impl Iterator<Item = Expected> {
    failures.iter().map(|script| {
        let answer = script.split(' ').next().unwrap_or_default();
        expected(script, answer, 1)
    })
}

#[allow(clippy::too_many_lines)] // a table
fn cases() -> Vec<RetryCase> {
    let grpc_codes = [
        ("cancelled", "grpc-1 200"),
        ("deadline-exceeded", "grpc-4 200"),
        ("resource-exhausted", "grpc-8 200"),
        ("internal", "grpc-13 200"),
        ("unavailable", "grpc-14 200"),
    ];
    let of_grpc = grpc_codes.map(|(event, script)| {
        let others: Vec<&'static str> = grpc_codes
            .iter()
            .map(|(_, other)| *other)
            .filter(|other| *other != script)
            .chain(["503 200", "grpc-2 200"])
            .collect();
        case(
            event,
            &format!("grpcRetryEvents: [{event}]"),
            retried(&[script]).chain(not_retried(&others)).collect(),
        )
    });
    let default = RetryCase {
        service: "default",
        policy: String::new(),
        expected: retried(&["503 200", "refuse 200", "reset 200", "grpc-14 200"])
            .chain(not_retried(&[
                "500 200",
                "502 200",
                "504 200",
                "409 200",
                "grpc-1 200",
                "grpc-13 200",
            ]))
            .chain([
                expected("503 503 200", "200", 3),
                // At most two retries.
                expected("503", "503", 3),
                expected("503 reset grpc-14 200", "grpc-14", 3),
            ])
            .collect(),
    };
    let none = RetryCase {
        service: "no-retries",
        policy: format!(
            "httpRetryEvents: [server-error, gateway-error, stream-error], tcpRetryEvents: [connection-error], maxRetries: 0, {LONG}"
        ),
        expected: not_retried(&["503 200"])
            .chain([
                expected("reset 200", "503", 1),
                expected("refuse 200", "503", 1),
            ])
            .collect(),
    };
    [
        default,
        none,
        case(
            "server-error",
            "httpRetryEvents: [server-error]",
            retried(&[
                "500 200",
                "501 200",
                "502 200",
                "503 200",
                "504 200",
                "505 200",
                "506 200",
                "507 200",
                "508 200",
                "510 200",
                "511 200",
                "reset 200",
            ])
            .chain(not_retried(&["409 200", "404 200", "grpc-14 200"]))
            .chain([
                expected("500", "500", 4),
                expected("500 503 reset 200", "200", 4),
            ])
            .collect(),
        ),
        case(
            "gateway-error",
            "httpRetryEvents: [gateway-error]",
            retried(&["502 200", "503 200", "504 200", "reset 200"])
                .chain(not_retried(&["500 200", "505 200", "409 200"]))
                .collect(),
        ),
        case(
            "client-error",
            "httpRetryEvents: [client-error]",
            retried(&["409 200"])
                .chain(not_retried(&["400 200", "404 200", "429 200", "503 200"]))
                .chain([expected("reset 200", "503", 1)])
                .collect(),
        ),
        case(
            "stream-error",
            "httpRetryEvents: [stream-error]",
            retried(&["refuse 200"])
                .chain(not_retried(&["503 200"]))
                .chain([expected("reset 200", "503", 1)])
                .collect(),
        ),
        case(
            "several",
            "httpRetryEvents: [gateway-error, client-error, stream-error]",
            retried(&["502 200", "409 200", "refuse 200", "reset 200"])
                .chain(not_retried(&["500 200"]))
                .collect(),
        ),
    ]
    .into_iter()
    .chain(of_grpc)
    .collect()
}

/// A route to `g1`, whose HTTP/2 can refuse streams.
fn retrying(policy: &str) -> RouteText {
    let route = route("all", "grpcRoute", "{}", "g1");
    if policy.is_empty() {
        return route;
    }
    route.with(&format!("retryPolicy: {{{policy}}}"))
}

async fn failures_are_retried(version: EnvoyVersion) {
    let cases = cases();
    let mut manifests = Manifests::new();
    for case in &cases {
        let routes = [retrying(&case.policy)];
        manifests.routed_service(case.service, &[(8080, "grpc")], &routes);
    }
    let hosts = MeshHosts::start(version, manifests, &[Proxy::Front]).await;
    hosts.has_no_error().await;
    let mut wrong = Vec::new();
    let mut retries = 0;
    for case in &cases {
        for (index, expected) in case.expected.iter().enumerate() {
            let key = format!("{}-{index}", case.service);
            let call = grpc("/shop.Cart/Add").script(expected.script, &key);
            let found = outcome(&hosts, case.service, &call).await;
            let attempts = hosts.attempts(&key).await;
            if (found.as_str(), attempts) != (expected.answer, expected.attempts) {
                let Expected {
                    script,
                    answer,
                    attempts: wanted,
                } = expected;
                wrong.push(format!(
                    "{}: `{script}`: {found} after {attempts} attempts instead of {answer} after {wanted}",
                    case.service
                ));
            }
            retries += expected.attempts - 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let counted = hosts.stat(Proxy::Front, &g1("upstream_rq_retry")).await;
    assert_eq!(counted, retries as u64);
}

/// A statistic of the cluster of `g1`.
fn g1(stat: &str) -> String {
    format!("cluster.cds_egress_shop_g1_shop_grpc_9001.{stat}")
}

/// The answer of the service in the words of a script.
///
/// A gRPC caller gets every error of HTTP as a gRPC status; `x-seen-attempt` tells an answer of the target from one of
/// Envoy, which stands for a failed connection.
async fn outcome(hosts: &MeshHosts, service: &str, call: &Call) -> String {
    let response = hosts.call(service, call).await;
    match header(&response, "grpc-status") {
        "" => response.status.as_u16().to_string(),
        _ if header(&response, "x-seen-attempt").is_empty() => "503".to_owned(),
        status => format!("grpc-{status}"),
    }
}

/// A node with two endpoints, of which one refuses connections.
fn half_dead(manifests: &mut Manifests) {
    manifests.object(
        "VirtualNode",
        "pair",
        "{listeners: [{portMapping: {port: 9001, protocol: http}}], \
          serviceDiscovery: {dns: {hostname: pair.shop.svc.cluster.local}}}",
    );
    manifests.endpoint_slice("pair", 9001, &["BACK", "GATE"]);
    let all = route("all", "httpRoute", "{prefix: /}", "pair");
    for (service, policy) in [
        ("pair-default", String::new()),
        (
            "pair-event",
            format!("tcpRetryEvents: [connection-error], maxRetries: 1, {LONG}"),
        ),
        (
            "pair-other-event",
            format!("httpRetryEvents: [client-error], maxRetries: 9, {LONG}"),
        ),
        (
            "pair-none",
            format!("tcpRetryEvents: [connection-error], maxRetries: 0, {LONG}"),
        ),
    ] {
        let route = match policy.as_str() {
            "" => all.clone(),
            _ => all.clone().with(&format!("retryPolicy: {{{policy}}}")),
        };
        manifests.routed_service(service, &[(8080, "http")], &[route]);
    }
}

/// One retry is enough to reach the living endpoint, because a retry avoids the endpoints that were tried before.
async fn failed_connections_are_retried_elsewhere(hosts: &MeshHosts) {
    for (service, fails) in [
        ("pair-default", false),
        ("pair-event", false),
        ("pair-other-event", true),
        ("pair-none", true),
    ] {
        let mut failed = 0;
        for _ in 0..20 {
            let response = hosts.call(service, &get("/")).await;
            failed += usize::from(response.status == StatusCode::SERVICE_UNAVAILABLE);
        }
        // The endpoints are called in turn.
        assert_eq!(failed, if fails { 10 } else { 0 }, "{service}");
    }
}

/// Envoy's own limit of three concurrent retries of a cluster does not apply.
async fn concurrent_retries_are_not_limited(hosts: &MeshHosts) {
    const CONCURRENT: usize = 40;
    let calls = (0..CONCURRENT).map(async |index| {
        let call = grpc("/shop.Cart/Add").script("503 503 200", &format!("concurrent-{index}"));
        outcome(hosts, "default", &call).await
    });
    let answers = join_all(calls).await;
    assert!(answers.iter().all(|answer| answer == "200"), "{answers:?}");
    let overflow = hosts
        .stat(Proxy::Front, &g1("upstream_rq_retry_overflow"))
        .await;
    assert_eq!(overflow, 0);
}

/// An attempt that exceeds `perRetryTimeout` counts as a reset.
async fn slow_attempts_are_retried(hosts: &MeshHosts) {
    for (service, answer, attempts) in [("slow", "200", 2), ("slow-other-event", "503", 1)] {
        let call = grpc("/shop.Cart/Add").script("hold 200", service);
        assert_eq!(outcome(hosts, service, &call).await, answer, "{service}");
        assert_eq!(hosts.attempts(service).await, attempts, "{service}");
    }
    let timeouts = hosts
        .stat(Proxy::Front, &g1("upstream_rq_per_try_timeout"))
        .await;
    assert_eq!(timeouts, 2);
}

async fn retries_find_another_endpoint_in_time(version: EnvoyVersion) {
    let mut manifests = Manifests::new();
    half_dead(&mut manifests);
    manifests.routed_service("default", &[(8080, "grpc")], &[retrying("")]);
    for (service, event) in [
        ("slow", "server-error"),
        ("slow-other-event", "client-error"),
    ] {
        let policy = format!(
            "httpRetryEvents: [{event}], maxRetries: 1, perRetryTimeout: {{unit: ms, value: 200}}"
        );
        manifests.routed_service(service, &[(8080, "grpc")], &[retrying(&policy)]);
    }
    let hosts = MeshHosts::start(version, manifests, &[Proxy::Front]).await;
    hosts.has_no_error().await;
    failed_connections_are_retried_elsewhere(&hosts).await;
    concurrent_retries_are_not_limited(&hosts).await;
    slow_attempts_are_retried(&hosts).await;
}

#[tokio::test]
async fn oldest_envoy_retries_failures() {
    failures_are_retried(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_retries_failures() {
    failures_are_retried(EnvoyVersion::Newest).await;
}

#[tokio::test]
async fn oldest_envoy_retries_at_another_endpoint() {
    retries_find_another_endpoint_in_time(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_retries_at_another_endpoint() {
    retries_find_another_endpoint_in_time(EnvoyVersion::Newest).await;
}
