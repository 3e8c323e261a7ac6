//! HTTPS server of the webhooks: one path per kind and webhook.
//!
//! In: the body of a POST request, up to 7 MiB. Out: an `AdmissionReview` with the answer. A request that
//! would be rejected because of other objects waits until they change, for [`AdmissionHandler::wait_limit`] at most,
//! because the watch may not have delivered them yet.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::Body,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use evermesh_ingest::admission::{self, ClusterSnapshot, IpFamily, ObjectWrite};
use evermesh_model::Kind;
use evermesh_xds::{ConnectionLimit, accept_tls};
use json_patch::Patch;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::timeout_at,
};
use tokio_util::sync::CancellationToken;

use super::{
    certificates::ServingCertificate,
    events::PodEvent,
    in_flight::{InFlightBytes, RequestRoom},
    metrics::{AdmissionMetrics, RequestLabels},
    pods::PodInjection,
    review::{AdmissionRequest, InvalidReview, POD_PATH, Webhook, path, reject_too_large},
};
use crate::{http_server, throttle::LogThrottle};

/// Longest time that open requests may take after the shutdown begins.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(3);

/// Answers admission requests.
#[derive(Clone)]
pub(super) struct AdmissionHandler {
    pub(super) surroundings: watch::Receiver<Option<ClusterSnapshot>>,
    pub(super) family: IpFamily,
    /// Longest time that a request which would be rejected waits for changes of other objects.
    pub(super) wait_limit: Duration,
    /// `None` turns injection off.
    pub(super) injection: Option<Arc<PodInjection>>,
    pub(super) metrics: AdmissionMetrics,
    pub(super) events: mpsc::Sender<PodEvent>,
    pub(super) in_flight: Arc<InFlightBytes>,
    pub(super) malformed_log: Arc<LogThrottle>,
    pub(super) rejection_log: Arc<LogThrottle>,
}

pub(super) enum AdmissionOutcome {
    /// Accepted with a patch and warnings for the user.
    Allowed(Patch, Vec<String>),
    /// Rejected with a message for the user.
    Denied(String),
    /// Rejected for now, because objects that decide the answer are not known yet, with a message for the user.
    Unready(String),
    /// Answered with an HTTP error because of a bug in Evermesh.
    Failed,
}

/// Message before the first snapshot of the Kubernetes cluster.
pub(super) const NOT_SYNCED: &str =
    "Evermesh has not read the meshes of the Kubernetes cluster yet; try again in a moment";

/// Message for a bug in Evermesh.
pub(super) const INTERNAL_ERROR: &str = "internal error; see the log of Evermesh";

/// Serves until `shutdown`, and then lets open requests finish. From `leaving` on, connections are not kept.
pub(super) async fn serve(
    listener: TcpListener,
    connections: Arc<ConnectionLimit>,
    admission: AdmissionHandler,
    certificates: Arc<ServingCertificate>,
    leaving: CancellationToken,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let config = certificates.server_config(&[b"h2", b"http/1.1"])?;
    let (_settings, settings) = watch::channel(Arc::new(config));
    let incoming = accept_tls(listener, connections, settings);
    let router = router(&admission);
    http_server::serve(incoming, router, leaving, shutdown, SHUTDOWN_LIMIT).await;
    Ok(())
}

/// The paths of all webhooks.
pub(super) fn router(admission: &AdmissionHandler) -> Router {
    let mut router = Router::new();
    for webhook in [Webhook::Mutate, Webhook::Validate] {
        for kind in Kind::ALL {
            let Some(path) = path(webhook, kind) else {
                continue;
            };
            let admission = admission.clone();
            let answer = async move |body: Body| admission.answer(webhook, kind, body).await;
            router = router.route(&path, post(answer));
        }
    }
    if let Some(injection) = admission.injection.clone() {
        let admission = admission.clone();
        let answer = async move |body: Body| admission.answer_pod(&injection, body).await;
        router = router.route(POD_PATH, post(answer));
    }
    router
}

impl AdmissionHandler {
    async fn answer(&self, webhook: Webhook, kind: Kind, body: Body) -> Response {
        let decide = async |request: &mut AdmissionRequest| match webhook {
            Webhook::Mutate => match request.write(kind) {
                Some(write) => self.fill(&write).await,
                None => AdmissionOutcome::allowed(),
            },
            Webhook::Validate => self.check(request, kind).await,
        };
        self.measured(webhook.as_str(), kind, body, decide).await
    }

    /// Parses a request, answers it with the decision and measures it.
    pub(super) async fn measured(
        &self,
        webhook: &'static str,
        kind: Kind,
        body: Body,
        decide: impl AsyncFnOnce(&mut AdmissionRequest) -> AdmissionOutcome,
    ) -> Response {
        let started = Instant::now();
        let mut labels = RequestLabels {
            webhook,
            kind: kind.as_str(),
            operation: "other",
            outcome: "malformed",
        };
        let response = match self.read(body, kind).await {
            Ok((mut request, _room)) => {
                labels.operation = request.operation();
                let outcome = decide(&mut request).await;
                labels.outcome = outcome.as_str();
                respond(&request, &outcome)
            }
            Err(InvalidReview::NoRoom(answer)) => answer.into_response(),
            Err(ref invalid @ InvalidReview::TooLarge { ref uid, .. }) => {
                labels.outcome = "denied";
                Json(reject_too_large(uid, &invalid.to_string())).into_response()
            }
            Err(invalid) => self.bad_request(&invalid),
        };
        self.metrics.answered(&labels, started.elapsed());
        response
    }

