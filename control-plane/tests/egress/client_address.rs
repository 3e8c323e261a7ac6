//! The address of the client in `X-Forwarded-For`, through a gateway with its two passes and a sidecar.

use evermesh_testkit::{
    app::scripted,
    envoy::EnvoyVersion,
    hosts::LabHost,
    http::{Address, HttpResponse},
};
use http::{Request, StatusCode};
use http_body_util::Full;

use crate::{common::eventually, egress_lab::EgressLab};

const MANIFESTS: &str = r#"
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {name: shop}
spec: {namespaceSelector: {matchLabels: {mesh: shop}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualGateway
metadata: {name: gate, namespace: shop, annotations: {evermesh.dev/forward-client-address: "OF_GATEWAY"}}
spec:
  namespaceSelector: {}
  listeners: [{portMapping: {port: 8088, protocol: http}}]
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: GatewayRoute
metadata: {name: color, namespace: shop}
spec:
  httpRoute:
    match: {prefix: /}
    action: {target: {virtualService: {virtualServiceRef: {name: color}}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualService
metadata: {name: color, namespace: shop}
spec: {provider: {virtualNode: {virtualNodeRef: {name: color}}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: color, namespace: shop, annotations: {evermesh.dev/forward-client-address: "OF_NODE"}}
spec:
  listeners: [{portMapping: {port: 8080, protocol: http}}]
  serviceDiscovery: {dns: {hostname: BACK, responseType: ENDPOINTS}}
"#;

const FORWARDED: &str = "x-forwarded-for";
const SCHEME: &str = "x-forwarded-proto";

/// A header of the request as the application received it.
fn seen(response: &HttpResponse, name: &str) -> Option<String> {
    assert_eq!(response.body, "color");
    let headers = response.headers["x-seen-headers"].to_str().unwrap();
    let mut headers = headers.split(';');
    let value = headers.find_map(|header| header.strip_prefix(name)?.strip_prefix('='));
    value.map(ToOwned::to_owned)
}

/// Calls the gateway with these headers.
async fn send(gate: &Address, headers: &[(&str, &str)]) -> HttpResponse {
    let mut request = Request::get("/").header("host", "color.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    gate.send(request.body(Full::default()).unwrap())
        .await
        .unwrap()
}

async fn client_address_arrives(version: EnvoyVersion) {
    let mut lab = EgressLab::start(version).await;
    let client = lab.host("client").await;
    let (gate, back) = (lab.host("gate").await, lab.host("back").await);
    lab.http_app(&back, "color", "127.0.0.1:8080").await;
    let manifests = MANIFESTS.replace("BACK", &back.ip().to_string());
    let write = |lab: &EgressLab, of_gateway: &str, of_node: &str| {
        let manifests = manifests.replace("OF_GATEWAY", of_gateway);
        lab.write(&manifests.replace("OF_NODE", of_node));
    };
    write(&lab, "false", "false");
    lab.serve().await;
    let _gate_envoy = lab.proxy(&gate, "virtualGateway/gate_shop").await;
    let _back_envoy = lab.sidecar(&back, "color", &[8080]).await;
    let ip = |host: &LabHost| host.ip().to_string();
    let (of_client, of_gate) = (ip(&client), ip(&gate));
    let gate = client.reach((gate.ip(), 8088).into());
    let forwarded = async |given: &[(&str, &str)]| seen(&send(&gate, given).await, FORWARDED);
    let behind_proxy = [(FORWARDED, "192.0.2.1"), (SCHEME, "https")];

    // As in App Mesh: the headers pass, and no address is added.
    assert_eq!(forwarded(&[]).await, None);
    let response = send(&gate, &behind_proxy).await;
    assert_eq!(seen(&response, FORWARDED).unwrap(), "192.0.2.1");
    assert_eq!(seen(&response, SCHEME).unwrap(), "https");

    write(&lab, "true", "false");
    eventually("the address of the client", async || {
        forwarded(&[]).await.is_some()
    })
    .await;
    assert_eq!(forwarded(&[]).await.unwrap(), of_client);
    let response = send(&gate, &behind_proxy).await;
    let both = format!("192.0.2.1,{of_client}");
    assert_eq!(seen(&response, FORWARDED).unwrap(), both);
    assert_eq!(seen(&response, SCHEME).unwrap(), "http");
    // The client does not count as internal, so it cannot ask for retries.
    let retried = [
        ("x-envoy-retry-on", "5xx"),
        (scripted::SCRIPT, "500 200"),
        (scripted::KEY, "external"),
    ];
    let status = send(&gate, &retried).await.status;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);

    write(&lab, "true", "true");
    let both = format!("{of_client},{of_gate}");
    eventually("the address of the gateway", async || {
        forwarded(&[]).await.as_ref() == Some(&both)
    })
    .await;

    write(&lab, "false", "true");
    eventually("the address of the gateway alone", async || {
        forwarded(&[]).await.as_ref() == Some(&of_gate)
    })
    .await;
    lab.has_no_problem().await;
}

#[tokio::test]
async fn oldest_envoy_forwards_the_address_of_the_client() {
    client_address_arrives(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_forwards_the_address_of_the_client() {
    client_address_arrives(EnvoyVersion::Newest).await;
}
