//! xDS over TLS, with manifests from a folder: client certificates, shared tokens, and certificates that change.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod common;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use common::eventually;
use evermesh_testkit::{control_plane::ControlPlane, tools, xds::open_stream};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tonic::{
    Code,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

const FRONT: &str = "mesh/demo/virtualNode/front_demo";
const OTHER: &str = "mesh/demo/virtualNode/color-v1_demo";

/// A certificate authority and a folder with its files.
struct Authority {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let authority = Self {
            dir: tempfile::tempdir().unwrap(),
            issuer: Issuer::new(params, key),
            pem,
        };
        fs::write(authority.file("ca.crt"), &authority.pem).unwrap();
        authority.write_server_certificate();
        authority
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Signs a new certificate for this name; returns the certificate and its key.
    fn sign(&self, name: SanType) -> (String, String) {
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// Writes a certificate and a key for the server.
    fn write_server_certificate(&self) {
        let (certificate, key) = self.sign(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
        fs::write(self.file("tls.crt"), certificate).unwrap();
        fs::write(self.file("tls.key"), key).unwrap();
    }

    /// TLS settings of a client that trusts the authority, with a certificate for this URI.
    fn client(&self, uri: Option<&str>) -> ClientTlsConfig {
        let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.pem));
        let Some(uri) = uri else {
            return config;
        };
        let (certificate, key) = self.sign(SanType::URI(uri.try_into().unwrap()));
        config.identity(Identity::from_pem(certificate, key))
    }

    /// Starts a control plane that uses the server's certificate, and waits until it is ready.
    async fn control_plane(&self, more: &[&str]) -> ControlPlane {
        let path = |name: &str| self.file(name).to_str().unwrap().to_owned();
        let (certificate, key) = (path("tls.crt"), path("tls.key"));
        let tls = ["--xds-tls-cert", &certificate, "--xds-tls-key", &key];
        let config = tools::workspace().unwrap().join("examples/canary");
        let arguments = [&tls[..], more].concat();
        let mut control_plane = ControlPlane::start(Path::new(&config), &arguments).unwrap();
        control_plane.ready().await.unwrap();
        control_plane
    }
}

async fn connect(
    address: SocketAddr,
    tls: ClientTlsConfig,
) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
    endpoint.tls_config(tls).unwrap().connect().await
}

#[tokio::test]
async fn certificate_is_valid_for_the_proxy_that_it_names() {
    let authority = Authority::new();
    let ca = authority.file("ca.crt").to_str().unwrap().to_owned();
    let by = ["--xds-authentication=certificate", "--xds-client-ca", &ca];
    let control_plane = authority.control_plane(&by).await;
    let address = control_plane.xds();

    let front = authority.client(Some(&format!("spiffe://demo/{FRONT}")));
    let channel = connect(address, front.clone()).await.unwrap();
    let _stream = open_stream(channel.clone(), FRONT, None).await.unwrap();
    let status = open_stream(channel, OTHER, None).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let seen = control_plane.proxies().await.unwrap();
    assert!(seen.to_string().contains("127.0.0.1"), "{seen}");
    // Without a Kubernetes cluster the service account of a certificate belongs to no proxy.
    let account = authority.client(Some("spiffe://cluster.local/ns/demo/sa/front"));
    let channel = connect(address, account).await.unwrap();
    let status = open_stream(channel, FRONT, None).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);

    // With TLS 1.3 the client connects before the server checks the client's certificate.
    let strangers = Authority::new().client(Some(&format!("spiffe://demo/{FRONT}")));
    let strangers = strangers.ca_certificate(Certificate::from_pem(&authority.pem));
    for stranger in [authority.client(None), strangers] {
        let served = match connect(address, stranger).await {
            Ok(channel) => open_stream(channel, FRONT, None).await.is_ok(),
            Err(_) => false,
        };
        assert!(!served);
    }

    // The server reloads its own certificate and the authority of clients.
    let next = Authority::new();
    for name in ["ca.crt", "tls.crt", "tls.key"] {
        fs::copy(next.file(name), authority.file(name)).unwrap();
    }
    let new = next.client(Some(&format!("spiffe://demo/{FRONT}")));
    eventually("the new certificates", async || {
        let Ok(channel) = connect(address, new.clone()).await else {
            return false;
        };
        open_stream(channel, FRONT, None).await.is_ok()
    })
    .await;
    connect(address, front).await.unwrap_err();
}

#[tokio::test]
async fn shared_token_is_accepted_over_tls() {
    let authority = Authority::new();
    let tokens = authority.file("tokens");
    fs::write(&tokens, "secret\n").unwrap();
    let by = ["--xds-authentication=token", "--xds-token-file"];
    let by = [&by[..], &[tokens.to_str().unwrap()]].concat();
    let control_plane = authority.control_plane(&by).await;
    let tls = authority.client(None);
    let channel = connect(control_plane.xds(), tls).await.unwrap();
    open_stream(channel.clone(), FRONT, Some("Bearer secret"))
        .await
        .unwrap();
    for bad in [None, Some("Bearer other")] {
        let status = open_stream(channel.clone(), FRONT, bad).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
    }
    // Without TLS the server answers nothing.
    let plain = Endpoint::from_shared(format!("http://{}", control_plane.xds())).unwrap();
    if let Ok(channel) = plain.connect().await {
        open_stream(channel, FRONT, Some("Bearer secret"))
            .await
            .unwrap_err();
    }
}
