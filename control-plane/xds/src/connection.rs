//! The protocol state of one stream, without I/O.
//!
//! Requests enter through a [`DiscoveryProtocol`], stale resources through the stream's signal. Responses leave through
//! [`DiscoveryProtocol::next_response`], ACKs and NACKs through [`Connection::take_outcomes`]. A response is made from
//! the newest resources at the moment at which it can be sent, and at most one response per type is in flight, so that
//! a slow client skips intermediate versions.

use std::{collections::BTreeSet, mem, sync::Arc, time::SystemTime};

use evermesh_proto::{
    core,
    pb::google::rpc,
    resource::{ContentVersion, ProxyView, Resource, ResourceKey, ResourceType},
};
use prost::Message;
use tonic::Status;

use crate::{
    answer::{Blockage, ClientAnswer},
    barrier::{self, LackedClusters, SubscriptionsByType},
    delivery::{DeliveryOutcome, Rejection},
    entry::Entry,
    limits::{AVERAGE_NAME_BYTES, NAME_BYTES, REJECTION_BYTES, XdsLimits},
    peer_text::PeerText,
    store::{Store, StoreReader, StreamHandle},
    subscription::{Grouping, ResponseBatch, Subscription},
};

/// The variants of the xDS protocol that are served (xDS protocol, "Four Variants"; aggregated or not is a property of
/// the service).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum XdsVariant {
    /// Incremental.
    Delta,
    /// State of the world.
    Sotw,
}

impl XdsVariant {
    /// The word in metrics, logs and debug pages: `delta` or `sotw`.
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

/// The messages of one variant, and their effect on a [`Connection`].
pub trait DiscoveryProtocol: Send + 'static {
    /// The variant that this type implements.
    const VARIANT: XdsVariant;
    /// `DeltaDiscoveryRequest` or `DiscoveryRequest`.
    type Request: Message + Default;
    /// `DeltaDiscoveryResponse` or `DiscoveryResponse`.
    type Response: Message;

    /// The type URL of a request; empty if the client left it out.
    fn type_url(request: &Self::Request) -> &str;
    /// Number of the field `node` of a request.
    const NODE_FIELD: u32;
    /// Numbers of the fields of a request that list resource names.
    const NAME_FIELDS: &'static [u32];

    /// Moves the node out of a request. Only the first request of a stream is guaranteed to have one.
    fn take_node(request: &mut Self::Request) -> Option<core::Node>;
    /// Handles a request for a type: an ACK or NACK, a change of the subscription, or both.
    ///
    /// # Errors
    /// With the status with which the stream ends, if the request goes beyond a limit of the stream.
    fn on_request(
        connection: &mut Connection,
        kind: ResourceType,
        request: Self::Request,
    ) -> Result<(), Status>;
    /// Makes the next response, or returns `None` if nothing may be sent now.
    fn next_response(connection: &mut Connection) -> Option<Self::Response>;
    /// Makes a response without resources, or returns `None` if the stream has had a response already, if the client may
    /// lack a resource, or if such a response would remove what the client has.
    fn empty_first_response(connection: &mut Connection) -> Option<Self::Response>;
}

/// The versions of one resource that a client received, and its last rejection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceStatus {
    /// Type of the resource.
    pub kind: ResourceType,
    /// Name under which the client subscribed.
    pub name: Arc<str>,
    /// Version that was sent last.
    pub sent: Option<ContentVersion>,
    /// Version that the client ACKed last and uses.
    pub acked: Option<ContentVersion>,
    /// Last NACK, until the client ACKs a newer version.
    pub rejection: Option<Rejection>,
    /// Clusters that the client rejected and that the newest version needs. The client keeps what it has of the parts
    /// that need them.
    pub blocked_by: Vec<Arc<str>>,
}

/// The protocol state of one stream.
#[derive(Debug)]
pub struct Connection {
    handle: StreamHandle,
    view_name: Arc<str>,
    /// Absent until the view is committed, and after it was removed. Nothing is sent then.
    view: Option<Arc<ProxyView>>,
    subscriptions: SubscriptionsByType,
    last_nonce: u64,
    /// Names that the stream may subscribe to beyond three times its view.
    spare_names: usize,
    outcomes: Vec<(Arc<Resource>, DeliveryOutcome)>,
}

impl Connection {
    /// Opens a stream of a client with this view and the default limits.
    pub fn new(store: &Arc<Store>, view: Arc<str>, variant: XdsVariant) -> Self {
        let spare_names = XdsLimits::default().spare_names;
        Self::with_handle(store.open_stream(), view, variant, spare_names)
    }

