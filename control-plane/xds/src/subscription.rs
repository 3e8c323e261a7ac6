//! The state of one resource type on one stream, for both protocol variants: subscribed names, the client's copies
//! and the response in flight.
//!
//! Names come from requests, keys from the view, resources from the store, ACKs and NACKs from the client. The next
//! response follows from the [`Entry`] of each name. The rules are those of the xDS protocol, sections
//! "How the client specifies what resources to return" and "Unsubscribing From Resources"; `ack` handles ACKs and
//! NACKs, `pending` selects what the next response contains.
//!
//! A subscription does not encode messages and does not know the other types. `barrier` orders the types.

mod ack;
mod pending;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evermesh_proto::resource::{ContentVersion, ProxyView, Resource, ResourceType};

use self::pending::InFlightResponse;
pub(crate) use self::pending::{AllowedRemovals, ResponseBatch};
use crate::{
    delivery::DeliveryOutcome,
    entry::Entry,
    store::{ResourceId, StoreReader},
};

/// The way in which responses describe a set of resources
/// (xDS protocol, "Grouping Resources into Responses" and "Deleting Resources").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grouping {
    /// Incremental: a response contains changed resources and removed names.
    Delta,
    /// State of the world, clusters and listeners: a response contains the complete set and removes all others.
    Full,
    /// State of the world, other types: a response contains changed resources and cannot express a removal.
    Partial,
}

/// The state of one type on one stream.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // independent facts, not one state
pub(crate) struct Subscription {
    kind: ResourceType,
    grouping: Grouping,
    /// A request on this stream named at least one resource. From then on, an empty list subscribes to nothing.
    has_named: bool,
    wildcard: bool,
    /// The client expects a response even if it contains no resource.
    must_respond: bool,
    /// An entry may have a pending change. False only if no entry has one.
    dirty: bool,
    last_nonce: u64,
    /// The client ACKed a response on this stream.
    has_acked: bool,
    /// An entry may be blocked ([`Entry::blocked`]). False only if none is.
    has_blocked: bool,
    in_flight: Option<Box<InFlightResponse>>,
    /// Ascending by name.
    entries: Vec<Entry>,
}

impl Subscription {
    pub(crate) fn new(kind: ResourceType, grouping: Grouping) -> Self {
        Self {
            kind,
            grouping,
            has_named: false,
            wildcard: false,
            must_respond: false,
            dirty: false,
            last_nonce: 0,
            has_acked: false,
            has_blocked: false,
            in_flight: None,
            entries: Vec::new(),
        }
    }

    pub(crate) fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// Whether no request on this stream subscribed to the type.
    pub(crate) fn is_unused(&self) -> bool {
        !self.has_named && !self.wildcard && self.last_nonce == 0
    }

    pub(crate) fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether the client subscribed to the type and has ACKed the newest version of every resource.
    pub(crate) fn is_up_to_date(&self) -> bool {
        !self.is_unused() && !self.dirty && self.entries.iter().all(Entry::is_up_to_date)
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.entries
            .binary_search_by(|entry| entry.name.as_ref().cmp(name))
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Entry> {
        self.position(name).ok().map(|at| &self.entries[at])
    }

    fn find_mut(&mut self, name: &str) -> Option<&mut Entry> {
        self.position(name).ok().map(|at| &mut self.entries[at])
    }
}

/// Changes of the subscribed names. The caller runs [`Subscription::resolve`] after each.
impl Subscription {
    fn is_wildcard_name(&self, name: &str) -> bool {
        name == "*" && self.kind.supports_wildcard()
    }

    /// Whether a request without names means the wildcard, which holds until a request names a resource
    /// (xDS protocol, "How the client specifies what resources to return": "for historical reasons").
    pub(crate) fn is_legacy_wildcard(&self) -> bool {
        !self.has_named && self.kind.supports_wildcard()
    }

    pub(crate) fn subscribe_wildcard(&mut self) {
        self.must_respond |= !self.wildcard;
        self.wildcard = true;
        self.dirty = true;
    }

