//! What the client ack_statuses to the response in flight: it accepts it, or refuses it and the one to blame
//! is found.
//!
//! Must not know how a response was put together.

use std::{sync::Arc, time::SystemTime};

use evermesh_proto::resource::Resource;

use super::{Grouping, Subscription};
use crate::{
    delivery::{DeliveryOutcome, Rejection},
    entry::{ClientCopy, Entry},
};

impl Subscription {
    /// Whether a request with this nonce ack_statuses the newest response, or came before any.
    pub(crate) fn is_current(&self, nonce: &str) -> bool {
        nonce.is_empty() || nonce.parse() == Ok(self.last_nonce)
    }

    /// Whether it ack_statuses the response in flight.
    pub(crate) fn answers_flight(&self, nonce: &str) -> bool {
        self.is_in_flight() && nonce.parse() == Ok(self.last_nonce)
    }

    /// The response in flight was accepted; reports each resource in it.
    pub(crate) fn accept(&mut self, mut report: impl FnMut(Arc<Resource>, DeliveryOutcome)) {
        let Some(flight) = self.flight.take() else {
            return;
        };
        for (name, resource) in flight.items {
            // The client may have unsubscribed it since, and subscribed it again, by name or by the
            // wildcard: then it has it, and is due an answer all the same.
            let wildcard = self.wildcard;
            let entry = match self.find_mut(&name) {
                Some(entry) => entry,
                None if wildcard => self.entry(&name),
                None => continue,
            };
            entry.flying = false;
            if let Some(resource) = resource {
                entry.accept(Arc::clone(&resource));
                report(resource, DeliveryOutcome::Acked);
            } else {
                entry.held = ClientCopy::Nothing;
            }
        }
        self.forget_unused();
        self.dirty = true;
    }

    /// The entry of a name that was in a refused response; none if the client has unsubscribed it since,
    /// even if it has subscribed it again: that is answered by itself.
    fn land(&mut self, name: &str) -> Option<&mut Entry> {
        let entry = self.find_mut(name).filter(|entry| entry.flying)?;
        entry.flying = false;
        Some(entry)
    }

    /// The response in flight was refused. A single resource in it is to blame: it is reported and not
    /// sent again until it changes. Of several, those that the client's words name (or, if they name
    /// none, all) are suspects and go again one by one; the rest go again together. So every verdict is
    /// about one resource, and a bad one holds nothing else up.
    pub(crate) fn refuse(
        &mut self,
        message: &str,
        now: SystemTime,
        mut report: impl FnMut(Arc<Resource>, DeliveryOutcome),
    ) {
        let Some(flight) = self.flight.take() else {
            return;
        };
        let sent = flight
            .items
            .iter()
            .filter(|(_, resource)| resource.is_some());
        let sent = sent.count();
        let grouping = self.grouping;
        let mut refused = Vec::new();
        for (name, resource) in flight.items {
            match (resource, self.land(&name)) {
                (Some(resource), Some(entry)) => {
                    if grouping == Grouping::Full {
                        entry.doubt();
                    }
                    refused.push((name, resource));
                }
                // A removal by itself cannot be wrong, and again it would say the same; with others it
                // may have been thrown away with them.
                (None, Some(entry)) if sent == 0 => entry.held = ClientCopy::Nothing,
                (None, Some(_)) | (_, None) => {}
            }
        }
        if sent == 1
            && let [(name, resource)] = refused.as_slice()
        {
            if let Some(entry) = self.find_mut(name) {
                let rejection = Rejection {
                    version: resource.version,
                    message: message.to_owned(),
                    at: now,
                };
                entry.refuse(rejection);
            }
            report(
                Arc::clone(resource),
                DeliveryOutcome::Rejected(message.to_owned()),
            );
        } else {
            let named: Vec<_> = refused
                .iter()
                .map(|(name, _)| names(message, name))
                .collect();
            let none = !named.contains(&true);
            for ((name, _), named) in refused.iter().zip(named) {
                if let Some(entry) = self.find_mut(name) {
                    entry.suspect |= named || none;
                }
            }
        }
        self.forget_unused();
        self.dirty = true;
    }
}

/// Whether a message contains a name as a word.
fn names(message: &str, name: &str) -> bool {
    let inside = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };
    let bytes = message.as_bytes();
    !name.is_empty()
        && message.match_indices(name).any(|(start, _)| {
            let before = start.checked_sub(1).and_then(|at| bytes.get(at));
            !inside(before) && !inside(bytes.get(start + name.len()))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_as_a_word() {
        assert!(names("Error adding/updating cluster(s) blue: no", "blue"));
        assert!(names("'blue' is bad", "blue"));
        assert!(!names("bluebird is bad", "blue"));
        assert!(!names("dark-blue is bad", "blue"));
        assert!(!names("", "blue"));
        assert!(!names("bad", ""));
    }
}
