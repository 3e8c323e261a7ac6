//! Admission webhooks over HTTPS.
//!
//! In: an `AdmissionReview` from the API server. Out: an answer with a JSON patch, warnings or a rejection. For objects
//! of the mesh [`evermesh_ingest::admission`] decides, for pods [`evermesh_injector`]. Both read the newest
//! [`ClusterSnapshot`]; before the first one, requests that need it are answered with 503.
//!
//! ```text
//! API server ── AdmissionReview ──► server ──► review ──► ingest::admission (mesh objects)
//!                                     │                └► injector (pods) ──► events
//!                                     └ TLS certificate ◄─ files, or secret ◄─ authority
//!                                                                   └► bundle ──► caBundle of the webhooks
//! ```
//!
//! The webhooks only write the Secret of the certificate, the `caBundle` of the webhook configurations and events about
//! pods.

mod authority;
mod bundle;
mod certificates;
mod events;
mod in_flight;
mod metrics;
mod pods;
mod review;
mod secret;
mod server;

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, anyhow, bail};
use evermesh_ingest::admission::{ClusterSnapshot, IpFamily};
use evermesh_xds::ConnectionLimit;
use kube::Client;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use self::{
    bundle::CaBundleUpdater, pods::PodInjection, secret::CertificateSecret,
    server::AdmissionHandler,
};
pub use self::{
    certificates::ServingCertificate,
    metrics::AdmissionMetrics,
    review::{POD_PATH, Webhook, path},
};
use crate::{
    args::{IpFamilyArg, NamespacedName, ServeArgs, checked_authority},
    certificate_health::{CertificateHealth, CertificateRole, authorities_end, chain_end},
    reload::{FileReloader, WatchedFiles},
    server_clock::Clock,
};

/// Longest time that a request which would be rejected waits for changes of other objects.
///
/// `kubectl apply` of a folder creates a mesh and its members within milliseconds, before the watch has delivered the
/// mesh. The API server waits 10 s for a webhook by default (`timeoutSeconds`).
const WATCH_DELAY_LIMIT: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub struct WebhookOptions {
    pub certificate: WebhookCertificate,
    /// The certificate in use, which the source replaces.
    pub certificates: Arc<ServingCertificate>,
    /// Ends of the certificates in use.
    pub certificate_health: Arc<CertificateHealth>,
    /// IP family of the Kubernetes cluster.
    pub family: IpFamily,
    /// Longest time that a request which would be rejected waits for changes of other objects.
    pub wait_limit: Duration,
    /// Settings of the injector. Without them [`POD_PATH`] is not served.
    pub injection: Option<evermesh_injector::InjectorSettings>,
    /// Source of newer authorities of the xDS server than those in the settings of the injector.
    pub sidecar_authority: SidecarAuthority,
    /// Name of this replica in events.
    pub identity: String,
    /// Cancelled when the process begins to drain: API servers are to connect to another replica.
    pub leaving: CancellationToken,
    pub clock: Clock,
}

#[derive(Debug, Clone)]
pub enum WebhookCertificate {
    /// `tls.crt` and `tls.key` in this folder. The owner of the files also sets the caBundle of the webhooks.
    Files(std::path::PathBuf),
    /// Evermesh creates the certificate, keeps it in a Secret and sets the caBundle of the webhooks.
    OwnAuthority(OwnAuthority),
}

/// Source of the authorities that sidecars trust.
#[derive(Debug, Clone)]
pub enum SidecarAuthority {
    /// The settings of the injector, which do not change.
    Settings,
    /// The file of `--sidecar-xds-ca`.
    File(std::path::PathBuf),
    /// The authority of the certificate that Evermesh creates.
    Own,
}

