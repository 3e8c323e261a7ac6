//! Events about pods that were rejected, or accepted with a warning.
//!
//! In: a [`PodEvent`] per admission request, through a queue of [`QUEUE_LIMIT`]. Out: events in the API, [`BURST`] at
//! once and then one per [`INTERVAL`]. Admission never waits for an event: one that does not fit into the queue is
//! dropped.
//!
//! At admission the pod does not exist yet. The event is therefore about the controller of the pod, such as a Job, or
//! about the name of the pod if it has no controller. A repeated event increments the count of the first one.

use std::{sync::Arc, time::Duration};

use evermesh_xds::PeerText;
use futures::{FutureExt, future::BoxFuture};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder},
};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::server::{AdmissionOutcome, INTERNAL_ERROR};
use crate::{
    event::{self, event, reporter},
    throttle::{LogThrottle, Throttle},
};

const QUEUE_LIMIT: usize = 64;

/// Limits of the rate, since any caller of the webhook can cause events.
const INTERVAL: Duration = Duration::from_millis(200);
const BURST: u32 = 50;

/// Longest accepted name or kind in bytes; Kubernetes allows 253 for names.
const NAME_LIMIT: usize = 512;

/// Reasons of events. They are API.
const REJECTED: &str = "SidecarRefused";
const WARNING: &str = "SidecarWarning";

/// An event and the object that it is about.
pub(super) struct PodEvent {
    about: ObjectReference,
    event: Event,
}

impl PodEvent {
    /// The event for the outcome of a request about `pod`, or `None` if the pod was accepted without a warning.
    pub(super) fn of(outcome: &AdmissionOutcome, pod: &Value, namespace: &str) -> Option<Self> {
        let (reason, note) = match outcome {
            AdmissionOutcome::Denied(message) | AdmissionOutcome::Unready(message) => {
                (REJECTED, message.clone())
            }
            AdmissionOutcome::Failed => (REJECTED, INTERNAL_ERROR.to_owned()),
            AdmissionOutcome::Allowed(_, warnings) if !warnings.is_empty() => {
                (WARNING, warnings.join("; "))
            }
            AdmissionOutcome::Allowed(..) => return None,
        };
        Some(Self {
            about: about(&pod["metadata"], namespace),
            event: event(EventType::Warning, reason, &note, "Inject"),
        })
    }
}

/// Writes each event to the API server; `identity` is the name of this replica.
pub(super) fn publisher(
    client: Client,
    identity: String,
) -> impl Fn(PodEvent) -> BoxFuture<'static, ()> + Send {
    let recorder = Recorder::new(client, reporter(identity));
    let failure_log = Arc::new(LogThrottle::once_a_minute());
    move |PodEvent { about, event }| {
        let (recorder, failure_log) = (recorder.clone(), Arc::clone(&failure_log));
        async move {
            if let Err(error) = event::publish(&recorder, &event, &about).await
                && let Some(suppressed) = failure_log.pass()
            {
                let namespace = about.namespace.unwrap_or_default();
                tracing::warn!(namespace = %PeerText(&namespace), %error, suppressed, "cannot write an event about a pod");
            }
        }
        .boxed()
    }
}

/// Returns the queue of events and the task that publishes them until `shutdown`.
pub(super) fn writer<Published>(
    publish: impl Fn(PodEvent) -> Published + Send,
    shutdown: CancellationToken,
) -> (mpsc::Sender<PodEvent>, impl Future<Output = ()> + Send)
where
    Published: Future<Output = ()> + Send,
{
    let (sender, mut queue) = mpsc::channel::<PodEvent>(QUEUE_LIMIT);
    let writing = async move {
        let throttle = Throttle::new(INTERVAL, BURST);
        let mut next = async || {
            throttle.acquire().await;
            queue.recv().await
        };
        while let Some(Some(event)) = shutdown.run_until_cancelled(next()).await {
            publish(event).await;
        }
    };
    (sender, writing)
}

fn about(metadata: &Value, namespace: &str) -> ObjectReference {
    let text = |value: &'_ Value| {
        value
            .as_str()
            .filter(|it| it.len() <= NAME_LIMIT)
            .map(str::to_owned)
    };
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
                let prefix = text(&metadata["generateName"]);
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
    use std::future::ready;

    use json_patch::Patch;
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn reasons_are_these_strings() {
        assert_eq!([REJECTED, WARNING], ["SidecarRefused", "SidecarWarning"]);
    }

    #[test]
    fn event_is_about_the_controller_or_the_name_of_the_pod() {
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
    fn rejections_and_warnings_become_events() {
        let event_of = |outcome| {
            let event = PodEvent::of(&outcome, &json!({}), "shop");
            event.map(|it| (it.event.reason, it.event.note.unwrap()))
        };
        let expected = |reason: &str, note: &str| Some((reason.to_owned(), note.to_owned()));
        let denied = AdmissionOutcome::Denied("no".to_owned());
        assert_eq!(event_of(denied), expected(REJECTED, "no"));
        let unready = AdmissionOutcome::Unready("later".to_owned());
        assert_eq!(event_of(unready), expected(REJECTED, "later"));
        let failed = event_of(AdmissionOutcome::Failed);
        assert_eq!(failed, expected(REJECTED, INTERNAL_ERROR));
        let warnings = vec!["a".to_owned(), "b".to_owned()];
        let warned = AdmissionOutcome::Allowed(Patch::default(), warnings);
        assert_eq!(event_of(warned), expected(WARNING, "a; b"));
        assert_eq!(event_of(AdmissionOutcome::allowed()), None);
    }

    #[test]
    fn long_names_and_notes_are_not_kept() {
        let long = "x".repeat(1 << 20);
        let pod = json!({ "metadata": { "name": long } });
        let event = PodEvent::of(&AdmissionOutcome::Denied(long), &pod, "shop").unwrap();
        assert_eq!(event.about.name, None);
        assert_eq!(event.event.note.unwrap().len(), 1024);
    }

    #[tokio::test(start_paused = true)]
    async fn burst_is_written_at_once_and_the_rest_at_intervals() {
        /// Resolution of tokio's timers.
        const TICK: Duration = Duration::from_millis(1);

        let (written, mut times) = mpsc::channel(64);
        let begin = Instant::now();
        let publish = move |_| {
            written.try_send(begin.elapsed()).unwrap();
            ready(())
        };
        let (events, writing) = writer(publish, CancellationToken::new());
        tokio::spawn(writing);
        tokio::spawn(async move {
            for index in 0..BURST + 3 {
                let pod = json!({ "metadata": { "name": format!("web-{index}") } });
                let denied = AdmissionOutcome::Denied("no".to_owned());
                let event = PodEvent::of(&denied, &pod, "shop").unwrap();
                events.send(event).await.unwrap();
            }
        });
        for index in 0..BURST + 3 {
            let at = times.recv().await.unwrap();
            let expected = INTERVAL * (index + 1).saturating_sub(BURST);
            assert!(
                (expected..=expected + TICK).contains(&at),
                "event {index} at {at:?} instead of {expected:?}"
            );
        }
    }
}
