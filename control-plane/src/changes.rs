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
use evermesh_xds::{ProxyId, ProxyRegistry, UnansweredResource};
use parking_lot::Mutex;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tracing::Span;

pub use self::queue::{ProxyAnswer, TrackerEvent, TrackerReceiver, TrackerSender, channel};
use crate::metrics::ProcessMetrics;

/// Number of changes that `/debug/changes` shows.
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
        open: VecDeque::new(),
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
                if tracker.is_late() {
                    tracker.sweep(&registry.unanswered());
                }
            }
        }
    }
}

struct Tracker {
    last_id: u64,
    /// Changes that lack answers, oldest first.
    open: VecDeque<OpenChange>,
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
        if change.deliveries > 0 {
            self.open.push_back(OpenChange {
                change,
                noticed: commit.noticed,
                versions: commit.awaited.into_iter().collect(),
                answered: BTreeSet::new(),
                last_answer: commit.noticed,
                span: commit.span,
            });
        }
    }

    /// Records an answer for the change that it belongs to and for all earlier changes of the same resource: the proxy
    /// will never answer a version that it was not sent because a newer one replaced it.
    fn record(&mut self, answer: ProxyAnswer) {
        let ProxyAnswer {
            proxy,
            scoped,
            version,
            is_acked,
            at,
        } = answer;
        let shared = ResourceKey {
            scope: None,
            ..scoped.clone()
        };
        for key in [shared, scoped] {
            let answers = |open: &OpenChange| open.versions.get(&key) == Some(&version);
            let Some(newest) = self.open.iter().rposition(answers) else {
                continue;
            };
            for (index, open) in self.open.iter_mut().enumerate().take(newest + 1) {
                let has_key = open.versions.contains_key(&key);
                if !has_key || !open.answered.insert((proxy, key.clone())) {
                    continue;
                }
                open.last_answer = open.last_answer.max(at);
                open.change.answered = open.answered.len();
                if index == newest && !is_acked {
                    open.change.rejected += 1;
                }
                if open.change.answered >= open.change.deliveries {
                    open.close(&self.metrics);
                }
                self.changes.put(&open.change);
            }
        }
        self.open.retain(|open| open.change.acked_ms.is_none());
    }

    /// Whether a change has lacked answers for more than [`SWEEP_INTERVAL`].
    fn is_late(&self) -> bool {
        self.open
            .front()
            .is_some_and(|open| open.noticed.elapsed() > SWEEP_INTERVAL)
    }

    /// Closes late changes for which no answer can come any more: the proxies disconnected, or a newer version replaced
    /// the resource before it was sent.
    fn sweep(&mut self, unanswered: &[UnansweredResource]) {
        let unanswered = UnansweredIndex::new(unanswered);
        for open in &mut self.open {
            let is_awaited = open.versions.keys().any(|key| unanswered.contains(key));
            let age = open.noticed.elapsed();
            if age > ANSWER_TIMEOUT {
                tracing::warn!(
                    change = open.change.id,
                    "some proxies have not answered within a minute"
                );
            }
            if age > ANSWER_TIMEOUT || (age > SWEEP_INTERVAL && !is_awaited) {
                open.close(&self.metrics);
                self.changes.put(&open.change);
            }
        }
        self.open.retain(|open| open.change.acked_ms.is_none());
    }
}

/// Finds unanswered resources by key.
struct UnansweredIndex<'a> {
    shared: BTreeSet<(ResourceType, &'a str)>,
    scoped: BTreeSet<(ResourceType, &'a str, &'a str)>,
}

impl<'a> UnansweredIndex<'a> {
    fn new(unanswered: &'a [UnansweredResource]) -> Self {
        let shared = unanswered.iter().map(|it| (it.kind, &*it.name));
        let scoped = unanswered.iter().map(|it| (it.kind, &*it.name, &*it.view));
        Self {
            shared: shared.collect(),
            scoped: scoped.collect(),
        }
    }

    fn contains(&self, key: &ResourceKey) -> bool {
        match &key.scope {
            Some(view) => self.scoped.contains(&(key.kind, &*key.name, &**view)),
            None => self.shared.contains(&(key.kind, &*key.name)),
        }
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
mod tests {
    use super::*;

    #[test]
    fn unanswered_resource_is_found_by_a_shared_key_and_by_one_of_its_view() {
        let resource = |kind, name: &str, view: &str| UnansweredResource {
            kind,
            name: name.into(),
            view: view.into(),
        };
        let unanswered = [
            resource(ResourceType::Cluster, "a", "front"),
            resource(ResourceType::Route, "r", "front"),
        ];
        let index = UnansweredIndex::new(&unanswered);
        let contains = |kind, name: &str, scope: Option<&str>| {
            index.contains(&ResourceKey {
                kind,
                name: name.into(),
                scope: scope.map(Into::into),
            })
        };
        assert!(contains(ResourceType::Cluster, "a", None));
        assert!(contains(ResourceType::Route, "r", Some("front")));
        assert!(!contains(ResourceType::Route, "r", Some("back")));
        assert!(!contains(ResourceType::Endpoint, "a", None));
    }
}
