//! The HTTPS server: one path a kind and webhook, a body limit, and the wait for news.
//!
//! Must not hold up a connection for longer than it takes to hear what the API server knows already.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use axum::{
    Json, Router,
    body::Bytes,
    extract::DefaultBodyLimit,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use axum_server::{Handle, tls_rustls::RustlsConfig};
use evermesh_ingest::admission::{self, ClusterSnapshot, IpFamily, ObjectWrite};
use evermesh_model::Kind;
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
    metrics::{AdmissionMetrics, RequestLabels},
    review::{AdmissionRequest, InvalidReview, POD_PATH, Webhook, path},
};

/// An API server takes objects of up to 3 MiB, and an update brings two.
const BODY_LIMIT: usize = 7 << 20;

/// How long open requests may take to end after a cancellation.
const GRACE: Duration = Duration::from_secs(3);

/// What answers need.
#[derive(Clone)]
pub(super) struct Admission {
    pub(super) surroundings: watch::Receiver<Option<ClusterSnapshot>>,
    pub(super) family: IpFamily,
    pub(super) patience: Duration,
    /// What is put into pods, if they are not left alone.
    pub(super) injection: Option<Arc<evermesh_injector::InjectorSettings>>,
    pub(super) metrics: AdmissionMetrics,
    pub(super) events: mpsc::Sender<PodEvent>,
}

/// What became of a request.
pub(super) enum AdmissionOutcome {
    /// With what whoever asked is to be told.
    Allowed(Patch, Vec<String>),
    /// In words for whoever asked.
    Denied(String),
    /// What the answer depends on is not known yet: which, in words for whoever asked.
    Unready(String),
    /// A mistake of ours.
    Failed,
}

/// The words for whoever asked before anything of the cluster was known.
pub(super) const NOTHING_KNOWN: &str =
    "the meshes of the cluster are not known here yet: try again in a moment";

/// The words for whoever met a mistake of ours.
pub(super) const MISTAKE: &str = "a mistake of Evermesh's, of which its log says more";

/// Serves until cancelled.
pub(super) async fn serve(
    listener: TcpListener,
    admission: Admission,
    certificates: Arc<ServingCertificate>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let config = Arc::new(certificates.server_config()?);
    let handle = Handle::new();
    let server = axum_server::from_tcp_rustls(
        listener.into_std().context("the listening socket")?,
        RustlsConfig::from_config(config),
    )?
    .handle(handle.clone());
    let mut serving = pin!(server.serve(router(&admission).into_make_service()));
    tokio::select! {
        ended = &mut serving => Ok(ended?),
        () = shutdown.cancelled() => {
            handle.graceful_shutdown(Some(GRACE));
            Ok(serving.await?)
        }
    }
}

fn router(admission: &Admission) -> Router {
    let mut router = Router::new();
    for webhook in [Webhook::Mutate, Webhook::Validate] {
        for kind in Kind::ALL {
            let Some(path) = path(webhook, kind) else {
                continue;
            };
            let admission = admission.clone();
            let answer = async move |body: Bytes| admission.answer(webhook, kind, &body).await;
            router = router.route(&path, post(answer));
        }
    }
    if let Some(settings) = admission.injection.clone() {
        let admission = admission.clone();
        let answer = async move |body: Bytes| admission.answer_pod(&settings, &body).await;
        router = router.route(POD_PATH, post(answer));
    }
    router.layer(DefaultBodyLimit::max(BODY_LIMIT))
}

impl Admission {
    async fn answer(&self, webhook: Webhook, kind: Kind, body: &[u8]) -> Response {
        let decide = async |request: &AdmissionRequest| match request.write(kind) {
            Some(write) => self.decide(webhook, &write).await,
            None => AdmissionOutcome::allowed(),
        };
        self.measured(webhook.as_str(), kind, body, decide).await
    }

    /// Reads a request, answers it and counts it.
    pub(super) async fn measured(
        &self,
        webhook: &'static str,
        kind: Kind,
        body: &[u8],
        decide: impl AsyncFnOnce(&AdmissionRequest) -> AdmissionOutcome,
    ) -> Response {
        let started = Instant::now();
        let mut labels = RequestLabels {
            webhook,
            kind: kind.as_str(),
            operation: "other",
            outcome: "malformed",
        };
        let response = match AdmissionRequest::read(body, kind) {
            Ok(request) => {
                labels.operation = request.operation();
                let outcome = decide(&request).await;
                labels.outcome = outcome.as_str();
                respond(&request, &outcome)
            }
            Err(malformed) => refuse(&malformed),
        };
        self.metrics.answered(&labels, started.elapsed());
        response
    }

    async fn decide(&self, webhook: Webhook, write: &ObjectWrite<'_>) -> AdmissionOutcome {
        match webhook {
            Webhook::Mutate => self.fill(write).await,
            Webhook::Validate => match admission::check(write) {
                Ok(()) => AdmissionOutcome::allowed(),
                Err(denial) => AdmissionOutcome::Denied(denial.to_string()),
            },
        }
    }

    async fn fill(&self, write: &ObjectWrite<'_>) -> AdmissionOutcome {
        self.patiently(|known| match known {
            None if write.needs_cluster_snapshot() => {
                (AdmissionOutcome::Unready(NOTHING_KNOWN.to_owned()), true)
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

    /// An answer that other objects are the reason for (`true`) is final only when no news of them came in time.
    pub(super) async fn patiently(
        &self,
        mut decide: impl FnMut(Option<&ClusterSnapshot>) -> (AdmissionOutcome, bool),
    ) -> AdmissionOutcome {
        let mut surroundings = self.surroundings.clone();
        let deadline = tokio::time::Instant::now() + self.patience;
        loop {
            let known = surroundings.borrow_and_update().clone();
            let (outcome, may_be_stale) = decide(known.as_ref());
            if !may_be_stale {
                return outcome;
            }
            match timeout_at(deadline, surroundings.changed()).await {
                Ok(Ok(())) => {}
                // No news in time, or none for ever.
                Err(_) | Ok(Err(_)) => return outcome,
            }
        }
    }
}

impl AdmissionOutcome {
    /// As it is.
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
        AdmissionOutcome::Unready(message) => Json(request.put_off(message)).into_response(),
        AdmissionOutcome::Failed => (StatusCode::INTERNAL_SERVER_ERROR, MISTAKE).into_response(),
    }
}

fn refuse(malformed: &InvalidReview) -> Response {
    tracing::warn!(%malformed, "not an admission request");
    (StatusCode::BAD_REQUEST, format!("{malformed}\n")).into_response()
}

#[cfg(test)]
mod tests;
