//! Collects the facts from which the status of an object is made: its problems, the ACK counts of all replicas, and the
//! replicas that have not reported.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use evermesh_model::{FieldPath, ObjectRef, Problem, Reason};

use super::StatusWriter;
use crate::{
    effect::{condition::ProxyCounts, lease::Leader},
    engine::EngineSnapshot,
};

impl StatusWriter {
    /// Updates the replicas that have not reported; if they changed, every status may change.
    pub(super) fn update_silent_replicas(&mut self) {
        let silent = match &*self.leader.borrow() {
            Leader::Us { others, .. } => self.peers.missing(others),
            Leader::Unknown | Leader::Other { .. } => BTreeSet::new(),
        };
        if silent != self.silent_replicas {
            self.silent_replicas = silent;
            self.enqueue_all();
        }
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

    /// Marks those of the objects whose counts changed that have a status with other counts.
    pub(super) fn note_counts(&mut self, counted: Vec<ObjectRef>) {
        for object in counted {
            let counts = self.proxy_counts(&object);
            let digest = self.ack_counter.digest(&object);
            if !self.steady_counts.is_shown(&object, digest, &counts) {
                self.dirty.extend([object]);
            }
        }
    }

    /// The counts to show. Those that are kept for a proxy that may come back are looked at again after a while.
    pub(super) fn shown_counts(&mut self, object: &ObjectRef) -> ProxyCounts {
        let counts = self.proxy_counts(object);
        let digest = self.ack_counter.digest(object);
        let (shown, is_kept) = self
            .steady_counts
            .show(object, digest, counts, Instant::now());
        if is_kept {
            self.deferred.insert(object.clone());
        }
        shown
    }

    /// The sum of the counts of all replicas. A replica that counted other versions than this replica serves adds its
    /// proxies as ones that have not ACKed yet, and that wait since this replica committed its versions.
    pub(super) fn proxy_counts(&self, object: &ObjectRef) -> ProxyCounts {
        let mut proxies = ProxyCounts::default();
        let mut peers = self.peers.counts_of(object).peekable();
        let digest = peers.peek().map(|_| self.ack_counter.digest(object));
        for count in self.ack_counter.get(object).into_iter().chain(peers) {
            let is_current = digest.as_ref().is_none_or(|digest| *digest == count.digest);
            proxies.concerned += count.concerned;
            let committed_at = if is_current {
                None
            } else {
                self.ack_counter.changed_at(object)
            };
            let since = [proxies.waiting_since, count.waiting_since, committed_at];
            proxies.waiting_since = since.into_iter().flatten().min();
            if is_current {
                proxies.acked += count.acked;
                proxies.rejections.extend(count.rejections.iter().cloned());
            }
            proxies.withheld.add(&count.withheld);
        }
        proxies
    }
}

#[cfg(test)]
mod tests {
    use std::{slice, time::Duration};

    use evermesh_model::Kind;
    use evermesh_proto::{Resource, ResourceKey, ResourceType};
    use k8s_openapi::jiff::Timestamp;
    use serde_json::{Value, json};
    use tokio::time::{Instant, advance};

    use super::*;
    use crate::effect::{
        EffectInbox,
        ack_count::AckCount,
        peers::PeerEvent,
        presence::Replicas,
        registration::RegistrationMessages,
        status::fixture::{Fixture, fixture, observed},
        term::LeaseTerm,
        unreachable_client,
        write::PatchSender,
    };

    fn route() -> ObjectRef {
        ObjectRef::new(Kind::Route, "n", "r")
    }

    fn problem(object: &ObjectRef) -> Problem {
        let reason = Reason::ReferenceNotFound;
        Problem::new(object, FieldPath::spec(), reason, "no such node")
    }

    /// A count of the current version by two proxies, which ACKed it.
    fn two_acks(writer: &StatusWriter) -> AckCount {
        AckCount {
            digest: writer.ack_counter.digest(&route()),
            concerned: 2,
            acked: 2,
            ..AckCount::default()
        }
    }

