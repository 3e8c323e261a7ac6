//! One stream as a machine without I/O: requests in, responses out.
//!
//! In: requests through a [`DiscoveryProtocol`], the marks in its signal. Out: the next response, when there is
//! one, and reports of what the client answered. A response is made from the newest state at the moment
//! it can be sent; one response of a type is in flight at a time.
//! Must not do I/O, wait, or know the fields of a resource.

use std::{collections::BTreeSet, mem, sync::Arc, time::SystemTime};

use evermesh_proto::{
    core,
    pb::google::rpc,
    resource::{ResourceKey, Resource, ResourceType, ContentVersion, ProxyView},
};
use prost::Message;

use crate::{
    barrier::{self, SubscriptionsByType},
    delivery::{DeliveryOutcome, Rejection},
    store::{Store, StoreReader, StreamHandle},
    subscription::{Grouping, ResponseBatch, Subscription},
};

/// The two ways to speak xDS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum XdsVariant {
    /// Incremental xDS.
    Delta,
    /// State of the world.
    Sotw,
}

impl XdsVariant {
    /// The word in metrics, logs and debug pages: `delta`, `sotw`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Delta => "delta",
            Self::Sotw => "sotw",
        }
    }

    fn grouping(self, kind: ResourceType) -> Grouping {
        match (self, kind) {
            (Self::Delta, _) => Grouping::Delta,
            (Self::Sotw, ResourceType::Cluster | ResourceType::Listener) => Grouping::Full,
            (Self::Sotw, _) => Grouping::Partial,
        }
    }
}

/// A variant's messages, and what they do to a [`Connection`].
pub trait DiscoveryProtocol: Send + 'static {
    /// Which one it is.
    const VARIANT: XdsVariant;
    /// What the client sends.
    type Request: Message + Default;
    /// What it gets.
    type Response: Message;

    /// The type a request is about.
    fn type_url(request: &Self::Request) -> &str;
    /// The client's description of itself, moved out of its first request.
    fn take_node(request: &mut Self::Request) -> Option<core::Node>;
    /// Takes a request about a type.
    fn on_request(connection: &mut Connection, kind: ResourceType, request: Self::Request);
    /// The next response, if there is anything to say now.
    fn next_response(connection: &mut Connection) -> Option<Self::Response>;
}

/// What a client was sent of one resource, and what it made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceStatus {
    /// The type.
    pub kind: ResourceType,
    /// The name.
    pub name: Arc<str>,
    /// The version sent last.
    pub sent: Option<ContentVersion>,
    /// The version in use: the last one accepted.
    pub acked: Option<ContentVersion>,
    /// The last refusal.
    pub rejection: Option<Rejection>,
}

/// The state of one stream.
#[derive(Debug)]
pub struct Connection {
    handle: StreamHandle,
    view_name: Arc<str>,
    /// What the view is; none while it is unknown, and then nothing is said.
    view: Option<Arc<ProxyView>>,
    types: SubscriptionsByType,
    last_nonce: u64,
    reports: Vec<(Arc<Resource>, DeliveryOutcome)>,
}

impl Connection {
    /// A client of this view that has asked for nothing yet.
    pub fn new(store: &Arc<Store>, view: Arc<str>, variant: XdsVariant) -> Self {
        Self::with_handle(store.open(), view, variant)
    }

    pub(crate) fn with_handle(
        handle: StreamHandle,
        view_name: Arc<str>,
        variant: XdsVariant,
    ) -> Self {
        let view = handle.read().follow(&view_name);
        Self {
            handle,
            view_name,
            view,
            types: ResourceType::ALL.map(|kind| Subscription::new(kind, variant.grouping(kind))),
            last_nonce: 0,
            reports: Vec::new(),
        }
    }

    /// What the client has of each resource, in the order of types and names.
    pub fn resources(&self) -> Vec<ResourceStatus> {
        let kinds = ResourceType::ALL.into_iter().zip(&self.types);
        let statuses = kinds.flat_map(|(kind, subscription)| {
            subscription.entries().iter().map(move |entry| {
                let flying = subscription.flying(&entry.name);
                ResourceStatus {
                    kind,
                    name: Arc::clone(&entry.name),
                    sent: flying.map_or_else(|| entry.last_sent(), |flying| Some(flying.version)),
                    acked: entry.held.resource().map(|held| held.version),
                    rejection: entry.refused.as_deref().cloned(),
                }
            })
        });
        statuses.collect()
    }

    /// The version of a resource of its view that the client has accepted, and its last refusal. None if the client is
    /// not concerned: it knows everything that could name the resource, and did not ask for it.
    pub(crate) fn answer_to(
        &self,
        key: &ResourceKey,
        aggregated: bool,
    ) -> Option<(Option<ContentVersion>, Option<Rejection>)> {
        let subscription = self.subscription(key.kind);
        if let Some(entry) = subscription.find(&key.name).filter(|it| it.is_wanted()) {
            return Some((entry.held.version(), entry.refused.as_deref().cloned()));
        }
        if !aggregated && subscription.is_untouched() {
            return None;
        }
        let view = self.view.as_ref();
        let is_known = view.is_some_and(|view| view.find(key.kind, &key.name) == Some(key));
        let names_it = match key.kind {
            ResourceType::Route => ResourceType::Listener,
            ResourceType::Endpoint => ResourceType::Cluster,
            ResourceType::Cluster | ResourceType::Listener | ResourceType::Secret => key.kind,
        };
        let is_to_come = !is_known || !self.subscription(names_it).is_settled();
        is_to_come.then_some((None, None))
    }

