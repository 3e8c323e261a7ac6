//! One name of a subscription: the store's newest version, the client's copy, and the change that is pending.
//!
//! [`Entry::pending`] compares the two, so a lost or late event cannot make them diverge for good.

use std::sync::Arc;

use evermesh_proto::resource::{ContentVersion, Resource};

use crate::{delivery::Rejection, store::ResourceId, subscription::Grouping};

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
    pub(crate) rejection: Option<Box<Rejection>>,
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
}

impl Entry {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            id: None,
            newest: None,
            client_copy: ClientCopy::None,
            rejection: None,
            named: false,
            must_send: false,
            suspect: false,
            in_flight: false,
            sent: false,
        }
    }

    /// Records an explicit subscription. The server must send a newly requested resource even if it sent it before,
    /// and even if the client rejected it before
    /// (xDS protocol, "How the client specifies what resources to return").
    pub(crate) fn subscribe(&mut self) {
        self.named = true;
        self.must_send = true;
        self.rejection = None;
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
        if let Some(newest) = newest.as_ref().filter(|newest| self.client_copy.is(newest)) {
            if matches!(self.client_copy, ClientCopy::Claimed(_)) {
                self.must_send = false;
                resumed.push(Arc::clone(newest));
            }
            self.client_copy = ClientCopy::Acked(Arc::clone(newest));
        }
        self.newest = newest;
    }

    /// Names of the clusters that the newest version needs.
    pub(crate) fn needs(&self) -> &[Arc<str>] {
        self.newest.as_ref().map_or(&[], |newest| &newest.needs)
    }

    pub(crate) fn accept(&mut self, resource: Arc<Resource>) {
        self.client_copy = ClientCopy::Acked(resource);
        self.rejection = None;
        self.suspect = false;
    }

    /// Assumes that the client has an unknown copy.
    ///
    /// A state-of-the-world client cannot list the versions that it kept from an earlier stream. If it NACKs a
    /// response, it may still use such a version, and must be told when the resource is removed.
    pub(crate) fn assume_unknown_copy(&mut self) {
        if self.client_copy.is_none() {
            self.client_copy = ClientCopy::Claimed(None);
        }
    }

    pub(crate) fn reject(&mut self, rejection: Rejection) {
        self.suspect = false;
        self.rejection = Some(Box::new(rejection));
    }

    fn has_rejected(&self, resource: &Resource) -> bool {
        let rejection = self.rejection.as_ref();
        rejection.is_some_and(|rejection| rejection.version == resource.version)
    }

    /// The version to send: the newest, or the last good one if the client rejected the newest.
    pub(crate) fn to_send(&self) -> Option<&Arc<Resource>> {
        let newest = self.newest.as_ref()?;
        if self.has_rejected(newest) {
            self.client_copy.acked()
        } else {
            Some(newest)
        }
    }

    /// Whether no response contains the resource, because the client rejected the newest version and the server does not
    /// know the one that the client uses.
    pub(crate) fn is_withheld(&self) -> bool {
        self.newest.is_some() && self.to_send().is_none()
    }

    /// The version that was sent last and that the client has answered.
    pub(crate) fn last_answered(&self) -> Option<ContentVersion> {
        let rejected = self.rejection.as_ref().map(|rejection| rejection.version);
        let newest = self.newest.as_ref().map(|newest| newest.version);
        let acked = self.client_copy.acked().map(|acked| acked.version);
        rejected.filter(|_| rejected == newest).or(acked)
    }

    pub(crate) fn pending(&self, grouping: Grouping) -> PendingChange {
        match &self.newest {
            Some(_) if self.must_send && self.to_send().is_some() => PendingChange::Upsert,
            Some(newest) if !self.client_copy.is(newest) && !self.has_rejected(newest) => {
                PendingChange::Upsert
            }
            None if grouping == Grouping::Partial => PendingChange::None,
            None if !self.client_copy.is_none() => PendingChange::Removal,
            None if self.must_send && grouping == Grouping::Delta => PendingChange::NotFound,
            Some(_) | None => PendingChange::None,
        }
    }

    /// Whether the client cannot work with its copy: it has none, or it waits for the resource to be sent again.
    pub(crate) fn is_missing(&self) -> bool {
        self.must_send || self.client_copy.is_none()
    }

    /// The last good version, if it is not the newest: the client rejected the newest or has not received it yet.
    pub(crate) fn superseded_copy(&self) -> Option<&Arc<Resource>> {
        let acked = self.client_copy.acked()?;
        (!self.is_up_to_date()).then_some(acked)
    }

    pub(crate) fn is_subscribed(&self) -> bool {
        self.named || self.id.is_some()
    }

    pub(crate) fn is_up_to_date(&self) -> bool {
        match &self.newest {
            Some(newest) => self.client_copy.is(newest),
            None => self.client_copy.is_none(),
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
