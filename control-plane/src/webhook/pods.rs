//! Pods: which become members of a mesh, and what makes them that.
//!
//! A refusal is told to whoever creates the pod, and a controller writes it as an event (`FailedCreate`) to its
//! object. No event is written here: the API server may ask in a dry run, which must leave no trace.
//!
//! Must not decide: see [`evermesh_injector`].

use axum::response::Response;
use evermesh_ingest::admission::Surroundings;
use evermesh_injector::{Decision, PatchError, decide, needs_surroundings, patch};
use evermesh_model::Kind;
use json_patch::Patch;
use serde_json::Value;

use super::server::{Admission, Outcome};

impl Admission {
    /// Answers a request about a pod.
    pub(super) async fn answer_pod(&self, body: &[u8]) -> Response {
        self.measured("inject", Kind::Pod, body, async |request| {
            let Some((pod, namespace)) = request.creation() else {
                return Outcome::allowed();
            };
            let outcome = self
                .patiently(|known| self.inject(pod, namespace, known))
                .await;
            if let Outcome::Denied(message) = &outcome {
                let owner = pod["metadata"]["ownerReferences"][0]["name"].as_str();
                tracing::info!(namespace, owner, message, "a pod is refused");
            }
            outcome
        })
        .await
    }

    /// The outcome, and whether newer objects may lead to another one.
    fn inject(
        &self,
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
        let settings = &self.injection;
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
