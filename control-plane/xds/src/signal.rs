//! The signal from the store to one stream: the set of resource IDs that are stale, and a wake-up.
//!
//! The store's dispatcher marks IDs; the stream takes all of them at once and reads the newest resources from the
//! store. The set is bounded by the number of resources, however slowly the stream reads, and it holds no resource.

use std::{
    collections::BTreeSet,
    mem,
    task::{Context, Waker},
};

use parking_lot::Mutex;

use crate::store::ResourceId;

/// One stream's signal, shared by the stream and the store.
#[derive(Debug, Default)]
pub(crate) struct Signal(Mutex<State>);

/// Changes since the stream last looked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct StaleSet {
    /// Resources that were changed or removed.
    pub(crate) ids: BTreeSet<ResourceId>,
    /// The stream's view was changed or removed.
    pub(crate) view: bool,
}

impl StaleSet {
    fn is_empty(&self) -> bool {
        self.ids.is_empty() && !self.view
    }
}

#[derive(Debug, Default)]
struct State {
    stale: StaleSet,
    closed: bool,
    waker: Option<Waker>,
}

impl Signal {
    /// Marks a resource as stale. Returns the waker of the stream if it sleeps.
    pub(crate) fn mark_resource(&self, id: ResourceId) -> Option<Waker> {
        let mut state = self.0.lock();
        state.stale.ids.insert(id);
        state.waker.take()
    }

    /// Marks the view as stale. Returns the waker of the stream if it sleeps.
    pub(crate) fn mark_view(&self) -> Option<Waker> {
        let mut state = self.0.lock();
        state.stale.view = true;
        state.waker.take()
    }

    /// Requests the end of the stream. Returns the waker of the stream if it sleeps.
    pub(crate) fn close(&self) -> Option<Waker> {
        let mut state = self.0.lock();
        state.closed = true;
        state.waker.take()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.lock().closed
    }

    pub(crate) fn is_stale(&self) -> bool {
        !self.0.lock().stale.is_empty()
    }

    /// Takes all changes that were marked so far.
    pub(crate) fn take(&self) -> StaleSet {
        mem::take(&mut self.0.lock().stale)
    }

    /// Registers the waker for the next change. Returns false if the stream must not sleep, because a change is marked
    /// already or the stream must end.
    pub(crate) fn sleep(&self, context: &Context<'_>) -> bool {
        let mut state = self.0.lock();
        if state.closed || !state.stale.is_empty() {
            return false;
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_changes_wake_a_stream_once() {
        let signal = Signal::default();
        let context = Context::from_waker(Waker::noop());
        assert!(signal.sleep(&context));
        assert!(signal.mark_resource(ResourceId::new(1)).is_some());
        assert!(signal.mark_resource(ResourceId::new(1)).is_none());
        assert!(signal.mark_view().is_none());
        assert!(!signal.sleep(&context));
        let stale = signal.take();
        assert_eq!(stale.ids.len(), 1);
        assert!(stale.view);
        assert!(signal.sleep(&context));
    }

    #[test]
    fn a_closed_signal_does_not_sleep() {
        let signal = Signal::default();
        let context = Context::from_waker(Waker::noop());
        assert!(signal.sleep(&context));
        assert!(signal.close().is_some());
        assert!(signal.is_closed());
        assert!(!signal.sleep(&context));
    }
}
