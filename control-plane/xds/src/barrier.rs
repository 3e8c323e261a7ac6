//! Make before break: the order in which types are sent and removed
//! (xDS protocol, "Eventual consistency considerations").
//!
//! ```text
//! additions:  clusters, endpoints, secrets ──▶ listeners, routes
//! removals:   listeners, routes ──▶ clusters ──▶ endpoints
//! ```
//!
//! The functions look only at the five subscriptions of the stream: at pending changes and at responses in flight.
//! They hold back by type. Listeners and routes wait for every pending cluster, whether they need it or not; a cluster
//! that the client rejected is not pending, so nothing waits for it. [`Resource::needs`] plays no part in additions; it
//! keeps clusters from being removed.
//!
//! The order applies to clients with a wildcard subscription to clusters, such as Envoy. A client that subscribes to
//! clusters by name does so after it has received the route, and would wait for ever.
//! Additions wait only for additions of earlier types, removals wait for additions and for removals of later types,
//! and nothing waits for a client to subscribe. The order therefore cannot deadlock.
//!
//! [`Resource::needs`]: evermesh_proto::resource::Resource::needs

use std::{collections::BTreeSet, sync::Arc};

use evermesh_proto::resource::ResourceType;

use crate::{
    entry::Entry,
    subscription::{AllowedRemovals, Subscription},
};

/// The subscriptions of a stream, indexed by [`ResourceType`].
pub(crate) type SubscriptionsByType = [Subscription; ResourceType::ALL.len()];

/// Whether a response of this type may be sent now.
///
/// Listeners and routes wait until the client has answered every pending cluster, and until it has answered the
/// endpoints and secrets that it is missing, because a cluster serves nothing without them. They do not wait for
/// updates of endpoints and secrets that the client has already: endpoints that change often would starve them.
pub(crate) fn may_send(types: &SubscriptionsByType, kind: ResourceType) -> bool {
    match kind {
        ResourceType::Cluster | ResourceType::Endpoint | ResourceType::Secret => true,
        ResourceType::Listener | ResourceType::Route => {
            !applies(types)
                || !(of(types, ResourceType::Cluster).is_sending()
                    || of(types, ResourceType::Endpoint).is_sending_missing()
                    || of(types, ResourceType::Secret).is_sending_missing())
        }
    }
}

/// The removals of this type that a response may contain now.
///
/// Clusters are removed after every pending listener and route was answered, except those that the last good version
/// of a listener or route needs. Endpoints are removed after clusters.
pub(crate) fn allowed_removals(types: &SubscriptionsByType, kind: ResourceType) -> AllowedRemovals {
    let referring = [ResourceType::Listener, ResourceType::Route];
    let referring = referring.map(|kind| of(types, kind));
    let must_wait = match kind {
        _ if !applies(types) => false,
        ResourceType::Listener | ResourceType::Route | ResourceType::Secret => false,
        ResourceType::Cluster => referring.iter().any(|referring| referring.is_busy()),
        ResourceType::Endpoint => {
            of(types, ResourceType::Cluster).is_busy()
                || referring.iter().any(|referring| referring.is_busy())
        }
    };
    if must_wait {
        return AllowedRemovals::None;
    }
    if kind != ResourceType::Cluster || !applies(types) {
        return AllowedRemovals::AllExcept(BTreeSet::new());
    }
    let entries = referring.into_iter().flat_map(Subscription::entries);
    let superseded = entries.filter_map(Entry::superseded_copy);
    AllowedRemovals::AllExcept(
        superseded
            .flat_map(|resource| resource.needs.iter().map(Arc::clone))
            .collect(),
    )
}

fn applies(types: &SubscriptionsByType) -> bool {
    of(types, ResourceType::Cluster).is_wildcard()
}

fn of(types: &SubscriptionsByType, kind: ResourceType) -> &Subscription {
    &types[kind as usize]
}
