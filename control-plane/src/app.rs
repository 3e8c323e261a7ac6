//! `evermesh serve`: binds the listeners, creates the channels, starts all tasks and waits for their end.
//!
//! This module only wires the parts together; the [crate documentation](crate) lists tasks and channels. A task that
//! ends before the shutdown ends the process, because a half-alive control plane is worse than a restart.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, anyhow};
use evermesh_ingest::{IngestSettings, admission::ClusterSnapshot};
use evermesh_model::CloudMapService;
use evermesh_xds::{ConnectionLimit, DeliverySink, ProxyRegistry, Store, XdsServerOptions};
use tokio::{
    net::{TcpListener, UnixListener},
    runtime::{Builder, Handle},
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin,
    args::ServeArgs,
    auth::{AuthenticationCluster, AuthenticationMetrics, Authenticator, XdsTls},
    certificate_health::CertificateHealth,
    changes::{self, ChangeLog, ProxyAnswer, TrackerEvent, TrackerReceiver, TrackerSender},
    cluster::{self, KubernetesChannels, KubernetesCluster},
    descriptors::ListenerShares,
    effect::{EffectInbox, peers::PeerServer},
    engine::{Engine, EngineOutputs, EngineSnapshot},
    liveness::{Liveness, WorkClock},
    metrics::ProcessMetrics,
    server_clock::Clock,
    socket::{self, SocketFile},
    source::{
        ChangeBatch, SourceName,
        cloud_map::{self, CloudMapOptions},
        file,
    },
    telemetry,
    webhook::{AdmissionMetrics, ServingCertificate},
};

/// Batches that may wait for the engine; a source that finds the channel full waits.
const QUEUED_BATCHES: usize = 256;

/// Time between SIGTERM and the end of streams in a Kubernetes cluster. The cluster needs a moment to remove the replica
/// from the endpoints of its Service on every Kubernetes node.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// An address cannot be bound, a setting is invalid, or a task ended unexpectedly.
pub fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    crate::install_crypto_provider()?;
    let streams = Builder::new_multi_thread()
        .worker_threads(args.xds_threads.into())
        .thread_name("xds")
        .enable_all()
        .build()?;
    let one_thread = |name: &str| {
        Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(name)
            .enable_all()
            .build()
    };
    let main = one_thread("main")?;
    let admission = one_thread("admission")?;
    let status = one_thread("status")?;
    let traces = main.block_on(async { telemetry::install(&args.telemetry) })?;
    let handles = RuntimeHandles {
        streams: streams.handle().clone(),
        admission: admission.handle().clone(),
        status: status.handle().clone(),
    };
    let served = main.block_on(run(args, &handles));
    for runtime in [streams, admission, status, main] {
        runtime.shutdown_timeout(Duration::from_millis(100));
    }
    drop(traces);
    served
}

/// The runtimes beside `main`.
struct RuntimeHandles {
    streams: Handle,
    admission: Handle,
    status: Handle,
}

async fn run(args: &ServeArgs, runtimes: &RuntimeHandles) -> anyhow::Result<()> {
    let xds_listeners = XdsListeners::bind(args).await?;
    let admin_listeners = AdminListeners::bind(args).await?;
    let cluster = KubernetesCluster::connect(args).await?;
    let has_effects = args.kubernetes.leader_election_namespace.is_some();

    let (batches, queue) = mpsc::channel(QUEUED_BATCHES);
    let (wanted_services, wanted) = watch::channel(Arc::default());
    let (snapshot_sender, snapshots) = watch::channel(Arc::default());
    let (admission_sender, admission_snapshots) = watch::channel(None);
    let (tracker_sender, tracker_events) = changes::channel();
    let effect_inbox = has_effects.then(Arc::<EffectInbox>::default);

    let deliveries = delivery_sink(tracker_sender.clone(), effect_inbox.clone());
    let mut app = App::new(args, cluster, snapshots, deliveries);
    let outputs = EngineOutputs {
        store: Arc::clone(&app.store),
        wanted_services,
        snapshots: snapshot_sender,
        tracker_events: tracker_sender,
        effect_inbox: effect_inbox.clone(),
        admission_snapshots: admission_sender,
        metrics: Arc::clone(&app.metrics),
        work: Arc::clone(&app.engine_work),
    };
    let engine = spawn_engine(app.engine(outputs), queue)?;
    app.spawn_cloud_map(batches.clone(), wanted);
    let peer_server = app
        .spawn_objects(batches, runtimes, admission_snapshots, effect_inbox)
        .await?;
    app.spawn_tracker(tracker_events);
    app.spawn_certificate_health();
    app.spawn_xds(xds_listeners, &runtimes.streams)?;
    app.spawn_admin(admin_listeners, peer_server, &runtimes.streams);

    tracing::info!(xds = %args.xds_address, admin = %args.admin_address, "serving");
    app.run_until_end(engine).await
}

