//! Admission over HTTPS: the API server asks; [`evermesh_ingest::admission`] answers about the mesh's objects, and
//! [`evermesh_injector`] about pods.
//!
//! [`run`] starts the parts: the server, whoever provides its certificate, and, if the certificate is our
//! own, whoever tells the API server to trust it. What is known of the cluster comes in as a `watch` of
//! [`ClusterSnapshot`]; until there are any, an answer that needs them is 503.
//!
//! Must not decide what is admitted, and must not write anything but its own Secret, the `caBundle` of
//! its own webhooks, and events about pods.

mod authority;
mod bundle;
mod certificates;
mod events;
mod files;
mod metrics;
mod pods;
mod review;
mod secret;
mod server;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, anyhow};
use evermesh_ingest::admission::{ClusterSnapshot, IpFamily};
use kube::Client;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::{
    bundle::BundleKeeper, files::CertificateFiles, secret::CertificateSecret, server::Admission,
};
pub use self::{
    certificates::ServingCertificate,
    metrics::AdmissionMetrics,
    review::{POD_PATH, Webhook, path},
};
use crate::args::{IpFamilyArg, NamespacedName, WebhookArgs};

/// Says what time it is, so that tests can.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// How long an answer that would refuse waits for news of other objects.
///
/// A mesh that was created a millisecond ago is in the API server already, and still on its way to us;
/// `kubectl apply` of a folder with a mesh and its members creates them that quickly. The API server itself
/// waits for ten seconds unless the configuration says otherwise.
const PATIENCE: Duration = Duration::from_secs(2);

/// How the webhooks are served.
#[derive(Clone)]
pub struct WebhookOptions {
    /// Where the certificate comes from.
    pub certificate: CertificateSource,
    /// Where it is put.
    pub certificates: Arc<ServingCertificate>,
    /// The IP family of the cluster.
    pub family: IpFamily,
    /// How long an answer that would refuse waits for news of other objects.
    pub patience: Duration,
    /// What is put into pods; without it they are left alone, and nothing is answered at [`POD_PATH`].
    pub injection: Option<evermesh_injector::InjectorSettings>,
    /// The name of this replica in events.
    pub identity: String,
    /// The time.
    pub clock: Clock,
}

/// Where the serving certificate comes from.
#[derive(Debug, Clone)]
pub enum CertificateSource {
    /// `tls.crt` and `tls.key` in this folder; who writes them also tells the API server to trust them.
    Files(std::path::PathBuf),
    /// We make it and keep it in a Secret.
    OwnAuthority(OwnAuthority),
}

/// How our own certificates are kept and made known.
#[derive(Debug, Clone)]
pub struct OwnAuthority {
    /// The Secret that all replicas share.
    pub secret: NamespacedName,
    /// The Service by which the API server reaches the webhooks.
    pub service: NamespacedName,
    /// Further names by which it does: webhooks with such a `clientConfig.url` are ours too.
    pub hosts: BTreeSet<String>,
    /// The `MutatingWebhookConfiguration`.
    pub mutating: String,
    /// The `ValidatingWebhookConfiguration`.
    pub validating: String,
}

impl OwnAuthority {
    /// The names that the certificate is for.
    fn names(&self) -> BTreeSet<String> {
        let NamespacedName { namespace, name } = &self.service;
        let service = [
            format!("{name}.{namespace}.svc"),
            format!("{name}.{namespace}.svc.cluster.local"),
        ];
        self.hosts.iter().cloned().chain(service).collect()
    }
}

impl WebhookOptions {
    /// As the command line says.
    pub fn new(
        args: &WebhookArgs,
        certificates: Arc<ServingCertificate>,
        injection: Option<evermesh_injector::InjectorSettings>,
        identity: String,
    ) -> Self {
        let certificate = match &args.webhook_certificates {
            Some(folder) => CertificateSource::Files(folder.clone()),
            None => CertificateSource::OwnAuthority(OwnAuthority {
                secret: args.webhook_secret.clone(),
                service: args.webhook_service.clone(),
                hosts: args.webhook_host.iter().cloned().collect(),
                mutating: args.webhook_mutating_configuration.clone(),
                validating: args.webhook_validating_configuration.clone(),
            }),
        };
        Self {
            certificate,
            certificates,
            family: match args.ip_family {
                IpFamilyArg::Ipv4 => IpFamily::Ipv4,
                IpFamilyArg::Ipv6 => IpFamily::Ipv6,
            },
            patience: PATIENCE,
            injection,
            identity,
            clock: Arc::new(SystemTime::now),
        }
    }
}

/// Serves the webhooks until cancelled.
///
/// # Errors
/// A part failed for good or ended by itself. What may pass (an API server that does not answer, a broken
/// certificate) is logged and tried again, with the last good certificate in use.
pub async fn run(
    listener: TcpListener,
    options: WebhookOptions,
    client: Client,
    surroundings: watch::Receiver<Option<ClusterSnapshot>>,
    metrics: AdmissionMetrics,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let certificates = options.certificates;
    let mut tasks = JoinSet::new();
    let (events, telling) = events::teller(client.clone(), options.identity, shutdown.clone());
    tasks.spawn(async move {
        telling.await;
        Ok(())
    });
    let admission = Admission {
        surroundings,
        family: options.family,
        patience: options.patience,
        injection: options.injection.map(Arc::new),
        metrics,
        events,
    };
    let serving = server::serve(
        listener,
        admission,
        Arc::clone(&certificates),
        shutdown.clone(),
    );
    tasks.spawn(async move { serving.await.context("the webhook server failed") });
    match options.certificate {
        CertificateSource::Files(folder) => {
            let files = CertificateFiles::new(folder, certificates);
            tasks.spawn(files.run(shutdown.clone()));
        }
        CertificateSource::OwnAuthority(own) => {
            let (bundle, trusted) = watch::channel(Arc::from(""));
            for (kind, name) in [
                (bundle::WebhookConfigurationKind::Mutating, &own.mutating),
                (
                    bundle::WebhookConfigurationKind::Validating,
                    &own.validating,
                ),
            ] {
                let keeper = BundleKeeper::new(client.clone(), kind, name, &own, trusted.clone());
                tasks.spawn(keeper.run(shutdown.clone()));
            }
            let secret = CertificateSecret {
                client,
                reference: own.secret.clone(),
                names: own.names(),
                clock: options.clock,
                certificates,
                bundle,
            };
            tasks.spawn(secret.run(shutdown.clone()));
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a part of the webhooks panicked")??;
        if !shutdown.is_cancelled() {
            return Err(anyhow!("a part of the webhooks ended by itself"));
        }
    }
    Ok(())
}
