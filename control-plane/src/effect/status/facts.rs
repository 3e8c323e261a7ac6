//! What the writer knows of an object: who is unheard, what is wrong, what proxies made of it.
//!
//! Must not write.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_model::{FieldPath, ObjectRef, Problem, Reason};

use super::StatusWriter;
use crate::{
    effect::{condition::ProxyCounts, lease::Leader},
    engine::EngineSnapshot,
};

impl StatusWriter {
    /// Who is missing; whether this replica leads. Who no longer is may have been all that was waited for.
    pub(super) fn take_unheard(&mut self) -> bool {
        let unheard = match &*self.leader.borrow() {
            Leader::Us { others } => Some(self.peers.missing(others)),
            _ => None,
        };
        let leads = unheard.is_some();
        let unheard = unheard.unwrap_or_default();
        if unheard != self.unheard {
            self.unheard = unheard;
            self.look_at_all();
        }
        leads
    }

    /// Every object is to be looked at once, when there is nothing newer.
    pub(super) fn look_at_all(&mut self) {
        let all = self.observed.all();
        self.backlog
            .extend(all.into_iter().map(|(object, _)| object));
    }

    pub(super) fn take_problems(&mut self, published: &EngineSnapshot) {
        if Arc::ptr_eq(&self.problems_of, &published.problems) {
            return;
        }
        let mut problems: BTreeMap<ObjectRef, Vec<Problem>> = BTreeMap::new();
        for problem in published.problems.iter() {
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
        self.problems_of = Arc::clone(&published.problems);
    }

    /// What is wrong with an object.
    pub(super) fn problems_of(&self, object: &ObjectRef) -> Vec<Problem> {
        let mut problems = self.problems.get(object).cloned().unwrap_or_default();
        problems.extend(self.unregistered.borrow().get(object).map(|message| {
            let field = FieldPath::spec().field("serviceDiscovery.awsCloudMap");
            let reason = Reason::CloudMapUnavailable;
            Problem::new(object, field, reason, message.as_str())
        }));
        problems
    }

    /// What the proxies of all replicas made of an object. What another replica says of other versions than ours says
    /// only that its proxies do not have ours yet.
    pub(super) fn proxies(&self, object: &ObjectRef) -> ProxyCounts {
        let mut proxies = ProxyCounts::default();
        let mut peers = self.peers.of(object).peekable();
        let digest = peers.peek().map(|_| self.tally.digest(object));
        for count in self.tally.get(object).into_iter().chain(peers) {
            let is_of_ours = digest.as_ref().is_none_or(|digest| *digest == count.digest);
            proxies.concerned += count.concerned;
            let since = [proxies.waiting_since, count.waiting_since];
            proxies.waiting_since = since.into_iter().flatten().min();
            if is_of_ours {
                proxies.acked += count.acked;
                proxies.refusals.extend(count.refusals.iter().cloned());
            }
        }
        proxies
    }
}
