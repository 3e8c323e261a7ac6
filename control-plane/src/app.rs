//! `evermesh serve`: channels, tasks and their end. One function a part, no logic.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use evermesh_ingest::IngestSettings;
use evermesh_model::CloudMapService;
use evermesh_xds::{DeliverySink, ProxyRegistry, Store, XdsServerOptions};
use kube::Client;
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
    auth::{AuthenticationMetrics, Authenticator, XdsTls},
    changes::{self, ChangeLog, TrackerEvent},
    cluster::{KubernetesChannels, KubernetesCluster},
    effect::EffectEvent,
    engine::{Engine, EngineOutputs, EngineSnapshot},
    metrics::ProcessMetrics,
    socket::{self, SocketFile},
    source::{
        ChangeBatch, SourceName,
        cloud_map::{self, CloudMapOptions},
        file, kubernetes,
    },
    telemetry,
    webhook::AdmissionMetrics,
};

/// Batches that may wait for the engine before sources are held back.
const QUEUE: usize = 256;

/// How long a cluster may go on sending callers here after SIGTERM. It takes a moment until every node has heard that a
/// replica is leaving.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// An address cannot be bound, a setting is malformed, or a part ended that should not have.
pub fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_already| anyhow!("a crypto provider is already installed"))?;
    let streams = Builder::new_multi_thread()
        .worker_threads(args.xds_threads.into())
        .thread_name("xds")
        .enable_all()
        .build()?;
    let main = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("main")
        .enable_all()
        .build()?;
    let traces = main.block_on(async { telemetry::install(&args.telemetry) })?;
    let served = main.block_on(run(args, streams.handle()));
    streams.shutdown_timeout(Duration::from_millis(100));
    main.shutdown_timeout(Duration::from_millis(100));
    drop(traces);
    served
}

async fn run(args: &ServeArgs, streams: &Handle) -> anyhow::Result<()> {
    let listeners = XdsListeners::bind(args).await?;
    let pages_at = AdminListeners::bind(args).await?;
    let (leaving, shutdown) = (CancellationToken::new(), CancellationToken::new());
    let mut tasks = JoinSet::new();

    let (batches, queue) = mpsc::channel::<ChangeBatch>(QUEUE);
    let (wanted, wanted_services) = watch::channel(Arc::default());
    let (published, newest) = watch::channel(Arc::new(EngineSnapshot::default()));
    let (surroundings, surrounding) = watch::channel(None);
    let (events, announced) = mpsc::unbounded_channel();
    let store = Store::new();
    let cluster = KubernetesCluster::of(args).await?;
    let (told, notices) = match &args.kubernetes.leader_election_namespace {
        Some(_) => Some(mpsc::unbounded_channel()).unzip(),
        None => (None, None),
    };
    let registry = ProxyRegistry::new(Some(verdicts_to(events.clone(), told.clone())));
    let reachable = cluster.as_ref().map(|it| Arc::clone(&it.reachable));
    let admission = AdmissionMetrics::default();
    let authentication = AuthenticationMetrics::default();
    let certificates = Arc::default();
    let metrics = Arc::new(ProcessMetrics::new(
        Arc::clone(&store),
        newest.clone(),
        reachable.clone(),
        &admission,
        &authentication,
    ));
    let changes = Arc::new(ChangeLog::default());

    let outputs = EngineOutputs {
        store: Arc::clone(&store),
        wanted,
        published,
        events,
        commits: told,
        surroundings,
        metrics: Arc::clone(&metrics),
    };
    let sources: Vec<SourceName> = match &cluster {
        Some(_) => kubernetes::source_names().collect(),
        None => vec![SourceName::Files],
    };
    let settings = IngestSettings {
        endpoint_slices: cluster.is_none() || args.kubernetes.endpoint_slices,
    };
    let engine = spawn_engine(Engine::new(sources, settings, outputs), queue)?;
    spawn_cloud_map(
        &mut tasks,
        args,
        batches.clone(),
        wanted_services,
        &shutdown,
    );
    let mut ear = None;
    if let Some(cluster) = &cluster {
        let wires = KubernetesChannels {
            batches,
            surroundings: surrounding,
            admission,
            certificates: Arc::clone(&certificates),
            notices,
            readers: (newest.clone(), Arc::clone(&store), Arc::clone(&registry)),
        };
        ear = cluster.spawn(&mut tasks, args, wires, &shutdown).await?;
    } else if let Some(folder) = &args.source.config {
        tasks.spawn(part(file::run(folder.clone(), batches, shutdown.clone())));
    }

    let api = cluster
        .as_ref()
        .map(|it| (it.client.clone(), newest.clone()));
    let options = xds_options(&mut tasks, args, api, authentication, &shutdown)?;
    let served = (Arc::clone(&store), Arc::clone(&registry));
    listeners.spawn(&mut tasks, streams, served, options);
    tasks.spawn(part(changes::track(
        announced,
        Arc::clone(&registry),
        Arc::clone(&changes),
        Arc::clone(&metrics),
        shutdown.clone(),
    )));
    let pages = admin::AdminState {
        published: newest,
        store,
        registry,
        changes,
        metrics,
        reachable,
        certificates: args.webhook.webhook_address.map(|_| certificates),
        leaving: leaving.clone(),
        ear,
    };
    pages_at.spawn(&mut tasks, pages, shutdown.clone());

    tracing::info!(xds = %args.xds_address, admin = %args.admin_address, "serving");
    let drain = cluster.as_ref().map(|_| DRAIN);
    let ended = until_the_end(&mut tasks, engine, drain, &leaving).await;
    shutdown.cancel();
    all_end(&mut tasks, args.shutdown_timeout).await;
    ended
}

