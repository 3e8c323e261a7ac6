//! What one client wants of one type, what it was sent and what it accepted. XdsServerState by both flavours.
//!
//! In: names from requests, keys from the view, contents from the store, ack_statuses. Out: what is due.
//! An [`Entry`] is one name. It *wants* what the store has and *holds* what the client accepted; what is
//! due follows from the difference, so a late or lost step can never leave the two apart.
//! Must not encode messages, and must not know other types: their order is the barrier's business.

mod ack;
mod pending;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evermesh_proto::resource::{Resource, ResourceType, ContentVersion, ProxyView};

use self::pending::InFlightResponse;
pub(crate) use self::pending::{AllowedRemovals, ResponseBatch};
use crate::{
    entry::{ClientCopy, Entry},
    store::{ResourceId, StoreReader},
};

/// The three ways in which responses describe a set of resources
/// (xDS protocol, "Grouping Resources into Responses" and "Deleting Resources").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grouping {
    /// Changed resources and removed names.
    Delta,
    /// The whole set, each time; what is left out is removed.
    Full,
    /// Changed resources; a removal cannot be said.
    Partial,
}

/// The state of one type on one stream.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // independent facts, not one state
pub(crate) struct Subscription {
    kind: ResourceType,
    grouping: Grouping,
    /// The client has named something on this stream: an empty list means nothing from now on.
    named: bool,
    wildcard: bool,
    /// The client must hear an answer, even an empty one.
    answer_due: bool,
    /// Something may be due.
    dirty: bool,
    last_nonce: u64,
    flight: Option<Box<InFlightResponse>>,
    entries: Vec<Entry>,
}

impl Subscription {
    pub(crate) fn new(kind: ResourceType, grouping: Grouping) -> Self {
        Self {
            kind,
            grouping,
            named: false,
            wildcard: false,
            answer_due: false,
            dirty: false,
            last_nonce: 0,
            flight: None,
            entries: Vec::new(),
        }
    }

    pub(crate) fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// Whether the client has not asked for anything of the type on this stream.
    pub(crate) fn is_untouched(&self) -> bool {
        !self.named && !self.wildcard && self.last_nonce == 0
    }

    pub(crate) fn is_in_flight(&self) -> bool {
        self.flight.is_some()
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether the client has asked for something of the type and has the newest of everything.
    pub(crate) fn is_settled(&self) -> bool {
        !self.is_untouched() && !self.dirty && self.entries.iter().all(Entry::is_settled)
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

    fn entry(&mut self, name: &str) -> &mut Entry {
        let at = self.position(name).unwrap_or_else(|at| {
            self.entries.insert(at, Entry::new(name.into()));
            at
        });
        &mut self.entries[at]
    }
}

/// What the client asks for. Every change is followed by [`Subscription::resolve`].
impl Subscription {
    fn means_wildcard(&self, name: &str) -> bool {
        name == "*" && self.kind.supports_wildcard()
    }

    /// Whether a request that names nothing means everything: only if none ever named anything
    /// (xDS protocol, "How the client specifies what resources to return").
    pub(crate) fn is_legacy_wildcard(&self) -> bool {
        !self.named && self.kind.supports_wildcard()
    }

    /// Subscribes to all resources there are.
    pub(crate) fn subscribe_all(&mut self) {
        self.answer_due |= !self.wildcard;
        self.wildcard = true;
        self.dirty = true;
    }

    /// Subscribes to names, and to all for `*`. The client hears of each even if it should have it.
    pub(crate) fn subscribe<'a>(&mut self, names: impl Iterator<Item = &'a str> + Clone) {
        self.add(names.clone());
        let mut wildcard = false;
        for name in names {
            self.named = true;
            self.dirty = true;
            wildcard |= self.means_wildcard(name);
            if let Some(entry) = self.find_mut(name) {
                entry.subscribe();
            }
        }
        if wildcard {
            self.wildcard = true;
            self.answer_due = true;
            for entry in &mut self.entries {
                entry.asked |= !entry.named;
            }
        }
    }

    /// Makes entries for the names that have none, at once: one by one a hostile list would take long.
    fn add<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        let new: BTreeSet<&str> = names
            .filter(|name| !self.means_wildcard(name) && self.find(name).is_none())
            .collect();
        if !new.is_empty() {
            let new = new.into_iter().map(|name| Entry::new(name.into()));
            self.entries.extend(new);
            self.entries
                .sort_by(|left, right| left.name.cmp(&right.name));
        }
    }

    /// Takes subscriptions back, by name or `*`.
    pub(crate) fn unsubscribe(&mut self, names: &[String], reading: &mut StoreReader<'_>) {
        for name in names {
            if self.means_wildcard(name) {
                self.wildcard = false;
                self.answer_due = false;
            } else if let Some(entry) = self.find_mut(name) {
                entry.named = false;
                // Still there by the wildcard: the client dropped it and must hear what it is now.
                entry.asked = true;
                self.dirty = true;
            }
        }
        self.drop_unsubscribed(reading);
    }

