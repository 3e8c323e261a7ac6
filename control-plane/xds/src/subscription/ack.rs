//! ACK and NACK of the response in flight (xDS protocol, "ACK/NACK and resource type instance version").
//!
//! A NACK refuses a whole response. To find the resource that caused it, the server sends the suspects of a refused
//! response again one by one, and the other resources together. Each rejection is therefore about one resource, and
//! one bad resource does not hold up the others.

use std::{sync::Arc, time::SystemTime};

use evermesh_proto::resource::Resource;

use super::{Grouping, Subscription};
use crate::{
    delivery::{DeliveryOutcome, Rejection},
    entry::{ClientCopy, Entry},
};

impl Subscription {
    /// Whether a nonce is that of the newest response. The empty nonce is current too: a first request has no nonce,
    /// and an incremental client may change its subscription without one.
    pub(crate) fn is_current(&self, nonce: &str) -> bool {
        nonce.is_empty() || nonce.parse() == Ok(self.last_nonce)
    }

    /// Whether a nonce is that of the response in flight.
    pub(crate) fn answers_in_flight(&self, nonce: &str) -> bool {
        self.is_in_flight() && nonce.parse() == Ok(self.last_nonce)
    }

    /// Handles an ACK of the response in flight. Reports each resource of the response.
    pub(crate) fn on_ack(&mut self, mut report: impl FnMut(Arc<Resource>, DeliveryOutcome)) {
        let Some(in_flight) = self.in_flight.take() else {
            return;
        };
        self.has_acked = true;
        if self.grouping == Grouping::Full {
            // A complete set removes everything that it does not contain.
            for entry in self.entries.iter_mut().filter(|it| it.has_unknown_copy()) {
                entry.client_copy = ClientCopy::None;
            }
        }
        // The client may have unsubscribed from a name after the response was sent. If it subscribed again, or the
        // wildcard covers the name, then it has the resource, and the new subscription is still answered.
        let wildcard = self.wildcard;
        let mut forgotten = Vec::new();
        for (name, resource) in in_flight.items {
            match self.find_mut(&name) {
                Some(entry) => entry.answer_ack(resource, &mut report),
                None if wildcard => forgotten.push((name, resource)),
                None => {}
            }
        }
        self.add_entries(forgotten.iter().map(|(name, _)| name.as_ref()));
        for (name, resource) in forgotten {
            if let Some(entry) = self.find_mut(&name) {
                entry.answer_ack(resource, &mut report);
            }
        }
        self.drop_unused_entries();
        self.dirty = true;
    }

    /// The entry of a name in a NACKed response. Returns `None` if the client unsubscribed from the name since, even if
    /// it subscribed again: the new subscription has its own response.
    fn take_in_flight(&mut self, name: &str) -> Option<&mut Entry> {
        let entry = self.find_mut(name).filter(|entry| entry.in_flight)?;
        entry.in_flight = false;
        Some(entry)
    }

    /// Handles a NACK of the response in flight.
    ///
    /// If the response carried one resource, that resource is rejected: the rejection is reported, and this version is
    /// not sent again. If it carried several, the resources that the message names become suspects, or all of them if
    /// the message names none.
    pub(crate) fn on_nack(
        &mut self,
        message: &str,
        now: SystemTime,
        mut report: impl FnMut(Arc<Resource>, DeliveryOutcome),
    ) {
        let Some(in_flight) = self.in_flight.take() else {
            return;
        };
        let upserts = in_flight.upserts;
        let may_keep_unknown = self.grouping == Grouping::Full && !self.has_acked;
        let mut refused = Vec::new();
        for (name, resource) in in_flight.items {
            match (resource, self.take_in_flight(&name)) {
                (Some(resource), Some(entry)) => {
                    if may_keep_unknown {
                        entry.assume_unknown_copy();
                    }
                    refused.push((name, resource));
                }
                // The server does not repeat a response that only removed names: the next one would be the same.
                // Removals beside refused resources stay pending, because the client may have ignored them.
                (None, Some(entry)) if upserts == 0 => entry.client_copy = ClientCopy::None,
                (None, Some(_)) | (_, None) => {}
            }
        }
        if upserts == 1
            && let [(name, resource)] = refused.as_slice()
        {
            if let Some(entry) = self.find_mut(name) {
                let rejection = Rejection {
                    version: resource.version,
                    message: message.to_owned(),
                    at: now,
                };
                entry.reject(rejection);
            }
            report(
                Arc::clone(resource),
                DeliveryOutcome::Rejected(message.to_owned()),
            );
        } else {
            let named: Vec<_> = refused
                .iter()
                .map(|(name, _)| contains_word(message, name))
                .collect();
            let names_none = !named.contains(&true);
            for ((name, _), named) in refused.iter().zip(named) {
                if let Some(entry) = self.find_mut(name) {
                    entry.must_send = true;
                    entry.suspect |= named || names_none;
                }
            }
        }
        self.drop_unused_entries();
        self.dirty = true;
    }
}

impl Entry {
    /// Takes the ACK of a resource, or of a removal.
    fn answer_ack(
        &mut self,
        resource: Option<Arc<Resource>>,
        report: &mut impl FnMut(Arc<Resource>, DeliveryOutcome),
    ) {
        self.in_flight = false;
        if let Some(resource) = resource {
            self.accept(Arc::clone(&resource));
            report(resource, DeliveryOutcome::Acked);
        } else {
            self.client_copy = ClientCopy::None;
        }
    }
}

/// Whether a message contains a resource name as a whole word. Letters, digits, `_` and `-` continue a word.
fn contains_word(message: &str, name: &str) -> bool {
    let continues_word = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };
    let bytes = message.as_bytes();
    !name.is_empty()
        && message.match_indices(name).any(|(start, _)| {
            let before = start.checked_sub(1).and_then(|at| bytes.get(at));
            !continues_word(before) && !continues_word(bytes.get(start + name.len()))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_matches_only_as_a_whole_word() {
        assert!(contains_word(
            "Error adding/updating cluster(s) blue: no",
            "blue"
        ));
        assert!(contains_word("'blue' is bad", "blue"));
        assert!(!contains_word("bluebird is bad", "blue"));
        assert!(!contains_word("dark-blue is bad", "blue"));
        assert!(!contains_word("", "blue"));
        assert!(!contains_word("bad", ""));
    }
}