    pub(crate) fn with_handle(
        handle: StreamHandle,
        view_name: Arc<str>,
        variant: XdsVariant,
        spare_names: usize,
    ) -> Self {
        let view = handle.read().watch_view(&view_name);
        Self {
            handle,
            view_name,
            view,
            subscriptions: ResourceType::ALL
                .map(|kind| Subscription::new(kind, variant.grouping(kind))),
            last_nonce: 0,
            spare_names,
            outcomes: Vec::new(),
        }
    }

    /// The status of each subscribed resource, ordered by type and name.
    pub fn resources(&self) -> Vec<ResourceStatus> {
        let subscriptions = ResourceType::ALL.into_iter().zip(&self.subscriptions);
        let statuses = subscriptions.flat_map(|(kind, subscription)| {
            subscription.entries().iter().map(move |entry| {
                let in_flight = subscription.in_flight_resource(&entry.name);
                ResourceStatus {
                    kind,
                    name: Arc::clone(&entry.name),
                    sent: in_flight
                        .map_or_else(|| entry.last_answered(), |resource| Some(resource.version)),
                    acked: entry.client_copy.acked().map(|acked| acked.version),
                    rejection: entry.rejection().cloned(),
                    blocked_by: entry
                        .blocked()
                        .map_or_else(Vec::new, |blocked| blocked.clusters.to_vec()),
                }
            })
        });
        statuses.collect()
    }

    /// The types and names of the resources that the client has not answered in the version that it was sent.
    pub(crate) fn unanswered(&self) -> impl Iterator<Item = (ResourceType, &Arc<str>)> {
        let subscriptions = ResourceType::ALL.into_iter().zip(&self.subscriptions);
        let in_flight = subscriptions.filter(|(_, subscription)| subscription.is_in_flight());
        in_flight.flat_map(|(kind, subscription)| {
            let entries = subscription.entries().iter();
            let unanswered = entries.filter(|entry| entry.in_flight);
            unanswered.map(move |entry| (kind, &entry.name))
        })
    }

    /// The answers of the client to the versions of a resource.
    ///
    /// Returns `None` if the resource does not concern the client: it did not subscribe to it, and has ACKed everything
    /// that could make it subscribe.
    pub(crate) fn answer(&self, key: &ResourceKey, aggregated: bool) -> Option<ClientAnswer> {
        let subscription = self.subscription(key.kind);
        let entry = subscription.find(&key.name);
        if let Some(entry) = entry.filter(|entry| entry.is_subscribed()) {
            return Some(ClientAnswer {
                acked: entry.client_copy.version(),
                rejection: entry.rejection().cloned(),
                blockage: self.blockage(entry),
            });
        }
        if !aggregated && subscription.is_unused() {
            return None;
        }
        let view = self.view.as_ref();
        let is_in_view = view.is_some_and(|view| view.find(key.kind, &key.name) == Some(key));
        // Listeners name routes, and clusters name endpoints.
        let referring = match key.kind {
            ResourceType::Route => ResourceType::Listener,
            ResourceType::Endpoint => ResourceType::Cluster,
            ResourceType::Cluster | ResourceType::Listener | ResourceType::Secret => key.kind,
        };
        let may_subscribe = !is_in_view || !self.subscription(referring).is_up_to_date();
        may_subscribe.then(ClientAnswer::default)
    }

    fn blockage(&self, entry: &Entry) -> Option<Blockage> {
        let blocked = entry.blocked()?;
        let newest = entry.newest()?;
        let clusters = blocked.clusters.iter().map(|cluster| {
            let message = barrier::rejection_of_cluster(&self.subscriptions, cluster);
            (Arc::clone(cluster), message.unwrap_or_default())
        });
        Some(Blockage {
            version: newest.version,
            clusters: clusters.collect(),
            offered: entry.offered().map(|offered| offered.version),
            origins: blocked.origins(newest),
        })
    }

    /// The names of the confidential resources that the view lists and that the client does not get.
    pub(crate) fn withheld(&self) -> Vec<Arc<str>> {
        let view = self.view.as_ref();
        view.map_or_else(Vec::new, |view| self.handle.withheld(view))
    }

    /// Takes the client's answers since the last call.
    pub fn take_outcomes(&mut self) -> Vec<(Arc<Resource>, DeliveryOutcome)> {
        mem::take(&mut self.outcomes)
    }

    pub(crate) fn subscription(&self, kind: ResourceType) -> &Subscription {
        &self.subscriptions[kind as usize]
    }