/// The tasks, and the state that several of them share.
struct App<'a> {
    args: &'a ServeArgs,
    cluster: Option<KubernetesCluster>,
    store: Arc<Store>,
    registry: Arc<ProxyRegistry>,
    snapshots: watch::Receiver<Arc<EngineSnapshot>>,
    changes: Arc<ChangeLog>,
    certificates: Arc<ServingCertificate>,
    certificate_health: Arc<CertificateHealth>,
    admission_metrics: AdmissionMetrics,
    authentication_metrics: AuthenticationMetrics,
    metrics: Arc<ProcessMetrics>,
    engine_work: Arc<WorkClock>,
    status_work: Arc<WorkClock>,
    /// The places for connections of each listener.
    shares: ListenerShares,
    tasks: JoinSet<anyhow::Result<()>>,
    /// Cancelled when the process begins to drain: `/readyz` fails and the webhooks keep no connections; everything else
    /// continues.
    leaving: CancellationToken,
    /// Cancelled when all tasks are to end.
    shutdown: CancellationToken,
}

impl<'a> App<'a> {
    fn new(
        args: &'a ServeArgs,
        cluster: Option<KubernetesCluster>,
        snapshots: watch::Receiver<Arc<EngineSnapshot>>,
        deliveries: DeliverySink,
    ) -> Self {
        let store = Store::new();
        let admission_metrics = AdmissionMetrics::default();
        let authentication_metrics = AuthenticationMetrics::default();
        let certificate_health = Arc::default();
        let metrics = ProcessMetrics::new(
            Arc::clone(&store),
            snapshots.clone(),
            cluster
                .as_ref()
                .map(|it| (Arc::clone(&it.api_server), Arc::clone(&it.clock))),
            &admission_metrics,
            &authentication_metrics,
            &certificate_health,
        );
        Self {
            args,
            cluster,
            store,
            registry: ProxyRegistry::new(Some(deliveries)),
            snapshots,
            changes: Arc::default(),
            certificates: Arc::default(),
            certificate_health,
            admission_metrics,
            authentication_metrics,
            metrics: Arc::new(metrics),
            engine_work: Arc::default(),
            status_work: Arc::default(),
            shares: ListenerShares::of_process(),
            tasks: JoinSet::new(),
            leaving: CancellationToken::new(),
            shutdown: CancellationToken::new(),
        }
    }

    fn engine(&self, outputs: EngineOutputs) -> Engine {
        let sources: Vec<SourceName> = match &self.cluster {
            Some(_) => cluster::watch_options(&self.args.kubernetes)
                .source_names()
                .collect(),
            None => vec![SourceName::Files],
        };
        let settings = IngestSettings {
            endpoint_slices: self.cluster.is_none() || self.args.kubernetes.endpoint_slices,
        };
        Engine::new(sources, settings, outputs)
    }

    fn spawn_cloud_map(
        &mut self,
        batches: mpsc::Sender<ChangeBatch>,
        wanted: watch::Receiver<Arc<BTreeSet<CloudMapService>>>,
    ) {
        let options = CloudMapOptions {
            endpoint: self.args.cloud_map.cloud_map_endpoint.clone(),
            interval: self.args.cloud_map.cloud_map_interval,
            ..CloudMapOptions::default()
        };
        let polling = cloud_map::run(options, wanted, batches, self.shutdown.clone());
        self.tasks.spawn(infallible(polling));
    }

    /// Starts the source of objects: a Kubernetes cluster with admission and effects, or a folder. Returns the handler
    /// of other replicas' reports, if this process takes part in leader election.
    async fn spawn_objects(
        &mut self,
        batches: mpsc::Sender<ChangeBatch>,
        runtimes: &RuntimeHandles,
        admission_snapshots: watch::Receiver<Option<ClusterSnapshot>>,
        effect_inbox: Option<Arc<EffectInbox>>,
    ) -> anyhow::Result<Option<PeerServer>> {
        let Some(cluster) = &self.cluster else {
            if let Some(folder) = &self.args.source.config {
                let reading = file::run(folder.clone(), batches, self.shutdown.clone());
                self.tasks.spawn(infallible(reading));
            }
            return Ok(None);
        };
        let channels = KubernetesChannels {
            batches,
            admission: runtimes.admission.clone(),
            admission_snapshots,
            admission_metrics: self.admission_metrics.clone(),
            certificates: Arc::clone(&self.certificates),
            certificate_health: Arc::clone(&self.certificate_health),
            effect_inbox,
            status: runtimes.status.clone(),
            webhook_connections: Arc::clone(&self.shares.webhooks),
            leaving: self.leaving.clone(),
            snapshots: self.snapshots.clone(),
            registry: Arc::clone(&self.registry),
            status_work: Arc::clone(&self.status_work),
        };
        cluster
            .spawn(&mut self.tasks, self.args, channels, &self.shutdown)
            .await
    }

