//! Writes the status of the mesh's objects.
//!
//! What may have changed is noted as it happens, and looked at a few times a second: the newest counts, and what it
//! says already is not written again. An object of which the engine has not taken in the newest generation waits until
//! it has. Every replica counts; the one that leads adds up and writes, the others tell it.
//!
//! Must not write unless this replica leads.

mod facts;
mod finalizers;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use evermesh_model::{ObjectRef, Problem};
use evermesh_xds::{ProxyRegistry, Store};
use futures::{StreamExt, stream};
use k8s_openapi::jiff::Timestamp;
use kube::{Client, api::DynamicObject, runtime::events::Recorder};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time,
};
use tokio_util::sync::CancellationToken;

use super::{
    EffectEvent,
    ack_count::AckCounter,
    condition::{self, Facts, ProxyCounts},
    graph_fields::GraphFieldIndex,
    key::ReplicaKey,
    lease::Leader,
    peers::{PeerClient, PeerEvent, Peers},
    queue::ObjectQueue,
    registration::RegistrationMessages,
    write::{ObjectPatch, written},
};
use crate::{
    engine::EngineSnapshot,
    event::reporter,
    source::kubernetes::{ObservedObject, ObservedObjects},
};

/// How often what has changed is looked at.
const INTERVAL: Duration = Duration::from_millis(50);
/// How often who is connected is looked at.
const SWEEP: Duration = Duration::from_secs(1);
/// Every how many sweeps what is not urgent is written: counts, and what could not be written.
const SLOW: u64 = 5;
/// Writes at a time.
const WRITES: usize = 8;
/// Objects taken up at a look: none waits long behind others, however many there are.
const OBJECTS: usize = 64;
/// How long a new leader listens to the other replicas before it writes.
const LISTENING: Duration = Duration::from_secs(3);

/// What the writer reads, and how it names things.
pub(crate) struct StatusWriterOptions {
    /// The engine's newest turn.
    pub(crate) published: watch::Receiver<Arc<EngineSnapshot>>,
    /// What is served.
    pub(crate) store: Arc<Store>,
    /// Who is connected.
    pub(crate) registry: Arc<ProxyRegistry>,
    /// What the API holds.
    pub(crate) observed: Arc<ObservedObjects>,
    /// Our own name.
    pub(crate) identity: String,
    /// By which whoever leads knows us.
    pub(crate) key: ReplicaKey,
    /// Who may write.
    pub(crate) leader: watch::Receiver<Leader>,
    /// What other replicas tell.
    pub(crate) heard: mpsc::Receiver<PeerEvent>,
    /// Whether pods are registered in Cloud Map: nodes there keep their finalizer until they are not.
    pub(crate) registers: bool,
    /// Nodes whose pods are not registered as they should be, and why.
    pub(crate) unregistered: watch::Receiver<Arc<RegistrationMessages>>,
    /// The region in ARNs.
    pub(crate) region: String,
    /// The account in ARNs.
    pub(crate) account: String,
}

/// Writes until `shutdown`.
pub(crate) async fn run(
    client: Client,
    options: StatusWriterOptions,
    mut notices: mpsc::UnboundedReceiver<EffectEvent>,
    shutdown: CancellationToken,
) {
    let StatusWriterOptions {
        published,
        store,
        registry,
        observed,
        identity,
        key,
        leader,
        mut heard,
        registers,
        unregistered,
        region,
        account,
    } = options;
    let mut writer = StatusWriter {
        recorder: Recorder::new(client.clone(), reporter(identity.clone())),
        client,
        published,
        observed,
        identity,
        key,
        leader,
        leads: None,
        registers,
        unregistered,
        shown: Arc::default(),
        unheard: BTreeSet::new(),
        tally: AckCounter::new(store, registry),
        peers: Peers::default(),
        voice: PeerClient::default(),
        naming: GraphFieldIndex::new(region, account),
        dirty: ObjectQueue::default(),
        backlog: ObjectQueue::default(),
        slow: BTreeSet::new(),
        ripe: BTreeSet::new(),
        problems: BTreeMap::new(),
        problems_of: Arc::default(),
        written: BTreeMap::new(),
    };
    let mut looks = time::interval(INTERVAL);
    looks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let mut sweeps = time::interval(SWEEP);
    sweeps.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    let mut count = 0;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            notice = notices.recv() => match notice {
                Some(notice) => writer.tally.note(notice),
                None => return,
            },
            Some(heard) = heard.recv() => writer.hear(heard),
            _ = sweeps.tick() => {
                count += 1;
                writer.sweep(count % SLOW == 0);
            }
            _ = looks.tick() => {
                let published = Arc::clone(&writer.published.borrow_and_update());
                // What was committed before it was published must be known when it is looked at.
                while let Ok(notice) = notices.try_recv() {
                    writer.tally.note(notice);
                }
                writer.look(&published).await;
            }
        }
    }
}

