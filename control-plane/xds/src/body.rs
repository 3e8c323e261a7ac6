//! One stream as a response body, polled by the connection's own task: no task, no channel, no queue.
//!
//! In: frames of the request body, and the stream's signal. Out: frames of the response body, then the
//! gRPC status as trailers. What a client reads slowly is not made: the next response is put together
//! when there is room to send it.
//! Must not know the protocol's rules; the [`Connection`] does.

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
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};
use tracing::debug;

use crate::{
    connection::{Connection, DiscoveryProtocol},
    frame::{self, MessageReader},
    registry::{RegisteredProxy, StreamPeer},
    server::{Identity, XdsServerState},
    signal::Signal,
    store::StreamHandle,
};

/// The body of one stream's response.
pub(crate) struct StreamBody<P: DiscoveryProtocol> {
    shared: Arc<XdsServerState>,
    signal: Arc<Signal>,
    /// The only type of a stream that is not aggregated.
    only: Option<ResourceType>,
    requests: tonic::body::Body,
    reader: MessageReader,
    state: State<P>,
    /// The client asked for a type that is not served; said once.
    odd_type: bool,
    ended: bool,
    protocol: PhantomData<fn() -> P>,
}

enum State<P: DiscoveryProtocol> {
    /// Before the first request.
    New(StreamHandle, Box<request::Parts>),
    /// Somebody else is asked who is there.
    PendingIdentity(Box<PendingIdentity<P>>),
    Open(Arc<RegisteredProxy>),
    Ended,
}

/// What waits until it is known who is there.
struct PendingIdentity<P: DiscoveryProtocol> {
    who: Pin<Box<dyn Future<Output = Result<Arc<str>, Status>> + Send>>,
    handle: StreamHandle,
    node: core::Node,
    address: Option<SocketAddr>,
    /// The first one.
    request: P::Request,
}

/// Why a stream ends: with OK, or with an error.
type End = Result<(), Status>;

impl<P: DiscoveryProtocol> StreamBody<P> {
    pub(crate) fn new(
        shared: Arc<XdsServerState>,
        only: Option<ResourceType>,
        request: http::Request<tonic::body::Body>,
    ) -> Self {
        let (parts, requests) = request.into_parts();
        let handle = shared.store.open();
        let signal = Arc::clone(handle.signal());
        let metrics = shared.store.metrics();
        metrics.streams.add(1);
        metrics.streams_open.add(1);
        Self {
            signal,
            only,
            requests,
            reader: MessageReader::new(shared.max_request_bytes),
            state: State::New(handle, Box::new(parts)),
            odd_type: false,
            ended: false,
            protocol: PhantomData,
            shared,
        }
    }

