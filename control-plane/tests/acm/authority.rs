//! A certificate authority, and a client that trusts it.

use std::{io, net::SocketAddr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use evermesh_testkit::authority::{TestAuthority, TestCertificate};
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rcgen::SanType;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The address in all certificates.
const NAME: &str = "127.0.0.1";

pub(crate) struct Authority(TestAuthority);

/// A connection over TLS that is kept open.
pub(crate) struct TlsConnection {
    certificate: Vec<u8>,
    sender: http1::SendRequest<Empty<Bytes>>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        Self(TestAuthority::new().unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem().to_owned()
    }

    /// Signs a new certificate for [`NAME`].
    pub(crate) fn sign(&self) -> TestCertificate {
        let name = SanType::IpAddress(NAME.parse().unwrap());
        self.0.sign([name]).unwrap()
    }

    /// Connects to a server with TLS.
    pub(crate) async fn connect(&self, address: SocketAddr) -> io::Result<TlsConnection> {
        let mut roots = RootCertStore::empty();
        let pem = CertificateDer::from_pem_slice(self.0.pem().as_bytes());
        roots.add(pem.unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from(NAME).unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await?;
        let certificates = stream.get_ref().1.peer_certificates().unwrap();
        let certificate = certificates[0].to_vec();
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(TlsConnection {
            certificate,
            sender,
        })
    }
}

/// The certificate as it is sent in a handshake.
pub(crate) fn der(certificate: &TestCertificate) -> Vec<u8> {
    let der = CertificateDer::from_pem_slice(certificate.chain.as_bytes());
    der.unwrap().to_vec()
}

/// Texts of which one is in every output that shows the key: the lines of PEM, and those of PEM in base64.
pub(crate) fn parts_of_key(certificate: &TestCertificate) -> Vec<String> {
    let lines = certificate
        .key
        .lines()
        .filter(|line| !line.starts_with('-'));
    let mut parts: Vec<String> = lines.map(ToOwned::to_owned).collect();
    let encoded = STANDARD.encode(&certificate.key);
    // The first characters are those of every key.
    let chunks = encoded.as_bytes()[80..].chunks(40);
    parts.extend(chunks.map(|chunk| String::from_utf8_lossy(chunk).into_owned()));
    parts.retain(|part| part.len() > 20);
    assert!(parts.len() > 4);
    parts
}

impl TlsConnection {
    /// The certificate that the server presented.
    pub(crate) fn certificate(&self) -> Vec<u8> {
        self.certificate.clone()
    }

    /// The body of a response on this connection.
    pub(crate) async fn get(&mut self) -> hyper::Result<String> {
        self.sender.ready().await?;
        let request = Request::get("/").header("host", NAME);
        let request = request.body(Empty::new()).unwrap();
        let response = self.sender.send_request(request).await?;
        let body = response.into_body().collect().await?.to_bytes();
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}
