//! Events about pods that were refused, or let through with a warning.
//!
//! There is no pod yet, so an event is about the object that wants it, such as a Job, and about the name of the pod
//! if nothing owns it. The same event again is counted, not written anew.
//!
//! Must not hold up an answer: what comes faster than it is told is dropped.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder},
};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::server::{AdmissionOutcome, MISTAKE};
use crate::{
    event::{event, reporter},
    throttle::Throttle,
};

/// Events that may wait to be written.
const WAITING: usize = 64;
/// Between two events, and how many may be told at once: a caller must not have us fill the API server.
const PACE: (Duration, u32) = (Duration::from_millis(200), 50);

/// No name of an object is longer.
const NAME: usize = 512;

/// What became of a pod.
pub(super) struct PodEvent {
    about: ObjectReference,
    event: Event,
}

impl PodEvent {
    /// What there is to tell.
    pub(super) fn of(outcome: &AdmissionOutcome, pod: &Value, namespace: &str) -> Option<Self> {
        let (reason, note) = match outcome {
            AdmissionOutcome::Denied(message) | AdmissionOutcome::Unready(message) => {
                ("SidecarRefused", message.clone())
            }
            AdmissionOutcome::Failed => ("SidecarRefused", MISTAKE.to_owned()),
            AdmissionOutcome::Allowed(_, warnings) if !warnings.is_empty() => {
                ("SidecarWarning", warnings.join("; "))
            }
            AdmissionOutcome::Allowed(..) => return None,
        };
        Some(Self {
            about: about(&pod["metadata"], namespace),
            event: event(EventType::Warning, reason, &note, "Inject"),
        })
    }
}

/// Tells until cancelled.
pub(super) fn teller(
    client: Client,
    identity: String,
    shutdown: CancellationToken,
) -> (mpsc::Sender<PodEvent>, impl Future<Output = ()>) {
    let (sender, mut waiting) = mpsc::channel::<PodEvent>(WAITING);
    let telling = async move {
        let recorder = Recorder::new(client, reporter(identity));
        let throttle = Throttle::new(PACE.0, PACE.1);
        let mut next = async || {
            throttle.acquire().await;
            waiting.recv().await
        };
        while let Some(Some(told)) = shutdown.run_until_cancelled(next()).await {
            let PodEvent { about, event } = told;
            if let Err(error) = recorder.publish(&event, &about).await {
                tracing::warn!(namespace = ?about.namespace, %error, "an event could not be told");
            }
        }
    };
    (sender, telling)
}

fn about(metadata: &Value, namespace: &str) -> ObjectReference {
    let word = |value: &'_ Value| {
        value
            .as_str()
            .filter(|it| it.len() <= NAME)
            .map(str::to_owned)
    };
    let owners = metadata["ownerReferences"].as_array();
    let owner = owners
        .into_iter()
        .flatten()
        .find(|owner| owner["controller"] == true);
    let reference = match owner {
        Some(owner) => ObjectReference {
            api_version: word(&owner["apiVersion"]),
            kind: word(&owner["kind"]),
            name: word(&owner["name"]),
            uid: word(&owner["uid"]),
            ..ObjectReference::default()
        },
        None => ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: word(&metadata["name"]).or_else(|| {
                let prefix = word(&metadata["generateName"]);
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
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::SeqCst},
        },
        time::Instant,
    };

    use axum::{Json, Router};
    use json_patch::Patch;
    use serde_json::json;
    use tokio::net::TcpListener;

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

    #[test]
    fn whatever_keeps_a_pod_away_is_told() {
        let note = |outcome| PodEvent::of(&outcome, &json!({}), "shop").map(|told| told.event);
        let refused = |outcome| {
            let event = note(outcome).unwrap();
            assert_eq!(event.reason, "SidecarRefused");
            event.note.unwrap()
        };
        assert_eq!(refused(AdmissionOutcome::Denied("no".to_owned())), "no");
        assert_eq!(
            refused(AdmissionOutcome::Unready("later".to_owned())),
            "later"
        );
        assert_eq!(refused(AdmissionOutcome::Failed), MISTAKE);
        let warned =
            AdmissionOutcome::Allowed(Patch::default(), vec!["a".to_owned(), "b".to_owned()]);
        let event = note(warned).unwrap();
        assert_eq!(event.reason, "SidecarWarning");
        assert_eq!(event.note.unwrap(), "a; b");
        assert!(note(AdmissionOutcome::allowed()).is_none());
    }

    #[test]
    fn nothing_long_is_kept() {
        let long = "x".repeat(1 << 20);
        let pod = json!({ "metadata": { "name": long } });
        let told = PodEvent::of(&AdmissionOutcome::Denied(long), &pod, "shop").unwrap();
        assert_eq!(told.about.name, None);
        assert_eq!(told.event.note.unwrap().len(), 1024);
    }

    /// An API server that counts what is written to it.
    async fn counting() -> (Client, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let written = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&written);
        let answer = async move || {
            counter.fetch_add(1, SeqCst);
            Json(json!({}))
        };
        let router = Router::new().fallback(answer);
        tokio::spawn(async move { axum::serve(listener, router).await });
        let config = kube::Config::new(format!("http://{address}").parse().unwrap());
        (Client::try_from(config).unwrap(), written)
    }

    #[tokio::test]
    async fn a_burst_is_told_and_the_rest_at_a_pace() {
        let (client, written) = counting().await;
        let (told, telling) = teller(client, "test".to_owned(), CancellationToken::new());
        tokio::spawn(telling);
        let burst = usize::try_from(PACE.1).unwrap();
        let tell = async |count: usize| {
            for index in 0..count {
                let pod = json!({ "metadata": { "name": format!("web-{index}") } });
                let outcome = AdmissionOutcome::Denied("no".to_owned());
                let one = PodEvent::of(&outcome, &pod, "shop").unwrap();
                told.send(one).await.unwrap();
            }
        };
        let started = Instant::now();
        // What waits in the queue is not told yet.
        tell(burst + WAITING + 10).await;
        let due = PACE.0 * 9;
        assert!(started.elapsed() >= due, "{:?}", started.elapsed());
        assert!(written.load(SeqCst) >= burst);
    }
}
