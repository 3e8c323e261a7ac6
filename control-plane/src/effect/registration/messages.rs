//! Problems of Cloud Map registration: one sentence for each virtual node that is not registered as it should be.
//!
//! Input: the outcome of every round of a [`ServiceWorker`](super::worker::ServiceWorker). Output: a watched map, which
//! the status writer turns into problems, and a log line when a message appears or disappears.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_model::ObjectRef;
use tokio::sync::watch;

/// Messages by virtual node.
pub(crate) type RegistrationMessages = BTreeMap<ObjectRef, String>;

/// Publishes the messages, each once.
#[derive(Debug)]
pub(super) struct MessagePublisher(pub(super) watch::Sender<Arc<RegistrationMessages>>);

impl MessagePublisher {
    /// Sets or, with `None`, removes the message of a node.
    pub(super) fn set(&self, node: &ObjectRef, message: Option<&String>) {
        self.0.send_if_modified(|messages| {
            if messages.get(node) == message {
                return false;
            }
            let messages = Arc::make_mut(messages);
            if let Some(message) = message {
                tracing::warn!(object = %node, %message, "registration in Cloud Map failed");
                messages.insert(node.clone(), message.clone());
            } else {
                tracing::info!(object = %node, "registration in Cloud Map works again");
                messages.remove(node);
            }
            true
        });
    }

    /// Removes the messages of nodes for which `exists` is false.
    pub(super) fn retain(&self, exists: impl Fn(&ObjectRef) -> bool) {
        self.0.send_if_modified(|messages| {
            if messages.keys().all(&exists) {
                return false;
            }
            Arc::make_mut(messages).retain(|node, _| exists(node));
            true
        });
    }
}
