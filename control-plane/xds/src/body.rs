//! One stream as the body of an HTTP response, polled by the task of its HTTP/2 connection.
//!
//! The body reads requests from the request body and changes from the stream's signal. It yields gRPC frames, and at the
//! end the gRPC status as trailers. HTTP/2 polls it only when flow control has room, so responses that a slow client
//! cannot receive yet are not made. The protocol's rules are in [`Connection`].
//!
//! A stream has no task, channel or queue of its own, to save memory: `cargo bench --bench fleet` measured 26 to 29 KB
//! per stream, including the HTTP/2 connection, with 20 endpoint resources each (docs/benchmarks.md).
//!
//! ```text
//! New ──first request──▶ Identifying ──view name──▶ Open ──▶ Ended
//!  └──────────── identity is known at once ──────────▲
//! ```

use std::{
    convert::Infallible,
    marker::PhantomData,
    mem,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use evermesh_proto::{core, resource::ResourceType};
use http::{HeaderMap, request};
use http_body::{Body, Frame};
use prost::Message;
use tonic::{
    Status,
    transport::server::{TcpConnectInfo, TlsConnectInfo, UdsConnectInfo},
};
use tracing::{debug, warn};

use crate::{
    connection::{Connection, DiscoveryProtocol},
    frame::{self, MessageReader},
    registry::{RegisteredProxy, StreamPeer},
    server::{IdentifiedClient, Identity, XdsServerState},
    signal::Signal,
    store::StreamHandle,
};

/// The response body of one stream.
pub(crate) struct StreamBody<P: DiscoveryProtocol> {
    shared: Arc<XdsServerState>,
    signal: Arc<Signal>,
    /// The type that this stream serves; absent on an aggregated stream.
    single_type: Option<ResourceType>,
    requests: tonic::body::Body,
    reader: MessageReader,
    state: State<P>,
    /// The log contains a request for a type that is not served. Logged once per stream.
    has_logged_unknown_type: bool,
    /// The log contains the confidential resources that the client does not get. Logged once per stream.
    has_logged_withheld: bool,
    ended: bool,
    protocol: PhantomData<fn() -> P>,
}

enum State<P: DiscoveryProtocol> {
    /// Before the first request.
    New(StreamHandle, Box<request::Parts>),
    /// The identity of the client is being checked.
    Identifying(Box<PendingIdentity<P>>),
    Open(Arc<RegisteredProxy>),
    Ended,
}

/// State of a stream whose client is being identified.
struct PendingIdentity<P: DiscoveryProtocol> {
    client: Pin<Box<dyn Future<Output = Result<IdentifiedClient, Status>> + Send>>,
    handle: StreamHandle,
    node: core::Node,
    transport: Transport,
    /// The first request, handled once the client is identified.
    request: P::Request,
}

/// The connection that carries a stream.
#[derive(Debug, Clone, Copy)]
struct Transport {
    /// The client's IP address and port; absent on a Unix socket.
    address: Option<SocketAddr>,
    /// Whether the client alone can read what is sent: TLS or a Unix socket.
    is_private: bool,
}

/// The gRPC status with which a stream ends.
type StreamEnd = Result<(), Status>;

impl<P: DiscoveryProtocol> StreamBody<P> {
    pub(crate) fn new(
        shared: Arc<XdsServerState>,
        single_type: Option<ResourceType>,
        request: http::Request<tonic::body::Body>,
    ) -> Self {
        let (parts, requests) = request.into_parts();
        let handle = shared.store.open_stream();
        let signal = Arc::clone(handle.signal());
        let metrics = shared.store.metrics();
        metrics.streams.add(1);
        metrics.streams_open.add(1);
        Self {
            signal,
            single_type,
            requests,
            reader: MessageReader::new(shared.max_request_bytes),
            state: State::New(handle, Box::new(parts)),
            has_logged_unknown_type: false,
            has_logged_withheld: false,
            ended: false,
            protocol: PhantomData,
            shared,
        }
    }

    /// Polls all inputs until a frame can be sent, the stream ends, or every input is pending.
    fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, StreamEnd>> {
        loop {
            if self.signal.is_closed() {
                let status =
                    Status::unavailable("the server is shutting down; connect to another replica");
                return Poll::Ready(Err(Err(status)));
            }
            match self.poll_identity(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(status)) => return Poll::Ready(Err(Err(status))),
                Poll::Pending if self.signal.sleep(context) => return Poll::Pending,
                Poll::Pending => continue,
            }
            match self.next_frame() {
                Ok(Some(frame)) => return Poll::Ready(Ok(frame)),
                Ok(None) => {}
                Err(status) => return Poll::Ready(Err(Err(status))),
            }
            match self.poll_request(context) {
                Poll::Ready(Err(end)) => return Poll::Ready(Err(end)),
                Poll::Pending if self.signal.sleep(context) => return Poll::Pending,
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
    }

    fn next_frame(&mut self) -> Result<Option<Bytes>, Status> {
        let State::Open(proxy) = &self.state else {
            return Ok(None);
        };
        let has_logged = self.has_logged_withheld;
        let registry = &self.shared.registry;
        let (response, withheld) = registry.with_connection(proxy, |connection| {
            let response = P::next_response(connection);
            let withheld = if has_logged {
                Vec::new()
            } else {
                connection.withheld()
            };
            (response, withheld)
        });
        if !withheld.is_empty() {
            self.has_logged_withheld = true;
            warn!(proxy = %proxy.view(), resources = ?withheld, "withholding private keys from a proxy that has not proven its identity or whose connection is not encrypted");
        }
        let Some(response) = response else {
            return Ok(None);
        };
        let frame = frame::encode(&response)?;
        self.shared.store.metrics().response_bytes.add(frame.len());
        Ok(Some(frame))
    }

    /// Handles all requests that have arrived. One chunk may contain an ACK and a change of the subscription, and the
    /// next response must consider both.
    fn poll_request(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamEnd>> {
        let mut has_handled = false;
        loop {
            while let Some(message) = self.reader.message().map_err(Err)? {
                self.on_message(message).map_err(Err)?;
                if let State::Identifying(_) = self.state {
                    return Poll::Ready(Ok(()));
                }
                has_handled = true;
            }
            match Pin::new(&mut self.requests).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(chunk) = frame.into_data() {
                        self.reader.push(chunk);
                    }
                }
                // Requests that arrived before the end of the body are answered before the stream ends.
                Poll::Ready(_) | Poll::Pending if has_handled => return Poll::Ready(Ok(())),
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Err(Err(status))),
                Poll::Ready(None) if self.reader.is_incomplete() => {
                    let status = Status::invalid_argument("the request body ends inside a message");
                    return Poll::Ready(Err(Err(status)));
                }
                Poll::Ready(None) => return Poll::Ready(Err(Ok(()))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn on_message(&mut self, message: Bytes) -> Result<(), Status> {
        let mut request = P::Request::decode(message).map_err(|error| {
            Status::invalid_argument(format!("cannot decode the discovery request: {error}"))
        })?;
        if let State::New(..) = self.state {
            let node = P::take_node(&mut request).unwrap_or_default();
            return self.identify(node, request);
        }
        self.on_request(request)
    }

    fn on_request(&mut self, request: P::Request) -> Result<(), Status> {
        let State::Open(proxy) = &self.state else {
            return Ok(());
        };
        let url = P::type_url(&request);
        let kind = match (self.single_type, ResourceType::from_type_url(url)) {
            (Some(single), _) if url.is_empty() => single,
            (Some(single), found) if found != Some(single) => {
                let served = single.type_url();
                let message =
                    format!("type `{url}` is not served here; this service serves `{served}`");
                return Err(Status::invalid_argument(message));
            }
            (_, Some(kind)) => kind,
            (_, None) if url.is_empty() => {
                return Err(Status::invalid_argument(
                    "the request has no type_url; aggregated streams require one",
                ));
            }
            (_, None) => {
                if !mem::replace(&mut self.has_logged_unknown_type, true) {
                    debug!(proxy = %proxy.id(), type_url = url, "ignoring requests for a type that is not served");
                }
                return Ok(());
            }
        };
        let registry = &self.shared.registry;
        registry.with_connection(proxy, |connection| P::on_request(connection, kind, request));
        Ok(())
    }

    /// Identifies the client by the node of the first request, the only one that is guaranteed to carry it
    /// (xDS protocol, "Streaming gRPC subscriptions").
    fn identify(&mut self, node: core::Node, request: P::Request) -> Result<(), Status> {
        let State::New(handle, parts) = mem::replace(&mut self.state, State::Ended) else {
            return Ok(());
        };
        let transport = Transport::of(&parts);
        match (self.shared.identify)(&node, &parts) {
            Identity::Now(client) => self.open(handle, client?, node, transport, request),
            Identity::Later(client) => {
                self.state = State::Identifying(Box::new(PendingIdentity {
                    client,
                    handle,
                    node,
                    transport,
                    request,
                }));
                Ok(())
            }
        }
    }

    /// Pending while the client is being identified.
    fn poll_identity(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let State::Identifying(pending) = &mut self.state else {
            return Poll::Ready(Ok(()));
        };
        let client = ready!(pending.client.as_mut().poll(context));
        let State::Identifying(pending) = mem::replace(&mut self.state, State::Ended) else {
            return Poll::Ready(Ok(()));
        };
        let PendingIdentity {
            client: _,
            handle,
            node,
            transport,
            request,
        } = *pending;
        Poll::Ready(client.and_then(|it| self.open(handle, it, node, transport, request)))
    }

    fn open(
        &mut self,
        mut handle: StreamHandle,
        client: IdentifiedClient,
        node: core::Node,
        transport: Transport,
        request: P::Request,
    ) -> Result<(), Status> {
        let IdentifiedClient { view, is_proven } = client;
        let is_trusted = is_proven && transport.is_private;
        if is_trusted {
            handle.trust();
        }
        let peer = StreamPeer {
            address: transport.address,
            variant: P::VARIANT,
            aggregated: self.single_type.is_none(),
            is_trusted,
            view: Arc::clone(&view),
            node,
        };
        let connection = Connection::with_handle(handle, view, P::VARIANT);
        self.state = State::Open(self.shared.registry.register(peer, connection));
        self.on_request(request)
    }

    fn end(&mut self) {
        if let State::Open(proxy) = mem::replace(&mut self.state, State::Ended) {
            self.shared.registry.unregister(&proxy);
        }
    }
}

impl<P: DiscoveryProtocol> Body for StreamBody<P> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        this.poll_step(context).map(|step| {
            Some(Ok(match step {
                Ok(bytes) => Frame::data(bytes),
                Err(end) => {
                    this.end();
                    this.ended = true;
                    Frame::trailers(trailers(end))
                }
            }))
        })
    }
}

impl<P: DiscoveryProtocol> Drop for StreamBody<P> {
    fn drop(&mut self) {
        if let State::Open(proxy) = &self.state {
            self.shared.registry.unregister(proxy);
        }
        self.shared.store.metrics().streams_open.sub(1);
    }
}

impl Transport {
    fn of(parts: &request::Parts) -> Self {
        let tcp = parts.extensions.get::<TcpConnectInfo>();
        let tls = parts.extensions.get::<TlsConnectInfo<TcpConnectInfo>>();
        let is_unix = parts.extensions.get::<UdsConnectInfo>().is_some();
        let info = tcp.or_else(|| tls.map(TlsConnectInfo::get_ref));
        Self {
            address: info.and_then(TcpConnectInfo::remote_addr),
            is_private: tls.is_some() || is_unix,
        }
    }
}

fn trailers(end: StreamEnd) -> HeaderMap {
    let status = end.err().unwrap_or_else(|| Status::ok(""));
    let mut headers = HeaderMap::new();
    if status.add_header(&mut headers).is_err() {
        // 13: INTERNAL. The message of the status is not a valid header.
        headers.insert(Status::GRPC_STATUS, http::HeaderValue::from_static("13"));
    }
    headers
}