    fn spawn_tracker(&mut self, events: TrackerReceiver) {
        let tracking = changes::track(
            events,
            Arc::clone(&self.registry),
            Arc::clone(&self.changes),
            Arc::clone(&self.metrics),
            self.shutdown.clone(),
        );
        self.tasks.spawn(infallible(tracking));
    }

    fn spawn_certificate_health(&mut self) {
        let health = Arc::clone(&self.certificate_health);
        let cluster = self.cluster.as_ref();
        let clock = cluster.map_or_else(
            || Arc::new(SystemTime::now) as Clock,
            KubernetesCluster::clock,
        );
        let following = health.follow(self.snapshots.clone(), clock, self.shutdown.clone());
        self.tasks.spawn(infallible(following));
    }

    fn spawn_xds(&mut self, listeners: XdsListeners, streams: &Handle) -> anyhow::Result<()> {
        let args = self.args;
        let cluster = self.cluster.as_ref();
        let cluster = cluster.map(|it| AuthenticationCluster {
            client: it.client.clone(),
            clock: it.clock(),
            snapshots: self.snapshots.clone(),
        });
        let metrics = self.authentication_metrics.clone();
        let authenticator = Authenticator::new(&args.xds, args.xds_address, cluster, metrics)?;
        let following = Arc::clone(&authenticator).follow(self.shutdown.clone());
        self.tasks.spawn(infallible(following));
        let mut options = XdsServerOptions::new(authenticator.hook());
        options.shutdown = self.shutdown.clone();
        options.max_stream_age = args.xds.max_stream_age();
        options.connections = Arc::clone(&self.shares.xds);
        if let Some(tls) = XdsTls::new(&args.xds, &self.certificates, &self.certificate_health)? {
            options.tls = Some(tls.settings());
            self.tasks
                .spawn(infallible(tls.follow(self.shutdown.clone())));
        }
        let served = (Arc::clone(&self.store), Arc::clone(&self.registry));
        let socket_connections = Arc::clone(&self.shares.socket);
        listeners.spawn(
            &mut self.tasks,
            streams,
            served,
            options,
            socket_connections,
        );
        Ok(())
    }

    fn spawn_admin(
        &mut self,
        listeners: AdminListeners,
        peer_server: Option<PeerServer>,
        streams: &Handle,
    ) {
        let liveness = Liveness::new(
            Arc::clone(&self.engine_work),
            Arc::clone(&self.status_work),
            streams.metrics(),
        );
        let has_webhooks = self.args.webhook.webhook_address.is_some();
        let state = admin::AdminState {
            published: self.snapshots.clone(),
            store: Arc::clone(&self.store),
            registry: Arc::clone(&self.registry),
            changes: Arc::clone(&self.changes),
            metrics: Arc::clone(&self.metrics),
            reachable: self.cluster.as_ref().map(|it| Arc::clone(&it.api_server)),
            open_access: self.args.xds.open_access(),
            certificates: has_webhooks.then(|| Arc::clone(&self.certificates)),
            leaving: self.leaving.clone(),
            liveness: Arc::new(liveness),
            hosts: self.args.admin_hosts.clone().into(),
            peer_server,
        };
        let metrics = listeners.metrics;
        let serving = admin::serve(
            (listeners.admin, Arc::clone(&self.shares.admin)),
            metrics.map(|it| (it, Arc::clone(&self.shares.metrics))),
            state,
            self.shutdown.clone(),
        );
        self.tasks.spawn(infallible(serving));
    }

    /// Waits for a signal or for a task that ends unexpectedly, then ends all tasks.
    async fn run_until_end(mut self, engine: oneshot::Receiver<()>) -> anyhow::Result<()> {
        let drain_time = self.cluster.as_ref().map(|_| DRAIN_TIME);
        let ended = until_signal(&mut self.tasks, engine, drain_time, &self.leaving).await;
        self.shutdown.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(self.args.shutdown_timeout, all)
            .await
            .is_err()
        {
            tracing::warn!("some tasks did not end within --shutdown-timeout");
        }
        ended
    }
}

/// Listeners of the admin pages and, if separate, of the public pages.
struct AdminListeners {
    admin: TcpListener,
    metrics: Option<TcpListener>,
}

impl AdminListeners {
    async fn bind(args: &ServeArgs) -> anyhow::Result<Self> {
        Ok(Self {
            admin: bind(args.admin_address, "--admin-address").await?,
            metrics: match args.metrics_address {
                Some(address) => Some(bind(address, "--metrics-address").await?),
                None => None,
            },
        })
    }
}

