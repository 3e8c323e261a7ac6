//! The cluster that objects come from, and the tasks that read it and write back.
//!
//! Must not do more than start them: see [`crate::source::kubernetes`] and [`crate::effect`].

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use evermesh_ingest::admission::ClusterSnapshot;
use evermesh_xds::{ProxyRegistry, Store};
use kube::Client;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{bind, part},
    args::{IpFamilyArg, ServeArgs},
    effect::{
        EffectEvent,
        key::ReplicaKey,
        lease::{self, Leader, LeaseOptions},
        peers::PeerServer,
        registration, status,
    },
    engine::EngineSnapshot,
    source::{
        ChangeBatch,
        kubernetes::{self, ApiServerHealth, KubernetesOptions, ObservedObjects},
    },
    webhook::{self, AdmissionMetrics, ServingCertificate},
};

/// What other replicas tell that may wait before they are held back.
const HEARD: usize = 64;

/// What the doors back read.
pub(crate) type EffectInputs = (
    watch::Receiver<Arc<EngineSnapshot>>,
    Arc<Store>,
    Arc<ProxyRegistry>,
);

/// The region in ARNs when none is given: there has to be one.
const REGION: &str = "us-east-1";

/// What leads from and to the cluster's tasks.
pub(crate) struct KubernetesChannels {
    pub(crate) batches: mpsc::Sender<ChangeBatch>,
    pub(crate) surroundings: watch::Receiver<Option<ClusterSnapshot>>,
    pub(crate) admission: AdmissionMetrics,
    /// Where the webhooks' certificate is put.
    pub(crate) certificates: Arc<ServingCertificate>,
    /// For the doors back, if there are to be any.
    pub(crate) notices: Option<mpsc::UnboundedReceiver<EffectEvent>>,
    pub(crate) readers: EffectInputs,
}

/// The cluster that objects come from.
pub(crate) struct KubernetesCluster {
    pub(crate) client: Client,
    observed: Arc<ObservedObjects>,
    pub(crate) reachable: Arc<ApiServerHealth>,
    /// The name of this replica: new with every process.
    identity: String,
}

impl KubernetesCluster {
    /// The one that is asked for, if one is.
    pub(crate) async fn of(args: &ServeArgs) -> anyhow::Result<Option<Self>> {
        if !args.source.kubernetes {
            return Ok(None);
        }
        let config = kube::Config::infer()
            .await
            .context("--kubernetes: no cluster is known here; set KUBECONFIG")?;
        tracing::info!(api_server = %config.cluster_url, "reading the cluster");
        let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "evermesh".to_owned());
        Ok(Some(Self {
            client: Client::try_from(config).context("--kubernetes")?,
            observed: Arc::default(),
            reachable: Arc::default(),
            identity: format!("{host}_{:016x}", fastrand::u64(..)),
        }))
    }

    /// Everything that reads it, answers it and writes back. Returns where other replicas reach the one that leads.
    pub(crate) async fn spawn(
        &self,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        args: &ServeArgs,
        wires: KubernetesChannels,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Option<PeerServer>> {
        let KubernetesChannels {
            batches,
            surroundings,
            admission,
            certificates,
            notices,
            readers,
        } = wires;
        self.spawn_sources(tasks, args, batches, shutdown);
        if let Some(address) = args.webhook.webhook_address {
            let listener = bind(address, "--webhook-address").await?;
            let injection = args.injection()?;
            let identity = self.identity.clone();
            tasks.spawn(webhook::run(
                listener,
                webhook::WebhookOptions::new(&args.webhook, certificates, injection, identity),
                self.client.clone(),
                surroundings,
                admission,
                shutdown.clone(),
            ));
        }
        let namespace = args.kubernetes.leader_election_namespace.as_ref();
        let ear = namespace.zip(notices).map(|(namespace, notices)| {
            self.spawn_effects(tasks, args, namespace, (notices, readers), shutdown)
        });
        ear.transpose()
    }

    fn spawn_sources(
        &self,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        args: &ServeArgs,
        batches: mpsc::Sender<ChangeBatch>,
        shutdown: &CancellationToken,
    ) {
        let options = KubernetesOptions {
            namespaces: args.kubernetes.watch_namespaces.clone(),
        };
        tasks.spawn(part(kubernetes::run(
            self.client.clone(),
            options,
            Arc::clone(&self.observed),
            Arc::clone(&self.reachable),
            batches,
            shutdown.clone(),
        )));
        tasks.spawn(part(kubernetes::ask(
            self.client.clone(),
            Arc::clone(&self.reachable),
            shutdown.clone(),
        )));
    }

    /// The doors back. Returns where other replicas reach the one that leads.
    fn spawn_effects(
        &self,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        args: &ServeArgs,
        namespace: &str,
        (notices, (published, store, registry)): (
            mpsc::UnboundedReceiver<EffectEvent>,
            EffectInputs,
        ),
        shutdown: &CancellationToken,
    ) -> anyhow::Result<PeerServer> {
        let key = ReplicaKey::new()?;
        let (leads, leader) = watch::channel(Leader::Unknown);
        let (telling, heard) = mpsc::channel(HEARD);
        let lease = LeaseOptions {
            namespace: namespace.to_owned(),
            name: args.kubernetes.leader_election_name.clone(),
            identity: self.identity.clone(),
            key: key.clone(),
            address: advertised(args),
        };
        let holding = lease::hold(self.client.clone(), lease, leads, shutdown.clone());
        tasks.spawn(part(holding));
        let (messages, unregistered) = watch::channel(Arc::default());
        if args.cloud_map.cloud_map_registration {
            let channels = (published.clone(), leader.clone(), messages);
            self.spawn_registration(tasks, args, channels, shutdown);
        }
        let ear = PeerServer {
            identity: self.identity.as_str().into(),
            leader: leader.clone(),
            heard: telling,
            streams: Arc::default(),
        };
        let region = args.kubernetes.aws_region.clone();
        let options = status::StatusWriterOptions {
            published,
            store,
            registry,
            observed: Arc::clone(&self.observed),
            identity: self.identity.clone(),
            key,
            leader,
            heard,
            registers: args.cloud_map.cloud_map_registration,
            unregistered,
            region: region.unwrap_or_else(|| REGION.to_owned()),
            account: args.kubernetes.aws_account_id.clone(),
        };
        let writing = status::run(self.client.clone(), options, notices, shutdown.clone());
        tasks.spawn(part(writing));
        Ok(ear)
    }

    /// The door back to Cloud Map.
    fn spawn_registration(
        &self,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        args: &ServeArgs,
        (published, leader, messages): (
            watch::Receiver<Arc<EngineSnapshot>>,
            watch::Receiver<Leader>,
            watch::Sender<Arc<registration::RegistrationMessages>>,
        ),
        shutdown: &CancellationToken,
    ) {
        let options = registration::RegistrationOptions {
            published,
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
        tasks.spawn(part(registering));
    }
}

/// Where other replicas reach this one.
fn advertised(args: &ServeArgs) -> Option<SocketAddr> {
    let listens = args.metrics_address.unwrap_or(args.admin_address);
    let own = Some(listens.ip()).filter(|it| !it.is_unspecified());
    let address = args.kubernetes.advertise_address.or(own);
    if address.is_none() {
        tracing::warn!(
            "--advertise-address is not given and {listens} is every address: other replicas cannot tell this one what their proxies accept"
        );
    }
    address.map(|ip| SocketAddr::new(ip, listens.port()))
}
