//! Make before break: what waits for what, and what a rejected cluster stops
//! (xDS protocol, "Eventual consistency considerations").
//!
//! ```text
//! additions:  clusters, endpoints, secrets ──▶ listeners and routes that need them
//! removals:   listeners, routes ──▶ clusters ──▶ endpoints
//! ```
//!
//! A listener or route names the clusters that it needs ([`Resource::needs`]). A client **lacks** a cluster if it has no
//! copy of it, from this stream or an earlier one, or none of the endpoints or secrets of the cluster. Envoy ACKs a
//! cluster once it has warmed: after discovery, the first health checks and the arrival of its secrets.
//!
//! 1. **Wait.** A listener or route is sent after the client has answered every cluster that it needs and lacks. It does
//!    not wait for other clusters, nor for a new version of a cluster that the client has: the old version serves until
//!    the new one has warmed. So no update delays a route; only a cluster that is new to the client does, once.
//! 2. **Keep.** A cluster that the client lacks and rejected stops what needs it: these parts of a listener or route stay
//!    at the client as they are, and everything else is sent ([`blocked`](crate::blocked)). The newest version is sent
//!    once the client accepts a version of the cluster.
//! 3. **Remove last.** A cluster is removed after the client has answered every pending listener and route, and not while
//!    the client's copy of one needs it. Until then its changes and those of its endpoints are sent. Endpoints are
//!    removed after clusters.
//!
//! The first response with listeners waits until no listener waits: a client takes it for complete.
//!
//! A cluster that the store does not have delays nothing. Additions wait only for answers to clusters, endpoints and
//! secrets that are sent; removals wait for additions and for removals of later types; nothing waits for a client to
//! subscribe. So the rules cannot deadlock.
//!
//! The rules apply to clients with a wildcard subscription to clusters, such as Envoy. A client that subscribes to
//! clusters by name does so after it has received the route, and would wait for ever.
//!
//! [`Resource::needs`]: evermesh_proto::resource::Resource::needs

use std::{collections::BTreeSet, sync::Arc};

use evermesh_proto::resource::{Resource, ResourceType};

use crate::{
    entry::Readiness,
    subscription::{AllowedRemovals, Subscription},
};

/// The subscriptions of a stream, indexed by [`ResourceType`].
pub(crate) type SubscriptionsByType = [Subscription; ResourceType::ALL.len()];

/// The types whose resources need clusters.
pub(crate) const REFERRING: [ResourceType; 2] = [ResourceType::Listener, ResourceType::Route];

/// Whether the resources of a type decide whether a cluster can be used.
pub(crate) const fn serves_clusters(kind: ResourceType) -> bool {
    matches!(
        kind,
        ResourceType::Cluster | ResourceType::Endpoint | ResourceType::Secret
    )
}

/// The clusters that the client lacks, by the reason. Both sets are empty in most cases, and then allocate nothing.
#[derive(Debug, Default)]
pub(crate) struct LackedClusters {
    /// The client has not answered the newest version of the cluster, of its endpoints or of a secret of it.
    pending: BTreeSet<Arc<str>>,
    /// The client rejected the cluster, its endpoints or a secret of it.
    pub(crate) rejected: BTreeSet<Arc<str>>,
}

impl LackedClusters {
    /// Reads the entries of clusters, endpoints and secrets once. Empty for a client to which the rules do not apply.
    pub(crate) fn of(types: &SubscriptionsByType) -> Self {
        let mut lacked = Self::default();
        if !applies(types) {
            return lacked;
        }
        let kinds = ResourceType::ALL.into_iter();
        for subscription in kinds
            .filter(|kind| serves_clusters(*kind))
            .map(|kind| of(types, kind))
        {
            for (entry, readiness) in subscription.readiness() {
                let clusters = match readiness {
                    Readiness::Ready => continue,
                    Readiness::Pending => &mut lacked.pending,
                    Readiness::Rejected => &mut lacked.rejected,
                };
                clusters.insert(Arc::clone(&entry.name));
                clusters.extend(entry.needs().iter().cloned());
            }
        }
        lacked
    }

    /// Whether the resource is a listener or route that waits for a cluster.
    pub(crate) fn hold(&self, resource: &Resource) -> bool {
        !self.pending.is_empty()
            && REFERRING.contains(&resource.kind)
            && resource
                .needs
                .iter()
                .any(|need| self.pending.contains(need))
    }
}

/// The message with which the client rejected a cluster, its endpoints or a secret of it.
pub(crate) fn rejection_of_cluster(types: &SubscriptionsByType, cluster: &str) -> Option<String> {
    let kinds = ResourceType::ALL.into_iter();
    let mut entries = kinds
        .filter(|kind| serves_clusters(*kind))
        .flat_map(|kind| of(types, kind).readiness())
        .filter(|(_, readiness)| *readiness == Readiness::Rejected)
        .map(|(entry, _)| entry);
    let rejected = entries.find(|entry| {
        let mut names = std::iter::once(&entry.name).chain(entry.needs());
        names.any(|name| name.as_ref() == cluster)
    });
    Some(rejected?.rejection()?.message.clone())
}

/// The removals of this type that a response may contain now.
pub(crate) fn allowed_removals(types: &SubscriptionsByType, kind: ResourceType) -> AllowedRemovals {
    let referring = REFERRING.map(|kind| of(types, kind));
    let is_referring_busy = || referring.iter().any(|referring| referring.is_busy());
    let must_wait = match kind {
        _ if !applies(types) => false,
        ResourceType::Listener | ResourceType::Route | ResourceType::Secret => false,
        ResourceType::Cluster => is_referring_busy(),
        ResourceType::Endpoint => of(types, ResourceType::Cluster).is_busy() || is_referring_busy(),
    };
    if must_wait {
        return AllowedRemovals::None;
    }
    if kind != ResourceType::Cluster || !applies(types) {
        return AllowedRemovals::AllExcept(BTreeSet::new());
    }
    let mut used = BTreeSet::new();
    for entry in referring.into_iter().flat_map(Subscription::entries) {
        if entry.has_unknown_copy() {
            return AllowedRemovals::None;
        }
        let superseded = entry.superseded_copy();
        used.extend(
            superseded
                .into_iter()
                .flat_map(|copy| copy.needs.iter().cloned()),
        );
    }
    AllowedRemovals::AllExcept(used)
}

fn applies(types: &SubscriptionsByType) -> bool {
    of(types, ResourceType::Cluster).is_wildcard()
}

fn of(types: &SubscriptionsByType, kind: ResourceType) -> &Subscription {
    &types[kind as usize]
}
