//! Readiness of a replica: not ready before the API server can call its webhooks, and no longer ready once it shuts down.

use std::{fs, net::SocketAddr, process::Command};

use evermesh_testkit::{
    control_plane::ControlPlane, kubernetes::ApiServer, port::reserve_addresses, process,
    self_signed::SelfSigned, tools,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::common::eventually;

/// Whether a client that trusts this certificate can connect to the webhooks.
async fn accepts(webhook: SocketAddr, certificate: &SelfSigned) -> bool {
    let mut roots = RootCertStore::empty();
    let trusted = CertificateDer::from_pem_file(certificate.certificate()).unwrap();
    roots.add(trusted).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let Ok(stream) = TcpStream::connect(webhook).await else {
        return false;
    };
    let connector = TlsConnector::from(std::sync::Arc::new(config));
    let connected = connector.connect(webhook.ip().into(), stream).await;
    connected.is_ok()
}

#[tokio::test]
async fn replica_is_ready_from_its_certificate_until_its_shutdown() {
    let api = ApiServer::start().await.unwrap();
    api.install_crds().await.unwrap();
    let folder = tools::scratch("webhook").unwrap();
    let [webhook] = reserve_addresses().unwrap();
    let mut control_plane = ControlPlane::start_on_cluster(
        &api.kubeconfig(),
        &[
            "--webhook-address",
            &webhook.to_string(),
            "--webhook-certificates",
            &folder.path().display().to_string(),
        ],
    )
    .unwrap();
    let admin = control_plane.admin().clone();
    let readyz_says = async |words: &str| {
        let answer = match admin.get("/readyz").await {
            Ok(body) => body,
            Err(error) => format!("{error:#}"),
        };
        answer.trim().ends_with(words)
    };
    eventually("a /readyz that lacks only the certificate", async || {
        readyz_says("waiting for the certificate of the webhooks").await
    })
    .await;

    let certificate = SelfSigned::new(webhook.ip()).unwrap();
    assert!(!accepts(webhook, &certificate).await);
    for (from, to) in [
        (certificate.key(), "tls.key"),
        (certificate.certificate(), "tls.crt"),
    ] {
        fs::copy(from, folder.path().join(to)).unwrap();
    }
    eventually("readiness", async || readyz_says("ok").await).await;
    assert!(accepts(webhook, &certificate).await);

    let id = control_plane.process_id().unwrap().to_string();
    process::run(Command::new("kill").args(["-TERM", &id])).unwrap();
    eventually("the shutdown in /readyz", async || {
        readyz_says("shutting down").await
    })
    .await;
    assert!(accepts(webhook, &certificate).await);
    let xds = TcpStream::connect(control_plane.xds()).await;
    xds.unwrap();
    control_plane.stop().await.unwrap();
    assert!(!accepts(webhook, &certificate).await);
}
