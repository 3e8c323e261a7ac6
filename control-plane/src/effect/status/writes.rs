//! The open writes of the status writer: patches that are sent in the background, so that nothing waits for an answer.
//!
//! Up to [`CONCURRENT_WRITES`] are open at a time, one for each object. While the API server does not answer, or answers
//! that it is overloaded, fewer are started, after pauses that become longer; the next answer ends that.

use std::{collections::BTreeSet, sync::Arc};

use evermesh_model::ObjectRef;
use kube::api::DynamicObject;
use tokio::{task::JoinSet, time::Instant};

use super::StatusWriter;
use crate::{
    effect::write::{ObjectPatch, PatchSender, unless_outdated},
    retry::RetryPauses,
};

/// Concurrent requests to the API server.
const CONCURRENT_WRITES: usize = 8;

/// A write that has ended. The object is `None` if it is gone or has changed meanwhile.
pub(super) struct EndedWrite {
    pub(super) patch: ObjectPatch,
    pub(super) result: kube::Result<Option<DynamicObject>>,
}

#[derive(Default)]
pub(super) struct OpenWrites {
    tasks: JoinSet<EndedWrite>,
    open: BTreeSet<ObjectRef>,
    /// Objects whose last write was not answered.
    unanswered: BTreeSet<ObjectRef>,
    pace: WritePace,
}

/// Decides how many writes may be open.
struct WritePace {
    limit: usize,
    pauses: RetryPauses,
    resumes_at: Option<Instant>,
}

impl Default for WritePace {
    fn default() -> Self {
        Self {
            limit: CONCURRENT_WRITES,
            pauses: RetryPauses::default(),
            resumes_at: None,
        }
    }
}

impl OpenWrites {
    pub(super) fn may_start(&self) -> bool {
        let is_pausing = self.pace.resumes_at.is_some_and(|at| Instant::now() < at);
        !self.is_full() && !is_pausing
    }

    /// Whether the next write can start only when an open one ends.
    pub(super) fn is_full(&self) -> bool {
        self.open.len() >= self.pace.limit
    }

    pub(super) fn is_open(&self, object: &ObjectRef) -> bool {
        self.open.contains(object)
    }

    /// Whether a write is open, or was not answered and has to be repeated.
    pub(super) fn are_pending(&self) -> bool {
        !self.open.is_empty() || !self.unanswered.is_empty()
    }

    /// Forgets that a write of this object was not answered, because its status is computed anew.
    pub(super) fn begin(&mut self, object: &ObjectRef) {
        self.unanswered.remove(object);
    }

    pub(super) fn start(&mut self, patch: ObjectPatch, sender: Arc<PatchSender>) {
        self.open.insert(patch.object.clone());
        self.tasks.spawn(async move {
            let result = unless_outdated(sender.send(&patch).await);
            EndedWrite { patch, result }
        });
    }

    /// The next write that ends; `None` while none is open.
    pub(super) async fn next_ended(&mut self) -> Option<EndedWrite> {
        let ended = self.tasks.join_next().await?.ok()?;
        self.open.remove(&ended.patch.object);
        Some(ended)
    }

    pub(super) fn record_answer(&mut self) {
        self.pace = WritePace::default();
    }

    /// Records that the API server did not answer the write of this object. Writes that fail during a pause were open
    /// before it began, and do not make it longer.
    pub(super) fn record_outage(&mut self, object: ObjectRef) {
        self.unanswered.insert(object);
        let (pace, now) = (&mut self.pace, Instant::now());
        if pace.resumes_at.is_none_or(|at| at <= now) {
            pace.limit = (pace.limit / 2).max(1);
            pace.resumes_at = Some(now + pace.pauses.after_failure());
        }
    }
}

impl StatusWriter {
    pub(super) fn record_write(&mut self, EndedWrite { patch, result }: EndedWrite) {
        let Some(leadership) = self.leadership.as_ref().filter(|it| it.term.is_current()) else {
            return;
        };
        let object = patch.object;
        if !result.as_ref().is_err_and(is_outage) {
            leadership.term.note_answer();
            self.writes.record_answer();
        }
        match result {
            Ok(Some(patched)) if patch.is_status => {
                let version = patched.metadata.resource_version.unwrap_or_default();
                let version = version.parse().unwrap_or_default();
                let status = patch.patch["status"].clone();
                self.written.insert(object, (status, version));
            }
            Ok(_) => {}
            Err(error) => {
                if let Some(suppressed) = self.failure_log.pass() {
                    tracing::warn!(%object, %error, suppressed, "cannot write the object's status or finalizers; trying again");
                }
                self.undeferred.insert(object.clone());
                if is_outage(&error) {
                    self.writes.record_outage(object.clone());
                    self.backlog.extend([object]);
                } else {
                    self.deferred.insert(object);
                }
            }
        }
    }
}

/// Whether the error says nothing about the object: the API server did not answer, is overloaded or failed.
fn is_outage(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 429 || !(400..500).contains(&status.code),
        _ => true,
    }
}