    /// Adds names, and the wildcard for `*`. The next responses contain each name even if the client has it already.
    pub(crate) fn subscribe<'a>(&mut self, names: impl Iterator<Item = &'a str> + Clone) {
        self.add_entries(names.clone());
        let mut wildcard = false;
        for name in names {
            self.has_named = true;
            self.dirty = true;
            wildcard |= self.is_wildcard_name(name);
            if let Some(entry) = self.find_mut(name) {
                entry.subscribe();
            }
        }
        if wildcard {
            self.wildcard = true;
            self.must_respond = true;
            for entry in &mut self.entries {
                entry.must_send |= !entry.named;
            }
        }
    }

    /// Adds entries for new names with one sort: inserting each would take quadratic time for a hostile request.
    fn add_entries<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        let new: BTreeSet<&str> = names
            .filter(|name| !self.is_wildcard_name(name) && self.find(name).is_none())
            .collect();
        if !new.is_empty() {
            let new = new.into_iter().map(|name| Entry::new(name.into()));
            self.entries.extend(new);
            self.entries
                .sort_by(|left, right| left.name.cmp(&right.name));
        }
    }

    /// Removes names, and the wildcard for `*`.
    pub(crate) fn unsubscribe(&mut self, names: &[String], reader: &mut StoreReader<'_>) {
        for name in names {
            if self.is_wildcard_name(name) {
                self.wildcard = false;
                self.must_respond = false;
            } else if let Some(entry) = self.find_mut(name) {
                entry.named = false;
                // If the wildcard still covers the name, the client has dropped the resource and needs it again.
                entry.must_send = true;
                entry.awaited = true;
                self.dirty = true;
            }
        }
        self.drop_unsubscribed(reader);
    }

    /// Replaces the subscribed names, as a state-of-the-world request does. Ignores empty names.
    pub(crate) fn set_names(&mut self, names: &[String], reader: &mut StoreReader<'_>) {
        self.has_named |= !names.is_empty();
        let wanted: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let wildcard = wanted.iter().any(|name| self.is_wildcard_name(name));
        for entry in &mut self.entries {
            entry.named &= wanted.contains(entry.name.as_ref());
        }
        let new: Vec<_> = wanted
            .into_iter()
            .filter(|name| !name.is_empty() && !self.is_wildcard_name(name))
            .filter(|name| !self.find(name).is_some_and(|entry| entry.named))
            .collect();
        self.subscribe(new.into_iter());
        if wildcard {
            self.subscribe_wildcard();
        } else {
            self.wildcard = false;
            self.must_respond = false;
        }
        self.drop_unsubscribed(reader);
        // Until the client ACKs a complete set on this stream, it may have removed resources from an earlier stream. A
        // set removes them even if it is empty, but would also remove the last good version of a rejected resource.
        self.must_respond |= self.grouping == Grouping::Full
            && !self.has_acked
            && !self.entries.is_empty()
            && !self.entries.iter().any(Entry::is_withheld);
    }

    /// Whether the subscription already consists of exactly these names, as in an ACK that changes no name.
    pub(crate) fn has_exactly(&self, names: &[String]) -> bool {
        if !names.is_empty() && !self.has_named {
            return false;
        }
        let mut wildcard = false;
        let mut count = 0;
        for name in names.iter().filter(|name| !name.is_empty()) {
            if self.is_wildcard_name(name) {
                wildcard = true;
            } else if self.find(name).is_some_and(|entry| entry.named) {
                count += 1;
            } else {
                return false;
            }
        }
        let all = self.entries.iter().filter(|entry| entry.named).count();
        wildcard == self.wildcard && count == all
    }

    fn drop_unsubscribed(&mut self, reader: &mut StoreReader<'_>) {
        if self.wildcard {
            return;
        }
        self.entries.retain(|entry| {
            if !entry.named
                && let Some(id) = entry.id
            {
                reader.unwatch(id);
            }
            entry.named
        });
    }

    /// Records the `initial_resource_versions` of a reconnecting client, for the names that it subscribes to.
    pub(crate) fn set_initial_versions(&mut self, versions: &BTreeMap<String, String>) {
        if self.wildcard {
            self.add_entries(versions.keys().map(String::as_str));
        }
        for (name, version) in versions {
            self.must_respond = false;
            if let Some(entry) = self.find_mut(name) {
                entry.claim(ContentVersion::parse(version));
            }
        }
    }

    /// Sends again the endpoints of these clusters, even if the client has the newest version. Endpoints belong to the
    /// cluster of the same name and to the clusters that they need. If the clusters `are_new` to the client, nothing can
    /// rely on the endpoints before the client has answered them.
    pub(crate) fn resend(&mut self, clusters: &BTreeSet<Arc<str>>, are_new: bool) {
        for entry in &mut self.entries {
            let mut names = std::iter::once(&entry.name).chain(entry.needs());
            if names.any(|name| clusters.contains(name)) {
                entry.must_send = true;
                entry.awaited |= are_new;
                self.dirty = true;
            }
        }
    }
}

