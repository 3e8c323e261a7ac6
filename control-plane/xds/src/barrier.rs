//! Make before break: what may be sent or removed now, given what this client has answered
//! (xDS protocol, "Eventual consistency considerations").
//!
//! In: the five subscriptions of a stream. Out: yes or no for a type, and which removals must wait.
//! It concerns a client that takes all clusters there are, as Envoy does. One that asks for clusters by
//! name asks only after it has seen the route, and must not be made to wait for them.
//! Nothing here waits for a client to subscribe, and removals never hold anything up, so there is no
//! circle: additions wait for earlier types only, removals for additions.
//! Must not keep state of its own.

use std::{collections::BTreeSet, sync::Arc};

use evermesh_proto::resource::ResourceType;

use crate::{
    entry::Entry,
    subscription::{AllowedRemovals, Subscription},
};

/// The subscriptions of a stream, by type.
pub(crate) type SubscriptionsByType = [Subscription; ResourceType::ALL.len()];

/// Whether a response of this type may go now.
///
/// Listeners and routes wait until all clusters that are due are answered, and until the client has the
/// endpoints and secrets it waits for: a cluster serves nothing before it has them. Updates of endpoints
/// and secrets that the client has already are not waited for, or busy endpoints would starve the routes.
pub(crate) fn may_send(types: &SubscriptionsByType, kind: ResourceType) -> bool {
    match kind {
        ResourceType::Cluster | ResourceType::Endpoint | ResourceType::Secret => true,
        ResourceType::Listener | ResourceType::Route => {
            !applies(types)
                || !(of(types, ResourceType::Cluster).is_sending()
                    || of(types, ResourceType::Endpoint).is_bringing_new()
                    || of(types, ResourceType::Secret).is_bringing_new())
        }
    }
}

/// Which removals of this type may go now.
///
/// Clusters wait until listeners and routes are answered; one that the last good version of a refused
/// listener or route needs stays as long as that one does. Endpoints wait for their clusters.
pub(crate) fn removals(types: &SubscriptionsByType, kind: ResourceType) -> AllowedRemovals {
    let referring = [ResourceType::Listener, ResourceType::Route];
    let referring = referring.map(|kind| of(types, kind));
    let held = match kind {
        _ if !applies(types) => false,
        ResourceType::Listener | ResourceType::Route | ResourceType::Secret => false,
        ResourceType::Cluster => referring.iter().any(|referring| referring.is_busy()),
        ResourceType::Endpoint => {
            of(types, ResourceType::Cluster).is_busy()
                || referring.iter().any(|referring| referring.is_busy())
        }
    };
    if held {
        return AllowedRemovals::None;
    }
    if kind != ResourceType::Cluster || !applies(types) {
        return AllowedRemovals::AllExcept(BTreeSet::new());
    }
    let entries = referring.into_iter().flat_map(Subscription::entries);
    let outdated = entries.filter_map(Entry::outdated);
    AllowedRemovals::AllExcept(
        outdated
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
