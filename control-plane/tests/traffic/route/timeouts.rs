//! Timeouts of routes and listeners, services without routes, upgrades, and headers that must not change any of them.

use evermesh_testkit::envoy::EnvoyVersion;
use http::StatusCode;

use crate::{
    call::{get, grpc, header, target, websocket},
    common::eventually,
    manifests::{Manifests, route},
    mesh_hosts::{MeshHosts, Proxy},
};

const SHORT: &str = "{unit: ms, value: 200}";
const OFF: &str = "{unit: s, value: 0}";

/// A route that sends everything to one port of `side`, with this timeout.
fn to_side(manifests: &mut Manifests, service: &str, port: u16, timeout: &str) {
    let target = format!("{{virtualNodeRef: {{name: side}}, port: {port}, weight: 1}}");
    let route = route("all", "httpRoute", "{prefix: /}", "side")
        .raw_targets(&target)
        .with(&format!("timeout: {{{timeout}}}"));
    manifests.routed_service(service, &[(8080, "http")], &[route]);
}

fn manifests() -> Manifests {
    let mut manifests = Manifests::new();
    let listener = |port: u16, timeout: &str| {
        format!(
            "{{portMapping: {{port: {port}, protocol: http}}, timeout: {{http: {{{timeout}}}}}}}"
        )
    };
    let off = format!("perRequest: {OFF}, idle: {OFF}");
    manifests.node(
        "side",
        &[
            listener(8080, &off),
            listener(8081, &format!("perRequest: {SHORT}, idle: {OFF}")),
            listener(8082, &format!("perRequest: {OFF}, idle: {SHORT}")),
        ]
        .join(", "),
    );
    to_side(&mut manifests, "unlimited", 8080, &off);
    to_side(
        &mut manifests,
        "route-request",
        8080,
        &format!("perRequest: {SHORT}"),
    );
    to_side(
        &mut manifests,
        "route-idle",
        8080,
        &format!("perRequest: {OFF}, idle: {SHORT}"),
    );
    to_side(&mut manifests, "listener-request", 8081, &off);
    to_side(&mut manifests, "listener-idle", 8082, &off);
    manifests
}

/// The timeouts that each Envoy counted: requests that took too long, and idle streams.
async fn counted(hosts: &MeshHosts) -> [[u64; 2]; 2] {
    let front = [
        "cluster.cds_egress_shop_side_shop_http_8080.upstream_rq_timeout",
        "http.egress.downstream_rq_idle_timeout",
    ];
    let side = [
        "cluster.cds_ingress_shop_side_shop_http_8081.upstream_rq_timeout",
        "http.ingress.http.8082.downstream_rq_idle_timeout",
    ];
    [
        [
            hosts.stat(Proxy::Front, front[0]).await,
            hosts.stat(Proxy::Front, front[1]).await,
        ],
        [
            hosts.stat(Proxy::Side, side[0]).await,
            hosts.stat(Proxy::Side, side[1]).await,
        ],
    ]
}

/// A request without timeouts outlasts all that have one, at either Envoy.
async fn timeouts_end_requests_and_zero_disables_them(version: EnvoyVersion) {
    let hosts = MeshHosts::start(version, manifests(), &[Proxy::Front, Proxy::Side]).await;
    hosts.has_no_error().await;
    let limited = async {
        eventually("all held requests", async || {
            hosts.attempts("unlimited").await == 2
        })
        .await;
        for (service, expected) in [
            ("route-request", [[1, 0], [0, 0]]),
            ("listener-request", [[1, 0], [1, 0]]),
            ("route-idle", [[1, 1], [1, 0]]),
            ("listener-idle", [[1, 1], [1, 1]]),
        ] {
            let response = hosts.call(service, &get("/").script("hold", service)).await;
            assert_eq!(response.status, StatusCode::GATEWAY_TIMEOUT, "{service}");
            assert_eq!(counted(&hosts).await, expected, "{service}");
            assert_eq!(hosts.attempts(service).await, 1, "{service}");
        }
        for service in ["route-idle", "listener-idle"] {
            let call = get("/").script("stall", service);
            let address = hosts.egress(8080);
            let cut = call.try_send(&address, &format!("{service}.shop")).await;
            cut.expect_err("the body is cut off");
        }
        assert_eq!(counted(&hosts).await, [[1, 2], [1, 2]]);
        hosts.release("unlimited").await;
    };
    let (held, stalled) = (
        get("/").script("hold", "unlimited"),
        get("/").script("stall", "unlimited"),
    );
    let (held, stalled, ()) = tokio::join!(
        hosts.call("unlimited", &held),
        hosts.call("unlimited", &stalled),
        limited
    );
    assert_eq!(held.body, "target");
    assert_eq!(stalled.body, "first rest");
}

