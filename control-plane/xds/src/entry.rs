//! One name of a subscription: the store's newest version, the client's copy, and the change that is pending.
//!
//! [`Entry::pending`] compares the two, so a lost or late event cannot make them diverge for good.

use std::{collections::BTreeSet, mem, sync::Arc};

use evermesh_proto::resource::{ContentVersion, Resource};

use crate::{
    blocked::{Blocked, Offer},
    delivery::{DeliveryOutcome, Rejection},
    store::ResourceId,
    subscription::Grouping,
};

/// Bytes that a name takes outside its entry: in the store's list of watchers, in the list of stale resources and in the
/// response in flight.
const SHARED_BYTES: usize = 48;

/// The client's copy of a resource.
#[derive(Debug, Default)]
pub(crate) enum ClientCopy {
    /// The client has no copy.
    #[default]
    None,
    /// The client kept a copy from an earlier stream. The version is absent if it is not one that Evermesh could have
    /// sent, or if the client could not tell it.
    Claimed(Option<Box<ContentVersion>>),
    /// The client accepted this resource.
    Acked(Arc<Resource>),
}

impl ClientCopy {
    fn is(&self, resource: &Resource) -> bool {
        self.version() == Some(resource.version)
    }

    pub(crate) fn version(&self) -> Option<ContentVersion> {
        match self {
            Self::None => None,
            Self::Claimed(version) => version.as_deref().copied(),
            Self::Acked(resource) => Some(resource.version),
        }
    }

    fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    pub(crate) fn acked(&self) -> Option<&Arc<Resource>> {
        match self {
            Self::Acked(resource) => Some(resource),
            Self::None | Self::Claimed(_) => None,
        }
    }
}

/// The change of one name that the client has not received yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PendingChange {
    None,
    /// Send the resource.
    Upsert,
    /// Tell the client that the resource was removed.
    Removal,
    /// Tell an incremental client that a name it subscribed to does not exist
    /// (xDS protocol, "Knowing When a Requested Resource Does Not Exist").
    NotFound,
}

/// Whether a listener or route can rely on this entry: a cluster, or the endpoints or a secret of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// The client has a copy, or the store has no version that it could get.
    Ready,
    /// The client has no copy and has not answered the newest version yet.
    Pending,
    /// The client has no copy, because it rejected the resource.
    Rejected,
}

/// State that few entries have, stored apart because a stream has many entries.
#[derive(Debug, Default)]
struct Exception {
    rejection: Option<Rejection>,
    blocked: Option<Blocked>,
}

/// One name of a subscription.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // independent facts, not one state
pub(crate) struct Entry {
    pub(crate) name: Arc<str>,
    /// The store's slot to which the view resolves the name; absent if the view does not list it.
    pub(crate) id: Option<ResourceId>,
    /// The store's version when this stream last read it.
    newest: Option<Arc<Resource>>,
    pub(crate) client_copy: ClientCopy,
    exception: Option<Box<Exception>>,
    /// The client subscribed to this name explicitly, not only by the wildcard.
    pub(crate) named: bool,
    /// The next response must contain the name even if the client's copy is the newest version.
    pub(crate) must_send: bool,
    /// The name was in a NACKed response with others. It is sent alone until it is ACKed, rejected or changed.
    pub(crate) suspect: bool,
    /// The name is in the response that the client has not answered yet.
    pub(crate) in_flight: bool,
    /// The resource was sent at least once on this stream.
    pub(crate) sent: bool,
    /// The view does not list the name any more, and the client still has a copy. Its changes are sent until its removal.
    pub(crate) unlisted: bool,
    /// Listeners and routes cannot rely on the client's copy before the client has answered the next version: a removal
    /// was sent, the client asked for the resource again, or it is the endpoints of a cluster that is new to the client.
    pub(crate) awaited: bool,
}

