//! What keeps virtual nodes from being registered, for whoever shows it: one sentence a node.
//!
//! In: what each round met. Out: a map that can be watched, and a log line when a sentence is new.
//!
//! Must not say the same twice.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_model::ObjectRef;
use tokio::sync::watch;

/// Virtual nodes that are not registered as they should be, and why.
pub(crate) type RegistrationMessages = BTreeMap<ObjectRef, String>;

/// Who tells them.
#[derive(Debug)]
pub(super) struct MessagePublisher(pub(super) watch::Sender<Arc<RegistrationMessages>>);

impl MessagePublisher {
    /// What is known of a node now; none if all is well.
    pub(super) fn tell(&self, node: &ObjectRef, message: Option<&String>) {
        self.0.send_if_modified(|messages| {
            if messages.get(node) == message {
                return false;
            }
            let messages = Arc::make_mut(messages);
            if let Some(message) = message {
                tracing::warn!(object = %node, %message, "not registered in Cloud Map as it should be");
                messages.insert(node.clone(), message.clone());
            } else {
                tracing::info!(object = %node, "registered in Cloud Map again as it should be");
                messages.remove(node);
            }
            true
        });
    }

    /// Forgets nodes that are not there any more.
    pub(super) fn keep(&self, is_there: impl Fn(&ObjectRef) -> bool) {
        self.0.send_if_modified(|messages| {
            if messages.keys().all(&is_there) {
                return false;
            }
            Arc::make_mut(messages).retain(|node, _| is_there(node));
            true
        });
    }
}
