//! Collects the facts from which the status of an object is made: its problems, the ACK counts of all replicas, and the
//! replicas that have not reported.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_model::{FieldPath, ObjectRef, Problem, Reason};

use super::StatusWriter;
use crate::{
    effect::{condition::ProxyCounts, lease::Leader},
    engine::EngineSnapshot,
};

impl StatusWriter {
    /// Updates the replicas that have not reported; if they changed, every status may change. Returns whether this
    /// replica is the leader.
    pub(super) fn update_silent_replicas(&mut self) -> bool {
        let silent = match &*self.leader.borrow() {
            Leader::Us { others } => Some(self.peers.missing(others)),
            _ => None,
        };
        let leads = silent.is_some();
        let silent = silent.unwrap_or_default();
        if silent != self.silent_replicas {
            self.silent_replicas = silent;
            self.enqueue_all();
        }
        leads
    }

    /// Adds every observed object to the backlog.
    pub(super) fn enqueue_all(&mut self) {
        let all = self.observed.all();
        self.backlog
            .extend(all.into_iter().map(|(object, _)| object));
    }

    /// Groups the snapshot's problems by object and marks the objects whose problems changed.
    pub(super) fn update_problems(&mut self, snapshot: &EngineSnapshot) {
        if Arc::ptr_eq(&self.grouped_problems, &snapshot.problems) {
            return;
        }
        let mut problems: BTreeMap<ObjectRef, Vec<Problem>> = BTreeMap::new();
        for problem in snapshot.problems.iter() {
            if let Some(object) = &problem.object {
                problems
                    .entry(object.clone())
                    .or_default()
                    .push(problem.clone());
            }
        }
        let changed = problems
            .iter()
            .filter(|(object, problems)| self.problems.get(*object) != Some(*problems))
            .chain(
                self.problems
                    .iter()
                    .filter(|(object, _)| !problems.contains_key(*object)),
            )
            .map(|(object, _)| object.clone());
        self.dirty.extend(changed.collect::<Vec<_>>());
        self.problems = problems;
        self.grouped_problems = Arc::clone(&snapshot.problems);
    }

    /// The problems of an object, registration in Cloud Map included.
    pub(super) fn problems_of(&self, object: &ObjectRef) -> Vec<Problem> {
        let mut problems = self.problems.get(object).cloned().unwrap_or_default();
        let messages = self.registration_messages.borrow();
        problems.extend(messages.get(object).map(|message| {
            let field = FieldPath::spec().field("serviceDiscovery.awsCloudMap");
            let reason = Reason::CloudMapUnavailable;
            Problem::new(object, field, reason, message.as_str())
        }));
        problems
    }

    /// The sum of the counts of all replicas. A replica that counted other versions than this replica serves adds its
    /// proxies as ones that have not ACKed yet.
    pub(super) fn proxy_counts(&self, object: &ObjectRef) -> ProxyCounts {
        let mut proxies = ProxyCounts::default();
        let mut peers = self.peers.counts_of(object).peekable();
        let digest = peers.peek().map(|_| self.ack_counter.digest(object));
        for count in self.ack_counter.get(object).into_iter().chain(peers) {
            let is_current = digest.as_ref().is_none_or(|digest| *digest == count.digest);
            proxies.concerned += count.concerned;
            let since = [proxies.waiting_since, count.waiting_since];
            proxies.waiting_since = since.into_iter().flatten().min();
            if is_current {
                proxies.acked += count.acked;
                proxies.rejections.extend(count.rejections.iter().cloned());
            }
        }
        proxies
    }
}
