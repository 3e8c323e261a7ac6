//! The egress filter of the mesh: `DROP_ALL` closes what no backend covers, except TLS to AWS APIs unless an annotation
//! closes that too, and `ALLOW_ALL` lets it pass to its original destination.

use std::{net::Ipv4Addr, sync::Arc};

use evermesh_testkit::envoy::EnvoyVersion;
use http::StatusCode;
use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::aws_lc_rs};

use crate::{
    common::eventually,
    egress_lab::{EgressLab, call, greeting},
};

const MANIFESTS: &str = "
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {name: shop}
spec:
  namespaceSelector: {matchLabels: {mesh: shop}}
  egressFilter: {type: FILTER}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: color, namespace: shop}
spec:
  listeners:
    - portMapping: {port: 8080, protocol: http}
    - portMapping: {port: 6379, protocol: tcp}
  serviceDiscovery: {dns: {hostname: BACK, responseType: ENDPOINTS}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualService
metadata: {name: color, namespace: shop}
spec: {provider: {virtualNode: {virtualNodeRef: {name: color}}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: front, namespace: shop}
spec:
  backends: [{virtualService: {virtualServiceRef: {name: color}}}]
";

/// The first message of a TLS connection with this server name.
fn client_hello(server_name: &str) -> Vec<u8> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = server_name.to_owned().try_into().unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello
}

async fn filter_decides_on_everything_but_backends(version: EnvoyVersion) {
    let mut lab = EgressLab::start(version).await;
    let (front, back) = (lab.host("front").await, lab.host("back").await);
    // Another host has what no backend covers, so that a response says which way a connection took.
    let other = lab.host("other").await;
    lab.http_app(&back, "color", "0.0.0.0:8080").await;
    lab.tcp_app(&back, "redis", "0.0.0.0:6379").await;
    lab.http_app(&other, "other", "0.0.0.0:8080").await;
    lab.tcp_app(&other, "free", "0.0.0.0:7000").await;
    lab.tcp_app(&other, "tls", "0.0.0.0:443").await;
    let manifests = MANIFESTS.replace("BACK", &back.ip().to_string());
    lab.write(&manifests.replace("FILTER", "DROP_ALL"));
    lab.serve().await;
    let _envoy = lab.sidecar(&front, "front", &[]).await;

    let to = |port: u16| (other.ip(), port);
    let backends = async || {
        assert_eq!(call(&front, to(8080), "color.shop").await.body, "color");
        // The server speaks first, and the client sends nothing.
        assert_eq!(greeting(&front, to(6379), b"").await.unwrap(), "redis");
        let hello = client_hello("sts.eu-west-1.amazonaws.com");
        assert_eq!(greeting(&front, to(443), &hello).await.unwrap(), "tls");
    };
    backends().await;
    let unknown = call(&front, to(8080), "unknown.example").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert_eq!(greeting(&front, to(7000), b"").await, None);
    let strangers = [
        "example.com",
        "amazonaws.com",
        "evil-amazonaws.com",
        "sts.amazonaws.com.example.com",
    ];
    for name in strangers {
        let hello = client_hello(name);
        assert_eq!(greeting(&front, to(443), &hello).await, None, "{name}");
    }
    assert_eq!(greeting(&front, to(443), b"no TLS\n").await, None);
    // An Envoy that is called directly does not call itself.
    let itself = (Ipv4Addr::LOCALHOST, 15001);
    assert_eq!(greeting(&front, itself, b"").await, None);

    lab.write(&manifests.replace("FILTER", "ALLOW_ALL"));
    eventually("the other filter", async || {
        let unknown = call(&front, to(8080), "unknown.example").await;
        unknown.body == "other" && greeting(&front, to(7000), b"").await.is_some()
    })
    .await;
    backends().await;
    assert_eq!(greeting(&front, to(7000), b"").await.unwrap(), "free");
    for name in strangers {
        let hello = client_hello(name);
        let answer = greeting(&front, to(443), &hello).await;
        assert_eq!(answer.unwrap(), "tls", "{name}");
    }
    let answer = greeting(&front, to(443), b"no TLS\n").await;
    assert_eq!(answer.unwrap(), "tls");
    assert_eq!(greeting(&front, itself, b"").await, None);

    let closed = r#"{name: shop, annotations: {evermesh.dev/aws-egress: "false"}}
spec:
  namespaceSelector"#;
    let manifests = manifests.replacen("{name: shop}\nspec:\n  namespaceSelector", closed, 1);
    lab.write(&manifests.replace("FILTER", "DROP_ALL"));
    let hello = client_hello("sts.eu-west-1.amazonaws.com");
    eventually("TLS to AWS is closed", async || {
        greeting(&front, to(443), &hello).await.is_none()
    })
    .await;
    assert_eq!(greeting(&front, to(7000), b"").await, None);
    assert_eq!(call(&front, to(8080), "color.shop").await.body, "color");
    lab.has_no_problem().await;
}

#[tokio::test]
async fn oldest_envoy_filters_what_no_backend_covers() {
    filter_decides_on_everything_but_backends(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_filters_what_no_backend_covers() {
    filter_decides_on_everything_but_backends(EnvoyVersion::Newest).await;
}
