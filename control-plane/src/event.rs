//! Builds Kubernetes events in the form that the `events.k8s.io/v1` API accepts.

use evermesh_xds::PeerText;
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

/// An event. Cuts a note that is too long, and escapes control characters.
pub(crate) fn event(type_: EventType, reason: &str, note: &str, action: &str) -> Event {
    Event {
        type_,
        reason: reason.to_owned(),
        note: Some(PeerText(note).within(MAX_NOTE)),
        action: action.to_owned(),
        secondary: None,
    }
}
