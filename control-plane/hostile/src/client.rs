//! Connections and streams of a client that may do what no proxy does.

use std::{
    future::poll_fn,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use evermesh_testkit::http::ByteStream;
use h2::{
    RecvStream, SendStream,
    client::{Builder, ResponseFuture, SendRequest},
};
use http::{HeaderMap, Request};
use prost::Message;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpSocket,
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;

/// Path of the incremental method of the aggregated discovery service.
const DELTA: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// Bytes before each gRPC message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Window of a connection and of a stream that reads everything.
const LARGE_WINDOW: u32 = 16 << 20;

/// Connects from an address of the loopback network.
pub(crate) async fn connect(
    server: SocketAddr,
    from: Ipv4Addr,
) -> io::Result<tokio::net::TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((from, 0).into())?;
    let stream = socket.connect(server).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// TLS of clients that trust this authority (PEM).
pub(crate) fn tls(authority: &str) -> Result<TlsConnector> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // Port of xDS alone: without ALPN the webhooks expect HTTP/1.1.
    config.alpn_protocols = vec![];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Connects with TLS, to the loopback address for which the certificate is valid.
pub(crate) async fn connect_tls(
    connector: &TlsConnector,
    server: SocketAddr,
    from: Ipv4Addr,
) -> io::Result<Box<dyn ByteStream>> {
    let stream = connect(server, from).await?;
    let name = ServerName::from(server.ip());
    Ok(Box::new(connector.connect(name, stream).await?))
}

/// An HTTP/2 connection to the xDS port, which is closed when this is dropped.
pub(crate) struct XdsConnection {
    streams: SendRequest<Bytes>,
    task: JoinHandle<()>,
}

impl XdsConnection {
    /// A connection whose streams receive everything that the server sends.
    pub(crate) async fn open(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Self> {
        Self::with_window(stream, LARGE_WINDOW).await
    }

    /// A connection that receives up to this number of bytes from each stream that is not read.
    pub(crate) async fn with_window(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        window: u32,
    ) -> Result<Self> {
        let mut builder = Builder::new();
        builder
            .initial_window_size(window)
            .initial_connection_window_size(LARGE_WINDOW);
        let (streams, connection) = builder.handshake(stream).await?;
        let task = tokio::spawn(async move {
            // An error means that the server has closed the connection, which the streams notice.
            let _ = connection.await;
        });
        Ok(Self { streams, task })
    }

    /// Waits until the server closes the connection.
    pub(crate) async fn closed(&mut self) {
        // The task neither panics nor is aborted before this is dropped.
        let _ = (&mut self.task).await;
    }

    /// Opens a stream. Waits while the server allows no further one.
    pub(crate) async fn stream(&self, token: Option<&str>) -> Result<XdsStream> {
        let mut request = Request::post(format!("http://xds{DELTA}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut streams = self.streams.clone().ready().await?;
        let (response, requests) = streams.send_request(request.body(())?, false)?;
        Ok(XdsStream {
            requests,
            responses: Responses::Awaited(response),
            received: BytesMut::new(),
        })
    }
}

impl Drop for XdsConnection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One gRPC stream.
pub(crate) struct XdsStream {
    requests: SendStream<Bytes>,
    responses: Responses,
    received: BytesMut,
}

enum Responses {
    Awaited(ResponseFuture),
    Open(RecvStream),
}

impl XdsStream {
    /// Sends bytes as the server's flow control allows it.
    pub(crate) async fn send_bytes(&mut self, mut bytes: Bytes) -> Result<()> {
        while !bytes.is_empty() {
            self.requests.reserve_capacity(bytes.len());
            let capacity = poll_fn(|context| self.requests.poll_capacity(context)).await;
            let capacity = capacity.context("the stream has ended")??;
            let part = bytes.split_to(capacity.min(bytes.len()));
            self.requests.send_data(part, false)?;
        }
        Ok(())
    }

    /// The next message; an error with the status once the stream has ended.
    pub(crate) async fn receive<M: Message + Default>(&mut self) -> Result<M> {
        loop {
            if let Some(message) = self.take_message()? {
                return Ok(M::decode(message)?);
            }
            if let Responses::Awaited(response) = &mut self.responses {
                let response = response.await?;
                ensure_ok(response.headers())?;
                self.responses = Responses::Open(response.into_body());
            }
            let Responses::Open(body) = &mut self.responses else {
                continue;
            };
            let Some(chunk) = body.data().await else {
                let trailers = body.trailers().await?;
                ensure_ok(&trailers.unwrap_or_default())?;
                bail!("the server ended the stream");
            };
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            self.received.extend_from_slice(&chunk);
        }
    }

    fn take_message(&mut self) -> Result<Option<Bytes>> {
        let Some(prefix) = self.received.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = PREFIX + usize::try_from((&prefix[1..]).get_u32())?;
        if self.received.len() < length {
            return Ok(None);
        }
        Ok(Some(
            self.received.split_to(length).freeze().slice(PREFIX..),
        ))
    }
}

fn ensure_ok(headers: &HeaderMap) -> Result<()> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        None | Some("0") => Ok(()),
        Some(code) => bail!(
            "gRPC status {code}: {}",
            text("grpc-message").unwrap_or_default()
        ),
    }
}

/// A message as a gRPC frame.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    let bytes = message.encode_to_vec();
    start_of(bytes.len(), &bytes)
}

/// The start of a gRPC frame whose message has `length` bytes.
pub(crate) fn start_of(length: usize, start: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PREFIX + start.len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.put_slice(start);
    bytes.freeze()
}
