//! Notices threads and tasks that hang, for `/livez`.
//!
//! The engine and the status writer mark in a [`WorkClock`] when work begins and when it ends; a thread that waits for
//! work does not hang, however long. The workers of the streams mark nothing: tokio counts how often each of them waits for work.
//! The kubelet calls `/livez`, which compares these marks with the limits, and restarts the process if one is exceeded.
//!
//! The main runtime has one thread, which also serves `/livez`: if that thread hangs, the kubelet gets no answer.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::runtime::RuntimeMetrics;

/// Longest time between two marks of the engine. The first rebuild of 15,000 objects takes 3 s; this leaves room for
/// larger meshes and for a processor of which the process gets a small share.
const ENGINE_LIMIT: Duration = Duration::from_mins(5);

/// Longest time of one piece of work of a stream, and of one round of the status writer. Both take milliseconds.
const TASK_LIMIT: Duration = Duration::from_mins(1);

/// The time at which a thread or task began what it works on now.
#[derive(Debug, Default)]
pub struct WorkClock(Mutex<Option<Instant>>);

impl WorkClock {
    /// Marks that work begins, or that its next step does.
    pub fn begin(&self) {
        self.begin_at(Instant::now());
    }

    pub(crate) fn begin_at(&self, at: Instant) {
        *self.0.lock() = Some(at);
    }

    /// Marks that the work is done.
    pub fn rest(&self) {
        *self.0.lock() = None;
    }

    fn busy_for(&self, now: Instant) -> Option<Duration> {
        self.0
            .lock()
            .map(|began| now.saturating_duration_since(began))
    }
}

/// A part of the process that has worked on one thing for too long.
#[derive(Debug, PartialEq, Eq)]
pub struct HungPart {
    pub part: &'static str,
    pub busy_for: Duration,
}

impl fmt::Display for HungPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { part, busy_for } = self;
        write!(
            f,
            "{part} has made no progress for {} s",
            busy_for.as_secs()
        )
    }
}

/// The parts of the process that `/livez` watches.
#[derive(Debug)]
pub struct Liveness {
    engine: Arc<WorkClock>,
    /// Rests for ever if this process writes no statuses.
    status_writer: Arc<WorkClock>,
    stream_workers: StreamWorkers,
}

impl Liveness {
    /// `streams` are the metrics of the runtime on which the streams run.
    pub fn new(
        engine: Arc<WorkClock>,
        status_writer: Arc<WorkClock>,
        streams: RuntimeMetrics,
    ) -> Self {
        Self {
            engine,
            status_writer,
            stream_workers: StreamWorkers::new(streams),
        }
    }

    /// The parts that hang at `now`. A worker of streams is only found by a second call, at least [`TASK_LIMIT`] later.
    pub fn hung_parts(&self, now: Instant) -> Vec<HungPart> {
        let parts = [
            ("the engine", self.engine.busy_for(now), ENGINE_LIMIT),
            (
                "the status writer",
                self.status_writer.busy_for(now),
                TASK_LIMIT,
            ),
            (
                "a thread of xDS streams",
                self.stream_workers.busy_for(now),
                TASK_LIMIT,
            ),
        ];
        let hung = parts.into_iter().filter_map(|(part, busy_for, limit)| {
            let busy_for = busy_for.filter(|it| *it > limit)?;
            Some(HungPart { part, busy_for })
        });
        hung.collect()
    }
}

/// The threads of a runtime, as they were when [`Self::busy_for`] was called last.
#[derive(Debug)]
struct StreamWorkers {
    metrics: RuntimeMetrics,
    last: Mutex<Vec<WorkerSample>>,
}

/// Counters of a worker, and the time at which they were first seen.
#[derive(Debug, Clone, Copy)]
struct WorkerSample {
    /// Number of times that the worker began or stopped to wait for work: odd while it waits.
    waits: u64,
    /// Grows every 61 tasks, also if the worker never waits.
    busy: Duration,
    since: Instant,
}

impl StreamWorkers {
    fn new(metrics: RuntimeMetrics) -> Self {
        let since = Instant::now();
        let samples = (0..metrics.num_workers()).map(|worker| sample(&metrics, worker, since));
        let last = Mutex::new(samples.collect());
        Self { metrics, last }
    }

    /// The longest time for which a worker has not finished what it works on.
    fn busy_for(&self, now: Instant) -> Option<Duration> {
        let mut last = self.last.lock();
        for (worker, last) in last.iter_mut().enumerate() {
            let current = sample(&self.metrics, worker, now);
            let is_waiting = current.waits % 2 == 1;
            if is_waiting || (current.waits, current.busy) != (last.waits, last.busy) {
                *last = current;
            }
        }
        let busy = last
            .iter()
            .map(|it| now.saturating_duration_since(it.since));
        busy.max()
    }
}

fn sample(metrics: &RuntimeMetrics, worker: usize, since: Instant) -> WorkerSample {
    WorkerSample {
        waits: metrics.worker_park_unpark_count(worker),
        busy: metrics.worker_total_busy_duration(worker),
        since,
    }
}

#[cfg(test)]
mod tests;
