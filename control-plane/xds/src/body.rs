//! One stream as the body of an HTTP response, polled by the task of its HTTP/2 connection.
//!
//! The body reads requests from the request body and changes from the stream's signal. It yields gRPC frames, and at the
//! end the gRPC status as trailers. HTTP/2 polls it only when flow control has room, so responses that a slow client
//! cannot receive yet are not made. The protocol's rules are in [`Connection`](crate::Connection).
//!
//! A stream has no task, channel or queue of its own, to save memory: `cargo bench --bench fleet` measured 26 to 29 KB
//! per stream, including the HTTP/2 connection, with 20 endpoint resources each (docs/benchmarks.md).
//!
//! ```text
//! Authenticating ──credentials──▶ New ──node──▶ Authorizing ──view name──▶ Open ──▶ Ended
//! ```
//!
//! A stream ends when its client ends it, breaks a rule or [loses its right](Revocation), when the server shuts down, or
//! at a [random age](stream_age).
//!
//! A stream skips the states in which it would not wait. Nothing is read while it authenticates or authorizes. If the
//! first request is larger than [`XdsLimits::opening_bytes`](crate::XdsLimits), the node at its start authorizes the
//! stream before the rest is read.

mod charge;
mod identity;
mod transport;

use std::{
    convert::Infallible,
    future,
    marker::PhantomData,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use evermesh_proto::resource::ResourceType;
use http::HeaderMap;
use http_body::{Body, Frame};
use prost::Message;
use tokio::time::{self, Sleep};
use tonic::Status;
use tracing::{debug, warn};

use self::identity::{Authenticating, Authorizing, NewStream, PendingDecision};
pub(crate) use self::{
    charge::Charge,
    transport::{Transport, unwrap_transport},
};
use crate::{
    connection::DiscoveryProtocol,
    frame::{self, MessageReader},
    large_request::{self, LargeRequest, undecodable},
    peer_text::PeerText,
    registry::RegisteredProxy,
    server::{AuthDecision, Authorize, Revocation, XdsServerState},
    signal::Signal,
    stream_age,
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
    large: Option<LargeRequest>,
    /// Counts what the stream makes the server hold, besides responses that are not sent.
    charge: Charge,
    /// Time at which the stream ends.
    age: Option<Pin<Box<Sleep>>>,
    revocation: Option<Revocation>,
    /// The log contains a request for a type that is not served. Logged once per stream.
    has_logged_unknown_type: bool,
    /// The log contains the confidential resources that the client does not get. Logged once per stream.
    has_logged_withheld: bool,
    ended: bool,
    protocol: PhantomData<fn() -> P>,
}

enum State<P: DiscoveryProtocol> {
    /// The credentials of the client are being checked.
    Authenticating(Box<Authenticating>),
    /// Before the first request.
    New(Box<NewStream>),
    /// The right of the client to the view is being checked.
    Authorizing(Box<Authorizing<P>>),
    Open(Arc<RegisteredProxy>),
    Ended,
}

/// The gRPC status with which a stream ends.
type StreamEnd = Result<(), Status>;

impl<P: DiscoveryProtocol> StreamBody<P> {
    pub(crate) fn new(
        shared: Arc<XdsServerState>,
        single_type: Option<ResourceType>,
        (transport, charge): (Transport, Charge),
        authorize: AuthDecision<Authorize>,
        requests: tonic::body::Body,
    ) -> Self {
        let handle = shared.store.open_stream();
        let signal = Arc::clone(handle.signal());
        let metrics = shared.store.metrics();
        metrics.streams.add(1);
        metrics.streams_open.add(1);
        let limits = shared.limits;
        let age = shared.max_stream_age.map(stream_age::random);
        let authorize: PendingDecision<Authorize> = match authorize {
            AuthDecision::Now(authorize) => Box::pin(future::ready(authorize)),
            AuthDecision::Later(authorize) => authorize,
        };
        Self {
            signal,
            single_type,
            requests,
            reader: MessageReader::new(limits.request_bytes),
            state: State::Authenticating(Box::new(Authenticating {
                authorize,
                handle,
                transport,
            })),
            large: None,
            charge,
            age: age.map(|age| Box::pin(time::sleep(age))),
            revocation: None,
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
            if let Poll::Ready(last) = self.poll_end(context) {
                return Poll::Ready(last);
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

    /// Ready with the end of the stream, or with a last frame before it, once the stream ends whatever its client does.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, StreamEnd>> {
        if self.signal.is_closed() {
            let status =
                Status::unavailable("the server is shutting down; connect to another replica");
            return Poll::Ready(Err(Err(status)));
        }
        if let Some(revocation) = &mut self.revocation
            && let Poll::Ready(status) = revocation.as_mut().poll(context)
        {
            return Poll::Ready(Err(Err(status)));
        }
        let Some(age) = &mut self.age else {
            return Poll::Pending;
        };
        ready!(age.as_mut().poll(context));
        Poll::Ready(match self.first_response() {
            Ok(Some(frame)) => Ok(frame),
            Ok(None) => Err(Ok(())),
            Err(status) => Err(Err(status)),
        })
    }

    /// An empty response if the client has not received any on this stream, as after a reconnect without changes. Envoy
    /// reconnects at once after a stream with a response, and otherwise after twice the last pause, up to 30 s
    /// (`GrpcStream::onReceiveMessage`).
    fn first_response(&mut self) -> Result<Option<Bytes>, Status> {
        let State::Open(proxy) = &self.state else {
            return Ok(None);
        };
        let registry = &self.shared.registry;
        let response = registry.with_connection(proxy, P::empty_first_response);
        response
            .map(|response| frame::encode(&response))
            .transpose()
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
        Ok(Some(self.charge.until_sent(frame)))
    }

    /// Handles all requests that have arrived. One chunk may contain an ACK and a change of the subscription, and the
    /// next response must consider both.
    fn poll_request(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamEnd>> {
        let mut has_handled = false;
        loop {
            while let Some(message) = self.reader.message().map_err(Err)? {
                self.large = None;
                self.on_message(message).map_err(Err)?;
                if let State::Authorizing(_) = self.state {
                    return Poll::Ready(Ok(()));
                }
                has_handled = true;
            }
            self.charge.incomplete_request(self.reader.held_bytes());
            if self.reader.partial().len() >= self.shared.limits.opening_bytes {
                self.on_large_request().map_err(Err)?;
                if let State::Authorizing(_) = self.state {
                    return Poll::Ready(Ok(()));
                }
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
                Poll::Pending => return self.poll_deadline(context).map(|late| Err(Err(late))),
            }
        }
    }

    /// Ready with a status once the client has taken too long to send a request.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<Status> {
        match (&mut self.state, &mut self.large) {
            (State::New(new), _) => ready!(new.deadline.as_mut().poll(context)),
            (_, Some(large)) => ready!(large.poll_deadline(context)),
            (_, None) => return Poll::Pending,
        }
        let seconds = self.shared.limits.request_time.as_secs();
        Poll::Ready(Status::deadline_exceeded(format!(
            "no complete request arrived within {seconds} s: send one as soon as the stream is open"
        )))
    }

    /// Handles the part of a request that has arrived, once it is larger than what a client may send unauthorized.
    fn on_large_request(&mut self) -> Result<(), Status> {
        if let State::New(..) = self.state {
            let node = large_request::node_at_start::<P>(self.reader.partial())?;
            return self.identify(&node, None);
        }
        if self.large.is_none() {
            let length = self.reader.partial_length();
            let limits = &self.shared.limits;
            if let Some(names) = self.name_limit() {
                large_request::check_length(length, limits, names)?;
            }
            let large = self.shared.large_requests.reserve(length, limits)?;
            self.large = Some(large);
            self.reader.reserve();
        }
        Ok(())
    }

    /// The number of names to which the stream may subscribe, once its client is authorized.
    fn name_limit(&self) -> Option<usize> {
        let State::Open(proxy) = &self.state else {
            return None;
        };
        let registry = &self.shared.registry;
        Some(registry.with_connection(proxy, |connection| connection.name_limit()))
    }

    fn on_message(&mut self, message: Bytes) -> Result<(), Status> {
        if message.len() > self.shared.limits.opening_bytes
            && let Some(names) = self.name_limit()
        {
            large_request::check::<P>(&message, &self.shared.limits, names)?;
        }
        let mut request = P::Request::decode(message).map_err(|error| undecodable(&error))?;
        if let State::New(..) = self.state {
            let node = P::take_node(&mut request).unwrap_or_default();
            return self.identify(&node, Some(request));
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
                let url = PeerText(url);
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
                    debug!(proxy = %proxy.id(), type_url = %PeerText(url), "ignoring requests for a type that is not served");
                }
                return Ok(());
            }
        };
        let registry = &self.shared.registry;
        let (handled, bytes) = registry.with_connection(proxy, |connection| {
            let handled = P::on_request(connection, kind, request);
            (handled, connection.held_bytes())
        });
        self.charge.subscriptions(bytes);
        handled
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

fn trailers(end: StreamEnd) -> HeaderMap {
    let status = end.err().unwrap_or_else(|| Status::ok(""));
    let mut headers = HeaderMap::new();
    if status.add_header(&mut headers).is_err() {
        // 13: INTERNAL. The message of the status is not a valid header.
        headers.insert(Status::GRPC_STATUS, http::HeaderValue::from_static("13"));
    }
    headers
}
