//! The answer of one proxy for one object, and the count of all answers.

use std::sync::Arc;

use evermesh_model::Kind;
use evermesh_proto::{ResourceKey, ResourceType};
use evermesh_xds::ClientAnswer;
use k8s_openapi::jiff::Timestamp;

use super::{AckCount, WithheldKeys};
use crate::effect::index::ServedResource;

/// The answer of a proxy to a resource of which it has not ACKed all parts of the newest version.
#[derive(Debug)]
pub(super) struct OpenAnswer {
    answer: ClientAnswer,
    served: ServedResource,
}

impl OpenAnswer {
    /// `None` if the proxy has ACKed all parts of the newest version, and gets every private key that the resource
    /// needs. `withheld` are the keys that it does not get.
    pub(super) fn new(
        answer: ClientAnswer,
        key: &ResourceKey,
        served: &ServedResource,
        withheld: &[Arc<str>],
    ) -> Option<Self> {
        let has_acked_all =
            answer.acked == Some(served.resource.version) && answer.blockage.is_none();
        let may_lack_key = !withheld.is_empty()
            && matches!(key.kind, ResourceType::Secret | ResourceType::Listener);
        (!has_acked_all || may_lack_key).then(|| Self {
            answer,
            served: served.clone(),
        })
    }
}

/// The answer of a proxy to the current versions of everything that it gets from an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ObjectAnswer {
    node_id: Arc<str>,
    /// Commit time of the oldest version that the proxy has not ACKed, other than a private key that it does not get.
    waiting_since: Option<Timestamp>,
    /// The reason for which the proxy refused a version, or a cluster that it needs.
    rejection: Option<String>,
    /// The name of a private key that the proxy does not get.
    withheld: Option<String>,
    /// Whether the proxy lacks an answer that it had no time for yet.
    pub(super) is_awaited: bool,
}

impl ObjectAnswer {
    /// The answer of a proxy that has ACKed everything.
    pub(super) fn acked(node_id: &Arc<str>) -> Self {
        Self {
            node_id: Arc::clone(node_id),
            waiting_since: None,
            rejection: None,
            withheld: None,
            is_awaited: false,
        }
    }

    /// Adds the answer to a resource that was derived from the object `origin`.
    pub(super) fn add(
        &mut self,
        open: &OpenAnswer,
        key: &ResourceKey,
        origin: &str,
        withheld: &[Arc<str>],
        is_starting: bool,
    ) {
        let OpenAnswer { answer, served } = open;
        let version = served.resource.version;
        if let Some(secret) = withheld_secret(origin, key, withheld) {
            self.withheld = Some(secret);
            return;
        }
        if answer.has_acked(version, origin) {
            return;
        }
        if let Some(message) = answer.refusal(version, origin) {
            self.rejection = Some(message);
        } else if answer.acked.is_none() && is_starting {
            self.is_awaited = true;
            return;
        }
        let committed_at = served.committed_at;
        let since = self.waiting_since;
        self.waiting_since = Some(since.map_or(committed_at, |it| committed_at.min(it)));
    }

    /// Whether the proxy has ACKed everything.
    pub(super) fn is_acked(&self) -> bool {
        !self.is_awaited
            && self.waiting_since.is_none()
            && self.rejection.is_none()
            && self.withheld.is_none()
    }

    /// Whether the proxy is not counted, because it is starting.
    fn is_hidden(&self) -> bool {
        self.is_awaited && self.rejection.is_none() && self.withheld.is_none()
    }
}

/// The count of an object that so many proxies use; `None` without one. `exceptions` are the answers of those that have
/// not ACKed everything. `digest` returns that of the object's resources.
pub(super) fn count<'a>(
    proxies: usize,
    exceptions: impl Iterator<Item = &'a ObjectAnswer>,
    digest: impl FnOnce() -> String,
) -> Option<AckCount> {
    let mut count = AckCount {
        concerned: proxies,
        acked: proxies,
        ..AckCount::default()
    };
    for answer in exceptions {
        count.acked -= 1;
        if answer.is_hidden() {
            count.concerned -= 1;
            continue;
        }
        let ObjectAnswer {
            node_id,
            waiting_since,
            rejection,
            withheld,
            is_awaited: _,
        } = answer;
        let since = [count.waiting_since, *waiting_since];
        count.waiting_since = since.into_iter().flatten().min();
        if let Some(message) = rejection {
            count
                .rejections
                .push((node_id.to_string(), message.clone()));
        }
        if let Some(secret) = withheld {
            count.withheld.add(&WithheldKeys {
                proxies: 1,
                example: Some((node_id.to_string(), secret.clone())),
            });
        }
    }
    if count.concerned == 0 {
        return None;
    }
    count.digest = digest();
    Some(count)
}

/// The Secret that the proxy does not get and that the object needs: the resource itself, or any Secret if the resource
/// is a listener of the object's own proxy.
fn withheld_secret(origin: &str, key: &ResourceKey, withheld: &[Arc<str>]) -> Option<String> {
    let mut withheld = withheld.iter();
    let name = match key.kind {
        ResourceType::Secret => withheld.find(|name| **name == key.name),
        // Only the listeners of a proxy itself have its object as origin.
        ResourceType::Listener if is_proxy(origin) => withheld.next(),
        _ => None,
    };
    name.map(ToString::to_string)
}

/// Whether proxies run for the object: a virtual node or a virtual gateway.
fn is_proxy(origin: &str) -> bool {
    let kind = origin.split('/').next();
    let proxies = [Kind::VirtualNode, Kind::VirtualGateway];
    proxies.iter().any(|it| kind == Some(it.as_str()))
}
