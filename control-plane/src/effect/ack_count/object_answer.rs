//! The answer of one proxy for one object, and the count of all answers.

use std::{sync::Arc, time::SystemTime};

use evermesh_model::{Kind, ObjectRef};
use evermesh_proto::{ResourceKey, ResourceType};
use k8s_openapi::jiff::Timestamp;

use super::{AckCount, AnswerSource, WithheldKeys, is_starting, proxies::KnownProxy};
use crate::effect::index::ServedResource;

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
}

/// The result of [`read`].
#[derive(Default)]
pub(super) struct Reading {
    /// Absent if nothing of the object concerns the proxy, or if the proxy is starting.
    pub(super) answer: Option<ObjectAnswer>,
    /// Whether the proxy lacks an answer that it had no time for yet.
    pub(super) is_awaited: bool,
}

/// Reads the answers of a proxy to the resources that it gets from an object.
pub(super) fn read(
    source: &impl AnswerSource,
    proxy: &KnownProxy,
    object: &ObjectRef,
    origin: &str,
    served: &[(&ResourceKey, &ServedResource)],
    now: SystemTime,
) -> Reading {
    let keys: Vec<&ResourceKey> = served.iter().map(|(key, _)| *key).collect();
    let Some(answers) = source.answers(proxy.id, &keys) else {
        return Reading::default();
    };
    let (mut concerns, mut is_awaited) = (false, false);
    let mut read = ObjectAnswer {
        node_id: Arc::clone(&proxy.node_id),
        waiting_since: None,
        rejection: None,
        withheld: None,
    };
    for ((key, served), answer) in served.iter().zip(&answers.answers) {
        let Some(answer) = answer else { continue };
        concerns = true;
        let version = served.resource.version;
        if let Some(secret) = withheld_secret(object, key, &answers.withheld) {
            read.withheld = Some(secret);
            continue;
        }
        if answer.has_acked(version, origin) {
            continue;
        }
        if let Some(message) = answer.refusal(version, origin) {
            read.rejection = Some(message);
        } else if answer.acked.is_none() && is_starting(proxy.since, now) {
            is_awaited = true;
            continue;
        }
        let committed_at = served.committed_at;
        let since = read.waiting_since;
        read.waiting_since = Some(since.map_or(committed_at, |it| committed_at.min(it)));
    }
    let is_starting = is_awaited && read.rejection.is_none() && read.withheld.is_none();
    Reading {
        answer: (concerns && !is_starting).then_some(read),
        is_awaited,
    }
}

/// The count of all answers for an object; `None` without one. `digest` returns that of the object's resources.
pub(super) fn count<'a>(
    answers: impl Iterator<Item = &'a ObjectAnswer>,
    digest: impl FnOnce() -> String,
) -> Option<AckCount> {
    let mut count = AckCount::default();
    for answer in answers {
        let ObjectAnswer {
            node_id,
            waiting_since,
            rejection,
            withheld,
        } = answer;
        count.concerned += 1;
        if waiting_since.is_none() && rejection.is_none() && withheld.is_none() {
            count.acked += 1;
        }
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
fn withheld_secret(object: &ObjectRef, key: &ResourceKey, withheld: &[Arc<str>]) -> Option<String> {
    let is_proxy = matches!(object.kind, Kind::VirtualNode | Kind::VirtualGateway);
    let mut withheld = withheld.iter();
    let name = match key.kind {
        ResourceType::Secret => withheld.find(|name| **name == key.name),
        // Only the listeners of a proxy itself have its object as origin.
        ResourceType::Listener if is_proxy => withheld.next(),
        _ => None,
    };
    name.map(ToString::to_string)
}
