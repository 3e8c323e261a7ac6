//! Selection of the next response of one type: the entries with a pending change, and the response in flight.
//!
//! At most one response per type is in flight. The caller passes the removals that `barrier` allows.

use std::{
    collections::BTreeSet,
    hash::{Hash, Hasher},
    sync::Arc,
};

use evermesh_proto::resource::Resource;
use twox_hash::XxHash3_64;

use super::{Grouping, Subscription};
use crate::{
    barrier::LackedClusters,
    entry::{Entry, PendingChange, Readiness},
};

/// Size from which a response is split, except where the protocol demands the complete set: 2 MiB, because gRPC
/// clients refuse messages over 4 MiB by default.
const BATCH_BYTES: usize = 2 << 20;

/// The removals that a response may contain.
#[derive(Debug)]
pub(crate) enum AllowedRemovals {
    None,
    /// All removals except those of these names.
    AllExcept(BTreeSet<Arc<str>>),
}

/// The changes of one response, as ascending indices of entries.
#[derive(Debug, Default)]
pub(crate) struct ResponseBatch {
    upserts: Vec<usize>,
    removals: Vec<usize>,
}

/// A response that the client has not answered yet.
#[derive(Debug)]
pub(super) struct InFlightResponse {
    /// Each name with the resource that was sent, or `None` for a removal: first the resources and then the removals,
    /// each ascending by name.
    pub(super) items: Vec<(Arc<str>, Option<Arc<Resource>>)>,
    /// The number of resources.
    pub(super) upserts: usize,
}

impl Subscription {
    /// The resource that the response in flight contains under a name.
    pub(crate) fn in_flight_resource(&self, name: &str) -> Option<&Arc<Resource>> {
        let in_flight = self.in_flight.as_ref()?;
        let upserts = &in_flight.items[..in_flight.upserts];
        let found = upserts.binary_search_by(|(sent, _)| sent.as_ref().cmp(name));
        upserts[found.ok()?].1.as_ref()
    }

    fn pending(&self) -> impl Iterator<Item = (usize, &Entry, PendingChange)> {
        let grouping = self.grouping;
        let entries = if self.dirty {
            self.entries.as_slice()
        } else {
            &[]
        };
        let numbered = entries.iter().enumerate();
        numbered.map(move |(at, entry)| (at, entry, entry.pending(grouping)))
    }

    /// Whether listeners and routes can rely on each entry.
    pub(crate) fn readiness(&self) -> impl Iterator<Item = (&Entry, Readiness)> {
        let entries = self.entries.iter();
        entries.map(|entry| (entry, entry.readiness(self.grouping)))
    }

