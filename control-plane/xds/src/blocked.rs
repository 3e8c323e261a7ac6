//! Listeners and routes that need a cluster that the client rejected.
//!
//! What needs a rejected cluster stays at the client as it is, part by part, and so do parts that the newest version does
//! not have any more ([`Resource::keeping`]). What the client gets instead of the newest version follows from that
//! version and from the client's copy:
//!
//! | client's copy | the client gets |
//! |---|---|
//! | none | the newest version: no request worked before, and a missing cluster fails only its own requests |
//! | accepted on this stream | the newest version with the blocked parts of the copy |
//! | accepted on this stream, and the newest version cannot be taken in parts | nothing |
//! | kept from an earlier stream, so that its contents are unknown | nothing |
//!
//! A state-of-the-world client cannot tell what it kept from an earlier stream and counts as a client without a copy.
//!
//! Merging again after the client accepted a merged version gives the same bytes, so the state needs no history.

use std::{collections::BTreeSet, sync::Arc};

use evermesh_proto::resource::Resource;

use crate::entry::ClientCopy;

/// The rejected clusters that the newest version of a resource needs, and what the client gets instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blocked {
    /// Ascending; never empty.
    pub(crate) clusters: Box<[Arc<str>]>,
    pub(crate) offer: Offer,
}

/// The version that a client should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Offer {
    Newest,
    /// The newest version with parts of the client's copy.
    Merged(Arc<Resource>),
    /// The client's copy.
    Nothing,
}

impl Blocked {
    /// Returns `None` if the newest version needs no rejected cluster.
    pub(crate) fn new(
        newest: &Arc<Resource>,
        copy: &ClientCopy,
        rejected: &BTreeSet<Arc<str>>,
    ) -> Option<Self> {
        let clusters = newest.needs.iter().filter(|need| rejected.contains(*need));
        let clusters: Box<[Arc<str>]> = clusters.cloned().collect();
        if clusters.is_empty() {
            return None;
        }
        let offer = match copy {
            ClientCopy::None | ClientCopy::Claimed(None) => Offer::Newest,
            ClientCopy::Claimed(Some(_)) => Offer::Nothing,
            ClientCopy::Acked(copy) => {
                match newest.keeping(copy, |cluster| rejected.contains(cluster)) {
                    Some(merged) if merged.version == newest.version => Offer::Newest,
                    Some(merged) => Offer::Merged(Arc::new(merged)),
                    None => Offer::Nothing,
                }
            }
        };
        Some(Self { clusters, offer })
    }

    /// The origins of `newest` of which the client does not have everything.
    pub(crate) fn origins(&self, newest: &Resource) -> BTreeSet<Arc<str>> {
        match self.offer {
            Offer::Nothing => newest.origins.iter().cloned().collect(),
            Offer::Newest | Offer::Merged(_) => newest.origins_needing(|cluster| {
                self.clusters
                    .binary_search_by(|name| name.as_ref().cmp(cluster))
                    .is_ok()
            }),
        }
    }
}
