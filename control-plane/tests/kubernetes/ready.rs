//! When others may be sent to a replica: not before the API server can ask it, and no more once it is to end.

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

use crate::eventually;

/// Whether the webhooks take a connection of somebody who trusts this certificate.
async fn takes(webhook: SocketAddr, certificate: &SelfSigned) -> bool {
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
async fn others_are_sent_to_a_replica_that_can_answer_and_stays() {
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
    let says = async |words: &str| {
        let said = match admin.get("/readyz").await {
            Ok(said) => said,
            Err(refusal) => format!("{refusal:#}"),
        };
        said.trim().ends_with(words)
    };
    eventually("nothing but the certificate is missing", async || {
        says("waiting for the certificate of the webhooks").await
    })
    .await;

    let certificate = SelfSigned::new(webhook.ip()).unwrap();
    assert!(!takes(webhook, &certificate).await);
    for (from, to) in [
        (certificate.key(), "tls.key"),
        (certificate.certificate(), "tls.crt"),
    ] {
        fs::copy(from, folder.path().join(to)).unwrap();
    }
    eventually("it is ready", async || says("ok").await).await;
    assert!(takes(webhook, &certificate).await);

    let id = control_plane.process_id().unwrap().to_string();
    process::run(Command::new("kill").args(["-TERM", &id])).unwrap();
    eventually("it is about to end", async || says("shutting down").await).await;
    assert!(takes(webhook, &certificate).await);
    let xds = TcpStream::connect(control_plane.xds()).await;
    xds.unwrap();
    control_plane.stop().await.unwrap();
    assert!(!takes(webhook, &certificate).await);
}