/// Waits for the parts that are left, for as long as they may take.
async fn all_end(tasks: &mut JoinSet<anyhow::Result<()>>, patience: Duration) {
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(patience, all).await.is_err() {
        tracing::warn!("streams did not end in time");
    }
}

/// Who may connect, and how; `api` is there when there is a cluster to ask.
fn xds_options(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    args: &ServeArgs,
    api: Option<(Client, watch::Receiver<Arc<EngineSnapshot>>)>,
    metrics: AuthenticationMetrics,
    shutdown: &CancellationToken,
) -> anyhow::Result<XdsServerOptions> {
    let identify = Authenticator::new(&args.xds, args.xds_address, api, metrics)?;
    let mut options = XdsServerOptions::new(identify.hook());
    options.shutdown = shutdown.clone();
    if let Some(tls) = XdsTls::new(&args.xds)? {
        options.tls = Some(tls.settings());
        tasks.spawn(part(tls.follow(shutdown.clone())));
    }
    Ok(options)
}

/// Where operators look, and everybody else if that is somewhere else.
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

    fn spawn(
        self,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        pages: admin::AdminState,
        shutdown: CancellationToken,
    ) {
        let serving = admin::serve(self.admin, self.metrics, pages, shutdown);
        tasks.spawn(async move { serving.await.context("the admin server failed") });
    }
}

/// Where xDS is served.
struct XdsListeners {
    port: TcpListener,
    /// A socket, and its file while it is served.
    socket: Option<(UnixListener, SocketFile)>,
}

impl XdsListeners {
    async fn bind(args: &ServeArgs) -> anyhow::Result<Self> {
        let path = args.xds.xds_socket.as_deref();
        let socket = path.map(|path| socket::bind(path, args.xds.xds_socket_mode));
        Ok(Self {
            port: bind(args.xds_address, "--xds-address").await?,
            socket: socket.transpose()?,
        })
    }

    /// The servers. That of the socket believes everybody: who may connect is the file's business.
    fn spawn(
        self,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        streams: &Handle,
        (store, registry): (Arc<Store>, Arc<ProxyRegistry>),
        options: XdsServerOptions,
    ) {
        if let Some((listener, file)) = self.socket {
            let mut believing = XdsServerOptions::new(Authenticator::trust_all().hook());
            believing.shutdown = options.shutdown.clone();
            let (store, registry) = (Arc::clone(&store), Arc::clone(&registry));
            let serving = async move {
                let _file = file;
                let serving = evermesh_xds::serve_socket(listener, store, registry, believing);
                serving.await.context("the xDS server of the socket failed")
            };
            tasks.spawn_on(serving, streams);
        }
        let serving = evermesh_xds::serve(self.port, store, registry, options);
        let serving = async { serving.await.context("the xDS server failed") };
        tasks.spawn_on(serving, streams);
    }
}

/// Waits for a signal, which is a good end, or for a part that ended by itself, which is not.
///
/// After SIGTERM everything goes on for as long as `drain` says, and only `/readyz` says no; SIGINT, and a second signal,
/// are an end at once.
async fn until_the_end(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    engine: oneshot::Receiver<()>,
    drain: Option<Duration>,
    leaving: &CancellationToken,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut broken = pin!(a_part_ends(tasks, engine));
    tokio::select! {
        error = &mut broken => return Err(error),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {
            tracing::info!("SIGINT: shutting down");
            return Ok(());
        }
    }
    leaving.cancel();
    if let Some(drain) = drain {
        tracing::info!("SIGTERM: going on for {drain:?}, for those who have yet to hear of it");
        tokio::select! {
            error = &mut broken => return Err(error),
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = tokio::time::sleep(drain) => {}
        }
    }
    tracing::info!("SIGTERM: shutting down");
    Ok(())
}

/// Waits for a part that ends by itself, which none should.
async fn a_part_ends(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    engine: oneshot::Receiver<()>,
) -> anyhow::Error {
    tokio::select! {
        _ = engine => anyhow!("the engine ended"),
        Some(ended) = tasks.join_next() => match ended.context("a part panicked").flatten() {
            Ok(()) => anyhow!("a part ended by itself"),
            Err(error) => error,
        },
    }
}

pub(crate) async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{flag} {address}: cannot listen there"))
}

/// The engine's own thread. The receiver hears when it ends, in whichever way.
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

fn spawn_cloud_map(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    args: &ServeArgs,
    batches: mpsc::Sender<ChangeBatch>,
    wanted: watch::Receiver<Arc<BTreeSet<CloudMapService>>>,
    shutdown: &CancellationToken,
) {
    let options = CloudMapOptions {
        endpoint: args.cloud_map.cloud_map_endpoint.clone(),
        interval: args.cloud_map.cloud_map_interval,
        ..CloudMapOptions::default()
    };
    tasks.spawn(part(cloud_map::run(
        options,
        wanted,
        batches,
        shutdown.clone(),
    )));
}

/// A task that has nothing to fail with.
pub(crate) async fn part(task: impl Future<Output = ()>) -> anyhow::Result<()> {
    task.await;
    Ok(())
}

/// Verdicts on their way to the tracker, with the moment at which they were read.
fn verdicts_to(
    events: mpsc::UnboundedSender<TrackerEvent>,
    told: Option<mpsc::UnboundedSender<EffectEvent>>,
) -> DeliverySink {
    Arc::new(move |verdict| {
        if let Some(told) = &told {
            let _ = told.send(EffectEvent::Delivery(verdict.clone()));
        }
        // The tracker is gone only when the process is about to be.
        let _ = events.send(TrackerEvent::Delivery(verdict, Instant::now()));
    })
}
