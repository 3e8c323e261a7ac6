//! Measures the time of each change from its source to the last ACK or NACK.
//!
//! The engine announces each commit before it makes it, and the xDS server reports each ACK and NACK. Both use one
//! channel, so a commit is known here before its first answer. For every commit the tracker waits for one answer per
//! changed resource and stream that watches it, then closes the commit's trace span and records the time for
//! `/debug/changes` and the histogram `evermesh_change_seconds`.
//!
//! Example: a weight changes, and the engine commits one route configuration that three Envoys watch. The tracker expects
//! three deliveries. When the third Envoy ACKs after 12 ms, the change is complete with `acked_ms: 12`.
//!
//! The tracker only observes: a lost event falsifies a measurement and never a delivery. So neither the engine nor a
//! stream waits for it: an event that finds the [queue](channel) full is dropped.

mod queue;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use evermesh_proto::{ContentVersion, ResourceKey, ResourceType};
use evermesh_xds::{ProxyId, ProxyRegistry};
use parking_lot::Mutex;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tracing::Span;

pub use self::queue::{ProxyAnswer, TrackerEvent, TrackerReceiver, TrackerSender, channel};
use crate::metrics::ProcessMetrics;

/// Number of changes that `/debug/changes` shows, and that may lack answers. Clients that do not answer would otherwise
/// make each answer of others expensive.
const MAX_CHANGES: usize = 256;
/// Time after which a change is closed although a proxy has not answered.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);
/// Interval between liveness checks of proxies that have not acknowledged a change yet.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// A commit of the engine.
#[derive(Debug)]
pub struct CommitRecord {
    /// Time at which the source noticed the change.
    pub noticed: Instant,
    /// Files and documents, objects, or Cloud Map services that changed.
    pub origins: Vec<Arc<str>>,
    /// Number of resources that are new or have changed.
    pub resources: usize,
    /// Changed resources that at least one stream watches.
    pub awaited: Vec<(ResourceKey, ContentVersion)>,
    /// Number of expected answers: one for each awaited resource and stream that watches it.
    pub deliveries: usize,
    /// Trace span of the change; closed with the last answer.
    pub span: Span,
}

/// One change, as `/debug/changes` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct ChangeRecord {
    /// Sequence number, from 1 in every process.
    pub id: u64,
    /// Time at which the source noticed the change, in milliseconds since 1970.
    pub at_ms: f64,
    /// Files and documents, objects, or Cloud Map services that changed.
    pub origins: Vec<Arc<str>>,
    /// Number of resources that are new or have changed.
    pub resources: usize,
    /// Number of expected answers: one for each of these resources and stream that watches it.
    pub deliveries: usize,
    /// Number of received answers, NACKs included.
    pub answered: usize,
    /// Number of NACKs, and of resources that a NACKed cluster blocks.
    pub rejected: usize,
    /// Milliseconds from the source to the last answer; `None` while answers are missing.
    pub acked_ms: Option<f64>,
}

/// The newest changes, oldest first.
#[derive(Debug, Default)]
pub struct ChangeLog(Mutex<VecDeque<ChangeRecord>>);

impl ChangeLog {
    pub fn list(&self) -> Vec<ChangeRecord> {
        self.0.lock().iter().cloned().collect()
    }

    fn put(&self, change: &ChangeRecord) {
        let mut changes = self.0.lock();
        if let Some(known) = changes.iter_mut().rev().find(|known| known.id == change.id) {
            known.clone_from(change);
            return;
        }
        if changes.len() == MAX_CHANGES {
            changes.pop_front();
        }
        changes.push_back(change.clone());
    }
}

/// Tracks commits until `shutdown`.
pub async fn track(
    mut receiver: TrackerReceiver,
    registry: Arc<ProxyRegistry>,
    changes: Arc<ChangeLog>,
    metrics: Arc<ProcessMetrics>,
    shutdown: CancellationToken,
) {
    let mut tracker = Tracker {
        last_id: 0,
        open: BTreeMap::new(),
        by_key: BTreeMap::new(),
        changes,
        metrics,
    };
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            event = receiver.recv() => match event {
                Some(TrackerEvent::Commit(commit)) => tracker.open(commit, SystemTime::now()),
                Some(TrackerEvent::Answer(answer)) => tracker.record(answer),
                None => return,
            },
            _ = sweep.tick() => {
                let events = receiver.take_dropped();
                if events > 0 {
                    tracing::warn!(events, "changes and answers of proxies arrived faster than they were recorded; /debug/changes and evermesh_change_seconds lack some of them");
                }
                tracker.sweep(&registry);
            }
        }
    }
}

struct Tracker {
    last_id: u64,
    /// Changes that lack answers, by number; at most [`MAX_CHANGES`].
    open: BTreeMap<u64, OpenChange>,
    /// The numbers of the open changes of each resource. An answer is looked up here, because most answers are about
    /// resources without an open change.
    by_key: BTreeMap<ResourceKey, BTreeSet<u64>>,
    changes: Arc<ChangeLog>,
    metrics: Arc<ProcessMetrics>,
}