/// Resources that need rejected clusters.
impl Subscription {
    /// Whether a resource may be blocked.
    pub(crate) fn has_blocked(&self) -> bool {
        self.has_blocked
    }

    /// Makes the next call of [`select`](Self::select) look at every entry, and the caller update what is blocked.
    pub(crate) fn mark_dirty(&mut self) {
        self.dirty = true;
    }

    /// Finds the resources that need a rejected cluster. Reports each change.
    pub(crate) fn update_blocked(
        &mut self,
        rejected: &BTreeSet<Arc<str>>,
        mut report: impl FnMut(Arc<Resource>, DeliveryOutcome),
    ) {
        if rejected.is_empty() && !self.has_blocked {
            return;
        }
        self.has_blocked = false;
        for entry in &mut self.entries {
            if let Some((resource, outcome)) = entry.update_blocked(rejected) {
                report(resource, outcome);
            }
            self.has_blocked |= entry.blocked().is_some();
        }
    }
}

/// Changes of the store and the view.
impl Subscription {
    /// Looks names up in the view and reads their newest versions: new names only, or all of them if the view or the
    /// wildcard changed. Adds to `resumed` the resources that a reconnecting client has already.
    pub(crate) fn resolve(
        &mut self,
        view: &ProxyView,
        reader: &mut StoreReader<'_>,
        all: bool,
        resumed: &mut Vec<Arc<Resource>>,
    ) {
        if all && self.wildcard {
            let keys = view.of_type(self.kind).iter();
            self.add_entries(keys.map(|key| key.name.as_ref()));
        }
        for entry in &mut self.entries {
            if entry.id.is_some() && !all {
                continue;
            }
            let Some(key) = view.find(self.kind, &entry.name) else {
                // The client may use a cluster until it has listeners and routes without it, and until then it needs
                // every change of the cluster and its endpoints.
                let is_used_on =
                    matches!(self.kind, ResourceType::Cluster | ResourceType::Endpoint);
                entry.unlisted = is_used_on && entry.id.is_some() && entry.has_copy();
                if !entry.unlisted {
                    if let Some(id) = entry.id.take() {
                        reader.unwatch(id);
                    }
                    entry.set_newest(None, resumed);
                }
                continue;
            };
            entry.unlisted = false;
            let (id, newest) = reader.watch(key);
            if let Some(old) = entry.id.replace(id)
                && old != id
            {
                reader.unwatch(old);
            }
            // Share one allocation of the name with all other streams.
            entry.name = Arc::clone(&key.name);
            entry.set_newest(newest, resumed);
        }
        self.drop_unused_entries();
        self.dirty = true;
    }

    /// Forgets the resources that a batch removes and that the view does not list any more.
    pub(crate) fn forget_removed(&mut self, batch: &ResponseBatch, reader: &mut StoreReader<'_>) {
        for entry in self.removed_entries(batch) {
            if let Some(id) = entry.id.take() {
                reader.unwatch(id);
            }
            entry.unlisted = false;
            entry.set_newest(None, &mut Vec::new());
        }
    }

    /// Takes the newest version of a stale resource.
    pub(crate) fn update(
        &mut self,
        name: &str,
        id: ResourceId,
        newest: Option<&Arc<Resource>>,
        resumed: &mut Vec<Arc<Resource>>,
    ) {
        if let Some(entry) = self.find_mut(name).filter(|entry| entry.id == Some(id)) {
            entry.set_newest(newest.cloned(), resumed);
            self.dirty = true;
        }
    }

    /// Ends the watch of every resource.
    pub(crate) fn unwatch_all(&mut self, reader: &mut StoreReader<'_>) {
        for entry in &mut self.entries {
            if let Some(id) = entry.id.take() {
                reader.unwatch(id);
            }
        }
    }

    fn drop_unused_entries(&mut self) {
        self.entries.retain(Entry::is_in_use);
    }
}
