//! Writes the status of mesh objects, on the leader only.
//!
//! Input: the engine's snapshots, this replica's [`AckCounter`], the reports of other replicas ([`Peers`]), and the
//! objects that the API server holds. Output: patches of `status`, events, and patches that remove old finalizers. On a
//! replica that is not the leader, the same task reports the counts to the leader.
//!
//! Objects whose status may have changed are collected in queues and processed every 30 ms:
//!
//! - An object waits until the engine's snapshot covers its newest generation ([`WatchPosition`]).
//! - A status that would only repeat itself is not written.
//! - A status in which only counts or messages differ is written at most every 5 s.
//! - Writes are sent in the background ([`OpenWrites`]), by the client of the leader's [`LeaseTerm`]. A status carries the
//!   `resourceVersion` of the object that it was made for, so the API server rejects one that comes too late.
//! - A proxy that is between two streams does not change a status ([`SteadyCounts`]).
//! - The first status of an object waits some seconds for objects to which this one refers ([`Arrivals`]).
//!
//! [`WatchPosition`]: crate::source::kubernetes::WatchPosition

mod arrivals;
mod facts;
mod finalizers;
#[cfg(test)]
mod fixture;
mod steady;
#[cfg(test)]
mod tests;
mod writes;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use evermesh_model::{ObjectRef, Problem};
use evermesh_xds::ProxyRegistry;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time,
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::finalizers::is_old_finalizer;
use self::{arrivals::Arrivals, steady::SteadyCounts, writes::OpenWrites};
use super::{
    EffectInbox,
    ack_count::AckCounter,
    condition::{self, Facts, ProxyCounts},
    graph_fields::GraphFieldIndex,
    key::ReplicaKey,
    lease::Leader,
    peers::{PeerClient, PeerEvent, Peers},
    queue::ObjectQueue,
    registration::RegistrationMessages,
    term::LeaseTerm,
    write::{ObjectPatch, PatchSender},
};
use crate::{
    engine::EngineSnapshot,
    liveness::WorkClock,
    source::kubernetes::{ObservedObject, ObservedObjects},
    throttle::LogThrottle,
};

/// Time from the first change to the round that processes it, and between the rounds while objects are queued. Most
/// proxies answer a commit within it, so that most commits cost one round, which does not compete with their delivery.
const GATHER_TIME: Duration = Duration::from_millis(30);
/// Interval at which the registry is compared with the connected proxies of the last sweep.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Number of sweeps between writes that are not urgent: changed counts and retries.
const SWEEPS_PER_DEFERRED_WRITE: u64 = 5;
/// Objects processed per round.
const OBJECTS_PER_ROUND: usize = 64;
/// Time for which a new leader collects reports before its first write. A leader whose term ended and that has the
/// reports of all replicas, because none of them has followed another leader, goes on at once.
const REPORT_TIME: Duration = Duration::from_secs(3);

pub(crate) struct StatusWriterOptions {
    pub(crate) snapshots: watch::Receiver<Arc<EngineSnapshot>>,
    pub(crate) registry: Arc<ProxyRegistry>,
    pub(crate) observed: Arc<ObservedObjects>,
    /// Identity of this replica.
    pub(crate) identity: String,
    /// Key of this replica, as shown to the leader.
    pub(crate) key: ReplicaKey,
    pub(crate) leader: watch::Receiver<Leader>,
    /// Whether pods are registered in Cloud Map. If so, registration removes its own finalizer.
    pub(crate) registers: bool,
    /// Problems of Cloud Map registration.
    pub(crate) registration_messages: watch::Receiver<Arc<RegistrationMessages>>,
    /// Region in ARNs.
    pub(crate) region: String,
    /// Account in ARNs.
    pub(crate) account: String,
    /// Marks of the writer, for `/livez`.
    pub(crate) work: Arc<WorkClock>,
}

