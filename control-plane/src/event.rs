//! Events, as the API takes them.
//!
//! Must not decide when one is written.

use kube::runtime::events::{Event, EventType, Reporter};

/// Longest note of an event, in bytes; the API takes no longer one.
const NOTE: usize = 1024;

/// Who tells: `identity` is the replica.
pub(crate) fn reporter(identity: impl Into<String>) -> Reporter {
    Reporter {
        controller: "evermesh".to_owned(),
        instance: Some(identity.into()),
    }
}

/// What is told; a note that is too long is cut.
pub(crate) fn event(type_: EventType, reason: &str, note: &str, action: &str) -> Event {
    Event {
        type_,
        reason: reason.to_owned(),
        note: Some(note[..note.floor_char_boundary(NOTE)].to_owned()),
        action: action.to_owned(),
        secondary: None,
    }
}