    /// Whether a response is in flight or any change is pending, including removals.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_in_flight()
            || self
                .pending()
                .any(|(_, _, change)| change != PendingChange::None)
    }

    /// Whether a change may be pending and no response is in flight.
    pub(crate) fn is_ready(&self) -> bool {
        self.dirty && !self.is_in_flight()
    }

    /// Selects the next response: every pending change that does not wait, up to [`BATCH_BYTES`], or else one suspect
    /// alone.
    pub(crate) fn select(
        &mut self,
        lacked: &LackedClusters,
        removals: &AllowedRemovals,
    ) -> Option<ResponseBatch> {
        let mut batch = ResponseBatch::default();
        let mut suspect = None;
        let mut bytes = 0;
        let mut has_held_removal = false;
        let mut has_held_upsert = false;
        for (at, entry, change) in self.pending() {
            let is_held = |entry: &Entry| match removals {
                AllowedRemovals::None => true,
                AllowedRemovals::AllExcept(held) => held.contains(&entry.name),
            };
            let change = if change == PendingChange::Removal && is_held(entry) {
                has_held_removal = true;
                entry.pending_before_removal()
            } else {
                change
            };
            match change {
                PendingChange::None => {}
                PendingChange::Upsert
                    if entry
                        .to_send()
                        .is_some_and(|resource| lacked.hold(resource)) =>
                {
                    has_held_upsert = true;
                }
                PendingChange::Upsert if entry.suspect => suspect = suspect.or(Some(at)),
                PendingChange::Upsert => {
                    let size = entry.to_send().map_or(0, |resource| resource.body.len());
                    if self.grouping != Grouping::Full && bytes > 0 && bytes + size > BATCH_BYTES {
                        continue;
                    }
                    bytes += size;
                    batch.upserts.push(at);
                }
                PendingChange::NotFound | PendingChange::Removal => batch.removals.push(at),
            }
        }
        if batch.upserts.is_empty() {
            batch.upserts.extend(suspect);
        }
        // A client takes the first response to a wildcard for complete: Envoy would call itself ready without the
        // listeners that wait. In the same way a complete set would remove those that it kept from an earlier stream.
        let is_first_set = !self.has_acked && (self.wildcard || self.grouping == Grouping::Full);
        let is_empty = batch.upserts.is_empty() && batch.removals.is_empty();
        if (has_held_upsert && (is_first_set || is_empty)) || (is_empty && !self.must_respond) {
            self.dirty = has_held_upsert || has_held_removal;
            return None;
        }
        Some(batch)
    }

    /// The changed resources of a batch, ascending by name.
    pub(crate) fn upserts<'a>(
        &'a self,
        batch: &'a ResponseBatch,
    ) -> impl Iterator<Item = &'a Arc<Resource>> {
        self.upserted_entries(batch).filter_map(Entry::to_send)
    }

    /// The entries of the changed resources of a batch, ascending by name.
    pub(crate) fn upserted_entries<'a>(
        &'a self,
        batch: &'a ResponseBatch,
    ) -> impl Iterator<Item = &'a Entry> {
        batch.upserts.iter().map(|at| &self.entries[*at])
    }

    /// The resources that the response for a batch contains, ascending by name: the complete set or the changed ones,
    /// depending on the grouping.
    pub(crate) fn response_resources<'a>(
        &'a self,
        batch: &'a ResponseBatch,
    ) -> Vec<&'a Arc<Resource>> {
        if self.grouping == Grouping::Full {
            self.set_after(batch).collect()
        } else {
            self.upserts(batch).collect()
        }
    }

    /// The names that a batch removes, ascending.
    pub(crate) fn removed<'a>(
        &'a self,
        batch: &'a ResponseBatch,
    ) -> impl Iterator<Item = &'a Arc<str>> {
        batch.removals.iter().map(|at| &self.entries[*at].name)
    }

    /// The entries of the resources that a batch removes and that the store still has.
    pub(super) fn removed_entries(
        &mut self,
        batch: &ResponseBatch,
    ) -> impl Iterator<Item = &mut Entry> {
        let mut removals = batch.removals.iter().peekable();
        let entries = self.entries.iter_mut().enumerate();
        entries
            .filter(move |(at, _)| removals.next_if_eq(&at).is_some())
            .map(|(_, entry)| entry)
            .filter(|entry| entry.unlisted)
    }

    /// Whether a batch removes something.
    pub(crate) fn has_removals(batch: &ResponseBatch) -> bool {
        !batch.removals.is_empty()
    }

    /// The resources that the client has after it ACKed a batch, ascending by name.
    fn set_after<'a>(
        &'a self,
        batch: &'a ResponseBatch,
    ) -> impl Iterator<Item = &'a Arc<Resource>> {
        let mut upserts = batch.upserts.iter().peekable();
        let mut removals = batch.removals.iter().peekable();
        self.entries
            .iter()
            .enumerate()
            .filter_map(move |(at, entry)| {
                if upserts.next_if_eq(&&at).is_some() {
                    entry.to_send()
                } else if removals.next_if_eq(&&at).is_some() {
                    None
                } else {
                    entry.client_copy.acked()
                }
            })
    }

    /// The version of the client's set after a batch: the XXH3-64 of the versions of its resources, ascending by name.
    ///
    /// The protocol defines the version as a property of the resources, not of a stream or a server process, so it is
    /// equal on every replica (xDS protocol, "ACK/NACK and resource type instance version").
    pub(crate) fn set_version(&self, batch: &ResponseBatch) -> String {
        let mut hasher = XxHash3_64::new();
        for resource in self.set_after(batch) {
            resource.version.hash(&mut hasher);
        }
        format!("{:016x}", hasher.finish())
    }

    /// Records that a batch was sent with this nonce.
    pub(crate) fn mark_sent(&mut self, batch: &ResponseBatch, nonce: u64) {
        let mut items = Vec::with_capacity(batch.upserts.len() + batch.removals.len());
        for &at in &batch.upserts {
            let entry = &mut self.entries[at];
            items.push((Arc::clone(&entry.name), entry.to_send().cloned()));
            entry.must_send = false;
            entry.in_flight = true;
            entry.sent = true;
        }
        for &at in &batch.removals {
            let entry = &mut self.entries[at];
            entry.must_send = false;
            entry.awaited = true;
            entry.in_flight = true;
            items.push((Arc::clone(&entry.name), None));
        }
        self.must_respond = false;
        self.last_nonce = nonce;
        let upserts = batch.upserts.len();
        self.in_flight = Some(Box::new(InFlightResponse { items, upserts }));
    }
}