struct OpenChange {
    change: ChangeRecord,
    noticed: Instant,
    versions: BTreeMap<ResourceKey, ContentVersion>,
    answered: BTreeSet<(ProxyId, ResourceKey)>,
    last_answer: Instant,
    span: Span,
}

impl Tracker {
    fn open(&mut self, commit: CommitRecord, now: SystemTime) {
        let since_1970 = (now - commit.noticed.elapsed())
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        self.last_id += 1;
        let change = ChangeRecord {
            id: self.last_id,
            at_ms: since_1970.as_secs_f64() * 1e3,
            origins: commit.origins,
            resources: commit.resources,
            deliveries: commit.deliveries,
            answered: 0,
            rejected: 0,
            acked_ms: None,
        };
        self.changes.put(&change);
        if change.deliveries == 0 {
            return;
        }
        if self.open.len() == MAX_CHANGES
            && let Some((&oldest, _)) = self.open.first_key_value()
        {
            self.close(oldest);
        }
        for (key, _) in &commit.awaited {
            let numbers = self.by_key.entry(key.clone()).or_default();
            numbers.insert(change.id);
        }
        let open = OpenChange {
            noticed: commit.noticed,
            versions: commit.awaited.into_iter().collect(),
            answered: BTreeSet::new(),
            last_answer: commit.noticed,
            span: commit.span,
            change,
        };
        self.open.insert(open.change.id, open);
    }

    /// Whether an open change concerns a resource of this type and name, in any scope.
    fn has_open_change(&self, kind: ResourceType, name: &Arc<str>) -> bool {
        let first = ResourceKey {
            kind,
            name: Arc::clone(name),
            scope: None,
        };
        let mut from_first = self.by_key.range(first..);
        let next = from_first.next();
        next.is_some_and(|(key, _)| key.kind == kind && key.name == *name)
    }

    /// Records an answer for the change that it belongs to and for all earlier changes of the same resource: the proxy
    /// will never answer a version that it was not sent because a newer one replaced it.
    fn record(&mut self, answer: ProxyAnswer) {
        let ProxyAnswer {
            proxy,
            view,
            kind,
            name,
            version,
            is_acked,
            at,
        } = answer;
        if !self.has_open_change(kind, &name) {
            return;
        }
        let mut complete = Vec::new();
        for key in ResourceKey::in_view(kind, &name, &view) {
            let Some(numbers) = self.by_key.get(&key) else {
                continue;
            };
            let answers = |id: &&u64| self.open[*id].versions.get(&key) == Some(&version);
            let Some(&newest) = numbers.iter().rfind(answers) else {
                continue;
            };
            for id in numbers.range(..=newest) {
                let Some(open) = self.open.get_mut(id) else {
                    continue;
                };
                if !open.answered.insert((proxy, key.clone())) {
                    continue;
                }
                open.last_answer = open.last_answer.max(at);
                open.change.answered = open.answered.len();
                if *id == newest && !is_acked {
                    open.change.rejected += 1;
                }
                self.changes.put(&open.change);
                if open.change.answered >= open.change.deliveries {
                    complete.push(*id);
                }
            }
        }
        for id in complete {
            self.close(id);
        }
    }

    /// Closes late changes for which no answer can come any more: the proxies disconnected, or a newer version replaced
    /// the resource before it was sent.
    fn sweep(&mut self, registry: &ProxyRegistry) {
        let open = self.open.values();
        let late = open.filter(|open| open.noticed.elapsed() > SWEEP_INTERVAL);
        let late: Vec<&OpenChange> = late.collect();
        let unanswered = registry.unanswered(late.iter().flat_map(|open| open.versions.keys()));
        let mut ended = Vec::new();
        for open in late {
            let is_awaited = open.versions.keys().any(|key| unanswered.contains(key));
            let is_timed_out = open.noticed.elapsed() > ANSWER_TIMEOUT;
            if is_timed_out {
                tracing::warn!(
                    change = open.change.id,
                    "some proxies have not answered within a minute"
                );
            }
            if is_timed_out || !is_awaited {
                ended.push(open.change.id);
            }
        }
        for id in ended {
            self.close(id);
        }
    }

    fn close(&mut self, id: u64) {
        let Some(mut open) = self.open.remove(&id) else {
            return;
        };
        for key in open.versions.keys() {
            if let Some(numbers) = self.by_key.get_mut(key) {
                numbers.remove(&id);
                if numbers.is_empty() {
                    self.by_key.remove(key);
                }
            }
        }
        open.close(&self.metrics);
        self.changes.put(&open.change);
    }
}

impl OpenChange {
    fn close(&mut self, metrics: &ProcessMetrics) {
        let duration = self.last_answer.saturating_duration_since(self.noticed);
        let milliseconds = duration.as_secs_f64() * 1e3;
        self.change.acked_ms = Some(milliseconds);
        self.span.record("acked_ms", milliseconds);
        self.span.record("rejected", self.change.rejected);
        metrics.observe_change(duration);
    }
}

#[cfg(test)]
mod tests;