impl Entry {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            id: None,
            newest: None,
            client_copy: ClientCopy::None,
            exception: None,
            named: false,
            must_send: false,
            suspect: false,
            in_flight: false,
            sent: false,
            unlisted: false,
            awaited: false,
        }
    }

    /// The bytes that the entry takes. The name of a resource that exists is shared with all streams.
    pub(crate) fn held_bytes(&self) -> usize {
        let name = if self.id.is_none() {
            self.name.len()
        } else {
            0
        };
        let rejection = self.rejection().map_or(0, |it| it.message.len());
        mem::size_of::<Self>() + SHARED_BYTES + name + rejection
    }

    /// The last NACK that blamed the resource, until the client ACKs a version.
    pub(crate) fn rejection(&self) -> Option<&Rejection> {
        self.exception.as_ref()?.rejection.as_ref()
    }

    /// The resource that the client gets instead of the newest version, if that needs a cluster that the client rejected.
    pub(crate) fn blocked(&self) -> Option<&Blocked> {
        self.exception.as_ref()?.blocked.as_ref()
    }

    fn set_rejection(&mut self, rejection: Option<Rejection>) {
        let blocked = self.exception.take().and_then(|old| old.blocked);
        self.set_exception(rejection, blocked);
    }

    fn set_blocked(&mut self, blocked: Option<Blocked>) {
        let rejection = self.exception.take().and_then(|old| old.rejection);
        self.set_exception(rejection, blocked);
    }

    fn set_exception(&mut self, rejection: Option<Rejection>, blocked: Option<Blocked>) {
        self.exception = (rejection.is_some() || blocked.is_some())
            .then(|| Box::new(Exception { rejection, blocked }));
    }

    /// Records an explicit subscription. The server must send a newly requested resource even if it sent it before,
    /// and even if the client rejected it before
    /// (xDS protocol, "How the client specifies what resources to return").
    pub(crate) fn subscribe(&mut self) {
        self.named = true;
        self.must_send = true;
        self.awaited = true;
        self.set_rejection(None);
        if let ClientCopy::Claimed(version) = &mut self.client_copy {
            *version = None;
        }
    }

    /// Takes the store's newest version. Adds it to `resumed` if a reconnecting client claimed exactly this version.
    pub(crate) fn set_newest(
        &mut self,
        newest: Option<Arc<Resource>>,
        resumed: &mut Vec<Arc<Resource>>,
    ) {
        self.suspect = false;
        if self.newest.as_ref().map(|newest| newest.version)
            != newest.as_ref().map(|newest| newest.version)
        {
            self.set_blocked(None);
        }
        if let Some(newest) = newest.as_ref().filter(|newest| self.client_copy.is(newest)) {
            if matches!(self.client_copy, ClientCopy::Claimed(_)) {
                self.must_send = false;
                self.awaited = false;
                resumed.push(Arc::clone(newest));
            }
            self.client_copy = ClientCopy::Acked(Arc::clone(newest));
        }
        self.newest = newest;
    }

    pub(crate) fn newest(&self) -> Option<&Arc<Resource>> {
        self.newest.as_ref()
    }

    /// Names of the clusters that the newest version needs.
    pub(crate) fn needs(&self) -> &[Arc<str>] {
        self.newest.as_ref().map_or(&[], |newest| &newest.needs)
    }

    pub(crate) fn accept(&mut self, resource: Arc<Resource>) {
        self.client_copy = ClientCopy::Acked(resource);
        self.set_rejection(None);
        self.suspect = false;
        self.awaited = false;
    }

    /// Records the version that the client claims to have from an earlier stream.
    pub(crate) fn claim(&mut self, version: Option<ContentVersion>) {
        self.client_copy = ClientCopy::Claimed(version.map(Box::new));
        self.awaited = false;
    }

    /// Assumes that the client has an unknown copy.
    ///
    /// A state-of-the-world client cannot list the versions that it kept from an earlier stream. If it NACKs a
    /// response before it has ACKed a complete set, it may still use such a version, and must be told when the resource
    /// is removed.
    pub(crate) fn assume_unknown_copy(&mut self) {
        if self.client_copy.is_none() {
            self.client_copy = ClientCopy::Claimed(None);
        }
    }

    pub(crate) fn reject(&mut self, rejection: Rejection) {
        self.suspect = false;
        self.awaited = false;
        self.set_rejection(Some(rejection));
    }

    fn has_rejected(&self, resource: &Resource) -> bool {
        let rejection = self.rejection();
        rejection.is_some_and(|rejection| rejection.version == resource.version)
    }

    /// The version that the client should have: the newest, unless that needs a rejected cluster.
    pub(crate) fn offered(&self) -> Option<&Arc<Resource>> {
        let newest = self.newest.as_ref()?;
        match self.blocked().map(|blocked| &blocked.offer) {
            None | Some(Offer::Newest) => Some(newest),
            Some(Offer::Merged(merged)) => Some(merged),
            Some(Offer::Nothing) => None,
        }
    }

    /// The version to send: the offered one, or the last good one if nothing is offered or the client rejected the
    /// offer.
    pub(crate) fn to_send(&self) -> Option<&Arc<Resource>> {
        self.newest.as_ref()?;
        let offered = self.offered().filter(|offered| !self.has_rejected(offered));
        offered.or_else(|| self.client_copy.acked())
    }

    /// Recomputes [`blocked`](Self::blocked). Returns what to report of the newest version: that the client does not get
    /// it, or that it works now.
    pub(crate) fn update_blocked(
        &mut self,
        clusters: &BTreeSet<Arc<str>>,
    ) -> Option<(Arc<Resource>, DeliveryOutcome)> {
        let newest = Arc::clone(self.newest.as_ref()?);
        let blocked = Blocked::new(&newest, &self.client_copy, clusters);
        if blocked.as_ref() == self.blocked() {
            return None;
        }
        let has_newest = self.client_copy.is(&newest);
        let outcome = match &blocked {
            None => has_newest.then_some(DeliveryOutcome::Acked),
            // The answer of the client will be reported.
            Some(blocked) if blocked.offer == Offer::Newest && !has_newest => None,
            Some(blocked) => Some(DeliveryOutcome::Blocked(blocked.clusters.to_vec())),
        };
        self.set_blocked(blocked);
        Some((newest, outcome?))
    }

    /// Whether no response contains the resource, because the client rejected the newest version and the server does not
    /// know the one that the client uses.
    pub(crate) fn is_withheld(&self) -> bool {
        self.newest.is_some() && self.to_send().is_none()
    }

    /// The version that was sent last and that the client has answered.
    pub(crate) fn last_answered(&self) -> Option<ContentVersion> {
        let rejected = self.rejection().map(|rejection| rejection.version);
        let offered = self.offered().map(|offered| offered.version);
        let acked = self.client_copy.acked().map(|acked| acked.version);
        rejected.filter(|_| rejected == offered).or(acked)
    }

    pub(crate) fn pending(&self, grouping: Grouping) -> PendingChange {
        match &self.newest {
            Some(_) if !self.unlisted || grouping == Grouping::Partial => self.pending_upsert(),
            Some(_) | None if grouping == Grouping::Partial => PendingChange::None,
            Some(_) | None if !self.client_copy.is_none() => PendingChange::Removal,
            None if self.must_send && grouping == Grouping::Delta => PendingChange::NotFound,
            Some(_) | None => PendingChange::None,
        }
    }

    /// The change to send while a pending removal has to wait.
    pub(crate) fn pending_before_removal(&self) -> PendingChange {
        if self.newest.is_some() {
            self.pending_upsert()
        } else {
            PendingChange::None
        }
    }

    fn pending_upsert(&self) -> PendingChange {
        let differs = self
            .offered()
            .is_some_and(|offered| !self.client_copy.is(offered) && !self.has_rejected(offered));
        if differs || (self.must_send && self.to_send().is_some()) {
            PendingChange::Upsert
        } else {
            PendingChange::None
        }
    }

    /// Whether a listener or route that relies on this entry can work.
    ///
    /// A rejected resource stays rejected until the client accepts a version of it: a stream of further versions must
    /// not delay what could be sent without it.
    pub(crate) fn readiness(&self, grouping: Grouping) -> Readiness {
        let has_copy = self.client_copy.version().is_some();
        if self.newest.is_none() || (has_copy && !self.awaited) {
            Readiness::Ready
        } else if !has_copy && self.rejection().is_some() {
            match self.client_copy {
                ClientCopy::None => Readiness::Rejected,
                // The client may use a version from an earlier stream.
                ClientCopy::Claimed(_) | ClientCopy::Acked(_) => Readiness::Ready,
            }
        } else if self.in_flight || self.pending(grouping) == PendingChange::Upsert {
            Readiness::Pending
        } else {
            Readiness::Ready
        }
    }

    /// The last good version, if it is not the newest: the client rejected the newest or has not received it yet.
    pub(crate) fn superseded_copy(&self) -> Option<&Arc<Resource>> {
        let acked = self.client_copy.acked()?;
        (!self.is_up_to_date()).then_some(acked)
    }

    pub(crate) fn has_copy(&self) -> bool {
        !self.client_copy.is_none()
    }

    /// Whether the client uses a version from an earlier stream that the server does not know.
    pub(crate) fn has_unknown_copy(&self) -> bool {
        matches!(self.client_copy, ClientCopy::Claimed(_))
    }

    pub(crate) fn is_subscribed(&self) -> bool {
        self.named || self.id.is_some()
    }

    pub(crate) fn is_up_to_date(&self) -> bool {
        match &self.newest {
            Some(newest) if !self.unlisted => self.client_copy.is(newest),
            Some(_) | None => self.client_copy.is_none(),
        }
    }

    /// Whether the subscription must keep the entry.
    pub(crate) fn is_in_use(&self) -> bool {
        self.named
            || self.id.is_some()
            || self.must_send
            || self.in_flight
            || !self.client_copy.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_is_small_because_a_stream_has_many() {
        assert!(size_of::<Entry>() <= 64, "{}", size_of::<Entry>());
    }
}
