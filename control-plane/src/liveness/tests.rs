//! Each test blocks a real thread and moves the time that it passes to [`Liveness::hung_parts`].

use std::{
    sync::{
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
};

use evermesh_ingest::IngestSettings;
use evermesh_testkit::wait::eventually;
use tokio::runtime::{Builder, Handle, Runtime};

use super::*;
use crate::{
    engine::{Engine, EngineOutputs},
    source::ChangeBatch,
};

const LIMIT: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

fn liveness(engine: &Arc<WorkClock>, status_writer: &Arc<WorkClock>) -> Liveness {
    let (engine, status_writer) = (Arc::clone(engine), Arc::clone(status_writer));
    Liveness::new(engine, status_writer, Handle::current().metrics())
}

fn workers(count: usize) -> (Runtime, Liveness) {
    let runtime = Builder::new_multi_thread()
        .worker_threads(count)
        .build()
        .unwrap();
    let metrics = runtime.metrics();
    let liveness = Liveness::new(Arc::default(), Arc::default(), metrics);
    (runtime, liveness)
}

fn parts(liveness: &Liveness, now: Instant) -> Vec<&'static str> {
    let hung = liveness.hung_parts(now);
    hung.iter().map(|it| it.part).collect()
}

async fn until_parts(liveness: &Liveness, now: Instant, expected: &[&str]) {
    let what = format!("{expected:?} hang");
    eventually(&what, LIMIT, async || parts(liveness, now) == expected).await;
}

#[tokio::test]
async fn blocked_engine_hangs_after_its_limit_and_an_idle_one_never() {
    let outputs = EngineOutputs::unserved();
    let snapshots = outputs.snapshots.subscribe();
    let liveness = liveness(&outputs.work, &Arc::default());
    let engine = Engine::new([], IngestSettings::default(), outputs);
    let (batches, queue) = tokio::sync::mpsc::channel(1);
    // A reader of the snapshot keeps the engine from publishing the next one.
    let reader = snapshots.borrow();
    let running = thread::spawn(move || engine.run(queue));
    let batch = ChangeBatch::new(Instant::now(), Vec::new());
    batches.send(batch).await.unwrap();
    let later = Instant::now() + ENGINE_LIMIT * 2;
    until_parts(&liveness, later, &["the engine"]).await;
    let during_a_large_rebuild = Instant::now() + ENGINE_LIMIT.saturating_sub(SECOND);
    assert!(parts(&liveness, during_a_large_rebuild).is_empty());

    drop(reader);
    until_parts(&liveness, later, &[]).await;
    drop(batches);
    running.join().unwrap();
    assert!(parts(&liveness, later).is_empty());
}

#[tokio::test]
async fn blocked_thread_of_streams_hangs_although_another_one_is_idle() {
    let (runtime, liveness) = workers(2);
    let (begun, is_blocked) = mpsc::sync_channel(1);
    let (release, gate) = mpsc::sync_channel::<()>(1);
    runtime.spawn(async move {
        begun.send(()).unwrap();
        gate.recv().unwrap_err();
    });
    is_blocked.recv().unwrap();
    let metrics = runtime.metrics();
    let is_parked = |worker| metrics.worker_park_unpark_count(worker) % 2 == 1;
    let is_other_idle = async || (0..2).any(is_parked);
    eventually("the other thread is idle", LIMIT, is_other_idle).await;
    let start = Instant::now();
    assert!(parts(&liveness, start).is_empty());
    assert!(parts(&liveness, start + TASK_LIMIT.saturating_sub(SECOND)).is_empty());
    let later = start + TASK_LIMIT + SECOND;
    assert_eq!(parts(&liveness, later), ["a thread of xDS streams"]);

    drop(release);
    until_parts(&liveness, later, &[]).await;
    runtime.shutdown_background();
}

#[tokio::test]
async fn idle_threads_of_streams_do_not_hang() {
    let (runtime, liveness) = workers(2);
    let mut now = Instant::now();
    for _ in 0..5 {
        until_parts(&liveness, now, &[]).await;
        now += TASK_LIMIT * 2;
    }
    runtime.shutdown_background();
}

#[tokio::test]
async fn busy_thread_of_streams_does_not_hang() {
    // Another thread would take over the task at times.
    let (runtime, liveness) = workers(1);
    let polls = Arc::<AtomicU64>::default();
    let counted = Arc::clone(&polls);
    runtime.spawn(async move {
        loop {
            counted.fetch_add(1, Relaxed);
            tokio::task::yield_now().await;
        }
    });
    let mut now = Instant::now();
    for _ in 0..5 {
        let before = polls.load(Relaxed);
        let has_advanced = async || polls.load(Relaxed) > before + 1_000;
        eventually("polls", LIMIT, has_advanced).await;
        until_parts(&liveness, now, &[]).await;
        now += TASK_LIMIT * 2;
    }
    runtime.shutdown_background();
}
