//! Connection pools: what exceeds a limit is refused, counted, and marked in the access log.

use evermesh_testkit::{envoy::EnvoyVersion, http::Address};
use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{is_logged, side_service};
use crate::{
    call::{Call, get, grpc, header},
    common::eventually,
    manifests::{Manifests, gateway_route},
    mesh_hosts::{MeshHosts, Proxy, SIDE_TCP_PORT},
};

/// One connection, and one request that waits for it.
const HTTP: &str = "connectionPool: {http: {maxConnections: 1, maxPendingRequests: 1}}";

/// `limits PATH STATUS FLAGS` for each request or connection.
const LOG: &str = "{accessLog: {file: {path: /dev/stdout, format: {text: \"limits %PATH(NQ)% %RESPONSE_CODE% %RESPONSE_FLAGS%\\n\"}}}}";

fn manifests() -> Manifests {
    let mut manifests = Manifests::new();
    let listeners = [
        format!("{{portMapping: {{port: 8080, protocol: http}}, {HTTP}}}"),
        "{portMapping: {port: 8081, protocol: http2}, connectionPool: {http2: {maxRequests: 1}}}"
            .to_owned(),
        "{portMapping: {port: 8082, protocol: grpc}, connectionPool: {grpc: {maxRequests: 1}}}"
            .to_owned(),
        format!(
            "{{portMapping: {{port: {SIDE_TCP_PORT}, protocol: tcp}}, connectionPool: {{tcp: {{maxConnections: 1}}}}}}"
        ),
    ];
    manifests.object(
        "VirtualNode",
        "side",
        &format!(
            "{{listeners: [{}], serviceDiscovery: {{dns: {{hostname: BACK, responseType: ENDPOINTS}}}}, logging: {LOG}}}",
            listeners.join(", ")
        ),
    );
    let ports = [
        (8080, "http"),
        (8081, "http2"),
        (8082, "grpc"),
        (SIDE_TCP_PORT, "tcp"),
    ];
    side_service(&mut manifests, &ports);
    manifests.node_service("s1", "t1");
    manifests.object(
        "VirtualGateway",
        "gate",
        &format!(
            "{{namespaceSelector: {{matchLabels: {{mesh: shop}}}}, logging: {LOG}, \
             listeners: [{{portMapping: {{port: 8080, protocol: http}}, {HTTP}}}]}}"
        ),
    );
    manifests.gateway_routes(&[gateway_route("all", "httpRoute", "{prefix: /}", "s1")]);
    manifests
}

/// Sends one request after the other: the first is held, the second waits, the third is refused.
async fn third_request_is_refused(
    hosts: &MeshHosts,
    proxy: Proxy,
    address: &Address,
    cluster: &str,
    key: &str,
) {
    let stat = async |stat: &str| {
        hosts
            .stat(proxy, &format!("cluster.{cluster}.{stat}"))
            .await
    };
    let path = format!("/{key}");
    let call = get(&path).script("hold", key);
    let waiting = async {
        eventually("a request at the application", async || {
            hosts.attempts(key).await == 1
        })
        .await;
        call.send(address, "side.shop").await
    };
    let refused = async {
        // The first request is pending too, until its connection is open.
        eventually("a waiting request", async || {
            hosts.attempts(key).await == 1 && stat("upstream_rq_pending_active").await == 1
        })
        .await;
        let response = call.send(address, "side.shop").await;
        hosts.release(key).await;
        response
    };
    let (held, waiting, refused) = tokio::join!(call.send(address, "side.shop"), waiting, refused);
    assert_eq!([held.status, waiting.status], [StatusCode::OK; 2], "{key}");
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{key}");
    assert_eq!(header(&refused, "x-envoy-overloaded"), "true", "{key}");
    assert_eq!(stat("upstream_rq_pending_overflow").await, 1, "{key}");
    assert!(stat("upstream_cx_overflow").await > 0, "{key}");
    is_logged(hosts, proxy, &format!("limits {path} 503 UO")).await;
}

