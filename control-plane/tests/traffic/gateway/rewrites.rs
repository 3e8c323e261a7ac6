//! Rewrites of host name and path.

use evermesh_testkit::envoy::EnvoyVersion;

use super::add_services;
use crate::{
    call::{Call, get, grpc, header, seen_header, target},
    manifests::{GatewayRouteText, Manifests, gateway_route},
    mesh_hosts::{MeshHosts, Proxy},
};

const PORT: u16 = 8088;

/// The name by which clients call the gateway.
const CLIENT: &str = "www.example.com";

fn routes() -> Vec<GatewayRouteText> {
    let http = |name: &str, matches: &str| gateway_route(name, "httpRoute", matches, "s1");
    vec![
        http("default", "{prefix: /x}"),
        http("slash", "{prefix: /y/}"),
        http("enabled", "{prefix: /on}").rewrite(
            "{prefix: {defaultPrefix: ENABLED}, hostname: {defaultTargetHostname: ENABLED}}",
        ),
        http("disabled", "{prefix: /off}").rewrite("{prefix: {defaultPrefix: DISABLED}}"),
        http("value", "{prefix: /test/}").rewrite("{prefix: {value: /red/}}"),
        http("value-without-slash", "{prefix: /dir}").rewrite("{prefix: {value: /red/blue/}}"),
        http("exact", "{path: {exact: /e}}"),
        http("exact-rewrite", "{path: {exact: /e/1}}").rewrite("{path: {exact: /one}}"),
        http("regex", "{path: {regex: '/r/[0-9]+'}}"),
        http("regex-rewrite", "{path: {regex: '/s/[0-9]+'}}").rewrite("{path: {exact: /one}}"),
        http("prefix-rewrite", "{prefix: /whole}").rewrite("{path: {exact: /one}}"),
        http("host", "{prefix: /host}").rewrite("{hostname: {defaultTargetHostname: DISABLED}}"),
        http("neither", "{prefix: /neither}").rewrite(
            "{prefix: {defaultPrefix: DISABLED}, hostname: {defaultTargetHostname: DISABLED}}",
        ),
        gateway_route("grpc", "grpcRoute", "{serviceName: shop.Cart}", "c2"),
        gateway_route("grpc-host", "grpcRoute", "{serviceName: shop.Order}", "c2")
            .rewrite("{hostname: {defaultTargetHostname: DISABLED}}"),
    ]
}

/// Requests with the path and host name that the application sees.
fn expected() -> Vec<(Call, &'static str, &'static str)> {
    let mut expected: Vec<_> = [
        ("/x", "/"),
        ("/x/", "/"),
        ("/x/1", "/1"),
        ("/x/1/2?q=/x", "/1/2?q=/x"),
        // A prefix may end anywhere.
        ("/x1", "/1"),
        ("/y/", "/"),
        ("/y/1", "/1"),
        ("/on/1", "/1"),
        ("/off/1", "/off/1"),
        ("/test/", "/red/"),
        ("/test/1?q", "/red/1?q"),
        ("/dir/1", "/red/blue/1"),
        ("/dir", "/red/blue/"),
        ("/e", "/e"),
        ("/e/1", "/one"),
        ("/e/1?q=1", "/one?q=1"),
        ("/r/12", "/r/12"),
        ("/s/12?q=1", "/one?q=1"),
        ("/whole/path?q=1", "/one?q=1"),
    ]
    .into_iter()
    .map(|(path, seen)| (get(path), seen, "s1.shop"))
    .collect();
    expected.extend([
        (get("/host/1"), "/1", CLIENT),
        (get("/neither/1"), "/neither/1", CLIENT),
        (grpc("/shop.Cart/Add"), "/shop.Cart/Add", "c2.shop"),
        (grpc("/shop.Order/Add"), "/shop.Order/Add", CLIENT),
    ]);
    expected
}

async fn requests_are_rewritten(version: EnvoyVersion) {
    let mut manifests = Manifests::new();
    manifests.gateway(&[(PORT, "http2")]);
    add_services(&mut manifests);
    manifests.gateway_routes(&routes());
    let hosts = MeshHosts::start(version, manifests, &[Proxy::Gate]).await;
    let gate = hosts.gate.loopback(PORT);
    for (call, path, host) in expected() {
        // The client cannot choose the service by the header that the gateway uses.
        let call = call.header("x-app-mesh-virtual-service", "s3.shop:9003");
        let response = call.send(&gate, CLIENT).await;
        let seen = (
            header(&response, "x-seen-path"),
            header(&response, "x-seen-host"),
        );
        assert_eq!(seen, (path, host), "{call:?}");
        let service = seen_header(&response, "x-app-mesh-virtual-service");
        assert_eq!(service, None, "{call:?}");
    }
    // A host name that another service has does not choose that service either.
    for path in ["/x", "/host", "/neither"] {
        let response = get(path).send(&gate, "s3.shop").await;
        assert_eq!(target(&response), Some(1), "{path}");
    }
}

#[tokio::test]
async fn oldest_envoy_rewrites_requests() {
    requests_are_rewritten(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_rewrites_requests() {
    requests_are_rewritten(EnvoyVersion::Newest).await;
}