#[derive(Debug, Clone)]
pub struct OwnAuthority {
    /// Secret that all replicas share.
    pub secret: NamespacedName,
    /// Kubernetes Service through which the API server calls the webhooks.
    pub service: NamespacedName,
    /// Kubernetes Service through which proxies connect, if the certificate is for xDS as well.
    pub xds_service: Option<NamespacedName>,
    /// Host names and IP addresses of webhooks that are called by `clientConfig.url`.
    pub hosts: BTreeSet<String>,
    /// Name of the `MutatingWebhookConfiguration` whose caBundle is set.
    pub mutating: String,
    /// Name of the `ValidatingWebhookConfiguration` whose caBundle is set.
    pub validating: String,
}

impl OwnAuthority {
    /// DNS names and IP addresses for which the certificate is valid.
    fn names(&self) -> BTreeSet<String> {
        let services = [&self.service].into_iter().chain(&self.xds_service);
        let hosts = services.flat_map(NamespacedName::service_hosts);
        self.hosts.iter().cloned().chain(hosts).collect()
    }
}

impl WebhookOptions {
    pub fn new(
        args: &ServeArgs,
        certificates: Arc<ServingCertificate>,
        certificate_health: Arc<CertificateHealth>,
        injection: Option<evermesh_injector::InjectorSettings>,
        identity: String,
        clock: Clock,
        leaving: CancellationToken,
    ) -> Self {
        let xds_service = args.xds.xds_tls_service.clone();
        let sidecar_authority = match &args.injector.sidecar_xds_ca {
            _ if xds_service.is_some() => SidecarAuthority::Own,
            Some(file) => SidecarAuthority::File(file.clone()),
            None => SidecarAuthority::Settings,
        };
        let args = &args.webhook;
        let certificate = match &args.webhook_certificates {
            Some(folder) => WebhookCertificate::Files(folder.clone()),
            None => WebhookCertificate::OwnAuthority(OwnAuthority {
                secret: args.webhook_secret.clone(),
                service: args.webhook_service.clone(),
                xds_service,
                hosts: args.webhook_host.iter().cloned().collect(),
                mutating: args.webhook_mutating_configuration.clone(),
                validating: args.webhook_validating_configuration.clone(),
            }),
        };
        Self {
            certificate,
            certificates,
            certificate_health,
            family: match args.ip_family {
                IpFamilyArg::Ipv4 => IpFamily::Ipv4,
                IpFamilyArg::Dual => IpFamily::Dual,
                IpFamilyArg::Ipv6 => IpFamily::Ipv6,
            },
            wait_limit: WATCH_DELAY_LIMIT,
            injection,
            sidecar_authority,
            identity,
            clock,
            leaving,
        }
    }
}

/// The webhooks without a server, for a Kubernetes cluster that does not change: no request waits, and events are dropped.
pub fn without_server(
    known: ClusterSnapshot,
    family: IpFamily,
    settings: evermesh_injector::InjectorSettings,
) -> axum::Router {
    let (_, surroundings) = watch::channel(Some(known));
    let (events, _) = mpsc::channel(1);
    let injection = PodInjection {
        settings,
        authority: None,
    };
    server::router(&AdmissionHandler {
        surroundings,
        family,
        wait_limit: Duration::ZERO,
        injection: Some(Arc::new(injection)),
        metrics: AdmissionMetrics::default(),
        events,
        in_flight: Arc::default(),
        malformed_log: Arc::default(),
        rejection_log: Arc::default(),
    })
}

