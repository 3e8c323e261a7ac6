//! What reaches a stream from outside: the set of resource ids that may be stale, and a wake.
//!
//! In: marks from the store's dispatcher. Out: everything marked since the last look, at once.
//! A slow reader costs a set that is bounded by the number of resources; it never queues.
//! Must not hold resources: the stream reads the newest when it can send.

use std::{
    collections::BTreeSet,
    mem,
    task::{Context, Waker},
};

use parking_lot::Mutex;

use crate::store::ResourceId;

/// One stream's letter box, shared by the stream, the store and nobody else.
#[derive(Debug, Default)]
pub(crate) struct Signal(Mutex<State>);

/// What may have changed since the stream last looked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Stale {
    /// Resources with a new content, or gone.
    pub(crate) ids: BTreeSet<ResourceId>,
    /// The stream's view is another one now.
    pub(crate) view: bool,
}

impl Stale {
    fn is_empty(&self) -> bool {
        self.ids.is_empty() && !self.view
    }
}

#[derive(Debug, Default)]
struct State {
    stale: Stale,
    closed: bool,
    waker: Option<Waker>,
}

impl Signal {
    /// Notes a change; returns whom to wake, once per sleep.
    pub(crate) fn mark_resource(&self, id: ResourceId) -> Option<Waker> {
        let mut state = self.0.lock();
        state.stale.ids.insert(id);
        state.waker.take()
    }

    /// Notes that the stream's view changed.
    pub(crate) fn mark_view(&self) -> Option<Waker> {
        let mut state = self.0.lock();
        state.stale.view = true;
        state.waker.take()
    }

    /// Tells the stream to end.
    pub(crate) fn close(&self) -> Option<Waker> {
        let mut state = self.0.lock();
        state.closed = true;
        state.waker.take()
    }

    /// Whether the stream was told to end.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.lock().closed
    }

    /// Whether there is something to take.
    pub(crate) fn is_stale(&self) -> bool {
        !self.0.lock().stale.is_empty()
    }

    /// Takes everything noted so far.
    pub(crate) fn take(&self) -> Stale {
        mem::take(&mut self.0.lock().stale)
    }

    /// Asks to be woken at the next note; false if there is one already.
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
    fn many_marks_are_one_wake_and_one_set() {
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
