//! Request headers by which clients of a plain Envoy change timeouts and retries have no effect, as in App Mesh.

use evermesh_testkit::{envoy::EnvoyVersion, http::Address};
use futures::future::join_all;
use http::StatusCode;

use crate::{
    call::{Call, get},
    common::eventually,
    manifests::{Manifests, gateway_route, route},
    mesh_hosts::{MeshHosts, Proxy},
};

const GATE: u16 = 8088;

/// Headers of a request that claims to come from an internal client, if Envoy believes `x-forwarded-for`.
const INTERNAL: [&[(&str, &str)]; 3] = [
    &[],
    &[("x-forwarded-for", "10.77.0.3")],
    &[
        ("x-envoy-internal", "true"),
        ("x-forwarded-for", "127.0.0.1"),
    ],
];

fn call(headers: &[(&str, &str)], internal: &[(&str, &str)]) -> Call {
    headers
        .iter()
        .chain(internal)
        .fold(get("/"), |call, (name, value)| call.header(name, value))
}

/// Requests whose attempts are counted, with the status that the caller gets.
async fn headers_do_not_change_retries(hosts: &MeshHosts, address: &Address, from: &str) {
    for (index, internal) in INTERNAL.iter().enumerate() {
        for (headers, script, status, attempts) in [
            (&[("x-envoy-max-retries", "0")][..], "503 503 200", 200, 3),
            (&[("x-envoy-max-retries", "9")], "503", 503, 3),
            (
                &[("x-envoy-retry-on", "5xx,retriable-4xx")],
                "500 200",
                500,
                1,
            ),
            (
                &[("x-envoy-retriable-status-codes", "500")],
                "500 200",
                500,
                1,
            ),
            (
                &[("x-envoy-retry-grpc-on", "internal")],
                "grpc-13 200",
                200,
                1,
            ),
        ] {
            let name = headers[0].0;
            let key = format!("{from}-{index}-{name}-{status}");
            let call = call(headers, internal).script(script, &key);
            let response = call.send(address, "plain.shop").await;
            let found = (response.status.as_u16(), hosts.attempts(&key).await);
            assert_eq!(
                found,
                (status, attempts),
                "{from}: {headers:?} {internal:?}"
            );
        }
    }
}

/// Requests that would time out at once, if Envoy followed the header, outlast one with a timeout of its route.
async fn headers_do_not_change_timeouts(hosts: &MeshHosts, address: &Address, from: &str) {
    for limit in [
        "x-envoy-upstream-rq-timeout-ms",
        "x-envoy-upstream-rq-per-try-timeout-ms",
    ] {
        let key = format!("{from}-{limit}");
        let held = INTERNAL.map(|internal| call(&[(limit, "1")], internal).script("hold", &key));
        let responses = join_all(held.iter().map(|call| call.send(address, "plain.shop")));
        let limited = async {
            eventually("all held requests", async || {
                hosts.attempts(&key).await >= held.len()
            })
            .await;
            let short = get("/short").script("hold", &format!("{key}-short"));
            let response = short.send(address, "short.shop").await;
            assert_eq!(response.status, StatusCode::GATEWAY_TIMEOUT, "{from}");
            hosts.release(&key).await;
        };
        let (responses, ()) = tokio::join!(responses, limited);
        for (call, response) in held.iter().zip(responses) {
            assert_eq!(response.body, "target", "{from}: {call:?}");
        }
        assert_eq!(hosts.attempts(&key).await, held.len(), "{from}: {limit}");
    }
}

async fn headers_of_envoy_have_no_effect(version: EnvoyVersion) {
    let mut manifests = Manifests::new();
    manifests.gateway(&[(GATE, "http")]);
    manifests.node_service("plain", "t1");
    let short = route("all", "httpRoute", "{prefix: /}", "t2");
    let short = short.with("timeout: {perRequest: {unit: ms, value: 100}}");
    manifests.routed_service("short", &[(9001, "http")], &[short]);
    manifests.gateway_routes(&[
        gateway_route("plain", "httpRoute", "{prefix: /}", "plain"),
        gateway_route("short", "httpRoute", "{prefix: /short}", "short"),
    ]);
    let hosts = MeshHosts::start(version, manifests, &[Proxy::Front, Proxy::Gate]).await;
    hosts.has_no_error().await;
    for (address, from) in [
        (hosts.egress(9001), "front"),
        (hosts.gate.loopback(GATE), "gate"),
    ] {
        headers_do_not_change_retries(&hosts, &address, from).await;
        headers_do_not_change_timeouts(&hosts, &address, from).await;
    }
}

#[tokio::test]
async fn oldest_envoy_ignores_headers_for_timeouts_and_retries() {
    headers_of_envoy_have_no_effect(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_ignores_headers_for_timeouts_and_retries() {
    headers_of_envoy_have_no_effect(EnvoyVersion::Newest).await;
}