/// Serves the webhooks until `shutdown`.
///
/// # Errors
/// A task failed or ended before `shutdown`. Temporary failures, such as an unreachable API server or a broken
/// certificate, are logged and retried while the last good certificate stays in use.
pub async fn run(
    (listener, connections): (TcpListener, Arc<ConnectionLimit>),
    options: WebhookOptions,
    client: Client,
    surroundings: watch::Receiver<Option<ClusterSnapshot>>,
    metrics: AdmissionMetrics,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let certificates = options.certificates;
    let health = options.certificate_health;
    let mut tasks = JoinSet::new();
    let publish = events::publisher(client.clone(), options.identity);
    let (events, writing) = events::writer(publish, shutdown.clone());
    tasks.spawn(async move {
        writing.await;
        Ok(())
    });
    let (bundle, trusted) = watch::channel(Arc::from(""));
    let authority = match options.sidecar_authority {
        SidecarAuthority::Settings => None,
        SidecarAuthority::Own => Some(trusted.clone()),
        SidecarAuthority::File(file) => {
            let in_use = options.injection.as_ref();
            let in_use = in_use.and_then(|it| it.control_plane.authority.as_deref());
            let (reloader, authority) =
                authority_reloader(file, in_use.unwrap_or_default(), &health);
            let shutdown = shutdown.clone();
            tasks.spawn(async move {
                reloader.run(shutdown).await;
                Ok(())
            });
            Some(authority)
        }
    };
    let injection = options.injection.map(|settings| PodInjection {
        settings,
        authority,
    });
    let admission = AdmissionHandler {
        surroundings,
        family: options.family,
        wait_limit: options.wait_limit,
        injection: injection.map(Arc::new),
        metrics,
        events,
        in_flight: Arc::default(),
        malformed_log: Arc::default(),
        rejection_log: Arc::default(),
    };
    let serving = server::serve(
        listener,
        connections,
        admission,
        Arc::clone(&certificates),
        options.leaving,
        shutdown.clone(),
    );
    tasks.spawn(async move { serving.await.context("the webhook server failed") });
    match options.certificate {
        WebhookCertificate::Files(folder) => {
            let shutdown = shutdown.clone();
            let reloader = certificate_reloader(&folder, certificates, &health);
            tasks.spawn(async move {
                reloader.run(shutdown).await;
                Ok(())
            });
        }
        WebhookCertificate::OwnAuthority(own) => {
            for (kind, name) in [
                (bundle::WebhookConfigurationKind::Mutating, &own.mutating),
                (
                    bundle::WebhookConfigurationKind::Validating,
                    &own.validating,
                ),
            ] {
                let updater = CaBundleUpdater::new(&client, kind, name, &own, trusted.clone());
                tasks.spawn(updater.run(shutdown.clone()));
            }
            let secret = CertificateSecret {
                client,
                serves_xds: own.xds_service.is_some(),
                health,
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
        ended.context("a task of the webhooks panicked")??;
        if !shutdown.is_cancelled() {
            return Err(anyhow!("a task of the webhooks ended before the shutdown"));
        }
    }
    Ok(())
}

/// Replaces the certificate in use each time the files in the folder change.
fn certificate_reloader(
    folder: &Path,
    certificates: Arc<ServingCertificate>,
    health: &Arc<CertificateHealth>,
) -> FileReloader {
    let file = |name: &str| ("--webhook-certificates", folder.join(name));
    let files = vec![file("tls.crt"), file("tls.key")];
    let files = WatchedFiles::new(CertificateRole::Webhooks, files, health);
    let health = Arc::clone(health);
    files.reloader(None, move |contents| {
        let [chain, key] = contents else {
            bail!("a certificate and a key are needed");
        };
        certificates.replace(chain, key)?;
        health.set_end(CertificateRole::Webhooks, chain_end(chain));
        Ok(())
    })
}

/// Follows the file of `--sidecar-xds-ca`, of which `in_use` are the contents so far.
fn authority_reloader(
    file: std::path::PathBuf,
    in_use: &str,
    health: &Arc<CertificateHealth>,
) -> (FileReloader, watch::Receiver<Arc<str>>) {
    let (sender, authority) = watch::channel(Arc::from(in_use));
    let role = CertificateRole::SidecarAuthorities;
    let files = WatchedFiles::new(role, vec![("--sidecar-xds-ca", file)], health);
    let loaded = vec![in_use.as_bytes().to_vec()];
    health.set_end(role, authorities_end(in_use.as_bytes()));
    let health = Arc::clone(health);
    let reloader = files.reloader(Some(loaded), move |contents| {
        let [contents] = contents else {
            bail!("one file is needed");
        };
        sender.send_replace(checked_authority(contents)?.into());
        health.set_end(role, authorities_end(contents));
        Ok(())
    });
    (reloader, authority)
}

#[cfg(test)]
mod tests;
