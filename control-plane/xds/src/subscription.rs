//! What one client wants of one type, what it was sent and what it accepted. Shared by both flavours.
//!
//! In: names from requests, keys from the view, contents from the store, answers. Out: what is due.
//! An [`Entry`] is one name. It *wants* what the store has and *holds* what the client accepted; what is
//! due follows from the difference, so a late or lost step can never leave the two apart.
//! Must not encode messages, and must not know other types: their order is the barrier's business.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::SystemTime,
};

use evermesh_proto::resource::{Resource, ResourceType, Version, View};

use crate::{
    entry::{Due, Entry, Held},
    store::{Reading, ResourceId},
    verdict::{Outcome, Rejection},
};

/// A response larger than this is cut in several where the protocol allows it: some gRPC clients read no
/// message over 4 MiB.
const BATCH_BYTES: usize = 2 << 20;

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

/// Which removals a response may carry.
#[derive(Debug)]
pub(crate) enum Removals {
    /// None yet.
    Held,
    /// All but these.
    Except(BTreeSet<Arc<str>>),
}

/// What one response changes, as indices of entries, ascending.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    upserts: Vec<usize>,
    removals: Vec<usize>,
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
    flight: Option<Box<Flight>>,
    entries: Vec<Entry>,
}

/// The response that waits for its answer.
#[derive(Debug)]
struct Flight {
    items: Vec<(Arc<str>, Option<Arc<Resource>>)>,
    /// It carries something the client cannot work without, so that later types wait for it.
    brings_new: bool,
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

    /// What the response in flight says of a name.
    pub(crate) fn flying(&self, name: &str) -> Option<&Arc<Resource>> {
        let items = &self.flight.as_ref()?.items;
        let item = items.iter().find(|(flying, _)| flying.as_ref() == name);
        item?.1.as_ref()
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.entries
            .binary_search_by(|entry| entry.name.as_ref().cmp(name))
    }

