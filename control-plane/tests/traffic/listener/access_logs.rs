//! Access logs in each format: inbound and outbound, of requests and connections, and on both passes of a gateway.

use evermesh_testkit::envoy::EnvoyVersion;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use super::is_logged;
use crate::{
    call::get,
    common::eventually,
    manifests::{Manifests, gateway_route},
    mesh_hosts::{MeshHosts, Proxy, SIDE_TCP_PORT},
};

const JSON: &str = "{accessLog: {file: {path: /dev/stdout, format: {json: [\
     {key: status, value: \"%RESPONSE_CODE%\"}, {key: path, value: \"%PATH(NQ)%\"}, \
     {key: host, value: \"%REQ(:AUTHORITY)%\"}, {key: upstream, value: \"to %UPSTREAM_CLUSTER%\"}, \
     {key: node, value: front}]}}}}";

const CHECK: &str = "{protocol: http, path: /ready, healthyThreshold: 2, unhealthyThreshold: 2, \
     intervalMillis: 5000, timeoutMillis: 2000}";

const TEXT: &str = "{accessLog: {file: {path: /dev/stdout, format: {text: \
     \"side %REQ(:METHOD)% %REQ(:AUTHORITY)% %PATH(NQ)% %RESPONSE_CODE% %REQ(X-TAG?X-OTHER):3% %UPSTREAM_CLUSTER% 100%%\\n\"}}}}";

/// Without a format, and with one that Envoy would refuse, Envoy's default format applies.
const DEFAULT: &str = "{accessLog: {file: {path: /dev/stdout, format: {text: \"%TAG%\"}}}}";

fn manifests() -> Manifests {
    let mut manifests = Manifests::new();
    manifests.log_front(JSON);
    manifests.object(
        "VirtualNode",
        "side",
        &format!(
            "{{listeners: [{{portMapping: {{port: 8080, protocol: http}}, healthCheck: {CHECK}}}, \
             {{portMapping: {{port: {SIDE_TCP_PORT}, protocol: tcp}}}}], \
             serviceDiscovery: {{dns: {{hostname: BACK, responseType: ENDPOINTS}}}}, logging: {TEXT}}}"
        ),
    );
    manifests.node_service("side", "side");
    manifests.object(
        "VirtualGateway",
        "gate",
        &format!(
            "{{namespaceSelector: {{matchLabels: {{mesh: shop}}}}, logging: {DEFAULT}, \
             listeners: [{{portMapping: {{port: 8080, protocol: http}}}}]}}"
        ),
    );
    manifests.node_service("s1", "t1");
    manifests.gateway_routes(&[gateway_route("all", "httpRoute", "{prefix: /}", "s1")]);
    manifests
}

/// Waits until the proxy has logged lines that fit, and returns them.
async fn lines(
    hosts: &MeshHosts,
    proxy: Proxy,
    count: usize,
    fits: impl Fn(&str) -> bool,
) -> Vec<String> {
    let fitting = || -> Vec<String> {
        let lines = hosts.log(proxy).into_iter();
        lines.filter(|line| fits(line)).collect()
    };
    eventually("lines of an access log", async || fitting().len() >= count).await;
    fitting()
}

async fn requests_and_connections_are_logged(version: EnvoyVersion) {
    let proxies = [Proxy::Front, Proxy::Side, Proxy::Gate];
    let hosts = MeshHosts::start(version, manifests(), &proxies).await;
    let call = get("/logged?x=1").header("x-other", "abcdef");
    assert_eq!(hosts.call("side", &call).await.status, StatusCode::OK);
    let mut connection = hosts.egress(SIDE_TCP_PORT).connect().await.unwrap();
    connection.read_u8().await.unwrap();
    drop(connection);
    let response = get("/logged?x=1")
        .send(&hosts.gate.loopback(8080), "shop.example")
        .await;
    assert_eq!(response.status, StatusCode::OK);

    let front = lines(&hosts, Proxy::Front, 2, |line| {
        line.contains(r#""node":"front""#)
    })
    .await;
    let mut front: Vec<Value> = front
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    front.sort_by_key(|line| line["status"].as_u64());
    let tcp = format!("to cds_egress_shop_side_shop_tcp_{SIDE_TCP_PORT}");
    assert_eq!(
        front,
        [
            json!({"node": "front", "status": 0, "path": null, "host": null, "upstream": tcp}),
            json!({
                "node": "front", "status": 200, "path": "/logged", "host": "side.shop",
                "upstream": "to cds_egress_shop_side_shop_http_8080",
            }),
        ]
    );

    let mut side = lines(&hosts, Proxy::Side, 2, |line| {
        line.starts_with("side ") && !line.contains(" /ready ")
    })
    .await;
    side.sort();
    assert_eq!(
        side,
        [
            format!("side - - - 0 - cds_ingress_shop_side_shop_tcp_{SIDE_TCP_PORT} 100%"),
            "side GET side.shop /logged 200 abc cds_ingress_shop_side_shop_http_8080 100%"
                .to_owned(),
        ]
    );

    // The health check of the caller names the node as its discovery does, here by the address.
    let check = format!(
        "side GET {} /ready 200 - cds_ingress_shop_side_shop_http_8080 100%",
        hosts.back.ip()
    );
    is_logged(&hosts, Proxy::Side, &check).await;

    // Envoy's default format: the first pass with the host of the client, the second with that of the service.
    let gate = lines(&hosts, Proxy::Gate, 2, |line| {
        line.contains("\"GET /logged?x=1 HTTP/1.1\" 200 - ")
    })
    .await;
    let mut upstreams: Vec<&str> = gate
        .iter()
        .map(|line| line.rsplit('"').nth(1).unwrap())
        .collect();
    upstreams.sort_unstable();
    let back = format!("{}:9001", hosts.back.ip());
    assert_eq!(upstreams, [back.as_str(), "127.0.0.1:15001"], "{gate:?}");
    let problems = hosts.problems().await;
    assert!(
        problems.contains("`%TAG%` is not a command operator"),
        "{problems}"
    );
}

#[tokio::test]
async fn oldest_envoy_logs_requests_and_connections() {
    requests_and_connections_are_logged(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_logs_requests_and_connections() {
    requests_and_connections_are_logged(EnvoyVersion::Newest).await;
}