    /// Makes the subscription exactly this list, as a state-of-the-world request says it. An empty name
    /// names nothing.
    pub(crate) fn set_names(&mut self, names: &[String], reading: &mut StoreReader<'_>) {
        self.named |= !names.is_empty();
        // What the client kept from an earlier stream goes by being left out of a response.
        let first = self.grouping == Grouping::Full && self.last_nonce == 0;
        let wanted: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let wildcard = wanted.iter().any(|name| self.means_wildcard(name));
        for entry in &mut self.entries {
            entry.named &= wanted.contains(entry.name.as_ref());
        }
        let new: Vec<_> = wanted
            .into_iter()
            .filter(|name| !name.is_empty() && !self.means_wildcard(name))
            .filter(|name| !self.find(name).is_some_and(|entry| entry.named))
            .collect();
        self.subscribe(new.into_iter());
        if wildcard {
            self.subscribe_all();
        } else {
            self.wildcard = false;
            self.answer_due = first && self.entries.iter().any(|entry| entry.named);
        }
        self.drop_unsubscribed(reading);
    }

    /// Whether the subscription is exactly this list already, as in a plain answer.
    pub(crate) fn lists(&self, names: &[String]) -> bool {
        if !names.is_empty() && !self.named {
            return false;
        }
        let mut wildcard = false;
        let mut count = 0;
        for name in names.iter().filter(|name| !name.is_empty()) {
            if self.means_wildcard(name) {
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

    fn drop_unsubscribed(&mut self, reading: &mut StoreReader<'_>) {
        if self.wildcard {
            return;
        }
        self.entries.retain(|entry| {
            if !entry.named
                && let Some(id) = entry.id
            {
                reading.unwatch(id);
            }
            entry.named
        });
    }

    /// Notes the versions that a reconnecting client says it has, of what it subscribes to now.
    pub(crate) fn claim(&mut self, versions: &BTreeMap<String, String>) {
        if self.wildcard {
            self.add(versions.keys().map(String::as_str));
        }
        for (name, version) in versions {
            self.answer_due = false;
            if let Some(entry) = self.find_mut(name) {
                entry.held = ClientCopy::Claimed(ContentVersion::parse(version).map(Box::new));
            }
        }
    }

    /// Makes resources the client subscribes to due again, even if it has them: those whose name and
    /// needs are right.
    pub(crate) fn ask_again(&mut self, right: impl Fn(&str, &[Arc<str>]) -> bool) {
        for entry in self.entries.iter_mut().filter(|entry| !entry.asked) {
            entry.asked = right(&entry.name, entry.needs());
            self.dirty |= entry.asked;
        }
    }
}

/// What the store says.
impl Subscription {
    /// Finds the names in the view: those without a place, or all of them when the view or the wildcard
    /// changed. Collects what a reconnecting client turns out to have already.
    pub(crate) fn resolve(
        &mut self,
        view: &ProxyView,
        reading: &mut StoreReader<'_>,
        all: bool,
        resumed: &mut Vec<Arc<Resource>>,
    ) {
        if all && self.wildcard {
            let keys = view.of_type(self.kind).iter();
            self.add(keys.map(|key| key.name.as_ref()));
        }
        for entry in &mut self.entries {
            if entry.id.is_some() && !all {
                continue;
            }
            let Some(key) = view.find(self.kind, &entry.name) else {
                if let Some(id) = entry.id.take() {
                    reading.unwatch(id);
                }
                entry.set_want(None, resumed);
                continue;
            };
            let (id, want) = reading.watch(key);
            if let Some(old) = entry.id.replace(id)
                && old != id
            {
                reading.unwatch(old);
            }
            entry.name = Arc::clone(&key.name);
            entry.set_want(want, resumed);
        }
        self.forget_unused();
        self.dirty = true;
    }

    /// Takes the newest content of a name that is marked.
    pub(crate) fn refresh(
        &mut self,
        name: &str,
        id: ResourceId,
        want: Option<&Arc<Resource>>,
        resumed: &mut Vec<Arc<Resource>>,
    ) {
        if let Some(entry) = self.find_mut(name).filter(|entry| entry.id == Some(id)) {
            entry.set_want(want.cloned(), resumed);
            self.dirty = true;
        }
    }

    /// Gives back everything it watches.
    pub(crate) fn unwatch(&mut self, reading: &mut StoreReader<'_>) {
        for entry in &mut self.entries {
            if let Some(id) = entry.id.take() {
                reading.unwatch(id);
            }
        }
    }

    fn forget_unused(&mut self) {
        self.entries.retain(Entry::is_needed);
    }
}
