//! A client that calls the protocol state machine directly, without I/O. "No response" is certain here.

use std::{
    collections::BTreeMap,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use evermesh_proto::{
    discovery::{DeltaDiscoveryRequest, DiscoveryRequest},
    resource::{
        Resource, ResourceType,
        ResourceType::{Cluster, Endpoint, Listener, Route},
    },
};
use evermesh_xds::{
    Connection, DeliveryOutcome, Delta, DiscoveryProtocol, ResourceStatus, Sotw, Store, XdsVariant,
};

use super::{
    client::{ClientState, Request, Response},
    store::TestStore,
};

/// A client that has subscribed to all types as Envoy does, and has ACKed one resource of each.
pub fn envoy(variant: XdsVariant) -> (TestStore, LocalClient) {
    let store = TestStore::with(&[
        (Cluster, "a", "1"),
        (Endpoint, "a", "1"),
        (Listener, "l", "1"),
        (Route, "r", "1"),
    ]);
    let mut client = LocalClient::new(&store, variant);
    client.subscribe_to(Cluster, &[]);
    client.settle();
    client.subscribe_to(Endpoint, &["a"]);
    client.settle();
    client.subscribe_to(Listener, &[]);
    client.settle();
    client.subscribe_to(Route, &["r"]);
    client.settle();
    (store, client)
}

pub struct LocalClient {
    pub connection: Connection,
    state: ClientState,
}

impl LocalClient {
    pub fn new(store: &Arc<Store>, variant: XdsVariant) -> Self {
        Self::with_view(store, "node", variant)
    }

    pub fn with_view(store: &Arc<Store>, view: &str, variant: XdsVariant) -> Self {
        Self {
            connection: Connection::new(store, view.into(), variant),
            state: ClientState::new(variant),
        }
    }

    /// Opens a new stream to a store and sends the first requests.
    pub fn reconnect(&mut self, store: &Arc<Store>) {
        self.connection = Connection::new(store, "node".into(), self.state.variant);
        for (kind, request) in self.state.reconnect() {
            self.send(kind, request);
        }
    }

    fn send(&mut self, kind: ResourceType, request: Request) {
        match request {
            Request::Delta(request) => self.send_delta(kind, request),
            Request::Sotw(request) => self.send_sotw(kind, request),
        }
    }

    /// Sends a request that the client's state does not know.
    pub fn send_delta(&mut self, kind: ResourceType, request: DeltaDiscoveryRequest) {
        Delta::on_request(&mut self.connection, kind, request).unwrap();
    }

    /// Sends a request that the client's state does not know.
    pub fn send_sotw(&mut self, kind: ResourceType, request: DiscoveryRequest) {
        Sotw::on_request(&mut self.connection, kind, request).unwrap();
    }

    /// Subscribes to exactly these names; no name at all in the first request is a wildcard.
    pub fn subscribe_to(&mut self, kind: ResourceType, names: &[&str]) {
        let request = self.state.subscribe_to(kind, names);
        self.send(kind, request);
    }

    /// The next response, which the client has not answered yet.
    pub fn receive(&mut self) -> Option<Response> {
        let response = match self.state.variant {
            XdsVariant::Delta => Delta::next_response(&mut self.connection)?.into(),
            XdsVariant::Sotw => Sotw::next_response(&mut self.connection)?.into(),
        };
        self.state.receive(&response);
        Some(response)
    }

    pub fn ack(&mut self, response: &Response) {
        let request = self.state.ack(response);
        self.send(response.kind, request);
    }

    pub fn nack(&mut self, response: &Response, message: &str) {
        let request = self.state.nack(response, message);
        self.send(response.kind, request);
    }

    /// Receives a response, which must exist, and ACKs it.
    pub fn receive_and_ack(&mut self) -> Response {
        let response = self.receive().expect("a response");
        self.ack(&response);
        response
    }

    /// Receives a response, which must exist, and NACKs it.
    pub fn receive_and_nack(&mut self, message: &str) -> Response {
        let response = self.receive().expect("a response");
        self.nack(&response, message);
        response
    }

    /// ACKs responses until the server has none. Returns their types and names.
    pub fn settle(&mut self) -> Vec<(ResourceType, Vec<String>)> {
        let mut received = Vec::new();
        while let Some(response) = self.receive() {
            self.ack(&response);
            received.push((response.kind, response.resources.into_keys().collect()));
            assert!(received.len() < 1000, "the server never stops responding");
        }
        received
    }

    #[track_caller]
    pub fn assert_no_response(&mut self) {
        assert_eq!(self.receive(), None);
    }

    /// ACKed and rejected resources since the last call.
    pub fn outcomes(&mut self) -> Vec<(Arc<Resource>, DeliveryOutcome)> {
        self.connection.take_outcomes()
    }

    pub fn status(&self, kind: ResourceType, name: &str) -> ResourceStatus {
        let statuses = self.connection.resources();
        let found = statuses
            .into_iter()
            .find(|status| (status.kind, status.name.as_ref()) == (kind, name));
        found.unwrap()
    }

    /// Contents of the accepted resources of a type by name.
    pub fn resources(&self, kind: ResourceType) -> BTreeMap<String, String> {
        self.state.resources(kind)
    }
}

impl Deref for LocalClient {
    type Target = ClientState;

    fn deref(&self) -> &ClientState {
        &self.state
    }
}

impl DerefMut for LocalClient {
    fn deref_mut(&mut self) -> &mut ClientState {
        &mut self.state
    }
}
