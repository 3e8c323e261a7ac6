//! Events about pods that were refused, or let through with a warning.
//!
//! There is no pod yet, so an event is about the object that wants it, such as a Job, and about the name of the pod
//! if nothing owns it. The same event again is counted, not written anew.
//!
//! Must not hold up an answer: what comes faster than the API takes it is dropped.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{EventType, Recorder},
};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::event::{event, reporter};

/// Events that may wait to be written.
const WAITING: usize = 64;

/// What became of a pod.
pub(super) struct Told {
    about: ObjectReference,
    reason: &'static str,
    note: String,
}

impl Told {
    /// The pod is not created.
    pub(super) fn refused(pod: &Value, namespace: &str, message: &str) -> Self {
        Self::new(pod, namespace, "SidecarRefused", message)
    }

    /// The pod is created, and is not all that it asks for.
    pub(super) fn warned(pod: &Value, namespace: &str, warnings: &[String]) -> Self {
        Self::new(pod, namespace, "SidecarWarning", &warnings.join("; "))
    }

    fn new(pod: &Value, namespace: &str, reason: &'static str, note: &str) -> Self {
        Self {
            about: about(&pod["metadata"], namespace),
            reason,
            note: note.to_owned(),
        }
    }
}

/// Tells until cancelled.
pub(super) fn teller(
    client: Client,
    identity: String,
    shutdown: CancellationToken,
) -> (mpsc::Sender<Told>, impl Future<Output = ()>) {
    let (sender, mut waiting) = mpsc::channel::<Told>(WAITING);
    let telling = async move {
        let recorder = Recorder::new(client, reporter(identity));
        while let Some(Some(told)) = shutdown.run_until_cancelled(waiting.recv()).await {
            let Told {
                about,
                reason,
                note,
            } = told;
            let event = event(EventType::Warning, reason, &note, "Inject");
            if let Err(error) = recorder.publish(&event, &about).await {
                tracing::warn!(namespace = ?about.namespace, %error, "an event could not be told");
            }
        }
    };
    (sender, telling)
}

fn about(metadata: &Value, namespace: &str) -> ObjectReference {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let owners = metadata["ownerReferences"].as_array();
    let owner = owners
        .into_iter()
        .flatten()
        .find(|owner| owner["controller"] == true);
    let reference = match owner {
        Some(owner) => ObjectReference {
            api_version: text(&owner["apiVersion"]),
            kind: text(&owner["kind"]),
            name: text(&owner["name"]),
            uid: text(&owner["uid"]),
            ..ObjectReference::default()
        },
        None => ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: text(&metadata["name"]).or_else(|| {
                let prefix = metadata["generateName"].as_str();
                prefix.map(|it| it.trim_end_matches(['-', '.']).to_owned())
            }),
            ..ObjectReference::default()
        },
    };
    ObjectReference {
        namespace: Some(namespace.to_owned()),
        ..reference
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_about_whoever_wants_the_pod() {
        let owners = json!([
            { "apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "1" },
            { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "2", "controller": true },
        ]);
        let cases = [
            (json!({ "ownerReferences": owners }), "ReplicaSet", "web-1"),
            (json!({ "name": "web" }), "Pod", "web"),
            (json!({ "generateName": "web-" }), "Pod", "web"),
        ];
        for (metadata, kind, name) in cases {
            let about = about(&metadata, "shop");
            assert_eq!(about.kind.as_deref(), Some(kind));
            assert_eq!(about.name.as_deref(), Some(name));
            assert_eq!(about.namespace.as_deref(), Some("shop"));
        }
    }
}
