//! The Cloud Map source with a Cloud Map server on loopback: which instances it reports, and which calls it makes.

#![allow(clippy::unwrap_used)] // a panic fails the test

#[path = "../common/cloud_map_relay.rs"]
mod cloud_map_relay;
#[path = "../common/mod.rs"]
mod common;

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
use cloud_map_relay::CloudMapRelay;
use common::{DEADLINE, eventually};
use evermesh::source::{
    ChangeBatch, SourceChange,
    cloud_map::{self, CloudMapOptions},
};
use evermesh_model::{CloudMapService, CloudMapState, endpoint::CloudMapFailure};
use evermesh_testkit::moto::Moto;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Shortest time between two polls of one service.
const INTERVAL: Duration = Duration::from_millis(50);

/// Polls during which nothing has to change.
const POLLS: usize = 5;

/// Time after which a service is read again though its revision is the same, where no test needs that.
const NEVER: Duration = Duration::from_hours(24);

const IP: [Ipv4Addr; 3] = [
    Ipv4Addr::new(10, 0, 0, 1),
    Ipv4Addr::new(10, 0, 0, 2),
    Ipv4Addr::new(10, 0, 0, 3),
];

/// A running Cloud Map source, and what the engine would know from its batches.
struct CloudMapSource {
    relay: CloudMapRelay,
    wanted: watch::Sender<Arc<BTreeSet<CloudMapService>>>,
    batches: mpsc::Receiver<ChangeBatch>,
    states: BTreeMap<String, Arc<CloudMapState>>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl CloudMapSource {
    /// Starts the source; it calls the server through a relay.
    async fn start(server: &Moto, refresh: Duration) -> Self {
        let relay = CloudMapRelay::start(&server.endpoint()).await;
        let options = CloudMapOptions {
            endpoint: Some(relay.endpoint().to_owned()),
            interval: INTERVAL,
            refresh,
        };
        Self::start_with(relay, options)
    }

    fn start_with(relay: CloudMapRelay, options: CloudMapOptions) -> Self {
        let (wanted, services) = watch::channel(Arc::default());
        let (changes, batches) = mpsc::channel(16);
        let shutdown = CancellationToken::new();
        let run = cloud_map::run(options, services, changes, shutdown.clone());
        Self {
            relay,
            wanted,
            batches,
            states: BTreeMap::new(),
            shutdown,
            task: tokio::spawn(run),
        }
    }

    /// Sets the services that the engine needs.
    fn set_services(&self, services: &[&str]) {
        let services = services.iter().map(|service| CloudMapService {
            namespace: "shop.local".into(),
            service: (*service).into(),
        });
        self.wanted.send_replace(Arc::new(services.collect()));
    }

    fn apply(&mut self, batch: ChangeBatch) {
        for change in batch.changes {
            let SourceChange::CloudMap { service, state } = change else {
                panic!("a Cloud Map source reported {change:?}");
            };
            assert_ne!(
                self.states.get(&*service.service),
                Some(&state),
                "only changes are reported"
            );
            self.states.insert(service.service.to_string(), state);
        }
    }

    /// Waits until `condition` holds for the state of a service.
    async fn until(&mut self, service: &str, condition: impl Fn(&CloudMapState) -> bool) {
        let start = Instant::now();
        let holds = |state: &Arc<CloudMapState>| condition(state);
        while !self.states.get(service).is_some_and(holds) {
            let left = DEADLINE.saturating_sub(start.elapsed());
            match timeout(left, self.batches.recv()).await {
                Ok(batch) => self.apply(batch.expect("the source runs")),
                Err(elapsed) => panic!("{service} stays as it is: {elapsed}: {:?}", self.states),
            }
        }
    }

    /// The calls about a service so far.
    fn calls_about(&self, service: &str) -> Vec<String> {
        let calls = self.relay.calls().into_iter();
        let calls = calls.filter(|call| call.body["ServiceName"] == service);
        calls.map(|call| call.action).collect()
    }

    /// Waits for [`POLLS`] polls of a service, and checks that no change is reported.
    async fn polls_report_nothing(&mut self, service: &str) {
        let before = self.calls_about(service).len();
        // The response to a poll is handled before the next poll.
        eventually("polls", async || {
            self.calls_about(service).len() > before + POLLS
        })
        .await;
        self.reported_nothing();
    }

    fn reported_nothing(&mut self) {
        if let Ok(batch) = self.batches.try_recv() {
            panic!("reported {batch:?}");
        }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(DEADLINE, self.task).await.unwrap().unwrap();
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

/// Sets the health of an instance, as an operator or a health checker does.
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
async fn instances_are_reported_when_they_come_and_go() {
    let mut moto = moto().await;
    register(
        &mut moto,
        "b",
        &[("version", "v1"), ("AWS_INSTANCE_IPV6", "fd00::1")],
    )
    .await;
    let mut source = CloudMapSource::start(&moto, NEVER).await;
    source.set_services(&["color"]);
    source.until("color", |state| ids(state) == ["b"]).await;
    let instance = &source.states["color"].instances[0];
    assert_eq!(instance.ipv4, Some(IP[1]));
    assert_eq!(instance.ipv6, Some("fd00::1".parse().unwrap()));
    assert_eq!(instance.attributes["version"].as_ref(), "v1");
    source.polls_report_nothing("color").await;

    register(&mut moto, "a", &[]).await;
    source
        .until("color", |state| ids(state) == ["a", "b"])
        .await;
    moto.deregister("shop.local", "color", "b").await.unwrap();
    source.until("color", |state| ids(state) == ["a"]).await;

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
async fn missing_service_is_polled_until_it_exists() {
    let mut moto = moto().await;
    let mut source = CloudMapSource::start(&moto, NEVER).await;
    source.set_services(&["color", "shape"]);
    source.until("shape", is_not_found).await;
    source.until("color", |state| state.failure.is_none()).await;
    let Some(CloudMapFailure::NotFound(message)) = &source.states["shape"].failure else {
        unreachable!()
    };
    assert!(
        message.contains("shape") && message.contains("shop.local"),
        "{message}"
    );
    moto.create_service("shop.local", "shape").await.unwrap();
    source.until("shape", |state| state.failure.is_none()).await;
    source.stop().await;
}

#[tokio::test]
async fn outage_keeps_the_last_known_instances() {
    let mut moto = moto().await;
    register(&mut moto, "a", &[]).await;
    let mut source = CloudMapSource::start(&moto, NEVER).await;
    source.set_services(&["color"]);
    source.until("color", |state| ids(state) == ["a"]).await;
    moto.stop();
    source.until("color", is_unavailable).await;
    assert_eq!(ids(&source.states["color"]), ["a"]);
    let before = source.relay.failed_connections();
    // A call connects up to three times, so this is a second call after the one that failed.
    eventually("another failed call", async || {
        source.relay.failed_connections() > before + 3
    })
    .await;
    source.reported_nothing();
    source.relay.restart(&mut moto).await;
    source
        .until("color", |state| {
            assert_eq!(ids(state), ["a"]);
            state.failure.is_none()
        })
        .await;
    source.stop().await;
}

#[tokio::test]
async fn service_has_one_poller_and_is_read_when_its_revision_changes() {
    let mut moto = moto().await;
    for service in ["shape", "size"] {
        moto.create_service("shop.local", service).await.unwrap();
    }
    register(&mut moto, "a", &[]).await;
    let mut source = CloudMapSource::start(&moto, NEVER).await;
    source.set_services(&["color"]);
    source.until("color", |state| ids(state) == ["a"]).await;
    // Another service comes and goes.
    source.set_services(&["color", "shape"]);
    source.until("shape", |state| state.failure.is_none()).await;
    source.set_services(&["color"]);
    source.polls_report_nothing("color").await;

    let (start, before) = (Instant::now(), source.calls_about("color").len());
    source.polls_report_nothing("color").await;
    let calls = source.calls_about("color").split_off(before);
    let polls = calls
        .iter()
        .filter(|call| *call == "DiscoverInstancesRevision");
    assert_eq!(polls.count(), calls.len(), "{calls:?}");
    let most = start.elapsed().as_millis() / INTERVAL.as_millis() + 2;
    assert!(calls.len() as u128 <= most, "more than one poller");

    let before = source.calls_about("color").len();
    register(&mut moto, "b", &[]).await;
    source
        .until("color", |state| ids(state) == ["a", "b"])
        .await;
    source.polls_report_nothing("color").await;
    let calls = source.calls_about("color").split_off(before);
    let reads = calls.iter().filter(|call| *call == "DiscoverInstances");
    assert_eq!(reads.count(), 1, "{calls:?}");

    source.set_services(&["size"]);
    source.until("size", |state| state.failure.is_none()).await;
    let before = source.calls_about("color").len();
    source.polls_report_nothing("size").await;
    let calls = source.calls_about("color").split_off(before);
    assert_eq!(calls, [""; 0], "no node uses the service any more");
    source.stop().await;
}

/// Needs the periodic reading: moto computes a service's revision from the registered instances, so the revision stays
/// the same when only the health of an instance changes.
#[tokio::test]
async fn unhealthy_instances_are_left_out() {
    let mut moto = moto().await;
    register(&mut moto, "a", &[]).await;
    register(&mut moto, "b", &[]).await;
    let mut source = CloudMapSource::start(&moto, 10 * INTERVAL).await;
    source.set_services(&["color"]);
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
async fn failure_without_aws_credentials_says_what_to_set() {
    let moto = moto().await;
    let options = CloudMapOptions {
        endpoint: None,
        interval: INTERVAL,
        refresh: NEVER,
    };
    let relay = CloudMapRelay::start(&moto.endpoint()).await;
    let mut source = CloudMapSource::start_with(relay, options);
    source.set_services(&["color"]);
    source.until("color", is_unavailable).await;
    let Some(CloudMapFailure::Unavailable(message)) = &source.states["color"].failure else {
        unreachable!()
    };
    assert!(message.contains("AWS_"), "{message}");
    source.stop().await;
}

/// Virtual time: the clock moves on whenever all tasks wait.
#[tokio::test(start_paused = true)]
async fn silent_server_delays_the_first_states_once() {
    const SERVICES: usize = 160;
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let options = CloudMapOptions {
        endpoint: Some(format!("http://{}", silent.local_addr().unwrap())),
        ..CloudMapOptions::default()
    };
    let services = (0..SERVICES).map(|index| CloudMapService {
        namespace: "shop.local".into(),
        service: format!("service-{index}").into(),
    });
    let (_wanted, services) = watch::channel(Arc::new(services.collect()));
    let (changes, mut batches) = mpsc::channel(SERVICES);
    let start = tokio::time::Instant::now();
    let source = tokio::spawn(cloud_map::run(
        options,
        services,
        changes,
        CancellationToken::new(),
    ));
    let mut failed = BTreeSet::new();
    while failed.len() < SERVICES {
        for change in batches.recv().await.unwrap().changes {
            let SourceChange::CloudMap { service, state } = change else {
                unreachable!()
            };
            assert!(is_unavailable(&state), "{state:?}");
            failed.insert(service);
        }
    }
    // One after the other, they would wait for more than a minute.
    assert!(
        start.elapsed() < Duration::from_secs(25),
        "{:?}",
        start.elapsed()
    );
    source.abort();
}