    fn report(writer: &mut StatusWriter, stream: u64, count: AckCount) {
        let replica = stream.to_string();
        writer.record_peer_event(PeerEvent::Connected { stream, replica });
        let counts = vec![(route(), Some(count))];
        writer.record_peer_event(PeerEvent::Counts { stream, counts });
    }

    #[tokio::test]
    async fn report_about_other_versions_adds_no_acks() {
        let mut writer = fixture().writer;
        let current = two_acks(&writer);
        report(&mut writer, 1, current.clone());
        let proxies = writer.proxy_counts(&route());
        assert_eq!((proxies.acked, proxies.concerned), (2, 2));

        let outdated = AckCount {
            digest: "other".to_owned(),
            rejections: vec![("node".to_owned(), "rejected".to_owned())],
            ..current
        };
        report(&mut writer, 2, outdated);
        let proxies = writer.proxy_counts(&route());
        assert_eq!((proxies.acked, proxies.concerned), (2, 4));
        assert_eq!(proxies.rejections, []);
    }

    #[tokio::test]
    async fn report_about_other_versions_may_still_be_followed_by_another() {
        let mut writer = fixture().writer;
        let count = AckCount {
            digest: writer.ack_counter.digest(&route()),
            concerned: 2,
            acked: 2,
            ..AckCount::default()
        };
        report(&mut writer, 1, count);
        let (kind, name) = (ResourceType::Cluster, Arc::from("c"));
        let resource = Resource::from_encoded(kind, Arc::clone(&name), "".into());
        let resource = resource.with_origins([Arc::from("Route/n/r")]);
        let key = ResourceKey {
            kind,
            name,
            scope: None,
        };
        let inbox = EffectInbox::default();
        inbox.committed(vec![(key, Arc::new(resource))], Vec::new(), Vec::new());
        writer.ack_counter.record(inbox.take());
        let proxies = writer.proxy_counts(&route());
        assert_eq!((proxies.acked, proxies.concerned), (0, 2));
        let committed_at = proxies.waiting_since.unwrap();
        assert!(proxies.may_still_answer(committed_at));
    }

    #[tokio::test]
    async fn counts_are_kept_for_a_proxy_between_two_streams_and_looked_at_again() {
        let mut writer = fixture().writer;
        let digest = writer.ack_counter.digest(&route());
        let count = |proxies| AckCount {
            digest: digest.clone(),
            concerned: proxies,
            acked: proxies,
            ..AckCount::default()
        };
        report(&mut writer, 1, count(2));
        assert_eq!(writer.shown_counts(&route()).acked, 2);
        assert!(writer.deferred.is_empty());
        let counts = vec![(route(), Some(count(1)))];
        writer.record_peer_event(PeerEvent::Counts { stream: 1, counts });
        assert_eq!(writer.shown_counts(&route()).acked, 2);
        assert!(writer.deferred.contains(&route()));
        // The proxy has connected to another replica.
        report(&mut writer, 2, count(1));
        writer.deferred.clear();
        assert_eq!(writer.shown_counts(&route()).acked, 2);
        assert!(writer.deferred.is_empty());
    }

    #[tokio::test]
    async fn status_is_made_anew_only_for_other_counts_than_it_shows() {
        let mut writer = fixture().writer;
        let current = two_acks(&writer);
        report(&mut writer, 1, current.clone());
        assert_eq!(writer.dirty.take(9), [route()]);
        writer.shown_counts(&route());
        let mut next = |count| {
            let counts = vec![(route(), Some(count))];
            writer.record_peer_event(PeerEvent::Counts { stream: 1, counts });
            writer.dirty.take(9)
        };
        assert_eq!(next(current.clone()), []);
        let outdated = AckCount {
            digest: "other".to_owned(),
            ..current
        };
        assert_eq!(next(outdated), [route()]);
    }

