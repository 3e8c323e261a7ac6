//! Pods: which become members of a mesh, and what makes them that.
//!
//! A refusal or a warning is told to whoever creates the pod, and in an event.
//!
//! Must not decide: see [`evermesh_injector`].

use axum::response::Response;
use evermesh_ingest::admission::ClusterSnapshot;
use evermesh_injector::{
    Decision, InjectorSettings, PatchError, decide, depends_on_cluster, has_injection_label, patch,
};
use evermesh_model::Kind;
use json_patch::Patch;
use serde_json::Value;

use super::{
    events::PodEvent,
    metrics::DroppedEvent,
    server::{Admission, AdmissionOutcome, NOTHING_KNOWN},
};

impl Admission {
    /// Answers a request about a pod.
    pub(super) async fn answer_pod(&self, settings: &InjectorSettings, body: &[u8]) -> Response {
        self.measured("inject", Kind::Pod, body, async |request| {
            let Some((pod, namespace)) = request.creation() else {
                return AdmissionOutcome::allowed();
            };
            let outcome = self
                .patiently(|known| Self::inject(settings, pod, namespace, known))
                .await;
            if let AdmissionOutcome::Denied(message) | AdmissionOutcome::Unready(message) = &outcome
            {
                tracing::info!(namespace, message, "a pod is refused");
            }
            if let Some(told) =
                PodEvent::of(&outcome, pod, namespace).filter(|_| !request.is_dry_run())
            {
                self.tell(told, namespace);
            }
            outcome
        })
        .await
    }

    /// Tells of a namespace that is ours. Whoever reaches our port can name any other, and we may write events there.
    fn tell(&self, told: PodEvent, namespace: &str) {
        let is_ours = self
            .surroundings
            .borrow()
            .as_ref()
            .is_some_and(|known| has_injection_label(namespace, known));
        if !is_ours {
            self.metrics.untold(DroppedEvent::Namespace);
        } else if self.events.try_send(told).is_err() {
            // Whoever asked has the answer.
            self.metrics.untold(DroppedEvent::Queue);
        }
    }

    /// The outcome, and whether newer objects may lead to another one.
    fn inject(
        settings: &InjectorSettings,
        pod: &Value,
        namespace: &str,
        known: Option<&ClusterSnapshot>,
    ) -> (AdmissionOutcome, bool) {
        let Some(known) = known else {
            return if depends_on_cluster(pod) {
                (AdmissionOutcome::Unready(NOTHING_KNOWN.to_owned()), true)
            } else {
                (AdmissionOutcome::allowed(), false)
            };
        };
        let member = match decide(pod, namespace, known, settings.without_member) {
            Decision::Skip(None) => return (AdmissionOutcome::allowed(), false),
            // Somebody may be on the way whom the pod was made for.
            Decision::Skip(Some(warning)) => {
                return (
                    AdmissionOutcome::Allowed(Patch::default(), vec![warning]),
                    true,
                );
            }
            Decision::Reject(refusal) => {
                return (
                    AdmissionOutcome::Denied(refusal.message),
                    refusal.may_be_stale,
                );
            }
            Decision::Unready(message) => return (AdmissionOutcome::Unready(message), true),
            Decision::Inject(member) => member,
        };
        let outcome = match patch(pod, &member, settings) {
            Ok(patched) => AdmissionOutcome::Allowed(patched.patch, patched.warnings),
            Err(PatchError::Rejected(refusal)) => AdmissionOutcome::Denied(refusal.message),
            Err(error @ PatchError::Bootstrap(_)) => {
                tracing::error!(%error, member = %member.id, "a pod cannot be patched");
                AdmissionOutcome::Failed
            }
        };
        (outcome, false)
    }
}