    /// Polls until there is something to send, or nothing to do.
    fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, End>> {
        loop {
            if self.signal.is_closed() {
                let status = Status::unavailable("the server is going away; connect again");
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

    fn next_frame(&self) -> Result<Option<Bytes>, Status> {
        let State::Open(proxy) = &self.state else {
            return Ok(None);
        };
        let response = self.shared.registry.with(proxy, P::next_response);
        let Some(response) = response else {
            return Ok(None);
        };
        let frame = frame::encode(&response)?;
        self.shared.store.metrics().response_bytes.add(frame.len());
        Ok(Some(frame))
    }

    /// Reads as many requests as are there: one chunk may hold an answer and what must be known before
    /// the next response is made.
    fn poll_request(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        let mut any = false;
        loop {
            while let Some(message) = self.reader.message().map_err(Err)? {
                self.on_message(message).map_err(Err)?;
                if let State::PendingIdentity(_) = self.state {
                    return Poll::Ready(Ok(()));
                }
                any = true;
            }
            match Pin::new(&mut self.requests).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(chunk) = frame.into_data() {
                        self.reader.push(chunk);
                    }
                }
                // What the last requests ask for is sent before the stream ends.
                Poll::Ready(_) | Poll::Pending if any => return Poll::Ready(Ok(())),
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Err(Err(status))),
                Poll::Ready(None) if self.reader.is_within() => {
                    let status = Status::invalid_argument("the last message is not whole");
                    return Poll::Ready(Err(Err(status)));
                }
                Poll::Ready(None) => return Poll::Ready(Err(Ok(()))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn on_message(&mut self, message: Bytes) -> Result<(), Status> {
        let mut request = P::Request::decode(message).map_err(|error| {
            Status::invalid_argument(format!("a message is not a discovery request: {error}"))
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
        let kind = match (self.only, ResourceType::from_type_url(url)) {
            (Some(only), _) if url.is_empty() => only,
            (Some(only), found) if found != Some(only) => {
                let message = format!("this service has {}, not {url:?}", only.type_url());
                return Err(Status::invalid_argument(message));
            }
            (_, Some(kind)) => kind,
            (_, None) if url.is_empty() => {
                return Err(Status::invalid_argument("a request has no type URL"));
            }
            (_, None) => {
                if !mem::replace(&mut self.odd_type, true) {
                    debug!(proxy = %proxy.id(), url, "asked for a type that is not served");
                }
                return Ok(());
            }
        };
        let registry = &self.shared.registry;
        registry.with(proxy, |connection| P::on_request(connection, kind, request));
        Ok(())
    }

    /// Learns from the first request who is there: only that one is sure to say it
    /// (xDS protocol, "Streaming gRPC subscriptions").
    fn identify(&mut self, node: core::Node, request: P::Request) -> Result<(), Status> {
        let State::New(handle, parts) = mem::replace(&mut self.state, State::Ended) else {
            return Ok(());
        };
        let address = address(&parts);
        match (self.shared.identify)(&node, &parts) {
            Identity::Now(view) => self.open(handle, view?, node, address, request),
            Identity::Later(who) => {
                self.state = State::PendingIdentity(Box::new(PendingIdentity {
                    who,
                    handle,
                    node,
                    address,
                    request,
                }));
                Ok(())
            }
        }
    }

    /// Ready unless somebody else is being asked who is there.
    fn poll_identity(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let State::PendingIdentity(asking) = &mut self.state else {
            return Poll::Ready(Ok(()));
        };
        let view = ready!(asking.who.as_mut().poll(context));
        let State::PendingIdentity(asking) = mem::replace(&mut self.state, State::Ended) else {
            return Poll::Ready(Ok(()));
        };
        let PendingIdentity {
            who: _,
            handle,
            node,
            address,
            request,
        } = *asking;
        Poll::Ready(view.and_then(|view| self.open(handle, view, node, address, request)))
    }

    fn open(
        &mut self,
        handle: StreamHandle,
        view: Arc<str>,
        node: core::Node,
        address: Option<SocketAddr>,
        request: P::Request,
    ) -> Result<(), Status> {
        let peer = StreamPeer {
            address,
            variant: P::VARIANT,
            aggregated: self.only.is_none(),
            view: Arc::clone(&view),
            node,
        };
        let connection = Connection::with_handle(handle, view, P::VARIANT);
        self.state = State::Open(self.shared.registry.enter(peer, connection));
        self.on_request(request)
    }

    fn end(&mut self) {
        if let State::Open(proxy) = mem::replace(&mut self.state, State::Ended) {
            self.shared.registry.leave(&proxy);
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
            self.shared.registry.leave(proxy);
        }
        self.shared.store.metrics().streams_open.sub(1);
    }
}

/// Where the client is, if the connection says so.
fn address(parts: &request::Parts) -> Option<SocketAddr> {
    let tcp = parts.extensions.get::<TcpConnectInfo>();
    let tls = || parts.extensions.get::<TlsConnectInfo<TcpConnectInfo>>();
    tcp.or_else(|| tls().map(TlsConnectInfo::get_ref))?
        .remote_addr()
}

fn trailers(end: End) -> HeaderMap {
    let status = end.err().unwrap_or_else(|| Status::ok(""));
    let mut headers = HeaderMap::new();
    if status.add_header(&mut headers).is_err() {
        headers.insert(Status::GRPC_STATUS, http::HeaderValue::from_static("13"));
    }
    headers
}