    #[tokio::test]
    async fn replicas_without_a_report_are_silent_on_the_leader_only() {
        let Fixture {
            mut writer, leader, ..
        } = fixture();
        writer.update_silent_replicas();
        assert!(writer.silent_replicas.is_empty());
        let others = Replicas::from([("1".to_owned(), String::new())]);
        let term = LeaseTerm::until(Instant::now() + Duration::from_secs(4));
        leader.send_replace(Leader::Us { others, term });
        writer.update_silent_replicas();
        assert!(writer.silent_replicas.contains("1"));
        report(&mut writer, 1, AckCount::default());
        writer.update_silent_replicas();
        assert!(writer.silent_replicas.is_empty());
    }

    #[tokio::test]
    async fn object_that_was_deleted_leaves_nothing_behind() {
        let mut writer = fixture().writer;
        let sender = Arc::new(PatchSender::new(unreachable_client(), "this"));
        writer.deferred.insert(route());
        writer.undeferred.insert(route());
        writer.dirty.extend([route()]);
        writer.start_writes(&EngineSnapshot::default(), &sender);
        assert!(writer.deferred.is_empty());
        assert!(writer.undeferred.is_empty());
    }

    #[tokio::test]
    async fn only_objects_whose_problems_changed_become_dirty() {
        let mut writer = fixture().writer;
        let (a, b) = (route(), ObjectRef::new(Kind::Route, "n", "b"));
        let with = |problems: Vec<Problem>| EngineSnapshot {
            problems: problems.into(),
            ..EngineSnapshot::default()
        };
        writer.update_problems(&with(vec![problem(&a), problem(&b)]));
        assert_eq!(writer.dirty.take(9), [b.clone(), a.clone()]);
        writer.update_problems(&with(vec![problem(&b)]));
        assert_eq!(writer.dirty.take(9), slice::from_ref(&a));
        assert_eq!(writer.problems_of(&a), []);
        assert_eq!(writer.problems_of(&b), [problem(&b)]);
    }

    #[tokio::test(start_paused = true)]
    async fn first_status_waits_for_what_is_missing_and_later_ones_do_not() {
        let mut writer = fixture().writer;
        let snapshot = EngineSnapshot {
            problems: vec![problem(&route())].into(),
            ..EngineSnapshot::default()
        };
        writer.update_problems(&snapshot);
        let patch = |writer: &mut StatusWriter, status| {
            let observed = observed(status);
            writer.patch_for(
                &route(),
                &observed,
                ProxyCounts::default(),
                Timestamp::UNIX_EPOCH,
            )
        };
        assert!(patch(&mut writer, Value::Null).is_none());
        writer.dirty.take(9);
        writer.sweep(false);
        assert_eq!(
            writer.dirty.take(9),
            [route()],
            "the route is not forgotten"
        );
        let good = json!({"conditions": [{"type": "RouteActive", "status": "True"}]});
        let later = patch(&mut writer, good).unwrap();
        assert!(later.transitions[0].is_warning);

        assert!(patch(&mut writer, Value::Null).is_none());
        advance(Duration::from_secs(5)).await;
        let late = patch(&mut writer, Value::Null).unwrap();
        assert!(late.transitions[0].is_warning);

        writer.update_problems(&EngineSnapshot::default());
        let quiet = patch(&mut writer, Value::Null).unwrap();
        assert_eq!(quiet.transitions, []);
    }

    #[tokio::test]
    async fn registration_message_becomes_a_problem() {
        let Fixture {
            writer, messages, ..
        } = fixture();
        let node = ObjectRef::new(Kind::VirtualNode, "n", "v");
        let message = "Cloud Map did not answer".to_owned();
        let failed = RegistrationMessages::from([(node.clone(), message.clone())]);
        messages.send_replace(Arc::new(failed));
        let problems = writer.problems_of(&node);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].reason, Reason::CloudMapUnavailable);
        assert_eq!(problems[0].message, message);
        let field = problems[0].field.as_str();
        assert_eq!(field, "spec.serviceDiscovery.awsCloudMap");
    }
}
