//! Timeouts of listeners for HTTP/2, gRPC and TCP, and which Envoy applied them.

use evermesh_testkit::envoy::EnvoyVersion;
use http::StatusCode;
use tokio::io::AsyncReadExt as _;

use super::{is_logged, side_service};
use crate::{
    call::{get, grpc, header},
    manifests::Manifests,
    mesh_hosts::{MeshHosts, Proxy, SIDE_TCP_PORT},
};

const SHORT: &str = "{unit: ms, value: 200}";

/// `timeouts PATH STATUS FLAGS DETAILS` for each request or connection.
const LOG: &str = "{accessLog: {file: {path: /dev/stdout, format: {text: \
     \"timeouts %PATH(NQ)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\\n\"}}}}";

fn manifests() -> Manifests {
    let mut manifests = Manifests::new();
    manifests.log_front(LOG);
    manifests.object(
        "VirtualNode",
        "side",
        &format!(
            "{{listeners: [\
             {{portMapping: {{port: 8081, protocol: http2}}, timeout: {{http2: {{perRequest: {SHORT}}}}}}}, \
             {{portMapping: {{port: 8082, protocol: grpc}}, timeout: {{grpc: {{perRequest: {SHORT}}}}}}}, \
             {{portMapping: {{port: {SIDE_TCP_PORT}, protocol: tcp}}, timeout: {{tcp: {{idle: {SHORT}}}}}}}], \
             serviceDiscovery: {{dns: {{hostname: BACK, responseType: ENDPOINTS}}}}, logging: {LOG}}}"
        ),
    );
    let ports = [(8081, "http2"), (8082, "grpc"), (SIDE_TCP_PORT, "tcp")];
    side_service(&mut manifests, &ports);
    manifests
}

async fn listeners_end_what_takes_too_long(version: EnvoyVersion) {
    let hosts = MeshHosts::start(version, manifests(), &[Proxy::Front, Proxy::Side]).await;
    hosts.has_no_error().await;
    let held = get("/http2").script("hold", "http2");
    let response = held.send(&hosts.egress(8081), "side.shop").await;
    assert_eq!(response.status, StatusCode::GATEWAY_TIMEOUT);
    let held = grpc("/shop.Cart/Add").script("hold", "grpc");
    let response = held.send(&hosts.egress(8082), "side.shop").await;
    // UNAVAILABLE
    assert_eq!(header(&response, "grpc-status"), "14");

    let mut connection = hosts.egress(SIDE_TCP_PORT).connect().await.unwrap();
    let mut received = Vec::new();
    connection.read_to_end(&mut received).await.unwrap();
    let idle = format!("tcp.ingress.tcp.{SIDE_TCP_PORT}.idle_timeout");
    assert_eq!(hosts.stat(Proxy::Side, &idle).await, 1);
    assert_eq!(hosts.stat(Proxy::Front, "tcp.egress.idle_timeout").await, 0);

    // The Envoy of the node ended the requests, and the Envoy of the caller forwarded its answers.
    is_logged(
        &hosts,
        Proxy::Side,
        "timeouts /http2 504 UT response_timeout",
    )
    .await;
    is_logged(&hosts, Proxy::Front, "timeouts /http2 504 - via_upstream").await;
    is_logged(
        &hosts,
        Proxy::Side,
        "timeouts /shop.Cart/Add 200 UT response_timeout",
    )
    .await;
    is_logged(
        &hosts,
        Proxy::Front,
        "timeouts /shop.Cart/Add 200 - via_upstream",
    )
    .await;
}

#[tokio::test]
async fn oldest_envoy_applies_timeouts_of_listeners() {
    listeners_end_what_takes_too_long(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_applies_timeouts_of_listeners() {
    listeners_end_what_takes_too_long(EnvoyVersion::Newest).await;
}
