//! What is due to the client: which entries go into the next response, and the response in flight.
//!
//! Must not know other types; the barrier says what may go.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use evermesh_proto::resource::Resource;

use super::{Grouping, Subscription};
use crate::entry::{Entry, PendingChange};

/// A response larger than this is cut in several where the protocol allows it: some gRPC clients read no
/// message over 4 MiB.
const BATCH_BYTES: usize = 2 << 20;

/// Which removals a response may carry.
#[derive(Debug)]
pub(crate) enum AllowedRemovals {
    /// None yet.
    None,
    /// All but these.
    AllExcept(BTreeSet<Arc<str>>),
}

/// What one response changes, as indices of entries, ascending.
#[derive(Debug, Default)]
pub(crate) struct ResponseBatch {
    upserts: Vec<usize>,
    removals: Vec<usize>,
}

/// The response that waits for its answer.
#[derive(Debug)]
pub(super) struct InFlightResponse {
    pub(super) items: Vec<(Arc<str>, Option<Arc<Resource>>)>,
    /// It carries something the client cannot work without, so that later types wait for it.
    brings_new: bool,
}

impl Subscription {
    /// What the response in flight says of a name.
    pub(crate) fn flying(&self, name: &str) -> Option<&Arc<Resource>> {
        let items = &self.flight.as_ref()?.items;
        let item = items.iter().find(|(flying, _)| flying.as_ref() == name);
        item?.1.as_ref()
    }

    fn due(&self) -> impl Iterator<Item = (usize, &Entry, PendingChange)> {
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
        self.is_in_flight() || self.due().any(|(_, _, due)| due == PendingChange::Send)
    }

    /// Whether the client waits for something it does not have at all.
    pub(crate) fn is_bringing_new(&self) -> bool {
        let flying = self.flight.as_ref().is_some_and(|flight| flight.brings_new);
        flying
            || self
                .due()
                .any(|(_, entry, due)| due == PendingChange::Send && entry.is_new())
    }

    /// Whether anything is due or waits for its answer.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_in_flight() || self.due().any(|(_, _, due)| due != PendingChange::Nothing)
    }

    /// Whether something may be due and nothing waits for its answer.
    pub(crate) fn is_ready(&self) -> bool {
        self.dirty && !self.is_in_flight()
    }

    /// What to send now, if anything: everything that is due in one response. A resource under suspicion
    /// of having spoiled a response goes alone.
    pub(crate) fn select(&mut self, removals: &AllowedRemovals) -> Option<ResponseBatch> {
        let mut batch = ResponseBatch::default();
        let mut suspect = None;
        let mut bytes = 0;
        let mut waits = false;
        for (at, entry, due) in self.due() {
            match due {
                PendingChange::Nothing => {}
                PendingChange::Send if entry.suspect => suspect = suspect.or(Some(at)),
                PendingChange::Send => {
                    let size = entry.offer().map_or(0, |offer| offer.body.len());
                    if self.grouping != Grouping::Full && bytes > 0 && bytes + size > BATCH_BYTES {
                        continue;
                    }
                    bytes += size;
                    batch.upserts.push(at);
                }
                PendingChange::Absent => batch.removals.push(at),
                PendingChange::Remove => match removals {
                    AllowedRemovals::AllExcept(kept) if !kept.contains(&entry.name) => {
                        batch.removals.push(at);
                    }
                    AllowedRemovals::None | AllowedRemovals::AllExcept(_) => waits = true,
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
        batch: &'a ResponseBatch,
    ) -> impl Iterator<Item = &'a Arc<Resource>> {
        let entries = batch.upserts.iter().map(|at| &self.entries[*at]);
        entries.filter_map(Entry::offer)
    }

    /// The resources in the response of a batch, ascending by name.
    pub(crate) fn carried<'a>(&'a self, batch: &'a ResponseBatch) -> Vec<&'a Arc<Resource>> {
        if self.grouping == Grouping::Full {
            self.after(batch).collect()
        } else {
            self.upserts(batch).collect()
        }
    }

    /// The names a batch removes, ascending.
    pub(crate) fn removed<'a>(
        &'a self,
        batch: &'a ResponseBatch,
    ) -> impl Iterator<Item = &'a Arc<str>> {
        batch.removals.iter().map(|at| &self.entries[*at].name)
    }

    /// Everything the client holds once it accepted a batch, ascending by name.
    pub(crate) fn after<'a>(
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
                    entry.offer()
                } else if removals.next_if_eq(&&at).is_some() {
                    None
                } else {
                    entry.held.resource()
                }
            })
    }

    /// A version of the whole set after a batch: a hash of the versions in it, equal on every replica.
    pub(crate) fn set_version(&self, batch: &ResponseBatch) -> String {
        let mut hasher = DefaultHasher::new();
        for resource in self.after(batch) {
            resource.version.hash(&mut hasher);
        }
        format!("{:016x}", hasher.finish())
    }

    /// Marks a batch as sent under a nonce.
    pub(crate) fn launch(&mut self, batch: &ResponseBatch, nonce: u64) {
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
        self.flight = Some(Box::new(InFlightResponse { items, brings_new }));
    }
}
