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

/// A header of the request as the application received it.
fn seen(response: &HttpResponse, name: &str) -> Option<String> {
    assert_eq!(response.body, "color");
    let headers = response.headers["x-seen-headers"].to_str().unwrap();
    let mut headers = headers.split(';');
    let value = headers.find_map(|header| header.strip_prefix(name)?.strip_prefix('='));
    value.map(ToOwned::to_owned)
}

/// Calls the gateway with this `X-Forwarded-For`.
async fn send(gate: &Address, forwarded: Option<&str>) -> HttpResponse {
    let mut request = Request::get("/").header("host", "color.example");
    if let Some(forwarded) = forwarded {
        request = request.header("x-forwarded-for", forwarded);
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
    let forwarded = async |given: Option<&str>| seen(&send(&gate, given).await, "x-forwarded-for");

    // As in App Mesh: the header passes, and nothing is added.
    assert_eq!(forwarded(None).await, None);
    assert_eq!(forwarded(Some("192.0.2.1")).await.unwrap(), "192.0.2.1");

    write(&lab, "true", "false");
    eventually("the address of the client", async || {
        forwarded(None).await.is_some()
    })
    .await;
    assert_eq!(forwarded(None).await.unwrap(), of_client);
    let both = forwarded(Some("192.0.2.1")).await.unwrap();
    assert_eq!(both, format!("192.0.2.1,{of_client}"));
    // The client does not count as internal, so it cannot ask for retries.
    let request = Request::get("/")
        .header("host", "color.example")
        .header("x-envoy-retry-on", "5xx")
        .header(scripted::SCRIPT, "500 200")
        .header(scripted::KEY, "external");
    let response = gate.send(request.body(Full::default()).unwrap()).await;
    assert_eq!(response.unwrap().status, StatusCode::INTERNAL_SERVER_ERROR);

    write(&lab, "true", "true");
    let both = format!("{of_client},{of_gate}");
    eventually("the address of the gateway", async || {
        forwarded(None).await.as_ref() == Some(&both)
    })
    .await;

    write(&lab, "false", "true");
    eventually("the address of the gateway alone", async || {
        forwarded(None).await.as_ref() == Some(&of_gate)
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