    /// The client's ack_statuses since the last call.
    pub fn take_outcomes(&mut self) -> Vec<(Arc<Resource>, DeliveryOutcome)> {
        mem::take(&mut self.reports)
    }

    pub(crate) fn subscription(&self, kind: ResourceType) -> &Subscription {
        &self.types[kind as usize]
    }

    /// Takes the answer in a request; returns whether the request is about the newest response. The
    /// others came while that was on its way (xDS protocol, "Resource updates").
    pub(crate) fn answer(
        &mut self,
        kind: ResourceType,
        nonce: &str,
        error: Option<rpc::Status>,
    ) -> bool {
        let metrics = self.handle.metrics();
        metrics.requests.add(1);
        let subscription = &mut self.types[kind as usize];
        let report = |resource, outcome| self.reports.push((resource, outcome));
        if !subscription.is_current(nonce) {
            metrics.stale_nonces.add(1);
            return false;
        }
        if subscription.answers_flight(nonce) {
            if let Some(error) = error {
                metrics.nacks.add(1);
                subscription.refuse(&error.message, SystemTime::now(), report);
            } else {
                metrics.acks.add(1);
                subscription.accept(report);
            }
        }
        true
    }

    /// Changes what the client subscribes to, and finds it.
    pub(crate) fn change(
        &mut self,
        kind: ResourceType,
        change: impl FnOnce(&mut Subscription, &mut StoreReader<'_>),
    ) {
        let mut reading = self.handle.read();
        let subscription = &mut self.types[kind as usize];
        let before = subscription.is_wildcard();
        change(subscription, &mut reading);
        let mut resumed = Vec::new();
        if let Some(view) = &self.view {
            let all = subscription.is_wildcard() && !before;
            subscription.resolve(view, &mut reading, all, &mut resumed);
        }
        drop(reading);
        self.on_resumed(resumed);
    }

    /// Makes the next response: of the first type in order that has something to say and may.
    pub(crate) fn respond<R>(
        &mut self,
        encode: impl FnOnce(ResourceType, &Subscription, &ResponseBatch, String) -> R,
    ) -> Option<R> {
        self.refresh();
        self.view.as_ref()?;
        let (kind, batch) = ResourceType::ALL.into_iter().find_map(|kind| {
            if !self.subscription(kind).is_ready() || !barrier::may_send(&self.types, kind) {
                return None;
            }
            let removals = barrier::removals(&self.types, kind);
            let batch = self.types[kind as usize].select(&removals)?;
            Some((kind, batch))
        })?;
        self.last_nonce += 1;
        let nonce = self.last_nonce.to_string();
        let subscription = self.subscription(kind);
        let response = encode(kind, subscription, &batch, nonce);
        let metrics = self.handle.metrics();
        metrics.responses.add(1);
        metrics.removals.add(subscription.removed(&batch).count());
        if kind == ResourceType::Cluster {
            let clusters = subscription.upserts(&batch);
            let clusters = clusters.map(|cluster| Arc::clone(&cluster.name)).collect();
            self.warm(&clusters);
        }
        self.types[kind as usize].launch(&batch, self.last_nonce);
        Some(response)
    }

    pub(crate) fn count_resources(&self, count: usize) {
        self.handle.metrics().resources.add(count);
    }

    /// Takes what is marked in the signal.
    fn refresh(&mut self) {
        if !self.handle.signal().is_stale() {
            return;
        }
        let mut resumed = Vec::new();
        let mut reading = self.handle.read();
        let stale = self.handle.signal().take();
        if stale.view {
            self.view = reading.follow(&self.view_name);
            if let Some(view) = &self.view {
                for subscription in &mut self.types {
                    subscription.resolve(view, &mut reading, true, &mut resumed);
                }
            }
        }
        for id in stale.ids {
            let (key, resource) = reading.get(id);
            self.types[key.kind as usize].refresh(&key.name, id, resource, &mut resumed);
        }
        drop(reading);
        self.on_resumed(resumed);
    }

    /// A reconnecting client had these already: as good as accepted.
    fn on_resumed(&mut self, resumed: Vec<Arc<Resource>>) {
        if resumed.is_empty() {
            return;
        }
        self.handle.metrics().resumed.add(resumed.len());
        for resource in resumed {
            self.reports.push((resource, DeliveryOutcome::Acked));
        }
        let clusters = self.subscription(ResourceType::Cluster).entries().iter();
        let sent = clusters.filter(|cluster| cluster.sent);
        let sent = sent.map(|cluster| Arc::clone(&cluster.name)).collect();
        self.warm(&sent);
    }

    /// A cluster that is sent serves nothing new until its endpoints follow, even if they are the same
    /// (xDS protocol, "Resource warming"). Its endpoints have its name, or name it as what they need.
    fn warm(&mut self, clusters: &BTreeSet<Arc<str>>) {
        let endpoints = &mut self.types[ResourceType::Endpoint as usize];
        endpoints.ask_again(|name, needs| {
            clusters.contains(name) || needs.iter().any(|need| clusters.contains(need))
        });
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut reading = self.handle.read();
        for subscription in &mut self.types {
            subscription.unwatch(&mut reading);
        }
        reading.unfollow(&self.view_name);
    }
}
