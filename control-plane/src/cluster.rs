//! Starts the tasks that talk to a Kubernetes cluster: sources, admission, and effects.

use std::{fs, net::SocketAddr, sync::Arc};

use anyhow::Context;
use evermesh_ingest::admission::ClusterSnapshot;
use evermesh_injector::InjectorSettings;
use evermesh_xds::{ConnectionLimit, ProxyRegistry};
use kube::Client;
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    api_client,
    app::{bind, infallible},
    args::{IpFamilyArg, KubernetesArgs, ServeArgs},
    certificate_health::CertificateHealth,
    effect::{
        EffectInbox,
        key::ReplicaKey,
        lease::{self, Leader, LeaseOptions},
        peers::PeerServer,
        registration, status,
    },
    engine::EngineSnapshot,
    liveness::WorkClock,
    server_clock::{Clock, ServerClock},
    source::{
        ChangeBatch,
        kubernetes::{self, ApiServerHealth, KubernetesOptions, ObservedObjects},
    },
    webhook::{self, AdmissionMetrics, ServingCertificate},
};

/// Reports of other replicas that may wait for the status writer; a replica that finds the channel full waits.
const QUEUED_PEER_EVENTS: usize = 64;

/// Region in ARNs without `--aws-region`. An ARN must have one.
const DEFAULT_REGION: &str = "us-east-1";

/// The namespaces to watch.
pub(crate) fn watch_options(args: &KubernetesArgs) -> KubernetesOptions {
    KubernetesOptions {
        namespaces: args.watch_namespaces.clone(),
        secret_namespaces: args.secret_namespaces.clone(),
    }
}

/// Ends of the channels that lead to and from the tasks of the cluster, and the state that these tasks share with others.
pub(crate) struct KubernetesChannels {
    pub(crate) batches: mpsc::Sender<ChangeBatch>,
    /// The runtime of admission: anyone may send large requests, which must not delay anything else.
    pub(crate) admission: Handle,
    pub(crate) admission_snapshots: watch::Receiver<Option<ClusterSnapshot>>,
    pub(crate) admission_metrics: AdmissionMetrics,
    /// Serving certificate of the webhooks, published for the admin pages.
    pub(crate) certificates: Arc<ServingCertificate>,
    /// Ends of the certificates in use.
    pub(crate) certificate_health: Arc<CertificateHealth>,
    /// Changes for the status writer; present with leader election.
    pub(crate) effect_inbox: Option<Arc<EffectInbox>>,
    /// The runtime of the status writer, so that counts of many proxies delay neither admission nor the Lease.
    pub(crate) status: Handle,
    pub(crate) webhook_connections: Arc<ConnectionLimit>,
    /// Cancelled when the process begins to drain.
    pub(crate) leaving: CancellationToken,
    pub(crate) snapshots: watch::Receiver<Arc<EngineSnapshot>>,
    pub(crate) registry: Arc<ProxyRegistry>,
    /// Marks of the status writer, for `/livez`.
    pub(crate) status_work: Arc<WorkClock>,
}

/// The Kubernetes cluster from which objects are read.
pub(crate) struct KubernetesCluster {
    pub(crate) client: Client,
    observed: Arc<ObservedObjects>,
    pub(crate) api_server: Arc<ApiServerHealth>,
    pub(crate) clock: Arc<ServerClock>,
    /// Identity of this replica: new in every process.
    identity: String,
}