struct StatusWriter {
    client: Client,
    recorder: Recorder,
    published: watch::Receiver<Arc<EngineSnapshot>>,
    observed: Arc<ObservedObjects>,
    identity: String,
    key: ReplicaKey,
    leader: watch::Receiver<Leader>,
    /// Since when this replica leads, if it does.
    leads: Option<Instant>,
    registers: bool,
    unregistered: watch::Receiver<Arc<RegistrationMessages>>,
    /// What `unregistered` was at the last look.
    shown: Arc<RegistrationMessages>,
    tally: AckCounter,
    /// Replicas whose proxies count and that have told nothing, at the last look.
    unheard: BTreeSet<String>,
    peers: Peers,
    voice: PeerClient,
    naming: GraphFieldIndex,
    /// Objects whose status may have to change.
    dirty: ObjectQueue,
    /// Objects to be looked at once, when there is nothing newer: every one, when a replica begins to lead.
    backlog: ObjectQueue,
    /// Those of which only words would change, and those that could not be written.
    slow: BTreeSet<ObjectRef>,
    /// Those whose words may be written now.
    ripe: BTreeSet<ObjectRef>,
    problems: BTreeMap<ObjectRef, Vec<Problem>>,
    /// The list that `problems` was made from.
    problems_of: Arc<[Problem]>,
    /// What was written and not yet seen again, with its resource version.
    written: BTreeMap<ObjectRef, (Value, u64)>,
}

impl StatusWriter {
    fn hear(&mut self, heard: PeerEvent) {
        self.dirty.extend(self.peers.take(heard, Instant::now()));
    }

    fn sweep(&mut self, is_slow_due: bool) {
        self.tally.sweep(SystemTime::now(), is_slow_due);
        self.dirty.extend(self.peers.forget(Instant::now()));
        if is_slow_due {
            let ripe = std::mem::take(&mut self.slow);
            self.backlog.extend(ripe.iter().cloned());
            self.ripe.extend(ripe);
        }
        let Leader::Other {
            identity,
            address: Some(address),
        } = &*self.leader.borrow()
        else {
            self.voice.hang_up();
            return;
        };
        if self.voice.reaches(identity) {
            self.voice.say(std::iter::empty());
        } else {
            let us = (self.identity.as_str(), &self.key);
            self.voice.call(identity, *address, us);
            let all = self.tally.all();
            self.voice
                .say(all.map(|(object, count)| (object, Some(count))));
        }
    }

