//! The status writer with an API server that misbehaves, with a virtual clock.

use std::{
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc as blocking,
    },
    thread,
};

use evermesh_testkit::{
    fake_api_server::{ApiServerBehaviour, FakeApiServer},
    wait::eventually,
};
use http::{Method, StatusCode};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::DropGuard;

use super::*;
use crate::{
    api_client::{with_deadlines, wrapped},
    effect::{
        lease::{self, LeaseOptions},
        test_log::TestLog,
        unreachable_client,
    },
    liveness::Liveness,
    source::{
        ChangeBatch,
        kubernetes::{self, KubernetesOptions},
    },
};

const MESHES: &str = "/apis/appmesh.k8s.aws/v1beta2/meshes";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/mesh-system/leases/evermesh";

/// Time within which statuses are true after an outage.
const RECOVERY: Duration = Duration::from_secs(5);

fn options(
    snapshots: watch::Receiver<Arc<EngineSnapshot>>,
    identity: &str,
    leader: watch::Receiver<Leader>,
) -> StatusWriterOptions {
    StatusWriterOptions {
        snapshots,
        registry: ProxyRegistry::new(None),
        observed: Arc::default(),
        identity: identity.to_owned(),
        key: ReplicaKey::new().unwrap(),
        leader,
        registers: false,
        registration_messages: watch::channel(Arc::default()).1,
        region: "us-east-1".to_owned(),
        account: "0".to_owned(),
        work: Arc::default(),
    }
}

/// A replica without an engine: its snapshots say that every batch was processed at once.
fn start_replica(client: &Client, identity: &str) -> DropGuard {
    let client = with_deadlines(client);
    let shutdown = CancellationToken::new();
    let key = ReplicaKey::new().unwrap();
    let (leader_sender, leader) = watch::channel(Leader::Unknown);
    let lease = LeaseOptions {
        namespace: "mesh-system".to_owned(),
        name: "evermesh".to_owned(),
        identity: identity.to_owned(),
        key: key.clone(),
        address: None,
    };
    let observed = Arc::<ObservedObjects>::default();
    let (batches, mut queue) = mpsc::channel::<ChangeBatch>(16);
    let (snapshot_sender, snapshots) = watch::channel(Arc::<EngineSnapshot>::default());
    let options = StatusWriterOptions {
        observed: Arc::clone(&observed),
        key,
        ..options(snapshots, identity, leader)
    };
    let peer_events = mpsc::channel(1);
    let engine = async move {
        let _open = peer_events.0;
        let mut positions = BTreeMap::new();
        while let Some(batch) = queue.recv().await {
            let position = batch.position.unwrap();
            positions.insert(position.watch, position.count);
            snapshot_sender.send_replace(Arc::new(EngineSnapshot {
                watch_positions: positions.clone(),
                ..EngineSnapshot::default()
            }));
        }
    };
    tokio::spawn(engine);
    tokio::spawn(kubernetes::run(
        client.clone(),
        KubernetesOptions::default(),
        observed,
        Arc::default(),
        batches,
        shutdown.clone(),
    ));
    tokio::spawn(lease::hold(
        client.clone(),
        lease,
        leader_sender,
        shutdown.clone(),
    ));
    tokio::spawn(run(
        client,
        options,
        Arc::default(),
        peer_events.1,
        shutdown.clone(),
    ));
    shutdown.drop_guard()
}

/// Creates a mesh, or changes its generation.
fn put_mesh(server: &FakeApiServer, name: &str) {
    let path = format!("{MESHES}/{name}");
    let last = server.get(&path).unwrap_or_default();
    let generation = last["metadata"]["generation"].as_i64().unwrap_or_default();
    let mesh = json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2",
        "kind": "Mesh",
        "metadata": {"name": name, "labels": {"number": generation.to_string()}},
        "spec": {"namespaceSelector": {"matchLabels": {"number": generation.to_string()}}},
        "status": last["status"],
    });
    server.put(MESHES, mesh);
}

