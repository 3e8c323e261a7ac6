//! The states of a stream before its client is authorized.

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use evermesh_proto::core;
use tokio::time::{self, Sleep};
use tonic::Status;

use super::{State, StreamBody, Transport};
use crate::{
    connection::{Connection, DiscoveryProtocol},
    limits::NODE_ID_BYTES,
    registry::{PeerNode, StreamPeer},
    server::{AuthDecision, Authorize, IdentifiedClient},
    store::StreamHandle,
};

/// A decision that is not made yet.
pub(super) type PendingDecision<T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send>>;

pub(super) struct Authenticating {
    pub(super) authorize: PendingDecision<Authorize>,
    pub(super) handle: StreamHandle,
    pub(super) transport: Transport,
}

pub(super) struct NewStream {
    pub(super) authorize: Authorize,
    pub(super) handle: StreamHandle,
    pub(super) transport: Transport,
    /// Time at which the first request must be complete, or large enough to authorize the client.
    pub(super) deadline: Pin<Box<Sleep>>,
}

pub(super) struct Authorizing<P: DiscoveryProtocol> {
    pub(super) client: PendingDecision<IdentifiedClient>,
    pub(super) handle: StreamHandle,
    pub(super) node: PeerNode,
    pub(super) transport: Transport,
    /// The first request, handled once the client is authorized; absent if it is not complete.
    pub(super) request: Option<P::Request>,
}

impl<P: DiscoveryProtocol> StreamBody<P> {
    /// Authorizes the client by the node of the first request, the only one that is guaranteed to carry it
    /// (xDS protocol, "Streaming gRPC subscriptions").
    pub(super) fn identify(
        &mut self,
        node: &core::Node,
        request: Option<P::Request>,
    ) -> Result<(), Status> {
        let State::New(new) = mem::replace(&mut self.state, State::Ended) else {
            return Ok(());
        };
        let length = node.id.len();
        if length > NODE_ID_BYTES {
            return Err(Status::resource_exhausted(format!(
                "node.id has {length} bytes, which exceeds the limit of {NODE_ID_BYTES} bytes: use mesh/MESH/virtualNode/NAME"
            )));
        }
        let NewStream {
            authorize,
            handle,
            transport,
            deadline: _,
        } = *new;
        let decision = authorize(node);
        let node = PeerNode::from(node);
        match decision {
            AuthDecision::Now(client) => self.open(handle, client?, node, transport, request),
            AuthDecision::Later(client) => {
                self.state = State::Authorizing(Box::new(Authorizing {
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

    /// Pending while the client is being authenticated or authorized.
    pub(super) fn poll_identity(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        if let State::Authenticating(pending) = &mut self.state {
            let authorize = ready!(pending.authorize.as_mut().poll(context));
            let State::Authenticating(pending) = mem::replace(&mut self.state, State::Ended) else {
                return Poll::Ready(Ok(()));
            };
            self.state = State::New(Box::new(NewStream {
                authorize: authorize?,
                handle: pending.handle,
                transport: pending.transport,
                deadline: Box::pin(time::sleep(self.shared.limits.request_time)),
            }));
        }
        let State::Authorizing(pending) = &mut self.state else {
            return Poll::Ready(Ok(()));
        };
        let client = ready!(pending.client.as_mut().poll(context));
        let State::Authorizing(pending) = mem::replace(&mut self.state, State::Ended) else {
            return Poll::Ready(Ok(()));
        };
        let Authorizing {
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
        node: PeerNode,
        transport: Transport,
        request: Option<P::Request>,
    ) -> Result<(), Status> {
        let IdentifiedClient {
            view,
            is_proven,
            revocation,
        } = client;
        self.revocation = revocation;
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
        let connection =
            Connection::with_handle(handle, view, P::VARIANT, self.shared.limits.spare_names);
        self.state = State::Open(self.shared.registry.register(peer, connection));
        request.map_or(Ok(()), |request| self.on_request(request))
    }
}