    /// Handles the ACK or NACK in a request. Returns false if the nonce is stale: the client sent the request before it
    /// read the newest response (xDS protocol, "Resource updates").
    pub(crate) fn handle_nonce(
        &mut self,
        kind: ResourceType,
        nonce: &str,
        error: Option<rpc::Status>,
    ) -> bool {
        let metrics = self.handle.metrics();
        metrics.requests.add(1);
        let subscription = &mut self.subscriptions[kind as usize];
        let report = |resource, outcome| self.outcomes.push((resource, outcome));
        if !subscription.is_current(nonce) {
            metrics.stale_nonces.add(1);
            return false;
        }
        if subscription.answers_in_flight(nonce) {
            let is_nack = error.is_some();
            if let Some(error) = error {
                metrics.nacks.add(1);
                let message = PeerText(&error.message).within(REJECTION_BYTES);
                subscription.on_nack(&message, SystemTime::now(), report);
            } else {
                metrics.acks.add(1);
                subscription.on_ack(report);
            }
            self.handle.signal().set_in_flight(kind, false);
            if barrier::serves_clusters(kind) {
                self.recheck_blocked(is_nack);
            }
        }
        true
    }

    /// The number of names that the stream may subscribe to.
    pub(crate) fn name_limit(&self) -> usize {
        let view = self.view.as_ref();
        let view = view.map_or(0, |view| view.keys().len());
        view.saturating_mul(3).saturating_add(self.spare_names)
    }

    /// The bytes that the client's subscriptions and rejections take. O(n) in the number of names.
    pub(crate) fn held_bytes(&self) -> usize {
        let entries = self.subscriptions.iter().flat_map(Subscription::entries);
        entries.map(Entry::held_bytes).sum()
    }