impl KubernetesCluster {
    /// Creates the client from the kubeconfig or the pod's service account; `None` without `--kubernetes`.
    pub(crate) async fn connect(args: &ServeArgs) -> anyhow::Result<Option<Self>> {
        if !args.source.kubernetes {
            return Ok(None);
        }
        let config = kube::Config::infer().await.context(
            "--kubernetes: found neither a kubeconfig nor a service account; set KUBECONFIG",
        )?;
        tracing::info!(api_server = %config.cluster_url, "reading objects from the Kubernetes cluster");
        let clock = Arc::default();
        let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "evermesh".to_owned());
        Ok(Some(Self {
            client: api_client::connect(config, &clock).context("--kubernetes")?,
            observed: Arc::default(),
            api_server: Arc::default(),
            clock,
            identity: format!("{host}_{:016x}", fastrand::u64(..)),
        }))
    }

    /// The time by which certificates expire.
    pub(crate) fn clock(&self) -> Clock {
        let clock = Arc::clone(&self.clock);
        Arc::new(move || clock.now())
    }

    /// Starts the watches, admission if `--webhook-address` is given, and the effects if leader election is on. Returns
    /// the handler of other replicas' reports.
    pub(crate) async fn spawn(
        &self,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        args: &ServeArgs,
        channels: KubernetesChannels,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Option<PeerServer>> {
        self.spawn_sources(tasks, args, channels.batches.clone(), shutdown);
        if let Some(address) = args.webhook.webhook_address {
            let listener = bind(address, "--webhook-address").await?;
            let injection = args.injection()?.map(|settings| InjectorSettings {
                has_ipv6: settings.has_ipv6 || has_ipv6_address(),
                ..settings
            });
            let options = webhook::WebhookOptions::new(
                args,
                Arc::clone(&channels.certificates),
                Arc::clone(&channels.certificate_health),
                injection,
                self.identity.clone(),
                self.clock(),
                channels.leaving.clone(),
            );
            let serving = webhook::run(
                (listener, channels.webhook_connections.clone()),
                options,
                self.client.clone(),
                channels.admission_snapshots.clone(),
                channels.admission_metrics.clone(),
                shutdown.clone(),
            );
            tasks.spawn_on(serving, &channels.admission);
        }
        match &args.kubernetes.leader_election_namespace {
            Some(namespace) => self.spawn_effects(tasks, args, namespace, channels, shutdown),
            None => Ok(None),
        }
    }

    fn spawn_sources(
        &self,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        args: &ServeArgs,
        batches: mpsc::Sender<ChangeBatch>,
        shutdown: &CancellationToken,
    ) {
        tasks.spawn(infallible(kubernetes::run(
            self.client.clone(),
            watch_options(&args.kubernetes),
            Arc::clone(&self.observed),
            Arc::clone(&self.api_server),
            batches,
            shutdown.clone(),
        )));
        tasks.spawn(infallible(kubernetes::probe(
            self.client.clone(),
            Arc::clone(&self.api_server),
            shutdown.clone(),
        )));
    }

    /// Starts leader election, the status writer and, with `--cloud-map-registration`, registration.
    fn spawn_effects(
        &self,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        args: &ServeArgs,
        namespace: &str,
        channels: KubernetesChannels,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Option<PeerServer>> {
        let Some(effect_inbox) = channels.effect_inbox else {
            return Ok(None);
        };
        let key = ReplicaKey::new()?;
        let (leader_sender, leader) = watch::channel(Leader::Unknown);
        let (peer_sender, peer_events) = mpsc::channel(QUEUED_PEER_EVENTS);
        let lease = LeaseOptions {
            namespace: namespace.to_owned(),
            name: args.kubernetes.leader_election_name.clone(),
            identity: self.identity.clone(),
            key: key.clone(),
            address: advertised_address(args),
        };
        let holding = lease::hold(self.client.clone(), lease, leader_sender, shutdown.clone());
        tasks.spawn(infallible(holding));
        let (messages_sender, registration_messages) = watch::channel(Arc::default());
        if args.cloud_map.cloud_map_registration {
            let channels = (channels.snapshots.clone(), leader.clone(), messages_sender);
            self.spawn_registration(tasks, args, channels, shutdown);
        }
        let peer_server = PeerServer {
            identity: self.identity.as_str().into(),
            leader: leader.clone(),
            events: peer_sender,
            next_stream: Arc::default(),
        };
        let region = args.kubernetes.aws_region.clone();
        let options = status::StatusWriterOptions {
            snapshots: channels.snapshots,
            registry: channels.registry,
            observed: Arc::clone(&self.observed),
            identity: self.identity.clone(),
            key,
            leader,
            registers: args.cloud_map.cloud_map_registration,
            registration_messages,
            region: region.unwrap_or_else(|| DEFAULT_REGION.to_owned()),
            account: args.kubernetes.aws_account_id.clone(),
            work: channels.status_work,
        };
        let writing = status::run(
            self.client.clone(),
            options,
            effect_inbox,
            peer_events,
            shutdown.clone(),
        );
        tasks.spawn_on(infallible(writing), &channels.status);
        Ok(Some(peer_server))
    }

    fn spawn_registration(
        &self,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        args: &ServeArgs,
        (snapshots, leader, messages): (
            watch::Receiver<Arc<EngineSnapshot>>,
            watch::Receiver<Leader>,
            watch::Sender<Arc<registration::RegistrationMessages>>,
        ),
        shutdown: &CancellationToken,
    ) {
        let options = registration::RegistrationOptions {
            snapshots,
            observed: Arc::clone(&self.observed),
            leader,
            endpoint: args.cloud_map.cloud_map_endpoint.clone(),
            settings: registration::RegistrationSettings {
                dns_ttl: args.cloud_map.cloud_map_dns_ttl,
                custom_health_check: args.cloud_map.cloud_map_custom_health_check,
                ipv6: args.webhook.ip_family == IpFamilyArg::Ipv6,
            },
            messages,
        };
        let registering = registration::run(self.client.clone(), options, shutdown.clone());
        tasks.spawn(infallible(registering));
    }
}

/// The address at which other replicas send reports to this one: the port of the metrics or admin listener, with the IP
/// address of `--advertise-address` or of the listener.
fn advertised_address(args: &ServeArgs) -> Option<SocketAddr> {
    let listens = args.metrics_address.unwrap_or(args.admin_address);
    let own = Some(listens.ip()).filter(|it| !it.is_unspecified());
    let address = args.kubernetes.advertise_address.or(own);
    if address.is_none() {
        tracing::warn!(
            %listens,
            "other replicas cannot report to this one, because it listens on all addresses; set --advertise-address"
        );
    }
    address.map(|ip| SocketAddr::new(ip, listens.port()))
}

/// Whether this host, which is a pod like those that are injected, has an IPv6 address that other hosts reach.
fn has_ipv6_address() -> bool {
    let table = fs::read_to_string("/proc/net/if_inet6");
    table.is_ok_and(|table| lists_global_address(&table))
}

/// Whether the kernel's table of IPv6 addresses has one of global scope, which its fourth column shows as 0.
fn lists_global_address(table: &str) -> bool {
    let mut lines = table.lines();
    lines.any(|line| line.split_whitespace().nth(3) == Some("00"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_global_scope_count() {
        const LOCAL: &str = "00000000000000000000000000000001 01 80 10 80       lo
fe8000000000000000fc00fffe000001 04 40 20 80     eth0
";
        const GLOBAL: &str = "fd000000000000000000000000000002 04 40 00 82     eth0\n";
        assert!(!lists_global_address(""));
        assert!(!lists_global_address(LOCAL));
        assert!(lists_global_address(&[LOCAL, GLOBAL].concat()));
    }
}