    async fn read(
        &self,
        body: Body,
        kind: Kind,
    ) -> Result<(AdmissionRequest, RequestRoom), InvalidReview> {
        let read = self.in_flight.read(body).await;
        let (body, mut room) = read.map_err(InvalidReview::NoRoom)?;
        let request = AdmissionRequest::read(&body, kind, &mut room)?;
        Ok((request, room))
    }

    fn bad_request(&self, invalid: &InvalidReview) -> Response {
        if let Some(suppressed) = self.malformed_log.pass() {
            tracing::warn!(error = %invalid, suppressed, "rejected a request that is not an admission request");
        }
        (StatusCode::BAD_REQUEST, format!("{invalid}\n")).into_response()
    }

    /// Claims are checked first, because the check of the object itself consumes the object.
    async fn check(&self, request: &mut AdmissionRequest, kind: Kind) -> AdmissionOutcome {
        let claims = match request.write(kind) {
            Some(write) => self.check_claims(&write).await,
            None => return AdmissionOutcome::allowed(),
        };
        match request.take_write(kind).map(admission::check) {
            Some(Err(denial)) => AdmissionOutcome::Denied(denial.to_string()),
            None | Some(Ok(())) => claims,
        }
    }

    async fn check_claims(&self, write: &ObjectWrite<'_>) -> AdmissionOutcome {
        self.decide_with_wait(|known| match known {
            None if write.needs_cluster_snapshot() => {
                (AdmissionOutcome::Unready(NOT_SYNCED.to_owned()), true)
            }
            known => {
                let known = known.cloned().unwrap_or_default();
                match admission::check_claims(write, &known) {
                    Ok(()) => (AdmissionOutcome::allowed(), false),
                    Err(denial) => (
                        AdmissionOutcome::Denied(denial.to_string()),
                        denial.may_be_stale,
                    ),
                }
            }
        })
        .await
    }

    async fn fill(&self, write: &ObjectWrite<'_>) -> AdmissionOutcome {
        self.decide_with_wait(|known| match known {
            None if write.needs_cluster_snapshot() => {
                (AdmissionOutcome::Unready(NOT_SYNCED.to_owned()), true)
            }
            known => {
                let known = known.cloned().unwrap_or_default();
                match admission::fill(write, &known, self.family) {
                    Ok(patch) => (AdmissionOutcome::Allowed(patch, Vec::new()), false),
                    Err(denial) => (
                        AdmissionOutcome::Denied(denial.to_string()),
                        denial.may_be_stale,
                    ),
                }
            }
        })
        .await
    }

    /// Decides with the newest snapshot. While `decide` returns `true`, which means that other objects may change the
    /// outcome, decides again for each new snapshot, for [`Self::wait_limit`] at most.
    pub(super) async fn decide_with_wait(
        &self,
        mut decide: impl FnMut(Option<&ClusterSnapshot>) -> (AdmissionOutcome, bool),
    ) -> AdmissionOutcome {
        let mut surroundings = self.surroundings.clone();
        let deadline = tokio::time::Instant::now() + self.wait_limit;
        loop {
            let known = surroundings.borrow_and_update().clone();
            let (outcome, may_be_stale) = decide(known.as_ref());
            if !may_be_stale {
                return outcome;
            }
            match timeout_at(deadline, surroundings.changed()).await {
                Ok(Ok(())) => {}
                // No snapshot came in time, or the sender is gone.
                Err(_) | Ok(Err(_)) => return outcome,
            }
        }
    }
}

impl AdmissionOutcome {
    /// Accepted without a patch or a warning.
    pub(super) fn allowed() -> Self {
        Self::Allowed(Patch::default(), Vec::new())
    }

    fn as_str(&self) -> &'static str {
        match self {
            Self::Allowed(patch, _) if patch.0.is_empty() => "allowed",
            Self::Allowed(..) => "patched",
            Self::Denied(_) => "denied",
            Self::Unready(_) => "unready",
            Self::Failed => "failed",
        }
    }
}

fn respond(request: &AdmissionRequest, outcome: &AdmissionOutcome) -> Response {
    match outcome {
        AdmissionOutcome::Allowed(patch, warnings) => {
            Json(request.allow(patch, warnings)).into_response()
        }
        AdmissionOutcome::Denied(message) => Json(request.deny(message)).into_response(),
        AdmissionOutcome::Unready(message) => Json(request.reject_for_now(message)).into_response(),
        AdmissionOutcome::Failed => {
            (StatusCode::INTERNAL_SERVER_ERROR, INTERNAL_ERROR).into_response()
        }
    }
}

#[cfg(test)]
mod tests;
