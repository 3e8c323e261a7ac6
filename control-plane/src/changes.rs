//! How long a change took from its source to the last ACK.
//!
//! The engine announces each commit before it makes it, the xDS server reports what proxies answer, and
//! both arrive here in order, so a commit is known before its first ACK. For every commit the tracker
//! waits for an answer of each stream that held a changed resource, then closes the commit's span and
//! keeps the figures for `/debug/changes` and the metrics.
//!
//! Must not influence what is served: a lost message here costs a figure, never a delivery.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use evermesh_proto::{ResourceKey, ContentVersion};
use evermesh_xds::{Delivery, DeliveryOutcome, ProxyId, ProxyRegistry, ProxyStatus};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::metrics::ProcessMetrics;

/// How many changes `/debug/changes` shows.
const KEPT: usize = 256;
/// When a change that some proxy never answered is given up.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often it is looked whether whom we wait for is still there.
const SWEEP: Duration = Duration::from_secs(1);

/// What the tracker is told.
#[derive(Debug)]
pub enum TrackerEvent {
    /// The engine is about to commit.
    Commit(CommitRecord),
    /// A proxy answered, at this moment.
    Delivery(Delivery, Instant),
}

/// What a commit changes.
#[derive(Debug)]
pub struct CommitRecord {
    /// When the source noticed the change.
    pub noticed: Instant,
    /// What the source saw: files, Cloud Map services.
    pub origins: Vec<Arc<str>>,
    /// Resources that are new or have another content.
    pub resources: usize,
    /// Those of them that some stream watches.
    pub awaited: Vec<(ResourceKey, ContentVersion)>,
    /// How many answers that will bring: one for each of these and stream that watches it.
    pub deliveries: usize,
    /// The trace of the change; closed with the last answer.
    pub span: Span,
}

/// One change, as `/debug/changes` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct ChangeRecord {
    /// Counts up from 1 at every start.
    pub id: u64,
    /// When the source noticed it, in milliseconds since 1970.
    pub at_ms: f64,
    /// What the source saw.
    pub origins: Vec<Arc<str>>,
    /// Resources that are new or have another content.
    pub resources: usize,
    /// Answers expected: one for each of these resources and stream that watches it.
    pub deliveries: usize,
    /// Answers that came, refusals among them.
    pub answered: usize,
    /// Refusals.
    pub rejected: usize,
    /// Milliseconds from the source to the last answer; absent while one is waited for.
    pub acked_ms: Option<f64>,
}

/// The newest changes, oldest first.
#[derive(Debug, Default)]
pub struct ChangeLog(Mutex<VecDeque<ChangeRecord>>);

impl ChangeLog {
    /// A copy of them all.
    pub fn list(&self) -> Vec<ChangeRecord> {
        self.0.lock().iter().cloned().collect()
    }

    fn put(&self, change: &ChangeRecord) {
        let mut changes = self.0.lock();
        if let Some(known) = changes.iter_mut().rev().find(|known| known.id == change.id) {
            known.clone_from(change);
            return;
        }
        if changes.len() == KEPT {
            changes.pop_front();
        }
        changes.push_back(change.clone());
    }
}

/// Follows commits until the last answer. Ends when cancelled.
pub async fn track(
    mut events: mpsc::UnboundedReceiver<TrackerEvent>,
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
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            event = events.recv() => match event {
                Some(TrackerEvent::Commit(commit)) => tracker.commit(commit, SystemTime::now()),
                Some(TrackerEvent::Delivery(verdict, at)) => tracker.verdict(&verdict, at),
                None => return,
            },
            _ = sweep.tick() => if tracker.is_late() { tracker.sweep(&registry.proxies()) },
        }
    }
}

struct Tracker {
    last_id: u64,
    /// ChangeLog with answers still to come, oldest first.
    open: VecDeque<Open>,
    changes: Arc<ChangeLog>,
    metrics: Arc<ProcessMetrics>,
}

struct Open {
    change: ChangeRecord,
    noticed: Instant,
    versions: BTreeMap<ResourceKey, ContentVersion>,
    answered: BTreeSet<(ProxyId, ResourceKey)>,
    last: Instant,
    span: Span,
}

impl Tracker {
    fn commit(&mut self, commit: CommitRecord, now: SystemTime) {
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
            self.open.push_back(Open {
                change,
                noticed: commit.noticed,
                versions: commit.awaited.into_iter().collect(),
                answered: BTreeSet::new(),
                last: commit.noticed,
                span: commit.span,
            });
        }
    }

    /// An answer settles the change it is for and, for the same proxy and resource, all before it: a
    /// version that a proxy skipped it will never answer.
    fn verdict(&mut self, verdict: &Delivery, at: Instant) {
        let resource = &verdict.resource;
        let shared = ResourceKey {
            kind: resource.kind,
            name: Arc::clone(&resource.name),
            scope: None,
        };
        let scoped = ResourceKey {
            scope: Some(Arc::clone(&verdict.view)),
            ..shared.clone()
        };
        for key in [shared, scoped] {
            let answers = |open: &Open| open.versions.get(&key) == Some(&resource.version);
            let Some(newest) = self.open.iter().rposition(answers) else {
                continue;
            };
            for (index, open) in self.open.iter_mut().enumerate().take(newest + 1) {
                let concerned = open.versions.contains_key(&key);
                if !concerned || !open.answered.insert((verdict.proxy, key.clone())) {
                    continue;
                }
                open.last = open.last.max(at);
                open.change.answered = open.answered.len();
                if index == newest && matches!(verdict.outcome, DeliveryOutcome::Rejected(_)) {
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

    /// Whether a change has waited for longer than a proxy needs.
    fn is_late(&self) -> bool {
        self.open
            .front()
            .is_some_and(|open| open.noticed.elapsed() > SWEEP)
    }

    /// Closes late changes that nobody will answer any more: proxies left, or were spared a version that
    /// was replaced before it could be sent.
    fn sweep(&mut self, proxies: &[ProxyStatus]) {
        let behind: BTreeSet<(&str, evermesh_proto::ResourceType, &str)> = proxies
            .iter()
            .flat_map(|proxy| {
                let behind = proxy.resources.iter().filter(|resource| {
                    let refused = resource
                        .rejection
                        .as_ref()
                        .map(|rejection| rejection.version);
                    resource.sent != resource.acked && resource.sent != refused
                });
                behind.map(|resource| (&*proxy.view, resource.kind, &*resource.name))
            })
            .collect();
        for open in &mut self.open {
            let waited_for = behind.iter().any(|(view, kind, name)| {
                open.versions.keys().any(|key| {
                    let seen = key.scope.as_deref().is_none_or(|scope| scope == *view);
                    seen && key.kind == *kind && *key.name == **name
                })
            });
            let late = open.noticed.elapsed();
            if late > PATIENCE {
                tracing::warn!(
                    change = open.change.id,
                    "some proxies have not answered for a minute"
                );
            }
            if late > PATIENCE || (late > SWEEP && !waited_for) {
                open.close(&self.metrics);
                self.changes.put(&open.change);
            }
        }
        self.open.retain(|open| open.change.acked_ms.is_none());
    }
}

impl Open {
    fn close(&mut self, metrics: &ProcessMetrics) {
        let took = self.last.saturating_duration_since(self.noticed);
        let milliseconds = took.as_secs_f64() * 1e3;
        self.change.acked_ms = Some(milliseconds);
        self.span.record("acked_ms", milliseconds);
        self.span.record("rejected", self.change.rejected);
        metrics.change(took);
    }
}