    async fn look(&mut self, published: &EngineSnapshot) {
        let counted = self.tally.count(SystemTime::now());
        if !counted.is_empty() {
            let counts = counted
                .iter()
                .map(|object| (object, self.tally.get(object)));
            self.voice.say(counts);
        }
        self.dirty.extend(counted);
        self.dirty.extend(self.observed.take_changed());
        self.take_problems(published);
        let unregistered = Arc::clone(&self.unregistered.borrow_and_update());
        if !Arc::ptr_eq(&unregistered, &self.shown) {
            let shown = std::mem::replace(&mut self.shown, Arc::clone(&unregistered));
            let concerned = shown.keys().chain(unregistered.keys()).cloned();
            self.dirty.extend(concerned);
        }
        let leads = self.take_unheard();
        match (leads, self.leads) {
            (true, None) => {
                tracing::info!("this replica writes status from now on");
                self.leads = Some(Instant::now());
                self.look_at_all();
            }
            (false, _) => {
                self.leads = None;
                self.dirty = ObjectQueue::default();
                self.backlog = ObjectQueue::default();
                self.slow.clear();
                self.written.clear();
                return;
            }
            (true, Some(_)) => {}
        }
        let is_listening = self.leads.is_some_and(|since| since.elapsed() < LISTENING);
        if is_listening || !published.waiting_for.is_empty() {
            // It is old news by then.
            self.backlog.append(&mut self.dirty);
            return;
        }
        let mut objects = self.dirty.take(OBJECTS);
        objects.extend(self.backlog.take(OBJECTS - objects.len()));
        if objects.is_empty() {
            return;
        }
        self.naming.follow(&published.graph);
        let now = Timestamp::now();
        let mut later = Vec::new();
        let mut writes = Vec::new();
        for object in objects {
            let Some(observation) = self.observed.get(&object) else {
                self.written.remove(&object);
                continue;
            };
            let place = observation.place;
            let seen = published.places.get(&place.watch).copied();
            if seen.unwrap_or_default() < place.count {
                later.push(object);
                continue;
            }
            let proxies = self.proxies(&object);
            if !observation.deleting && proxies.may_still_answer(now) {
                later.push(object);
                continue;
            }
            writes.extend(self.due(&object, &observation, proxies, now));
        }
        self.dirty.extend(later);
        self.write(writes).await;
    }

    /// What has to be written of an object, if anything.
    fn due(
        &mut self,
        object: &ObjectRef,
        observation: &ObservedObject,
        proxies: ProxyCounts,
        now: Timestamp,
    ) -> Option<ObjectPatch> {
        if observation.deleting {
            return self.without_old_finalizers(object, observation);
        }
        let seen: u64 = observation.version.parse().unwrap_or(u64::MAX);
        let written = self.written.get(object);
        if written.is_some_and(|(_, version)| *version <= seen) {
            self.written.remove(object);
        }
        let current = self
            .written
            .get(object)
            .map_or(&observation.status, |(status, _)| status);
        let named = self.naming.of(object);
        let facts = Facts {
            generation: observation.generation,
            problems: self.problems_of(object),
            proxies,
            arn: named.arn,
            route_arns: named.route_arns,
            weights: named.weights,
            unheard: self.unheard.first().cloned(),
        };
        let status = condition::status(object.kind, &facts, current, now)?;
        let is_ripe = self.ripe.remove(object);
        if status == *current {
            return None;
        }
        let can_wait = condition::differs_in_words_only(current, &status);
        if can_wait && !is_ripe {
            self.slow.insert(object.clone());
            return None;
        }
        Some(ObjectPatch {
            object: object.clone(),
            uid: observation.uid.clone(),
            turns: condition::turns(current, &status),
            patch: json!({"status": status}),
            is_status: true,
        })
    }

    async fn write(&mut self, writes: Vec<ObjectPatch>) {
        let (client, recorder) = (&self.client, &self.recorder);
        let results: Vec<(ObjectPatch, kube::Result<Option<DynamicObject>>)> = stream::iter(writes)
            .map(|write| async move {
                let result = written(write.send(client, recorder).await);
                (write, result)
            })
            .buffer_unordered(WRITES)
            .collect()
            .await;
        for (write, result) in results {
            match result {
                Ok(Some(object)) if write.is_status => {
                    let version = object.metadata.resource_version.unwrap_or_default();
                    let status = write.patch["status"].clone();
                    let version = version.parse().unwrap_or_default();
                    self.written.insert(write.object, (status, version));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(object = %write.object, %error, "its status could not be written; trying again");
                    self.slow.insert(write.object);
                }
            }
        }
    }
}