/// Writes statuses until `shutdown`. `peer_events` are the reports of other replicas, which arrive only on the leader.
pub(crate) async fn run(
    client: Client,
    options: StatusWriterOptions,
    inbox: Arc<EffectInbox>,
    mut peer_events: mpsc::Receiver<PeerEvent>,
    shutdown: CancellationToken,
) {
    let work = Arc::clone(&options.work);
    let mut writer = StatusWriter::new(client, options);
    let mut sweeps = time::interval(SWEEP_INTERVAL);
    sweeps.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let mut count = 0;
    // Time of the next round; `None` while nothing is to be done.
    let mut round = None;
    let soon = || time::Instant::now() + GATHER_TIME;
    loop {
        // Each sweep ends a wait, so a writer that has nothing to do begins again and again.
        work.begin();
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(event) = peer_events.recv() => {
                writer.record_peer_event(event);
                round.get_or_insert_with(soon);
            }
            Some(ended) = writer.writes.next_ended() => {
                writer.record_write(ended);
                if writer.has_queued() {
                    round = Some(time::Instant::now());
                }
            }
            _ = sweeps.tick() => {
                count += 1;
                writer.sweep(count % SWEEPS_PER_DEFERRED_WRITE == 0);
                round = Some(time::Instant::now());
            }
            () = inbox.filled(), if round.is_none() => round = Some(soon()),
            Ok(()) = writer.snapshots.changed(), if round.is_none() => round = Some(soon()),
            () = until(round) => {
                let snapshot = Arc::clone(&writer.snapshots.borrow_and_update());
                // The engine leaves a commit before it publishes the snapshot, so the inbox has all commits of it.
                writer.ack_counter.record(inbox.take());
                writer.process(&snapshot);
                let may_go_on = writer.has_queued() && !writer.writes.is_full();
                round = may_go_on.then(soon);
            }
        }
    }
}