    fn find(&self, name: &str) -> Option<&Entry> {
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

    /// Subscribes to a name, or to all for `*`. The client hears of it even if it should have it.
    pub(crate) fn subscribe(&mut self, name: &str) {
        self.named = true;
        if self.means_wildcard(name) {
            self.wildcard = true;
            self.answer_due = true;
            for entry in &mut self.entries {
                entry.asked |= !entry.named;
            }
        } else {
            self.entry(name).subscribe();
        }
        self.dirty = true;
    }

    /// Takes a subscription back, by name or `*`.
    pub(crate) fn unsubscribe(&mut self, name: &str, reading: &mut Reading<'_>) {
        if self.means_wildcard(name) {
            self.wildcard = false;
            self.answer_due = false;
        } else if let Some(entry) = self.find_mut(name) {
            entry.named = false;
            // Still there by the wildcard: the client dropped it and must hear what it is now.
            entry.asked = true;
            self.dirty = true;
        }
        self.drop_unsubscribed(reading);
    }

    /// Makes the subscription exactly this list, as a state-of-the-world request says it. An empty name
    /// names nothing.
    pub(crate) fn set_names(&mut self, names: &[String], reading: &mut Reading<'_>) {
        self.named |= !names.is_empty();
        // What the client kept from an earlier stream goes by being left out of a response.
        let first = self.grouping == Grouping::Full && self.last_nonce == 0;
        let wanted: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let wildcard = wanted.iter().any(|name| self.means_wildcard(name));
        for entry in &mut self.entries {
            entry.named &= wanted.contains(entry.name.as_ref());
        }
        for name in wanted {
            let known = self.find(name).is_some_and(|entry| entry.named);
            if !known && !name.is_empty() && !self.means_wildcard(name) {
                self.subscribe(name);
            }
        }
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

    fn drop_unsubscribed(&mut self, reading: &mut Reading<'_>) {
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

    /// Notes a version that a reconnecting client says it has, of what it subscribes to now.
    pub(crate) fn claim(&mut self, name: &str, version: Option<Version>) {
        self.answer_due = false;
        let held = Held::Claimed(version.map(Box::new));
        if self.wildcard {
            self.entry(name).held = held;
        } else if let Some(entry) = self.find_mut(name) {
            entry.held = held;
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
        view: &View,
        reading: &mut Reading<'_>,
        all: bool,
        resumed: &mut Vec<Arc<Resource>>,
    ) {
        if all && self.wildcard {
            for key in view.of_type(self.kind) {
                self.entry(&key.name);
            }
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
    pub(crate) fn unwatch(&mut self, reading: &mut Reading<'_>) {
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

/// What is due.
impl Subscription {
    fn due(&self) -> impl Iterator<Item = (usize, &Entry, Due)> {
        let grouping = self.grouping;
        let entries = if self.dirty {
            self.entries.as_slice()
        } else {
            &[]
        };
        let numbered = entries.iter().enumerate();
        numbered.map(move |(at, entry)| (at, entry, entry.due(grouping)))
    }

    /// Whether a response is due or waits for its answer, removals apart.
    pub(crate) fn is_sending(&self) -> bool {
        self.is_in_flight() || self.due().any(|(_, _, due)| due == Due::Send)
    }

    /// Whether the client waits for something it does not have at all.
    pub(crate) fn is_bringing_new(&self) -> bool {
        let flying = self.flight.as_ref().is_some_and(|flight| flight.brings_new);
        flying
            || self
                .due()
                .any(|(_, entry, due)| due == Due::Send && entry.is_new())
    }

    /// Whether anything is due or waits for its answer.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_in_flight() || self.due().any(|(_, _, due)| due != Due::Nothing)
    }

    /// Whether something may be due and nothing waits for its answer.
    pub(crate) fn is_ready(&self) -> bool {
        self.dirty && !self.is_in_flight()
    }

    /// What to send now, if anything: everything that is due in one response. A resource under suspicion
    /// of having spoiled a response goes alone.
    pub(crate) fn select(&mut self, removals: &Removals) -> Option<Batch> {
        let mut batch = Batch::default();
        let mut suspect = None;
        let mut bytes = 0;
        let mut waits = false;
        for (at, entry, due) in self.due() {
            match due {
                Due::Nothing => {}
                Due::Send if entry.suspect => suspect = suspect.or(Some(at)),
                Due::Send => {
                    let size = entry.offer().map_or(0, |offer| offer.body.len());
                    if self.grouping != Grouping::Full && bytes > 0 && bytes + size > BATCH_BYTES {
                        continue;
                    }
                    bytes += size;
                    batch.upserts.push(at);
                }
                Due::Absent => batch.removals.push(at),
                Due::Remove => match removals {
                    Removals::Except(kept) if !kept.contains(&entry.name) => {
                        batch.removals.push(at);
                    }
                    Removals::Held | Removals::Except(_) => waits = true,
                },
            }
        }
        if batch.upserts.is_empty() {
            batch.upserts.extend(suspect);
        }
        let empty = batch.upserts.is_empty() && batch.removals.is_empty();
        if empty && !self.answer_due {
            self.dirty = waits;
            return None;
        }
        Some(batch)
    }

    /// The resources of a batch, ascending by name.
    pub(crate) fn upserts<'a>(
        &'a self,
        batch: &'a Batch,
    ) -> impl Iterator<Item = &'a Arc<Resource>> {
        let entries = batch.upserts.iter().map(|at| &self.entries[*at]);
        entries.filter_map(Entry::offer)
    }

    /// The resources in the response of a batch, ascending by name.
    pub(crate) fn carried<'a>(&'a self, batch: &'a Batch) -> Vec<&'a Arc<Resource>> {
        if self.grouping == Grouping::Full {
            self.after(batch).collect()
        } else {
            self.upserts(batch).collect()
        }
    }

    /// The names a batch removes, ascending.
    pub(crate) fn removed<'a>(&'a self, batch: &'a Batch) -> impl Iterator<Item = &'a Arc<str>> {
        batch.removals.iter().map(|at| &self.entries[*at].name)
    }

    /// Everything the client holds once it accepted a batch, ascending by name.
    pub(crate) fn after<'a>(&'a self, batch: &'a Batch) -> impl Iterator<Item = &'a Arc<Resource>> {
        let mut upserts = batch.upserts.iter().peekable();
        let mut removals = batch.removals.iter().peekable();
        self.entries
            .iter()
            .enumerate()
            .filter_map(move |(at, entry)| {
                if upserts.next_if_eq(&&at).is_some() {
                    entry.offer()
                } else if removals.next_if_eq(&&at).is_some() {
                    None
                } else {
                    entry.held.resource()
                }
            })
    }

    /// A version of the whole set after a batch: a hash of the versions in it, equal on every replica.
    pub(crate) fn set_version(&self, batch: &Batch) -> String {
        let mut hasher = DefaultHasher::new();
        for resource in self.after(batch) {
            resource.version.hash(&mut hasher);
        }
        format!("{:016x}", hasher.finish())
    }

    /// Marks a batch as sent under a nonce.
    pub(crate) fn launch(&mut self, batch: &Batch, nonce: u64) {
        let mut items = Vec::with_capacity(batch.upserts.len() + batch.removals.len());
        let mut brings_new = false;
        for &at in &batch.upserts {
            let entry = &mut self.entries[at];
            brings_new |= entry.is_new();
            items.push((Arc::clone(&entry.name), entry.offer().cloned()));
            entry.asked = false;
            entry.flying = true;
            entry.sent = true;
        }
        for &at in &batch.removals {
            let entry = &mut self.entries[at];
            entry.asked = false;
            entry.flying = true;
            items.push((Arc::clone(&entry.name), None));
        }
        self.answer_due = false;
        self.last_nonce = nonce;
        self.flight = Some(Box::new(Flight { items, brings_new }));
    }
}

/// What the client answers.
impl Subscription {
    /// Whether a request with this nonce answers the newest response, or came before any.
    pub(crate) fn is_current(&self, nonce: &str) -> bool {
        nonce.is_empty() || nonce.parse() == Ok(self.last_nonce)
    }

    /// Whether it answers the response in flight.
    pub(crate) fn answers_flight(&self, nonce: &str) -> bool {
        self.is_in_flight() && nonce.parse() == Ok(self.last_nonce)
    }

    /// The response in flight was accepted; reports each resource in it.
    pub(crate) fn accept(&mut self, mut report: impl FnMut(Arc<Resource>, Outcome)) {
        let Some(flight) = self.flight.take() else {
            return;
        };
        for (name, resource) in flight.items {
            // The client may have unsubscribed it since, and even subscribed it again: then it has it,
            // and is due an answer all the same.
            let Some(entry) = self.find_mut(&name) else {
                continue;
            };
            entry.flying = false;
            if let Some(resource) = resource {
                entry.accept(Arc::clone(&resource));
                report(resource, Outcome::Acked);
            } else {
                entry.held = Held::Nothing;
            }
        }
        self.forget_unused();
        self.dirty = true;
    }

    /// The entry of a name that was in a refused response; none if the client has unsubscribed it since,
    /// even if it has subscribed it again: that is answered by itself.
    fn land(&mut self, name: &str) -> Option<&mut Entry> {
        let entry = self.find_mut(name).filter(|entry| entry.flying)?;
        entry.flying = false;
        Some(entry)
    }

    /// The response in flight was refused. A single resource in it is to blame: it is reported and not
    /// sent again until it changes. Of several, those that the client's words name (or, if they name
    /// none, all) are suspects and go again one by one; the rest go again together. So every verdict is
    /// about one resource, and a bad one holds nothing else up.
    pub(crate) fn refuse(
        &mut self,
        message: &str,
        now: SystemTime,
        mut report: impl FnMut(Arc<Resource>, Outcome),
    ) {
        let Some(flight) = self.flight.take() else {
            return;
        };
        let sent = flight
            .items
            .iter()
            .filter(|(_, resource)| resource.is_some());
        let sent = sent.count();
        let mut refused = Vec::new();
        for (name, resource) in flight.items {
            match (resource, self.land(&name)) {
                (Some(resource), Some(_)) => refused.push((name, resource)),
                // A removal by itself cannot be wrong, and again it would say the same; with others it
                // may have been thrown away with them.
                (None, Some(entry)) if sent == 0 => entry.held = Held::Nothing,
                (None, Some(_)) | (_, None) => {}
            }
        }
        if sent == 1
            && let [(name, resource)] = refused.as_slice()
        {
            if let Some(entry) = self.find_mut(name) {
                entry.suspect = false;
                entry.refused = Some(Box::new(Rejection {
                    version: resource.version,
                    message: message.to_owned(),
                    at: now,
                }));
            }
            report(Arc::clone(resource), Outcome::Rejected(message.to_owned()));
        } else {
            let named: Vec<_> = refused
                .iter()
                .map(|(name, _)| names(message, name))
                .collect();
            let none = !named.contains(&true);
            for ((name, _), named) in refused.iter().zip(named) {
                if let Some(entry) = self.find_mut(name) {
                    entry.suspect |= named || none;
                }
            }
        }
        self.forget_unused();
        self.dirty = true;
    }
}

/// Whether a message contains a name as a word.
fn names(message: &str, name: &str) -> bool {
    let inside = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };
    let bytes = message.as_bytes();
    !name.is_empty()
        && message.match_indices(name).any(|(start, _)| {
            let before = start.checked_sub(1).and_then(|at| bytes.get(at));
            !inside(before) && !inside(bytes.get(start + name.len()))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_as_a_word() {
        assert!(names("Error adding/updating cluster(s) blue: no", "blue"));
        assert!(names("'blue' is bad", "blue"));
        assert!(!names("bluebird is bad", "blue"));
        assert!(!names("dark-blue is bad", "blue"));
        assert!(!names("", "blue"));
        assert!(!names("bad", ""));
    }
}
