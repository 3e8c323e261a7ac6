//! How long a change took from its source to the last ACK.
//!
//! The engine announces each commit before it makes it, the xDS server reports what proxies answer, and
//! both arrive here in order, so a commit is known before its first ACK. For every commit the tracker
//! waits for each connected proxy that holds a changed resource, then closes the commit's span and keeps
//! the figures for `/debug/changes` and the metrics.
//!
//! Must not influence what is served: a lost message here costs a figure, never a delivery.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use evermesh_proto::{Key, Version};
use evermesh_xds::{Outcome, ProxyId, Registry, Verdict};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::metrics::Metrics;

/// How many finished and unfinished changes `/debug/changes` shows.
const KEPT: usize = 256;
/// When a change that some proxy never answered is given up.
const PATIENCE: Duration = Duration::from_mins(1);

/// What the tracker is told.
#[derive(Debug)]
pub enum Event {
    /// The engine is about to commit.
    Commit(Commit),
    /// A proxy answered.
    Verdict(Verdict, Instant),
}

/// What a commit changes.
#[derive(Debug)]
pub struct Commit {
    /// When the source noticed the change.
    pub noticed: Instant,
    /// What the source saw: files, Cloud Map services.
    pub origins: Vec<Arc<str>>,
    /// Resources that existed before and have another content now.
    pub changed: Vec<(Key, Version)>,
    /// The trace of the change; closed with the last ACK.
    pub span: Span,
}

/// One change, as `/debug/changes` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Change {
    /// Counts up from 1 at every start.
    pub id: u64,
    /// Milliseconds since 1970 at which the source noticed it.
    pub at_ms: u64,
    /// What the source saw.
    pub origins: Vec<Arc<str>>,
    /// Resources with another content.
    pub resources: usize,
    /// Connected proxies that hold one of them.
    pub proxies: usize,
    /// Proxies that have not answered yet.
    pub waiting: usize,
    /// Proxies that refused one of them.
    pub rejected: usize,
    /// From the source to the last answer; absent while proxies are waited for.
    pub acked_ms: Option<f64>,
}

/// The newest changes, oldest first.
#[derive(Debug, Default)]
pub struct Changes(Mutex<VecDeque<Change>>);

impl Changes {
    /// A copy of them all.
    pub fn list(&self) -> Vec<Change> {
        self.0.lock().iter().cloned().collect()
    }

    fn put(&self, change: &Change) {
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

/// Follows commits until the last ACK. Ends when cancelled.
pub async fn track(
    mut events: mpsc::UnboundedReceiver<Event>,
    registry: Arc<Registry>,
    changes: Arc<Changes>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) {
    let mut tracker = Tracker {
        next: 1,
        open: VecDeque::new(),
        registry,
        changes,
        metrics,
    };
    let mut sweep = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            event = events.recv() => match event {
                Some(Event::Commit(commit)) => tracker.commit(commit),
                Some(Event::Verdict(verdict, at)) => tracker.verdict(&verdict, at),
                None => return,
            },
            _ = sweep.tick() => tracker.sweep(),
        }
    }
}

struct Tracker {
    next: u64,
    open: VecDeque<Open>,
    registry: Arc<Registry>,
    changes: Arc<Changes>,
    metrics: Arc<Metrics>,
}

/// A change with proxies still to answer.
struct Open {
    change: Change,
    noticed: Instant,
    versions: BTreeMap<Key, Version>,
    waiting: BTreeSet<(ProxyId, Key)>,
    last: Instant,
    span: Span,
}

impl Tracker {
    fn commit(&mut self, commit: Commit) {
        let versions: BTreeMap<Key, Version> = commit.changed.into_iter().collect();
        let mut waiting = BTreeSet::new();
        self.registry.for_each_holder(versions.keys(), |proxy, key| {
            waiting.insert((proxy, key.clone()));
        });
        let proxies: BTreeSet<ProxyId> = waiting.iter().map(|(proxy, _)| *proxy).collect();
        let age = commit.noticed.elapsed();
        let at = SystemTime::now() - age;
        let change = Change {
            id: self.next,
            at_ms: at
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
            origins: commit.origins,
            resources: versions.len(),
            proxies: proxies.len(),
            waiting: proxies.len(),
            rejected: 0,
            acked_ms: None,
        };
        self.next += 1;
        self.changes.put(&change);
        if !waiting.is_empty() {
            self.open.push_back(Open {
                change,
                noticed: commit.noticed,
                versions,
                waiting,
                last: Instant::now(),
                span: commit.span,
            });
        }
    }

    /// An answer to a version settles that change and, for the same proxy and resource, all before it:
    /// what a proxy skipped it will never answer.
    fn verdict(&mut self, verdict: &Verdict, at: Instant) {
        let pair = (verdict.proxy, verdict.key.clone());
        let Some(newest) = self
            .open
            .iter()
            .rposition(|open| open.versions.get(&verdict.key) == Some(&verdict.version))
        else {
            return;
        };
        for (index, open) in self.open.iter_mut().enumerate().take(newest + 1) {
            if open.waiting.remove(&pair) {
                open.last = open.last.max(at);
                if index == newest && matches!(verdict.outcome, Outcome::Rejected(_)) {
                    open.change.rejected += 1;
                }
                tracing::debug!(parent: &open.span, proxy = %verdict.proxy, resource = %verdict.key.name, "answered");
            }
        }
        self.settle();
    }

    /// Proxies that went, or already have the newest content, are no longer waited for.
    fn sweep(&mut self) {
        for open in &mut self.open {
            let registry = &self.registry;
            open.waiting
                .retain(|(proxy, key)| registry.is_awaiting(*proxy, key));
            if open.noticed.elapsed() > PATIENCE {
                tracing::warn!(parent: &open.span, waiting = open.waiting.len(), "given up waiting for answers");
                open.waiting.clear();
            }
        }
        self.settle();
    }

    /// Closes what nobody is waited for any more.
    fn settle(&mut self) {
        for open in &mut self.open {
            let proxies: BTreeSet<ProxyId> = open.waiting.iter().map(|(proxy, _)| *proxy).collect();
            if proxies.len() == open.change.waiting && !open.waiting.is_empty() {
                continue;
            }
            open.change.waiting = proxies.len();
            if open.waiting.is_empty() {
                let took = open.last.saturating_duration_since(open.noticed);
                open.change.acked_ms = Some(took.as_secs_f64() * 1e3);
                open.span.record("acked_ms", took.as_secs_f64() * 1e3);
                open.span.record("rejected", open.change.rejected);
                self.metrics.change(took);
            }
            self.changes.put(&open.change);
        }
        self.open.retain(|open| !open.waiting.is_empty());
    }
}
