//! Builds Kubernetes events in the form that the `events.k8s.io/v1` API accepts.

use kube::runtime::events::{Event, EventType, Reporter};

/// Longest note that the API accepts, in bytes.
const MAX_NOTE: usize = 1024;

/// The reporter of all events; `identity` is the replica.
pub(crate) fn reporter(identity: impl Into<String>) -> Reporter {
    Reporter {
        controller: "evermesh".to_owned(),
        instance: Some(identity.into()),
    }
}

/// An event. Cuts a note that is too long.
pub(crate) fn event(type_: EventType, reason: &str, note: &str, action: &str) -> Event {
    Event {
        type_,
        reason: reason.to_owned(),
        note: Some(note[..note.floor_char_boundary(MAX_NOTE)].to_owned()),
        action: action.to_owned(),
        secondary: None,
    }
}