/// Sends a request that is held, and one that exceeds the limit of concurrent requests.
async fn second_request_is_refused(
    version: EnvoyVersion,
    hosts: &MeshHosts,
    port: u16,
    protocol: &str,
    call: Call,
) {
    let call = call.script("hold", protocol);
    let address = hosts.egress(port);
    let refused = async {
        eventually("a request at the application", async || {
            hosts.attempts(protocol).await == 1
        })
        .await;
        let response = call.send(&address, "side.shop").await;
        hosts.release(protocol).await;
        response
    };
    let (held, refused) = tokio::join!(call.send(&address, "side.shop"), refused);
    assert_eq!(held.status, StatusCode::OK, "{protocol}");
    if protocol == "grpc" {
        // UNAVAILABLE
        assert_eq!(header(&refused, "grpc-status"), "14");
    } else {
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    let cluster = format!("cluster.cds_ingress_shop_side_shop_{protocol}_{port}");
    let counter = match version {
        EnvoyVersion::Oldest => "upstream_rq_pending_overflow",
        EnvoyVersion::Newest => "upstream_rq_active_overflow",
    };
    let stat = format!("{cluster}.{counter}");
    assert_eq!(hosts.stat(Proxy::Side, &stat).await, 1, "{protocol}");
}

async fn second_connection_is_closed(hosts: &MeshHosts) {
    let address = hosts.egress(SIDE_TCP_PORT);
    let mut greeting = vec![0; format!("tcp-{SIDE_TCP_PORT}\n").len()];
    let mut first = address.connect().await.unwrap();
    first.read_exact(&mut greeting).await.unwrap();
    let mut second = address.connect().await.unwrap();
    let mut rest = Vec::new();
    // Envoy closes the connection, perhaps with a reset.
    let _ = second.read_to_end(&mut rest).await;
    assert_eq!(rest, b"");
    first.write_all(b"echo").await.unwrap();
    let mut echo = [0; 4];
    first.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"echo");
    let cluster = format!("cluster.cds_ingress_shop_side_shop_tcp_{SIDE_TCP_PORT}");
    let stat = format!("{cluster}.upstream_cx_overflow");
    assert_eq!(hosts.stat(Proxy::Side, &stat).await, 1);
    is_logged(hosts, Proxy::Side, "limits - 0 UO").await;
}

async fn limits_refuse_what_exceeds_them(version: EnvoyVersion) {
    let proxies = [Proxy::Front, Proxy::Side, Proxy::Gate];
    let hosts = MeshHosts::start(version, manifests(), &proxies).await;
    hosts.has_no_error().await;
    let (egress, gate) = (hosts.egress(8080), hosts.gate.loopback(8080));
    tokio::join!(
        third_request_is_refused(
            &hosts,
            Proxy::Side,
            &egress,
            "cds_ingress_shop_side_shop_http_8080",
            "node"
        ),
        third_request_is_refused(
            &hosts,
            Proxy::Gate,
            &gate,
            "cds_ingress_shop_gate_shop_self_redirect_http_15001",
            "gateway"
        ),
        second_request_is_refused(version, &hosts, 8081, "http2", get("/http2")),
        second_request_is_refused(version, &hosts, 8082, "grpc", grpc("/shop.Cart/Add")),
        second_connection_is_closed(&hosts),
    );
    is_logged(&hosts, Proxy::Side, "limits /http2 503 UO").await;
    is_logged(&hosts, Proxy::Side, "limits /shop.Cart/Add 200 UO").await;
}

#[tokio::test]
async fn oldest_envoy_refuses_what_exceeds_a_limit() {
    Box::pin(limits_refuse_what_exceeds_them(EnvoyVersion::Oldest)).await;
}

#[tokio::test]
async fn newest_envoy_refuses_what_exceeds_a_limit() {
    Box::pin(limits_refuse_what_exceeds_them(EnvoyVersion::Newest)).await;
}