/// Waits until the status of a mesh is about its newest generation.
async fn status_becomes_current(server: &FakeApiServer, name: &str, limit: Duration) {
    let event = format!("the current status of {name}");
    eventually(&event, limit, async || {
        let mesh = server.get(&format!("{MESHES}/{name}")).unwrap();
        mesh["status"]["observedGeneration"] == mesh["metadata"]["generation"]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn statuses_are_true_5_s_after_an_outage() {
    for behaviour in [
        ApiServerBehaviour::Silent,
        ApiServerBehaviour::Refusing(StatusCode::INTERNAL_SERVER_ERROR),
        ApiServerBehaviour::Refusing(StatusCode::TOO_MANY_REQUESTS),
        ApiServerBehaviour::Closing,
        ApiServerBehaviour::Expired,
        ApiServerBehaviour::EndingWatches,
    ] {
        let server = FakeApiServer::default();
        let _replica = start_replica(&server.client(), "a");
        put_mesh(&server, "a");
        status_becomes_current(&server, "a", Duration::from_mins(1)).await;
        server.switch(behaviour);
        time::sleep(Duration::from_mins(1)).await;
        put_mesh(&server, "a");
        time::sleep(Duration::from_mins(1)).await;
        server.switch(ApiServerBehaviour::Healthy);
        status_becomes_current(&server, "a", RECOVERY).await;
    }
}

#[tokio::test(start_paused = true)]
async fn statuses_are_true_5_s_after_slowness_whenever_it_ends() {
    let server = FakeApiServer::default();
    let _replica = start_replica(&server.client(), "a");
    put_mesh(&server, "a");
    status_becomes_current(&server, "a", Duration::from_mins(1)).await;
    for step in 0..50 {
        let slow = ApiServerBehaviour::Slow(Duration::from_secs(3));
        server.switch(slow);
        // Longer than a term. Attempts to get the Lease begin every 2 s.
        time::sleep(Duration::from_mins(1) + Duration::from_millis(40) * step).await;
        put_mesh(&server, "a");
        time::sleep(Duration::from_secs(5)).await;
        server.switch(ApiServerBehaviour::Healthy);
        status_becomes_current(&server, "a", RECOVERY).await;
    }
}

#[tokio::test(start_paused = true)]
async fn outage_is_logged_once_a_minute() {
    let objects = format!("{MESHES}/");
    let unanswered = (objects.as_str(), ApiServerBehaviour::Swallowing);
    let refused = StatusCode::INTERNAL_SERVER_ERROR;
    let refused = ("", ApiServerBehaviour::Refusing(refused));
    let restarting = ("", ApiServerBehaviour::Closing);
    for (path, behaviour) in [unanswered, refused, restarting] {
        let log = TestLog::start();
        let server = FakeApiServer::default();
        let _replica = start_replica(&server.client(), "a");
        put_mesh(&server, "a");
        status_becomes_current(&server, "a", Duration::from_mins(1)).await;
        put_mesh(&server, "a");
        // Longer than a term, so that each restart ends one.
        for _ in 0..60 {
            server.switch_for(path, behaviour);
            time::sleep(Duration::from_secs(5)).await;
            if behaviour == restarting.1 {
                server.switch(ApiServerBehaviour::Healthy);
            }
            time::sleep(Duration::from_secs(5)).await;
        }
        let lines = log.lines_by_cause();
        assert!(!lines.is_empty());
        for (cause, count) in lines {
            assert!(count <= 11, "{behaviour:?}: {count} times {cause}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn slow_api_server_gets_statuses() {
    let server = FakeApiServer::default();
    server.switch(ApiServerBehaviour::Slow(Duration::from_millis(900)));
    let _replica = start_replica(&server.client(), "a");
    for _ in 0..3 {
        put_mesh(&server, "a");
        status_becomes_current(&server, "a", Duration::from_mins(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn writes_of_other_objects_go_on_while_some_are_not_answered() {
    let server = FakeApiServer::default();
    let silent: Vec<String> = (0..20).map(|index| format!("silent-{index}")).collect();
    for name in &silent {
        put_mesh(&server, name);
    }
    server.switch_for(&format!("{MESHES}/silent"), ApiServerBehaviour::Silent);
    let _replica = start_replica(&server.client(), "a");
    for _ in 0..20 {
        put_mesh(&server, "a");
        status_becomes_current(&server, "a", Duration::from_secs(30)).await;
    }
    server.switch(ApiServerBehaviour::Healthy);
    for name in &silent {
        status_becomes_current(&server, name, RECOVERY).await;
    }
}

#[tokio::test(start_paused = true)]
async fn outage_of_writes_causes_few_of_them() {
    let server = FakeApiServer::default();
    for index in 0..100 {
        put_mesh(&server, &format!("m{index}"));
    }
    let refusing = ApiServerBehaviour::Refusing(StatusCode::SERVICE_UNAVAILABLE);
    server.switch_for(&format!("{MESHES}/m"), refusing);
    let _replica = start_replica(&server.client(), "a");
    time::sleep(Duration::from_mins(1)).await;
    let writes = server.count("PATCH");
    assert!((10..=60).contains(&writes), "{writes}");
    server.switch(ApiServerBehaviour::Healthy);
    let limit = 2 * RECOVERY;
    for index in 0..100 {
        status_becomes_current(&server, &format!("m{index}"), limit).await;
    }
}

/// A client whose patches of meshes get no answer while `is_stuck`; counts those that are open.
fn stuck_client(server: &FakeApiServer, is_stuck: &Arc<AtomicBool>, open: &Arc<()>) -> Client {
    let (is_stuck, open) = (Arc::clone(is_stuck), Arc::clone(open));
    wrapped(&server.client(), move |client, request| {
        let (is_stuck, open) = (Arc::clone(&is_stuck), Arc::clone(&open));
        async move {
            if request.method() == Method::PATCH && is_stuck.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            let answer = client.send(request).await;
            drop(open);
            answer
        }
    })
}

#[tokio::test(start_paused = true)]
async fn leader_whose_writes_are_not_answered_is_replaced_and_writes_no_more() {
    let server = FakeApiServer::default();
    let (is_stuck, open) = (Arc::new(AtomicBool::new(false)), Arc::new(()));
    let _first = start_replica(&stuck_client(&server, &is_stuck, &open), "a");
    put_mesh(&server, "m");
    status_becomes_current(&server, "m", Duration::from_mins(1)).await;
    let holder = || server.get(LEASE).unwrap()["spec"]["holderIdentity"].clone();
    assert_eq!(holder(), "a");

    let _second = start_replica(&server.client(), "b");
    is_stuck.store(true, Ordering::Relaxed);
    let changed = time::Instant::now();
    put_mesh(&server, "m");
    status_becomes_current(&server, "m", Duration::from_mins(2)).await;
    assert!(
        changed.elapsed() >= Duration::from_secs(30),
        "{:?}",
        changed.elapsed()
    );
    assert_eq!(holder(), "b");
    // The client, and nothing that it sends.
    let event = "the end of the open requests of the former leader";
    let limit = Duration::from_secs(1);
    let clients = 2;
    let only_clients = async || Arc::strong_count(&open) == clients;
    eventually(event, limit, only_clients).await;
}

/// Runs the writer on a thread of its own and keeps it from reading the snapshot.
#[tokio::test]
async fn blocked_writer_hangs_until_it_goes_on() {
    let (snapshot_sender, snapshots) = watch::channel(Arc::<EngineSnapshot>::default());
    let work = Arc::default();
    let metrics = Handle::current().metrics();
    let liveness = Liveness::new(Arc::default(), Arc::clone(&work), metrics);
    let hangs = |now| {
        liveness
            .hung_parts(now)
            .iter()
            .any(|it| it.part == "the status writer")
    };

    let (locked, is_locked) = blocking::sync_channel(1);
    let (release, gate) = blocking::sync_channel::<()>(1);
    let blocking = thread::spawn(move || {
        snapshot_sender.send_modify(|_| {
            locked.send(()).unwrap();
            gate.recv().unwrap_err();
        });
    });
    is_locked.recv().unwrap();
    assert!(
        !hangs(std::time::Instant::now() + Duration::from_hours(1)),
        "the writer has not begun"
    );
    let shutdown = CancellationToken::new();
    let end = shutdown.clone();
    let writing = thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let options = StatusWriterOptions {
            work,
            ..options(snapshots, "a", watch::channel(Leader::Unknown).1)
        };
        runtime.block_on(async {
            let (_reports, peer_events) = mpsc::channel(1);
            run(
                unreachable_client(),
                options,
                Arc::default(),
                peer_events,
                end,
            )
            .await;
        });
    });
    let limit = Duration::from_secs(30);
    let mut later = std::time::Instant::now();
    let is_hung = async || {
        later = std::time::Instant::now() + Duration::from_millis(60_001);
        hangs(later)
    };
    eventually("the writer hangs", limit, is_hung).await;

    drop(release);
    eventually("the writer goes on", limit, async || !hangs(later)).await;
    shutdown.cancel();
    writing.join().unwrap();
    blocking.join().unwrap();
}
