//! The two passes of a request through a gateway: the policies of the service's route apply once.

use evermesh_testkit::envoy::EnvoyVersion;
use http::StatusCode;

use super::add_services;
use crate::{
    call::{get, grpc, seen_header, target, websocket},
    common::eventually,
    manifests::{Manifests, gateway_route, route},
    mesh_hosts::{MeshHosts, Proxy},
};

const HTTP: u16 = 8088;
const GRPC: u16 = 8090;

fn manifests() -> Manifests {
    let mut manifests = Manifests::new();
    manifests.gateway(&[(HTTP, "http"), (GRPC, "grpc")]);
    add_services(&mut manifests);
    let http = |name: &str| gateway_route(name, "httpRoute", &format!("{{prefix: /{name}}}"), name);
    for (service, timeout) in [
        ("short", "perRequest: {unit: ms, value: 200}"),
        (
            "idle",
            "perRequest: {unit: s, value: 0}, idle: {unit: ms, value: 200}",
        ),
        (
            "unlimited",
            "perRequest: {unit: s, value: 0}, idle: {unit: s, value: 0}",
        ),
    ] {
        let all = route("all", "httpRoute", "{prefix: /}", "t1");
        let routes = [all.with(&format!("timeout: {{{timeout}}}"))];
        manifests.routed_service(service, &[(8080, "http")], &routes);
        manifests.gateway_routes(&[http(service)]);
    }
    let retried = route("all", "httpRoute", "{prefix: /}", "t1")
        .with("retryPolicy: {httpRetryEvents: [client-error], maxRetries: 4, perRetryTimeout: {unit: s, value: 60}}");
    manifests.routed_service("retried", &[(8080, "http")], &[retried]);
    manifests.service("no-provider", "{}");
    let weighted = route("all", "httpRoute", "{prefix: /}", "t1").targets(&[("t1", 0), ("t2", 9)]);
    let header = route(
        "a",
        "httpRoute",
        "{prefix: /, headers: [{name: x-a}]}",
        "t3",
    );
    manifests.routed_service("weighted", &[(8080, "http")], &[weighted, header]);
    for service in ["retried", "no-provider", "weighted", "s1"] {
        manifests.gateway_routes(&[http(service)]);
    }
    manifests.gateway_routes(&[gateway_route(
        "c1",
        "grpcRoute",
        "{serviceName: shop.Cart}",
        "c1",
    )]);
    manifests
}

async fn routes_of_the_service_decide(hosts: &MeshHosts) {
    let gate = hosts.gate.loopback(HTTP);
    let call = async |path: &str| get(path).send(&gate, "x").await;
    assert_eq!(call("/no-provider").await.status, StatusCode::NOT_FOUND);
    assert_eq!(target(&call("/weighted").await), Some(2));
    let response = get("/weighted").header("x-a", "1").send(&gate, "x").await;
    assert_eq!(target(&response), Some(3));
    let response = grpc("/shop.Cart/Add")
        .send(&hosts.gate.loopback(GRPC), "x")
        .await;
    assert_eq!(target(&response), Some(1));
    // The application got HTTP/2, which has no `host` header.
    assert_eq!(seen_header(&response, "host"), None);
}

/// Retries are made by the second pass only, so they do not multiply.
async fn retries_do_not_multiply(hosts: &MeshHosts) {
    for (path, script, status, attempts) in [
        ("/s1", "503", 503, 3),
        ("/s1", "reset", 503, 3),
        ("/retried", "409", 409, 5),
        ("/retried", "503", 503, 1),
    ] {
        let key = format!("gateway-{path}-{script}");
        let call = get(path).script(script, &key);
        let response = call.send(&hosts.gate.loopback(HTTP), "x").await;
        let found = (response.status.as_u16(), hosts.attempts(&key).await);
        assert_eq!(found, (status, attempts), "{path}: {script}");
    }
}

async fn timeouts_of_the_service_apply(hosts: &MeshHosts) {
    let gate = hosts.gate.loopback(HTTP);
    let limited = async {
        eventually("the held requests", async || {
            hosts.attempts("unlimited").await == 2
        })
        .await;
        for path in ["/short", "/idle"] {
            let call = get(path).script("hold", path);
            let response = call.send(&gate, "x").await;
            assert_eq!(response.status, StatusCode::GATEWAY_TIMEOUT, "{path}");
            assert_eq!(hosts.attempts(path).await, 1, "{path}");
        }
        hosts.release("unlimited").await;
    };
    let (held, stalled) = (
        get("/unlimited").script("hold", "unlimited"),
        get("/unlimited").script("stall", "unlimited"),
    );
    let (held, stalled, ()) =
        tokio::join!(held.send(&gate, "x"), stalled.send(&gate, "x"), limited);
    assert_eq!(held.body, "target");
    assert_eq!(stalled.body, "first rest");
    let cluster = "cluster.cds_egress_shop_t1_shop_http_9001.upstream_rq_timeout";
    assert_eq!(hosts.stat(Proxy::Gate, cluster).await, 1);
    assert_eq!(
        hosts
            .stat(Proxy::Gate, "http.egress.downstream_rq_idle_timeout")
            .await,
        1
    );
}

async fn websockets_pass(hosts: &MeshHosts) {
    let head = websocket(&hosts.gate.loopback(HTTP), "x", "/s1/ws").await;
    assert!(head.contains("x-seen-path: /ws\r\n"), "{head}");
}

async fn policies_apply_once(version: EnvoyVersion) {
    let hosts = MeshHosts::start(version, manifests(), &[Proxy::Gate]).await;
    hosts.has_no_error().await;
    routes_of_the_service_decide(&hosts).await;
    retries_do_not_multiply(&hosts).await;
    timeouts_of_the_service_apply(&hosts).await;
    websockets_pass(&hosts).await;
}

#[tokio::test]
async fn oldest_envoy_applies_policies_once() {
    policies_apply_once(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_applies_policies_once() {
    policies_apply_once(EnvoyVersion::Newest).await;
}
