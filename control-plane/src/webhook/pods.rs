//! Answers admission requests about pods.
//!
//! [`evermesh_injector`] decides whether a pod becomes a member of a mesh and makes the patch. A rejection or a warning
//! goes to the creator of the pod and into an event.

use std::{borrow::Cow, sync::Arc};

use axum::{body::Body, response::Response};
use evermesh_ingest::admission::ClusterSnapshot;
use evermesh_injector::{
    Decision, InjectorSettings, PatchError, decide, depends_on_cluster, has_injection_label, patch,
};
use evermesh_model::Kind;
use evermesh_xds::PeerText;
use json_patch::Patch;
use serde_json::Value;
use tokio::sync::watch;

use super::{
    events::PodEvent,
    metrics::DroppedEvent,
    review::AdmissionRequest,
    server::{AdmissionHandler, AdmissionOutcome, NOT_SYNCED},
};

/// Settings of the injector, of which the authorities of the xDS server can change.
pub(super) struct PodInjection {
    pub(super) settings: InjectorSettings,
    /// The newest authorities; without it those of the settings stay.
    pub(super) authority: Option<watch::Receiver<Arc<str>>>,
}

impl PodInjection {
    fn newest(&self) -> Cow<'_, InjectorSettings> {
        let Some(authority) = &self.authority else {
            return Cow::Borrowed(&self.settings);
        };
        let mut settings = self.settings.clone();
        settings.control_plane.authority = Some(authority.borrow().to_string());
        Cow::Owned(settings)
    }
}

impl AdmissionHandler {
    pub(super) async fn answer_pod(&self, injection: &PodInjection, body: Body) -> Response {
        let settings = injection.newest();
        let settings = &*settings;
        self.measured(
            "inject",
            Kind::Pod,
            body,
            async |request: &mut AdmissionRequest| {
                let Some((pod, namespace)) = request.creation() else {
                    return AdmissionOutcome::allowed();
                };
                let outcome = self
                    .decide_with_wait(|known| Self::inject(settings, pod, namespace, known))
                    .await;
                if let AdmissionOutcome::Denied(message) | AdmissionOutcome::Unready(message) =
                    &outcome
                    && let Some(suppressed) = self.rejection_log.pass()
                {
                    tracing::info!(
                        namespace = %PeerText(namespace),
                        reason = %PeerText(message),
                        suppressed,
                        "rejected a pod"
                    );
                }
                let event = PodEvent::of(&outcome, pod, namespace);
                if let Some(event) = event.filter(|_| !request.is_dry_run()) {
                    self.send_event(event, namespace);
                }
                outcome
            },
        )
        .await
    }

    /// Queues an event if the namespace has the injection label. A forged request could otherwise cause events in any
    /// namespace.
    fn send_event(&self, event: PodEvent, namespace: &str) {
        let is_labelled = self
            .surroundings
            .borrow()
            .as_ref()
            .is_some_and(|known| has_injection_label(namespace, known));
        if !is_labelled {
            self.metrics.dropped_event(DroppedEvent::Namespace);
        } else if self.events.try_send(event).is_err() {
            self.metrics.dropped_event(DroppedEvent::Queue);
        }
    }

    /// The outcome, and whether a newer snapshot may change it.
    fn inject(
        settings: &InjectorSettings,
        pod: &Value,
        namespace: &str,
        known: Option<&ClusterSnapshot>,
    ) -> (AdmissionOutcome, bool) {
        let Some(known) = known else {
            return if depends_on_cluster(pod) {
                (AdmissionOutcome::Unready(NOT_SYNCED.to_owned()), true)
            } else {
                (AdmissionOutcome::allowed(), false)
            };
        };
        let member = match decide(pod, namespace, known, settings.without_member) {
            Decision::Skip(None) => return (AdmissionOutcome::allowed(), false),
            // The watch may not have delivered the virtual node of the pod yet.
            Decision::Skip(Some(warning)) => {
                return (
                    AdmissionOutcome::Allowed(Patch::default(), vec![warning]),
                    true,
                );
            }
            Decision::Reject(rejection) => {
                return (
                    AdmissionOutcome::Denied(rejection.message),
                    rejection.may_be_stale,
                );
            }
            Decision::Unready(message) => return (AdmissionOutcome::Unready(message), true),
            Decision::Inject(member) => member,
        };
        let outcome = match patch(pod, &member, settings) {
            Ok(patched) => AdmissionOutcome::Allowed(patched.patch, patched.warnings),
            Err(PatchError::Rejected(rejection)) => AdmissionOutcome::Denied(rejection.message),
            Err(error @ PatchError::Bootstrap(_)) => {
                tracing::error!(%error, member = %member.id, "cannot patch a pod");
                AdmissionOutcome::Failed
            }
        };
        (outcome, false)
    }
}
