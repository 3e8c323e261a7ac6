//! The cluster that objects come from, and the tasks that read it and write back.
//!
//! Must not do more than start them: see [`crate::source::kubernetes`] and [`crate::effect`].

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use evermesh_ingest::admission::Surroundings;
use evermesh_xds::{Registry, Store};
use kube::Client;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{bind, part},
    args::{Family, ServeArgs},
    effect::{
        Notice,
        key::ReplicaKey,
        lease::{self, Leader, LeaseOptions},
        peers::Ear,
        registration, status,
    },
    engine::Published,
    source::{
        Batch,
        kubernetes::{self, KubernetesOptions, Observed, Reachable},
    },
    webhook::{self, AdmissionMetrics, Certificates},
};

/// What other replicas tell that may wait before they are held back.
const HEARD: usize = 64;

/// What the doors back read.
pub(crate) type Readers = (watch::Receiver<Arc<Published>>, Arc<Store>, Arc<Registry>);

/// The region in ARNs when none is given: there has to be one.
const REGION: &str = "us-east-1";

/// What leads from and to the cluster's tasks.
pub(crate) struct Wires {
    pub(crate) batches: mpsc::Sender<Batch>,
    pub(crate) surroundings: watch::Receiver<Option<Surroundings>>,
    pub(crate) admission: AdmissionMetrics,
    /// Where the webhooks' certificate is put.
    pub(crate) certificates: Arc<Certificates>,
    /// For the doors back, if there are to be any.
    pub(crate) notices: Option<mpsc::UnboundedReceiver<Notice>>,
    pub(crate) readers: Readers,
}

/// The cluster that objects come from.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    observed: Arc<Observed>,
    pub(crate) reachable: Arc<Reachable>,
    /// The name of this replica: new with every process.
    identity: String,
}

impl Cluster {
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
        wires: Wires,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Option<Ear>> {
        let Wires {
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
                webhook::Options::new(&args.webhook, certificates, injection, identity),
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
        batches: mpsc::Sender<Batch>,
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
        (notices, (published, store, registry)): (mpsc::UnboundedReceiver<Notice>, Readers),
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Ear> {
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
        let ear = Ear {
            identity: self.identity.as_str().into(),
            leader: leader.clone(),
            heard: telling,
            streams: Arc::default(),
        };
        let region = args.kubernetes.aws_region.clone();
        let options = status::Options {
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
            watch::Receiver<Arc<Published>>,
            watch::Receiver<Leader>,
            watch::Sender<Arc<registration::Messages>>,
        ),
        shutdown: &CancellationToken,
    ) {
        let options = registration::Options {
            published,
            observed: Arc::clone(&self.observed),
            leader,
            endpoint: args.cloud_map.cloud_map_endpoint.clone(),
            settings: registration::Settings {
                dns_ttl: args.cloud_map.cloud_map_dns_ttl,
                custom_health_check: args.cloud_map.cloud_map_custom_health_check,
                ipv6: args.webhook.ip_family == Family::Ipv6,
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
