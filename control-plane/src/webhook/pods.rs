//! Pods: which become members of a mesh, and what makes them that.
//!
//! A refusal or a warning is told to whoever creates the pod, and in an event.
//!
//! Must not decide: see [`evermesh_injector`].

use axum::response::Response;
use evermesh_ingest::admission::Surroundings;
use evermesh_injector::{Decision, PatchError, Settings, decide, needs_surroundings, patch};
use evermesh_model::Kind;
use json_patch::Patch;
use serde_json::Value;

use super::{
    events::Told,
    server::{Admission, Outcome},
};

impl Admission {
    /// Answers a request about a pod.
    pub(super) async fn answer_pod(&self, settings: &Settings, body: &[u8]) -> Response {
        self.measured("inject", Kind::Pod, body, async |request| {
            let Some((pod, namespace)) = request.creation() else {
                return Outcome::allowed();
            };
            let outcome = self
                .patiently(|known| Self::inject(settings, pod, namespace, known))
                .await;
            let told = match &outcome {
                Outcome::Denied(message) => Some(Told::refused(pod, namespace, message)),
                Outcome::Allowed(_, warnings) if !warnings.is_empty() => {
                    Some(Told::warned(pod, namespace, warnings))
                }
                _ => None,
            };
            if let Outcome::Denied(message) = &outcome {
                tracing::info!(namespace, message, "a pod is refused");
            }
            if let Some(told) = told.filter(|_| !request.is_dry_run()) {
                // Whoever asked has the answer, and the metric counts it.
                let _ = self.events.try_send(told);
            }
            outcome
        })
        .await
    }

    /// The outcome, and whether newer objects may lead to another one.
    fn inject(
        settings: &Settings,
        pod: &Value,
        namespace: &str,
        known: Option<&Surroundings>,
    ) -> (Outcome, bool) {
        let Some(known) = known else {
            return if needs_surroundings(pod) {
                (Outcome::Unready, true)
            } else {
                (Outcome::allowed(), false)
            };
        };
        let member = match decide(pod, namespace, known, settings.without_member) {
            Decision::Skip(None) => return (Outcome::allowed(), false),
            // Somebody may be on the way whom the pod was made for.
            Decision::Skip(Some(warning)) => {
                return (Outcome::Allowed(Patch::default(), vec![warning]), true);
            }
            Decision::Refuse(refusal) => {
                return (Outcome::Denied(refusal.message), refusal.may_be_stale);
            }
            Decision::Inject(member) => member,
        };
        let outcome = match patch(pod, &member, settings) {
            Ok(patched) => Outcome::Allowed(patched.patch, patched.warnings),
            Err(PatchError::Refused(refusal)) => Outcome::Denied(refusal.message),
            Err(error @ PatchError::Bootstrap(_)) => {
                tracing::error!(%error, member = %member.id, "a pod cannot be patched");
                Outcome::Failed
            }
        };
        (outcome, false)
    }
}