    /// Checks the names of a request before they are added to a subscription.
    pub(crate) fn check_names<'a>(
        &self,
        kind: ResourceType,
        names: impl Iterator<Item = &'a String>,
    ) -> Result<(), Status> {
        let limit = self.name_limit();
        let subscription = self.subscription(kind);
        let byte_limit = limit.saturating_mul(AVERAGE_NAME_BYTES);
        let (mut count, mut bytes) = (0, 0);
        for entry in self.subscriptions.iter().flat_map(Subscription::entries) {
            count += 1;
            bytes += entry.name.len();
        }
        for name in names {
            if name.len() > NAME_BYTES {
                return Err(Status::resource_exhausted(format!(
                    "the name `{}` has {} bytes, and the limit is {NAME_BYTES}: no resource has such a name",
                    PeerText(name),
                    name.len()
                )));
            }
            let is_new = name != "*" && subscription.find(name).is_none();
            if is_new {
                count += 1;
                bytes += name.len();
            }
            if count > limit || bytes > byte_limit {
                let kind = kind.type_url();
                return Err(Status::resource_exhausted(format!(
                    "the stream would subscribe to more than {limit} names or {byte_limit} bytes of names, the limit for its configuration, with this request for `{kind}`: unsubscribe from names that are not needed, or restart the proxy"
                )));
            }
        }
        Ok(())
    }

    /// Changes the subscribed names of a type and looks new names up in the view.
    pub(crate) fn update_subscription(
        &mut self,
        kind: ResourceType,
        update: impl FnOnce(&mut Subscription, &mut StoreReader<'_>),
    ) {
        let mut reader = self.handle.read();
        let subscription = &mut self.subscriptions[kind as usize];
        let was_wildcard = subscription.is_wildcard();
        update(subscription, &mut reader);
        let has_changed_wildcard = subscription.is_wildcard() != was_wildcard;
        let mut resumed = Vec::new();
        if let Some(view) = &self.view {
            let all = subscription.is_wildcard() && has_changed_wildcard;
            subscription.resolve(view, &mut reader, all, &mut resumed);
        }
        drop(reader);
        if barrier::serves_clusters(kind) {
            self.recheck_blocked(has_changed_wildcard);
        }
        self.on_resumed(resumed);
    }

    /// Makes the next response, of the first type that has a pending change and that the barrier lets through.
    pub(crate) fn respond<R>(
        &mut self,
        encode: impl FnOnce(ResourceType, &Subscription, &ResponseBatch, String) -> R,
    ) -> Option<R> {
        self.read_stale();
        self.view.as_ref()?;
        let (kind, batch) = self.select()?;
        self.last_nonce += 1;
        let nonce = self.last_nonce.to_string();
        let subscription = self.subscription(kind);
        let response = encode(kind, subscription, &batch, nonce);
        let metrics = self.handle.metrics();
        metrics.responses.add(1);
        metrics.removals.add(subscription.removed(&batch).count());
        if kind == ResourceType::Cluster {
            let (known, new): (Vec<_>, Vec<_>) = subscription
                .upserted_entries(&batch)
                .partition(|cluster| cluster.has_copy());
            let names = |entries: Vec<&Entry>| -> BTreeSet<Arc<str>> {
                let names = entries.into_iter().map(|entry| Arc::clone(&entry.name));
                names.collect()
            };
            let (known, new) = (names(known), names(new));
            self.resend_endpoints(&known, false);
            self.resend_endpoints(&new, true);
        }
        let subscription = &mut self.subscriptions[kind as usize];
        subscription.mark_sent(&batch, self.last_nonce);
        self.handle.signal().set_in_flight(kind, true);
        if Subscription::has_removals(&batch) {
            subscription.forget_removed(&batch, &mut self.handle.read());
        }
        Some(response)
    }

    /// The type and nonce of a first response on this stream, for a type of which the client has everything from an
    /// earlier stream: a client takes the first response that it ever gets for complete.
    pub(crate) fn first_nonce(&mut self) -> Option<(ResourceType, String)> {
        if self.last_nonce > 0 {
            return None;
        }
        let has_everything = |kind: &ResourceType| {
            let subscription = self.subscription(*kind);
            let mut entries = subscription.entries().iter();
            subscription.is_up_to_date() && entries.any(Entry::has_copy)
        };
        let kind = ResourceType::ALL.into_iter().find(has_everything)?;
        self.last_nonce += 1;
        Some((kind, self.last_nonce.to_string()))
    }

    /// Selects the next response: of the first type of which something may be sent now.
    fn select(&mut self) -> Option<(ResourceType, ResponseBatch)> {
        let mut lacked = LackedClusters::default();
        let is_ready = |kind: &ResourceType| self.subscription(*kind).is_ready();
        if barrier::REFERRING.iter().any(is_ready) {
            lacked = LackedClusters::of(&self.subscriptions);
        }
        for kind in barrier::REFERRING {
            let subscription = &mut self.subscriptions[kind as usize];
            if subscription.is_ready() {
                subscription.update_blocked(&lacked.rejected, |resource, outcome| {
                    self.outcomes.push((resource, outcome));
                });
            }
        }
        ResourceType::ALL.into_iter().find_map(|kind| {
            if !self.subscription(kind).is_ready() {
                return None;
            }
            let removals = barrier::allowed_removals(&self.subscriptions, kind);
            let batch = self.subscriptions[kind as usize].select(&lacked, &removals)?;
            Some((kind, batch))
        })
    }

    /// Makes the next response consider again which listeners and routes are blocked: `all`, or those that were.
    fn recheck_blocked(&mut self, all: bool) {
        for kind in barrier::REFERRING {
            let subscription = &mut self.subscriptions[kind as usize];
            if all || subscription.has_blocked() {
                subscription.mark_dirty();
            }
        }
    }

    pub(crate) fn count_resources(&self, count: usize) {
        self.handle.metrics().resources.add(count);
    }

    /// Reads the newest versions of the resources that the signal lists as stale.
    fn read_stale(&mut self) {
        if !self.handle.signal().is_stale() {
            return;
        }
        let mut resumed = Vec::new();
        let mut reader = self.handle.read();
        let stale = self.handle.signal().take();
        if stale.view {
            self.view = reader.watch_view(&self.view_name);
            if let Some(view) = &self.view {
                for subscription in &mut self.subscriptions {
                    subscription.resolve(view, &mut reader, true, &mut resumed);
                }
            }
        }
        for id in stale.ids {
            let (key, resource) = reader.get(id);
            self.subscriptions[key.kind as usize].update(&key.name, id, resource, &mut resumed);
        }
        drop(reader);
        self.recheck_blocked(false);
        self.on_resumed(resumed);
    }

    /// Reports resources that a reconnecting client has already as ACKed.
    fn on_resumed(&mut self, resumed: Vec<Arc<Resource>>) {
        if resumed.is_empty() {
            return;
        }
        self.handle.metrics().resumed.add(resumed.len());
        for resource in resumed {
            self.outcomes.push((resource, DeliveryOutcome::Acked));
        }
        // Resumed endpoints are not sent, unless their cluster was sent on this stream and is warming.
        let clusters = self.subscription(ResourceType::Cluster).entries().iter();
        let sent = clusters.filter(|cluster| cluster.sent);
        let sent = sent.map(|cluster| Arc::clone(&cluster.name)).collect();
        self.resend_endpoints(&sent, false);
    }

    /// Sends the endpoints of these clusters again, even if they did not change: an updated cluster stays in warming
    /// until a new `ClusterLoadAssignment` arrives (xDS protocol, "Resource warming").
    fn resend_endpoints(&mut self, clusters: &BTreeSet<Arc<str>>, are_new: bool) {
        if !clusters.is_empty() {
            self.subscriptions[ResourceType::Endpoint as usize].resend(clusters, are_new);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut reader = self.handle.read();
        for subscription in &mut self.subscriptions {
            subscription.unwatch_all(&mut reader);
        }
        reader.unwatch_view(&self.view_name);
    }
}