/// Listeners of the xDS server.
struct XdsListeners {
    port: TcpListener,
    /// The Unix socket, and its file, which is removed when the server ends.
    socket: Option<(UnixListener, SocketFile)>,
    socket_permissions: u32,
}

impl XdsListeners {
    async fn bind(args: &ServeArgs) -> anyhow::Result<Self> {
        let path = args.xds.xds_socket.as_deref();
        let socket = path.map(|path| socket::bind(path, args.xds.xds_socket_mode));
        Ok(Self {
            port: bind(args.xds_address, "--xds-address").await?,
            socket: socket.transpose()?,
            socket_permissions: args.xds.xds_socket_mode,
        })
    }

    /// Starts one server per listener. The server of the Unix socket does not authenticate: the permissions of the
    /// socket's file decide who may connect.
    fn spawn(
        self,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        streams: &Handle,
        (store, registry): (Arc<Store>, Arc<ProxyRegistry>),
        options: XdsServerOptions,
        socket_connections: Arc<ConnectionLimit>,
    ) {
        if let Some((listener, file)) = self.socket {
            let authenticator = Authenticator::for_socket(self.socket_permissions);
            let mut socket_options = XdsServerOptions::new(authenticator.hook());
            socket_options.shutdown = options.shutdown.clone();
            socket_options.max_stream_age = options.max_stream_age;
            socket_options.connections = socket_connections;
            let (store, registry) = (Arc::clone(&store), Arc::clone(&registry));
            let serving = async move {
                let _file = file;
                let serving = evermesh_xds::serve_socket(listener, store, registry, socket_options);
                serving
                    .await
                    .context("the xDS server of the Unix socket failed")
            };
            tasks.spawn_on(serving, streams);
        }
        let serving = evermesh_xds::serve(self.port, store, registry, options);
        let serving = async { serving.await.context("the xDS server failed") };
        tasks.spawn_on(serving, streams);
    }
}

/// Waits for a signal, which is a success, or for a task that ends, which is an error.
///
/// After SIGTERM everything continues for `drain_time`; `/readyz` fails, and the webhooks keep no connections. SIGINT or a
/// second signal ends the wait at once.
async fn until_signal(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    engine: oneshot::Receiver<()>,
    drain_time: Option<Duration>,
    leaving: &CancellationToken,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut failure = pin!(first_end(tasks, engine));
    tokio::select! {
        error = &mut failure => return Err(error),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {
            tracing::info!("received SIGINT, shutting down");
            return Ok(());
        }
    }
    leaving.cancel();
    if let Some(drain_time) = drain_time {
        tracing::info!(seconds = drain_time.as_secs(), "received SIGTERM, draining");
        tokio::select! {
            error = &mut failure => return Err(error),
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = tokio::time::sleep(drain_time) => {}
        }
    }
    tracing::info!("shutting down after SIGTERM");
    Ok(())
}

/// Waits for the first task that ends, and describes it as an error.
async fn first_end(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    engine: oneshot::Receiver<()>,
) -> anyhow::Error {
    tokio::select! {
        _ = engine => anyhow!("the engine ended unexpectedly"),
        Some(ended) = tasks.join_next() => match ended.context("a task panicked").flatten() {
            Ok(()) => anyhow!("a task ended unexpectedly"),
            Err(error) => error,
        },
    }
}

/// Binds a TCP listener for the address that a flag gives.
pub(crate) async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{flag} {address}: cannot listen on this address"))
}

/// Starts the engine's thread. The receiver completes when the thread ends, also by a panic.
fn spawn_engine(
    engine: Engine,
    queue: mpsc::Receiver<ChangeBatch>,
) -> anyhow::Result<oneshot::Receiver<()>> {
    let (alive, ended) = oneshot::channel();
    thread::Builder::new()
        .name("engine".into())
        .spawn(move || {
            let _alive = alive;
            engine.run(queue);
        })?;
    Ok(ended)
}

/// Gives a task without a result the type of the others.
pub(crate) async fn infallible(task: impl Future<Output = ()>) -> anyhow::Result<()> {
    task.await;
    Ok(())
}

/// Sends each ACK and NACK to the tracker, with the time at which it was read, and to the status writer.
fn delivery_sink(
    tracker_events: TrackerSender,
    effect_inbox: Option<Arc<EffectInbox>>,
) -> DeliverySink {
    Arc::new(move |delivery| {
        if let Some(inbox) = &effect_inbox {
            inbox.answered(&delivery);
        }
        let answer = ProxyAnswer::new(delivery, Instant::now());
        tracker_events.send(TrackerEvent::Answer(answer));
    })
}
