//! One name of a subscription: what the store has, what the client has, and what follows from it.
//!
//! Must not know how a response is put together.

use std::sync::Arc;

use evermesh_proto::resource::{Resource, ContentVersion};

use crate::{delivery::Rejection, store::ResourceId, subscription::Grouping};

/// What the client has under a name.
#[derive(Debug, Default)]
pub(crate) enum ClientCopy {
    /// Nothing.
    #[default]
    Nothing,
    /// What it says it kept from an earlier stream: one of our versions, or something else.
    Claimed(Option<Box<ContentVersion>>),
    /// What it accepted.
    Resource(Arc<Resource>),
}

impl ClientCopy {
    fn is(&self, resource: &Resource) -> bool {
        match self {
            Self::Nothing => false,
            Self::Claimed(version) => version.as_deref() == Some(&resource.version),
            Self::Resource(held) => held.version == resource.version,
        }
    }

    /// The version, if it is one of ours.
    pub(crate) fn version(&self) -> Option<ContentVersion> {
        match self {
            Self::Nothing => None,
            Self::Claimed(version) => version.as_deref().copied(),
            Self::Resource(resource) => Some(resource.version),
        }
    }

    fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    /// The resource, if we know it.
    pub(crate) fn resource(&self) -> Option<&Arc<Resource>> {
        match self {
            Self::Resource(resource) => Some(resource),
            Self::Nothing | Self::Claimed(_) => None,
        }
    }
}

/// What must be said of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PendingChange {
    /// Nothing.
    Nothing,
    /// Its content.
    Send,
    /// That it is gone.
    Remove,
    /// That it was never there, to a client that asked.
    Absent,
}

/// One name.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // independent facts, not one state
pub(crate) struct Entry {
    pub(crate) name: Arc<str>,
    /// Where the view finds the name today.
    pub(crate) id: Option<ResourceId>,
    /// What the store had at the last look.
    want: Option<Arc<Resource>>,
    /// What the client has.
    pub(crate) held: ClientCopy,
    /// What the client refused last, with its words.
    pub(crate) refused: Option<Box<Rejection>>,
    /// The client named it; otherwise it is here by the wildcard.
    pub(crate) named: bool,
    /// It is due even if the client has it.
    pub(crate) asked: bool,
    /// It was in a response that was refused and goes alone now.
    pub(crate) suspect: bool,
    /// It is in the response that waits for its answer.
    pub(crate) flying: bool,
    /// It was sent on this stream.
    pub(crate) sent: bool,
}

impl Entry {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            id: None,
            want: None,
            held: ClientCopy::Nothing,
            refused: None,
            named: false,
            asked: false,
            suspect: false,
            flying: false,
            sent: false,
        }
    }

    /// The client names it. That is answered, with what it refused before too if that is the newest.
    pub(crate) fn subscribe(&mut self) {
        self.named = true;
        self.asked = true;
        self.refused = None;
        if let ClientCopy::Claimed(version) = &mut self.held {
            *version = None;
        }
    }

    /// Takes what the store has; collects it if the client turns out to have had it from before.
    pub(crate) fn set_want(
        &mut self,
        want: Option<Arc<Resource>>,
        resumed: &mut Vec<Arc<Resource>>,
    ) {
        self.suspect = false;
        if let Some(want) = want.as_ref().filter(|want| self.held.is(want)) {
            if matches!(self.held, ClientCopy::Claimed(_)) {
                self.asked = false;
                resumed.push(Arc::clone(want));
            }
            self.held = ClientCopy::Resource(Arc::clone(want));
        }
        self.want = want;
    }

    /// The names of the clusters the newest needs.
    pub(crate) fn needs(&self) -> &[Arc<str>] {
        self.want.as_ref().map_or(&[], |want| &want.needs)
    }

    /// The client accepted a resource.
    pub(crate) fn accept(&mut self, resource: Arc<Resource>) {
        self.held = ClientCopy::Resource(resource);
        self.refused = None;
        self.suspect = false;
    }

    /// It was in a response that was refused. A client that speaks state of the world may have an older
    /// version from an earlier stream, without a way to say so: it must hear when the resource goes.
    pub(crate) fn doubt(&mut self) {
        if self.held.is_nothing() {
            self.held = ClientCopy::Claimed(None);
        }
    }

    /// The client refused it.
    pub(crate) fn refuse(&mut self, rejection: Rejection) {
        self.suspect = false;
        self.refused = Some(Box::new(rejection));
    }

    fn refuses(&self, resource: &Resource) -> bool {
        let refused = self.refused.as_ref();
        refused.is_some_and(|rejection| rejection.version == resource.version)
    }

    /// What to send: the newest, or the last good one if the client refused the newest.
    pub(crate) fn offer(&self) -> Option<&Arc<Resource>> {
        let want = self.want.as_ref()?;
        if self.refuses(want) {
            self.held.resource()
        } else {
            Some(want)
        }
    }

    /// The version that was sent last and is answered.
    pub(crate) fn last_sent(&self) -> Option<ContentVersion> {
        let refused = self.refused.as_ref().map(|rejection| rejection.version);
        let newest = self.want.as_ref().map(|want| want.version);
        let held = self.held.resource().map(|held| held.version);
        refused.filter(|_| refused == newest).or(held)
    }

    /// What must be said of it.
    pub(crate) fn due(&self, grouping: Grouping) -> PendingChange {
        match &self.want {
            Some(_) if self.asked && self.offer().is_some() => PendingChange::Send,
            Some(want) if !self.held.is(want) && !self.refuses(want) => PendingChange::Send,
            None if grouping == Grouping::Partial => PendingChange::Nothing,
            None if !self.held.is_nothing() => PendingChange::Remove,
            None if self.asked && grouping == Grouping::Delta => PendingChange::Absent,
            Some(_) | None => PendingChange::Nothing,
        }
    }

    /// Whether the client has nothing under the name, or waits for it to be sent again.
    pub(crate) fn is_new(&self) -> bool {
        self.asked || self.held.is_nothing()
    }

    /// The last good one, if it is not what the store has: the client refused that, or is yet to get it.
    pub(crate) fn outdated(&self) -> Option<&Arc<Resource>> {
        let held = self.held.resource()?;
        let newest = self.want.as_ref().is_some_and(|want| self.held.is(want));
        (!newest).then_some(held)
    }

    /// Whether the client asked for it.
    pub(crate) fn is_wanted(&self) -> bool {
        self.named || self.id.is_some()
    }

    /// Whether the client has what the store has.
    pub(crate) fn is_settled(&self) -> bool {
        match &self.want {
            Some(want) => self.held.is(want),
            None => self.held.is_nothing(),
        }
    }

    /// Whether there is still a reason to keep it.
    pub(crate) fn is_needed(&self) -> bool {
        self.named || self.id.is_some() || self.asked || self.flying || !self.held.is_nothing()
    }
}
