//! Cloud Map as a server on loopback has it: what is told of the services that are wanted.
#![allow(clippy::unwrap_used)] // what fails here fails a test

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_sdk_servicediscovery::{
    Client, Config,
    config::{Credentials, Region},
    types::CustomHealthStatus,
};
use evermesh::source::{
    ChangeBatch, SourceChange,
    cloud_map::{self, CloudMapOptions},
};
use evermesh_model::{CloudMapService, CloudMapState, endpoint::CloudMapFailure};
use evermesh_testkit::moto::Moto;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_millis(50);
/// Long enough for several polls of everything.
const SEVERAL: Duration = Duration::from_millis(500);
const IP: [Ipv4Addr; 3] = [
    Ipv4Addr::new(10, 0, 0, 1),
    Ipv4Addr::new(10, 0, 0, 2),
    Ipv4Addr::new(10, 0, 0, 3),
];

/// A running source, and what an engine would know from it.
struct Source {
    wanted: watch::Sender<Arc<BTreeSet<CloudMapService>>>,
    batches: mpsc::Receiver<ChangeBatch>,
    states: BTreeMap<String, Arc<CloudMapState>>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Source {
    fn start(endpoint: String, refresh: Duration) -> Self {
        Self::start_with(Some(endpoint), refresh)
    }

    fn start_with(endpoint: Option<String>, refresh: Duration) -> Self {
        let (wanted, services) = watch::channel(Arc::default());
        let (changes, batches) = mpsc::channel(16);
        let shutdown = CancellationToken::new();
        let options = CloudMapOptions {
            endpoint,
            interval: INTERVAL,
            refresh,
        };
        let run = cloud_map::run(options, services, changes, shutdown.clone());
        Self {
            wanted,
            batches,
            states: BTreeMap::new(),
            shutdown,
            task: tokio::spawn(run),
        }
    }

    fn want(&self, services: &[&str]) {
        let services = services.iter().map(|service| CloudMapService {
            namespace: "shop.local".into(),
            service: (*service).into(),
        });
        self.wanted.send_replace(Arc::new(services.collect()));
    }

    fn apply(&mut self, batch: ChangeBatch) {
        for change in batch.changes {
            let SourceChange::CloudMap { service, state } = change else {
                panic!("Cloud Map knows nothing of {change:?}");
            };
            assert_ne!(
                self.states.get(&*service.service),
                Some(&state),
                "only changes are told"
            );
            self.states.insert(service.service.to_string(), state);
        }
    }

    async fn until(&mut self, service: &str, is_done: impl Fn(&CloudMapState) -> bool) -> Duration {
        let begin = Instant::now();
        while !self.states.get(service).is_some_and(|state| is_done(state)) {
            let left = PATIENCE.saturating_sub(begin.elapsed());
            match timeout(left, self.batches.recv()).await {
                Ok(batch) => self.apply(batch.expect("the source runs")),
                Err(late) => panic!("{late}: {:?}", self.states),
            }
        }
        begin.elapsed()
    }

    /// Checks that nothing is told during several polls.
    async fn is_silent(&mut self) {
        if let Ok(batch) = timeout(SEVERAL, self.batches.recv()).await {
            panic!("told {batch:?}");
        }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }
}

fn ids(state: &CloudMapState) -> Vec<&str> {
    state
        .instances
        .iter()
        .map(|instance| &*instance.id)
        .collect()
}

fn is_unavailable(state: &CloudMapState) -> bool {
    matches!(state.failure, Some(CloudMapFailure::Unavailable(_)))
}

fn is_not_found(state: &CloudMapState) -> bool {
    matches!(state.failure, Some(CloudMapFailure::NotFound(_)))
}

async fn moto() -> Moto {
    let mut moto = Moto::start().await.unwrap();
    moto.create_http_namespace("shop.local").await.unwrap();
    moto.create_service("shop.local", "color").await.unwrap();
    moto
}

async fn register(moto: &mut Moto, id: &str, attributes: &[(&str, &str)]) {
    let ip = IP[usize::from(id.as_bytes()[0] - b'a')];
    moto.register("shop.local", "color", id, ip, attributes)
        .await
        .unwrap();
}

/// As an operator or a health checker reports it.
async fn set_health(moto: &Moto, id: &str, health: CustomHealthStatus) {
    let config = Config::builder()
        .behavior_version_latest()
        .region(Region::from_static("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .endpoint_url(moto.endpoint());
    let client = Client::from_conf(config.build());
    let services = client.list_services().send().await.unwrap();
    let service = services.services()[0].id().unwrap();
    client
        .update_instance_custom_health_status()
        .service_id(service)
        .instance_id(id)
        .status(health)
        .send()
        .await
        .unwrap();
}

#[tokio::test]
async fn tells_instances_as_they_come_and_go() {
    let mut moto = moto().await;
    register(
        &mut moto,
        "b",
        &[("version", "v1"), ("AWS_INSTANCE_IPV6", "fd00::1")],
    )
    .await;
    let mut source = Source::start(moto.endpoint(), Duration::from_mins(1));
    source.want(&["color"]);
    let first = source.until("color", |state| ids(state) == ["b"]).await;
    let instance = &source.states["color"].instances[0];
    assert_eq!(instance.ipv4, Some(IP[1]));
    assert_eq!(instance.ipv6, Some("fd00::1".parse().unwrap()));
    assert_eq!(instance.attributes["version"].as_ref(), "v1");
    source.is_silent().await;

    register(&mut moto, "a", &[]).await;
    let came = source
        .until("color", |state| ids(state) == ["a", "b"])
        .await;
    moto.deregister("shop.local", "color", "b").await.unwrap();
    let went = source.until("color", |state| ids(state) == ["a"]).await;
    println!("first {first:?}, came {came:?}, went {went:?} at an interval of {INTERVAL:?}");

    moto.register_attributes(
        "shop.local",
        "color",
        "odd",
        BTreeMap::from([("AWS_INSTANCE_IPV4".to_owned(), "10.0.0".to_owned())]),
    )
    .await
    .unwrap();
    source
        .until("color", |state| ids(state) == ["a", "odd"])
        .await;
    assert_eq!(source.states["color"].instances[1].ipv4, None);
    assert_eq!(source.states["color"].failure, None);
    source.stop().await;
}

#[tokio::test]
async fn an_unknown_service_is_asked_for_until_it_exists() {
    let mut moto = moto().await;
    let mut source = Source::start(moto.endpoint(), Duration::from_mins(1));
    source.want(&["color", "shape"]);
    source.until("shape", is_not_found).await;
    source.until("color", |state| state.failure.is_none()).await;
    let Some(CloudMapFailure::NotFound(words)) = &source.states["shape"].failure else {
        unreachable!()
    };
    assert!(
        words.contains("shape") && words.contains("shop.local"),
        "{words}"
    );
    moto.create_service("shop.local", "shape").await.unwrap();
    source.until("shape", |state| state.failure.is_none()).await;
    source.stop().await;
}

#[tokio::test]
async fn an_outage_keeps_the_last_known_instances() {
    let mut moto = moto().await;
    register(&mut moto, "a", &[]).await;
    let mut source = Source::start(moto.endpoint(), Duration::from_mins(1));
    source.want(&["color"]);
    source.until("color", |state| ids(state) == ["a"]).await;
    moto.stop();
    source.until("color", is_unavailable).await;
    assert_eq!(ids(&source.states["color"]), ["a"]);
    println!("{:?}", source.states["color"].failure);
    source.is_silent().await;
    // A namespace that is not there any more does not take the instances either.
    moto.restart().await.unwrap();
    source
        .until("color", |state| {
            state.failure.is_none() && ids(state) == ["a"]
        })
        .await;
    source.stop().await;
}

#[tokio::test]
async fn a_service_is_polled_once_and_read_when_its_revision_changed() {
    let mut moto = moto().await;
    moto.create_service("shop.local", "shape").await.unwrap();
    register(&mut moto, "a", &[]).await;
    let mut proxy = Proxy::start(&moto.endpoint()).await;
    let mut source = Source::start(proxy.endpoint.clone(), Duration::from_mins(1));
    source.want(&["color"]);
    source.until("color", |state| ids(state) == ["a"]).await;
    // Wanted again by another node, next to another service.
    source.want(&["color", "shape"]);
    source.until("shape", |state| state.failure.is_none()).await;
    source.want(&["color"]);
    source.is_silent().await;
    proxy.calls();
    source.is_silent().await;
    let calls = proxy.calls();
    println!("calls at rest: {calls:?}");
    assert!(
        calls
            .iter()
            .all(|call| call == "color DiscoverInstancesRevision")
    );
    let most = usize::try_from(SEVERAL.as_millis() / INTERVAL.as_millis()).unwrap() + 2;
    assert!((1..=most).contains(&calls.len()), "one poller");

    register(&mut moto, "b", &[]).await;
    source
        .until("color", |state| ids(state) == ["a", "b"])
        .await;
    source.is_silent().await;
    let calls = proxy.calls();
    let reads = calls
        .iter()
        .filter(|call| *call == "color DiscoverInstances");
    assert_eq!(reads.count(), 1, "{calls:?}");

    source.want(&[]);
    source.is_silent().await;
    proxy.calls();
    source.is_silent().await;
    assert_eq!(proxy.calls(), [""; 0], "nobody wants it any more");
    source.stop().await;
}

/// moto's revision is a sum over what is registered now and does not move when an instance's health does, or when
/// one instance is replaced by another between two polls; so this also shows what the safety net is for.
#[tokio::test]
async fn unhealthy_instances_are_left_out() {
    let mut moto = moto().await;
    register(&mut moto, "a", &[]).await;
    register(&mut moto, "b", &[]).await;
    let mut source = Source::start(moto.endpoint(), SEVERAL);
    source.want(&["color"]);
    source
        .until("color", |state| ids(state) == ["a", "b"])
        .await;
    for (id, rest) in [("a", &["b"][..]), ("b", &[])] {
        set_health(&moto, id, CustomHealthStatus::Unhealthy).await;
        source.until("color", |state| ids(state) == rest).await;
    }
    set_health(&moto, "a", CustomHealthStatus::Healthy).await;
    source.until("color", |state| ids(state) == ["a"]).await;
    source.stop().await;
}

#[tokio::test]
async fn without_aws_the_failure_says_what_to_do() {
    let mut source = Source::start_with(None, Duration::from_mins(1));
    source.want(&["color"]);
    source.until("color", is_unavailable).await;
    let Some(CloudMapFailure::Unavailable(words)) = &source.states["color"].failure else {
        unreachable!()
    };
    println!("{words}");
    assert!(words.contains("AWS_"), "{words}");
    source.stop().await;
}

/// Passes calls on and notes which they were.
struct Proxy {
    endpoint: String,
    seen: mpsc::UnboundedReceiver<String>,
}

impl Proxy {
    async fn start(upstream: &str) -> Self {
        let upstream = upstream.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (see, seen) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = TcpStream::connect(&upstream).await.unwrap();
                tokio::spawn(pass(stream, server, see.clone()));
            }
        });
        Self { endpoint, seen }
    }

    /// The calls since the last time: service and action.
    fn calls(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.seen.try_recv().ok()).collect()
    }
}

async fn pass(stream: TcpStream, server: TcpStream, see: mpsc::UnboundedSender<String>) {
    let (mut from_client, mut to_client) = stream.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let (mut bytes, mut text) = ([0; 4096], String::new());
    while let Ok(length @ 1..) = from_client.read(&mut bytes).await {
        text += &String::from_utf8_lossy(&bytes[..length]);
        // A request's body is the last of it, and ends with the only brace that closes.
        while let Some(end) = text.find('}') {
            let request: String = text.drain(..=end).collect();
            let between = |start: &str, end: &str| {
                let rest = request.split_once(start).expect("a call of Cloud Map").1;
                rest.split_once(end).expect("a whole call").0.to_owned()
            };
            let action = between("Route53AutoNaming_v20170314.", "\r\n");
            let service = between("\"ServiceName\":\"", "\"");
            let _ = see.send(format!("{service} {action}"));
        }
        if to_server.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}