async fn requests_without_a_route_are_answered_404(version: EnvoyVersion) {
    let mut manifests = Manifests::new();
    manifests.service("no-provider", "{}");
    manifests.routed_service("no-routes", &[(8080, "http")], &[]);
    let some = route("some", "httpRoute", "{prefix: /some}", "t1");
    manifests.routed_service("some", &[(8080, "http")], &[some]);
    let cart = route("cart", "grpcRoute", "{serviceName: shop.Cart}", "g1");
    manifests.routed_service("cart", &[(8080, "grpc")], &[cart]);
    let zero = route("zero", "httpRoute", "{prefix: /}", "t1").targets(&[("t1", 0), ("t2", 0)]);
    manifests.routed_service("zero", &[(8080, "http")], &[zero]);
    let hosts = MeshHosts::start(version, manifests, &[Proxy::Front]).await;
    for (service, expected) in [
        ("no-provider", StatusCode::NOT_FOUND),
        ("no-routes", StatusCode::NOT_FOUND),
        ("some", StatusCode::NOT_FOUND),
        // A name that no service has.
        ("unknown", StatusCode::NOT_FOUND),
        ("zero", StatusCode::SERVICE_UNAVAILABLE),
    ] {
        let response = hosts.call(service, &get("/")).await;
        assert_eq!(response.status, expected, "{service}");
    }
    let response = hosts.call("some", &get("/some")).await;
    assert_eq!(target(&response), Some(1));
    // `Host` may contain the port of the service, and no other one.
    for (host, expected) in [
        ("some.shop:8080", Some(1)),
        ("some.shop:80", None),
        ("some", None),
    ] {
        let response = get("/some").send(&hosts.egress(8080), host).await;
        assert_eq!(target(&response), expected, "{host}");
    }
    let response = hosts.call("cart", &grpc("/shop.Cart/Add")).await;
    assert_eq!(target(&response), Some(1));
    let response = hosts.call("cart", &grpc("/shop.Order/Add")).await;
    assert_eq!(response.status, StatusCode::OK);
    // UNIMPLEMENTED
    assert_eq!(header(&response, "grpc-status"), "12");
}

async fn websockets_pass_both_envoys(version: EnvoyVersion) {
    let mut manifests = Manifests::new();
    manifests.node(
        "side",
        "{portMapping: {port: 8080, protocol: http}}, {portMapping: {port: 8081, protocol: http2}}",
    );
    manifests.node_service("side", "side");
    let hosts = MeshHosts::start(version, manifests, &[Proxy::Front, Proxy::Side]).await;
    websocket(&hosts.egress(8080), "side.shop", "/").await;
    for (proxy, stat) in [
        (Proxy::Front, "http.egress.downstream_cx_upgrades_total"),
        (
            Proxy::Side,
            "http.ingress.http.8080.downstream_cx_upgrades_total",
        ),
    ] {
        assert_eq!(hosts.stat(proxy, stat).await, 1, "{stat}");
    }
}

#[tokio::test]
async fn oldest_envoy_ends_requests_after_their_timeout() {
    timeouts_end_requests_and_zero_disables_them(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_ends_requests_after_their_timeout() {
    timeouts_end_requests_and_zero_disables_them(EnvoyVersion::Newest).await;
}

#[tokio::test]
async fn oldest_envoy_answers_404_without_a_route() {
    requests_without_a_route_are_answered_404(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_answers_404_without_a_route() {
    requests_without_a_route_are_answered_404(EnvoyVersion::Newest).await;
}

#[tokio::test]
async fn oldest_envoy_forwards_websockets() {
    websockets_pass_both_envoys(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_forwards_websockets() {
    websockets_pass_both_envoys(EnvoyVersion::Newest).await;
}
