//! A client that speaks TLS itself, for connections that no proxy makes.

use std::{io, sync::Arc};

use evermesh_testkit::{
    authority::TestCertificate,
    http::{Address, ByteStream},
};
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

type Stream = TlsStream<Box<dyn ByteStream>>;

/// Connects with TLS to a server of this name. `certificate` is that of the client.
pub(crate) async fn connect(
    address: &Address,
    name: &str,
    ca: &str,
    certificate: Option<&TestCertificate>,
) -> io::Result<Stream> {
    open(address, name, config(ca, certificate)).await
}

/// The protocol that a server chooses of these (ALPN).
pub(crate) async fn negotiate(
    address: &Address,
    name: &str,
    ca: &str,
    protocols: &[&str],
) -> io::Result<Option<String>> {
    let mut config = config(ca, None);
    config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
    let stream = open(address, name, config).await?;
    let chosen = stream.get_ref().1.alpn_protocol();
    Ok(chosen.map(|protocol| String::from_utf8_lossy(protocol).into_owned()))
}

async fn open(address: &Address, name: &str, config: ClientConfig) -> io::Result<Stream> {
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    connector.connect(name, address.connect().await?).await
}

fn config(ca: &str, certificate: Option<&TestCertificate>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(authority.unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match certificate {
        None => config.with_no_client_auth(),
        Some(TestCertificate { chain, key }) => {
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            config.with_client_auth_cert(vec![der(chain)], key).unwrap()
        }
    }
}

/// The first certificate of a PEM text.
pub(crate) fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// The certificate that the server presented.
pub(crate) fn presented(stream: &Stream) -> CertificateDer<'static> {
    let certificates = stream.get_ref().1.peer_certificates().unwrap();
    certificates[0].clone().into_owned()
}

/// The status of a request over an open connection.
pub(crate) async fn get(stream: Stream, host: &str, path: &str) -> hyper::Result<u16> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(path).header("host", host);
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    response.into_body().collect().await?;
    Ok(status)
}