/// Waits until this time, or for ever.
async fn until(time: Option<time::Instant>) {
    match time {
        Some(time) => time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

struct StatusWriter {
    client: Client,
    snapshots: watch::Receiver<Arc<EngineSnapshot>>,
    observed: Arc<ObservedObjects>,
    identity: String,
    key: ReplicaKey,
    leader: watch::Receiver<Leader>,
    /// The term in which this replica is the leader, and what it writes with.
    leadership: Option<Leadership>,
    leader_log: LogThrottle,
    /// Whether this replica was the leader before.
    has_led: bool,
    writes: OpenWrites,
    failure_log: LogThrottle,
    registers: bool,
    registration_messages: watch::Receiver<Arc<RegistrationMessages>>,
    /// Value of `registration_messages` when it was last processed.
    last_registration_messages: Arc<RegistrationMessages>,
    ack_counter: AckCounter,
    /// Replicas whose proxies count and that have not reported, when last processed.
    silent_replicas: BTreeSet<String>,
    peers: Peers,
    peer_client: PeerClient,
    graph_fields: GraphFieldIndex,
    /// Objects whose status may have to change.
    dirty: ObjectQueue,
    /// Objects to process when `dirty` is empty: all objects when this replica becomes the leader, and deferred ones.
    backlog: ObjectQueue,
    /// Objects of whose status only counts or messages would change, and objects whose patch failed.
    deferred: BTreeSet<ObjectRef>,
    /// Formerly deferred objects that may be written now.
    undeferred: BTreeSet<ObjectRef>,
    steady_counts: SteadyCounts,
    arrivals: Arrivals,
    problems: BTreeMap<ObjectRef, Vec<Problem>>,
    /// The list from which `problems` was grouped.
    grouped_problems: Arc<[Problem]>,
    /// Statuses that were written and that the watch has not reported yet, with their resource versions.
    written: BTreeMap<ObjectRef, (Value, u64)>,
}

struct Leadership {
    term: LeaseTerm,
    writes_from: time::Instant,
    sender: Arc<PatchSender>,
}

impl StatusWriter {
    fn new(client: Client, options: StatusWriterOptions) -> Self {
        let StatusWriterOptions {
            snapshots,
            registry,
            observed,
            identity,
            key,
            leader,
            registers,
            registration_messages,
            region,
            account,
            work: _,
        } = options;
        Self {
            client,
            snapshots,
            observed,
            identity,
            key,
            leader,
            leadership: None,
            leader_log: LogThrottle::once_a_minute(),
            has_led: false,
            writes: OpenWrites::default(),
            failure_log: LogThrottle::once_a_minute(),
            registers,
            registration_messages,
            last_registration_messages: Arc::default(),
            silent_replicas: BTreeSet::new(),
            ack_counter: AckCounter::new(registry),
            peers: Peers::default(),
            peer_client: PeerClient::default(),
            graph_fields: GraphFieldIndex::new(region, account),
            dirty: ObjectQueue::default(),
            backlog: ObjectQueue::default(),
            deferred: BTreeSet::new(),
            undeferred: BTreeSet::new(),
            steady_counts: SteadyCounts::default(),
            arrivals: Arrivals::default(),
            problems: BTreeMap::new(),
            grouped_problems: Arc::default(),
            written: BTreeMap::new(),
        }
    }

    fn record_peer_event(&mut self, event: PeerEvent) {
        let counted = self.peers.apply(event, Instant::now());
        self.note_counts(counted);
    }

    /// Updates everything that depends on time or on connections, and keeps the connection to the leader open.
    fn sweep(&mut self, is_deferred_write_due: bool) {
        self.ack_counter
            .sweep(SystemTime::now(), is_deferred_write_due);
        let counted = self.peers.expire(Instant::now());
        self.note_counts(counted);
        self.dirty.extend(self.arrivals.waiting());
        if is_deferred_write_due {
            let deferred = std::mem::take(&mut self.deferred);
            self.backlog.extend(deferred.iter().cloned());
            self.undeferred.extend(deferred);
        }
        let Leader::Other {
            identity,
            address: Some(address),
        } = &*self.leader.borrow()
        else {
            self.peer_client.disconnect();
            return;
        };
        if self.peer_client.is_connected_to(identity) {
            self.peer_client.send(std::iter::empty());
        } else {
            let this_replica = (self.identity.as_str(), &self.key);
            self.peer_client.connect(identity, *address, this_replica);
            let all = self.ack_counter.all();
            self.peer_client
                .send(all.map(|(object, count)| (object, Some(count))));
        }
    }

    /// Recounts, reports to the leader, and, on the leader, writes the statuses of the next objects in the queues.
    fn process(&mut self, snapshot: &EngineSnapshot) {
        let recounted = self.ack_counter.recount(SystemTime::now());
        if !recounted.is_empty() {
            let counts = recounted
                .iter()
                .map(|object| (object, self.ack_counter.get(object)));
            self.peer_client.send(counts);
        }
        let observed = self.observed.take_changed();
        self.update_leadership();
        if self.leadership.is_none() {
            return;
        }
        self.dirty.extend(observed);
        self.note_counts(recounted);
        self.update_problems(snapshot);
        self.update_registration_messages();
        self.update_silent_replicas();
        self.dirty.extend(self.graph_fields.update(&snapshot.graph));
        let Some(leadership) = &self.leadership else {
            return;
        };
        if time::Instant::now() < leadership.writes_from || !snapshot.waiting_for.is_empty() {
            // Objects that change later are processed first.
            self.backlog.append(&mut self.dirty);
            leadership.term.note_pending(false);
            return;
        }
        let (term, sender) = (leadership.term.clone(), Arc::clone(&leadership.sender));
        self.start_writes(snapshot, &sender);
        term.note_pending(self.writes.are_pending());
    }

    /// Whether objects wait for a round.
    fn has_queued(&self) -> bool {
        !self.dirty.is_empty() || !self.backlog.is_empty()
    }

    fn update_registration_messages(&mut self) {
        let messages = Arc::clone(&self.registration_messages.borrow_and_update());
        if !Arc::ptr_eq(&messages, &self.last_registration_messages) {
            let last =
                std::mem::replace(&mut self.last_registration_messages, Arc::clone(&messages));
            let affected = last.keys().chain(messages.keys()).cloned();
            self.dirty.extend(affected);
        }
    }

    /// Takes note of a change of leadership. Writes of an earlier term are dropped.
    fn update_leadership(&mut self) {
        let (term, has_all_reports) = match &*self.leader.borrow() {
            Leader::Us { others, term } if term.is_current() => {
                (Some(term.clone()), self.peers.are_connected(others))
            }
            _ => (None, false),
        };
        let last = self.leadership.as_ref().map(|it| &it.term);
        if term.is_some() && term.as_ref() == last {
            return;
        }
        self.writes = OpenWrites::default();
        self.dirty = ObjectQueue::default();
        self.backlog = ObjectQueue::default();
        self.deferred.clear();
        self.written.clear();
        self.steady_counts.clear();
        self.arrivals.clear();
        if term.is_some() {
            if let Some(suppressed) = self.leader_log.pass() {
                tracing::info!(suppressed, "this replica is the leader and writes statuses");
            }
            self.enqueue_all();
        }
        let report_time = if self.has_led && has_all_reports {
            Duration::ZERO
        } else {
            REPORT_TIME
        };
        self.has_led |= term.is_some();
        self.leadership = term.map(|term| Leadership {
            writes_from: time::Instant::now() + report_time,
            sender: Arc::new(PatchSender::new(term.client(&self.client), &self.identity)),
            term,
        });
    }

    /// Computes the statuses of the next objects in the queues, and writes those that differ.
    fn start_writes(&mut self, snapshot: &EngineSnapshot, sender: &Arc<PatchSender>) {
        let now = Timestamp::now();
        let mut later = Vec::new();
        for _ in 0..OBJECTS_PER_ROUND {
            if !self.writes.may_start() {
                break;
            }
            let Some(object) = self.dirty.take_one().or_else(|| self.backlog.take_one()) else {
                break;
            };
            if self.writes.is_open(&object) {
                later.push(object);
                continue;
            }
            self.writes.begin(&object);
            let Some(observed) = self.observed.get(&object) else {
                self.written.remove(&object);
                self.deferred.remove(&object);
                self.undeferred.remove(&object);
                self.steady_counts.forget(&object);
                self.arrivals.forget(&object);
                continue;
            };
            let position = observed.position;
            let processed = snapshot.watch_positions.get(&position.watch).copied();
            if processed.unwrap_or_default() < position.count {
                later.push(object);
                continue;
            }
            let proxies = self.shown_counts(&object);
            if !observed.deleting && proxies.may_still_answer(now) {
                later.push(object);
                continue;
            }
            if let Some(patch) = self.patch_for(&object, &observed, proxies, now) {
                self.writes.start(patch, Arc::clone(sender));
            }
        }
        self.dirty.extend(later);
    }

    /// The patch that an object needs now, if any.
    fn patch_for(
        &mut self,
        object: &ObjectRef,
        observed: &ObservedObject,
        proxies: ProxyCounts,
        now: Timestamp,
    ) -> Option<ObjectPatch> {
        if observed.deleting {
            return self.without_old_finalizers(object, observed);
        }
        let observed_version: u64 = observed.version.parse().unwrap_or(u64::MAX);
        let written = self.written.get(object);
        if written.is_some_and(|(_, version)| *version <= observed_version) {
            self.written.remove(object);
        }
        let (current, version) = match self.written.get(object) {
            Some((status, version)) => (status, version.to_string()),
            None => (&observed.status, observed.version.clone()),
        };
        let problems = self.problems_of(object);
        if condition::has_status(object.kind, current) {
            self.arrivals.forget(object);
        } else if self.arrivals.holds(object, &problems, time::Instant::now()) {
            return None;
        }
        let fields = self.graph_fields.get(object);
        let is_served = fields.is_some();
        let fields = fields.unwrap_or_default();
        let facts = Facts {
            generation: observed.generation,
            problems,
            proxies,
            is_served,
            arn: fields.arn,
            route_arns: fields.route_arns,
            weights: fields.weights,
            silent_replica: self.silent_replicas.first().cloned(),
        };
        let status = condition::status(object.kind, &facts, current, now)?;
        let is_undeferred = self.undeferred.remove(object);
        if status == *current {
            return None;
        }
        let can_wait = condition::differs_in_messages_only(current, &status);
        if can_wait && !is_undeferred {
            self.deferred.insert(object.clone());
            return None;
        }
        Some(ObjectPatch {
            object: object.clone(),
            uid: observed.uid.clone(),
            transitions: condition::transitions(current, &status),
            patch: json!({"metadata": {"resourceVersion": version}, "status": status}),
            is_status: true,
        })
    }
}
