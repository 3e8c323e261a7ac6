//! The signal from the store to one stream: the set of resource IDs that are stale, and a wake-up.
//!
//! The store's dispatcher marks IDs; the stream takes all of them at once and reads the newest resources from the
//! store. The set is bounded by the number of resources, however slowly the stream reads, and it holds no resource.
//!
//! A stream that waits for the answer of its client to a response cannot send more of that type. A change of the type
//! does not wake it: the answer will. So clients that never answer cost little, however often resources change.

use std::{
    collections::BTreeSet,
    mem,
    task::{Context, Waker},
};

use evermesh_proto::resource::ResourceType;
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
    /// A change is marked for which the stream must not sleep.
    is_urgent: bool,
    /// Types of which a response is in flight, by number.
    in_flight: [bool; ResourceType::ALL.len()],
    closed: bool,
    waker: Option<Waker>,
}

impl Signal {
    /// Marks a resource as stale. Returns the waker of the stream if it sleeps and can send the resource.
    pub(crate) fn mark_resource(&self, kind: ResourceType, id: ResourceId) -> Option<Waker> {
        let mut state = self.0.lock();
        state.stale.ids.insert(id);
        if state.in_flight[kind as usize] {
            return None;
        }
        state.is_urgent = true;
        state.waker.take()
    }

    /// Marks the view as stale. Returns the waker of the stream if it sleeps.
    pub(crate) fn mark_view(&self) -> Option<Waker> {
        let mut state = self.0.lock();
        state.stale.view = true;
        state.is_urgent = true;
        state.waker.take()
    }

    /// Records whether a response of a type is in flight. The stream reads what is stale before it sleeps again.
    pub(crate) fn set_in_flight(&self, kind: ResourceType, is_in_flight: bool) {
        let mut state = self.0.lock();
        state.in_flight[kind as usize] = is_in_flight;
        state.is_urgent |= !is_in_flight && !state.stale.is_empty();
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
        let mut state = self.0.lock();
        state.is_urgent = false;
        mem::take(&mut state.stale)
    }

    /// Registers the waker for the next change. Returns false if the stream must not sleep, because a change is marked
    /// already or the stream must end.
    pub(crate) fn sleep(&self, context: &Context<'_>) -> bool {
        let mut state = self.0.lock();
        if state.closed || state.is_urgent {
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
        let id = ResourceId::new(1);
        assert!(signal.mark_resource(ResourceType::Cluster, id).is_some());
        assert!(signal.mark_resource(ResourceType::Cluster, id).is_none());
        assert!(signal.mark_view().is_none());
        assert!(!signal.sleep(&context));
        let stale = signal.take();
        assert_eq!(stale.ids.len(), 1);
        assert!(stale.view);
        assert!(signal.sleep(&context));
    }

    #[test]
    fn type_that_is_in_flight_wakes_the_stream_with_the_answer() {
        use ResourceType::{Cluster, Endpoint};

        let signal = Signal::default();
        let context = Context::from_waker(Waker::noop());
        let [first, second] = [1, 2].map(ResourceId::new);
        signal.set_in_flight(Cluster, true);
        assert!(signal.sleep(&context));
        assert!(signal.mark_resource(Cluster, first).is_none());
        assert!(signal.sleep(&context), "nothing can be sent");
        assert!(signal.mark_resource(Endpoint, second).is_some());
        assert!(!signal.sleep(&context));
        assert_eq!(signal.take().ids, [first, second].into());
        assert!(signal.sleep(&context));
        assert!(signal.mark_resource(Cluster, first).is_none());
        signal.set_in_flight(Cluster, false);
        assert!(!signal.sleep(&context));
        assert_eq!(signal.take().ids, [first].into());
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
