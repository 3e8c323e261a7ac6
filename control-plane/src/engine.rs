//! The single writer: owns the inputs and the memos, takes in changes and runs one turn at a time.
//!
//! It runs on a thread of its own. There is no timer: it takes whatever is queued, runs one turn over all
//! of it and commits; under load the batch grows by itself, at rest a change leaves at once. A turn is
//! `ingest::build` and `translate::derive_changes`, both pure; when nothing but endpoints changed it is the short
//! cut, which remakes their `ClusterLoadAssignment`s alone and comes to the same bytes.
//!
//! **Nothing is committed before every source has been read once and Cloud Map has answered for every
//! service in use**: a restart never serves less than what is known.
//!
//! Must not do I/O, and must not convert or translate.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use evermesh_ingest::{
    BuildMemo, BuildOutput, IngestSettings, Inputs, admission::ClusterSnapshot,
    identity::IdentitySnapshot, registration::RegistrationSnapshot,
};
use evermesh_model::{
    CloudMapService, CloudMapState, Endpoint, Graph, ObjectRef, Problem, ResourceName,
    endpoint::CloudMapFailure,
};
use evermesh_translate::{ResourceChanges, DeriveMemo};
use evermesh_xds::Store;
use tokio::sync::{mpsc, watch};
use tracing::{Span, info_span};

use crate::{
    auth::AuthenticationMetrics,
    changes::{self, TrackerEvent},
    effect::EffectEvent,
    metrics::ProcessMetrics,
    source::{ChangeBatch, SourceChange, SourceName},
    webhook::AdmissionMetrics,
};

/// Changes taken in before a turn; what is beyond waits for the next.
const DRAINED: usize = 4096;

/// Origins that the span of a change names; a first read may have thousands.
const ORIGINS_SHOWN: usize = 3;

/// The result of the newest turn, for whoever wants to look.
#[derive(Debug, Default)]
pub struct EngineSnapshot {
    /// The graph of the last full turn.
    pub graph: Arc<Graph>,
    /// Endpoints that changed since.
    pub endpoints: BTreeMap<ResourceName, Arc<Vec<Endpoint>>>,
    /// Everything found wrong, ascending.
    pub problems: Arc<[Problem]>,
    /// How many objects of each watch of a cluster it is about.
    pub places: BTreeMap<usize, u64>,
    /// What is still to come before the first commit; empty from then on.
    pub waiting_for: Vec<String>,
    /// What may have to be registered in Cloud Map.
    pub registrable: RegistrationSnapshot,
    /// Which pods may be which proxies.
    pub workloads: IdentitySnapshot,
}

/// Where the engine's results go.
pub struct EngineOutputs {
    /// What is served.
    pub store: Arc<Store>,
    /// Which Cloud Map services to follow.
    pub wanted: watch::Sender<Arc<BTreeSet<CloudMapService>>>,
    /// The newest turn.
    pub published: watch::Sender<Arc<EngineSnapshot>>,
    /// Announcements of commits.
    pub events: mpsc::UnboundedSender<TrackerEvent>,
    /// What each commit changes, for the doors back, if there are any.
    pub commits: Option<mpsc::UnboundedSender<EffectEvent>>,
    /// What admission looks at; none before every source has been read once.
    pub surroundings: watch::Sender<Option<ClusterSnapshot>>,
    /// How long turns take.
    pub metrics: Arc<ProcessMetrics>,
}

impl EngineOutputs {
    /// To a store that nobody is served from; what is published can be subscribed to.
    pub fn unserved() -> Self {
        let store = Store::new();
        let (published, newest) = watch::channel(Arc::default());
        Self {
            wanted: watch::Sender::default(),
            published,
            events: mpsc::unbounded_channel().0,
            commits: None,
            surroundings: watch::Sender::default(),
            metrics: Arc::new(ProcessMetrics::new(
                Arc::clone(&store),
                newest,
                None,
                &AdmissionMetrics::default(),
                &AuthenticationMetrics::default(),
            )),
            store,
        }
    }
}

/// The engine's state.
pub struct Engine {
    inputs: Inputs,
    build: BuildMemo,
    derive: DeriveMemo,
    built: BuildOutput,
    users: BTreeMap<CloudMapService, Vec<ResourceName>>,
    /// Endpoints newer than those of `built.graph`.
    endpoints: BTreeMap<ResourceName, Arc<Vec<Endpoint>>>,
    source_problems: BTreeMap<Arc<str>, Vec<Problem>>,
    problems: Arc<[Problem]>,
    /// Where each object was read.
    origins: BTreeMap<ObjectRef, Arc<str>>,
    unsynced: BTreeSet<SourceName>,
    places: BTreeMap<usize, u64>,
    committed: bool,
    outputs: EngineOutputs,
}

/// What a batch of changes asks for.
#[derive(Default)]
struct Work {
    /// Something other than endpoints changed.
    full: bool,
    /// Only problems of sources changed.
    problems: bool,
    cloud_map: BTreeSet<CloudMapService>,
    origins: BTreeSet<Arc<str>>,
    noticed: Option<Instant>,
}

impl Engine {
    /// An engine without inputs that waits for these sources, and publishes that it does.
    pub fn new(
        sources: impl IntoIterator<Item = SourceName>,
        settings: IngestSettings,
        outputs: EngineOutputs,
    ) -> Self {
        let engine = Self {
            inputs: Inputs {
                settings,
                ..Inputs::default()
            },
            build: BuildMemo::default(),
            derive: DeriveMemo::default(),
            built: BuildOutput {
                graph: Arc::default(),
                problems: Arc::default(),
            },
            users: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            source_problems: BTreeMap::new(),
            problems: Arc::default(),
            origins: BTreeMap::new(),
            unsynced: sources.into_iter().collect(),
            places: BTreeMap::new(),
            committed: false,
            outputs,
        };
        engine.publish();
        engine
    }

    /// Works until every source has hung up.
    pub fn run(mut self, mut batches: mpsc::Receiver<ChangeBatch>) {
        let mut queue = Vec::new();
        while batches.blocking_recv_many(&mut queue, DRAINED) > 0 {
            self.step(queue.drain(..));
        }
    }

    /// Takes these batches in and runs one turn over all of them.
    pub fn step(&mut self, batches: impl IntoIterator<Item = ChangeBatch>) {
        let mut work = Work::default();
        for batch in batches {
            self.take_in(batch, &mut work);
        }
        self.surround();
        self.turn(&work);
    }

    fn take_in(&mut self, batch: ChangeBatch, work: &mut Work) {
        work.noticed = Some(
            work.noticed
                .map_or(batch.noticed, |noticed| noticed.min(batch.noticed)),
        );
        if let Some(place) = batch.place {
            self.places.insert(place.watch, place.count);
        }
        for change in batch.changes {
            match change {
                SourceChange::Object {
                    object,
                    origin,
                    value,
                } => {
                    let before = match &origin {
                        Some(origin) => self.origins.insert(object.clone(), Arc::clone(origin)),
                        None => self.origins.remove(&object),
                    };
                    work.problems |= before != origin;
                    let shown = || object.to_string().into();
                    work.origins.insert(origin.or(before).unwrap_or_else(shown));
                    work.full |= self.inputs.apply(object, value);
                }
                SourceChange::Problems { origin, problems } => {
                    work.problems = true;
                    if problems.is_empty() {
                        self.source_problems.remove(&origin);
                    } else {
                        self.source_problems.insert(origin, problems);
                    }
                }
                SourceChange::CloudMap { service, state } => {
                    let before = self.inputs.cloud_map.get(&service);
                    work.full |= knowledge(before) != knowledge(Some(&state));
                    work.origins.insert(format!("cloud-map:{service}").into());
                    work.cloud_map.insert(service.clone());
                    self.inputs.set_cloud_map(service, Some(state));
                }
                SourceChange::Synced(source) => {
                    self.unsynced.remove(&source);
                    work.full = true;
                }
            }
        }
    }

    /// Before the turn, which may take longer than an answer of admission should.
    fn surround(&self) {
        if !self.unsynced.is_empty() {
            return;
        }
        let now = ClusterSnapshot::from(&self.inputs);
        self.outputs.surroundings.send_if_modified(|last| {
            let is_other = last.as_ref().is_none_or(|last| !last.is_same(&now));
            if is_other {
                *last = Some(now);
            }
            is_other
        });
    }

    fn turn(&mut self, work: &Work) {
        let started = Instant::now();
        let span = info_span!(
            "change",
            origins = ?work.origins.iter().take(ORIGINS_SHOWN).collect::<Vec<_>>(),
            more = work.origins.len().saturating_sub(ORIGINS_SHOWN),
            acked_ms = tracing::field::Empty,
            rejected = tracing::field::Empty,
        );
        let _entered = span.enter();
        let noticed = work.noticed.unwrap_or(started);
        let origins: Vec<Arc<str>> = work.origins.iter().cloned().collect();
        let kind = if work.full || !self.committed {
            self.full_turn(noticed, origins, &span);
            "full"
        } else {
            self.endpoints_turn(&work.cloud_map, noticed, origins, &span);
            "endpoints"
        };
        if work.full || work.problems {
            self.problems = self.all_problems();
        }
        self.publish();
        self.outputs.metrics.turn(kind, started.elapsed());
    }
}

impl Engine {
    /// Everything: build, derive, and commit what came out different. Half of what there is to read is not worth
    /// a turn.
    fn full_turn(&mut self, noticed: Instant, origins: Vec<Arc<str>>, span: &Span) {
        if !self.unsynced.is_empty() {
            return;
        }
        let built =
            info_span!("build").in_scope(|| evermesh_ingest::build(&self.inputs, &mut self.build));
        let last = std::mem::replace(&mut self.built, built);
        self.endpoints.clear();
        if !Arc::ptr_eq(&last.graph.nodes, &self.built.graph.nodes) {
            self.want();
        }
        if !self.waiting_for().is_empty() {
            return;
        }
        let changes = info_span!("derive")
            .in_scope(|| evermesh_translate::derive_changes(&self.built.graph, &mut self.derive));
        self.commit(changes, noticed, origins, span);
    }

    /// The nodes say which services of Cloud Map are of any use.
    fn want(&mut self) {
        self.users = evermesh_ingest::cloud_map_users(&self.built.graph);
        let wanted: BTreeSet<CloudMapService> = self.users.keys().cloned().collect();
        self.outputs.wanted.send_if_modified(|current| {
            let modified = **current != wanted;
            if modified {
                *current = Arc::new(wanted);
            }
            modified
        });
    }

    /// The short cut: the endpoints of the nodes that use these services, and nothing else.
    fn endpoints_turn(
        &mut self,
        services: &BTreeSet<CloudMapService>,
        noticed: Instant,
        origins: Vec<Arc<str>>,
        span: &Span,
    ) {
        let graph = Arc::clone(&self.built.graph);
        let mut changes = ResourceChanges::default();
        let nodes = services
            .iter()
            .filter_map(|service| self.users.get(service))
            .flatten();
        for name in nodes {
            let (Some(node), Some(mesh)) = (graph.nodes.get(name), graph.meshes.get(&name.mesh))
            else {
                continue;
            };
            let Some(endpoints) = evermesh_ingest::endpoints(node, mesh, &self.inputs) else {
                continue;
            };
            let endpoints = Arc::new(endpoints);
            let other = evermesh_translate::derive_endpoints(
                name,
                Arc::clone(&endpoints),
                &mut self.derive,
            );
            changes.resources.extend(other.resources);
            self.endpoints.insert(name.clone(), endpoints);
        }
        self.commit(changes, noticed, origins, span);
    }

    fn commit(&mut self, changes: ResourceChanges, noticed: Instant, origins: Vec<Arc<str>>, span: &Span) {
        if self.committed && changes.is_empty() {
            return;
        }
        let commit = to_commit(changes);
        let keys = commit.upserts.iter().map(|(key, _)| key);
        let watchers = self.outputs.store.watchers(keys);
        let watched = commit.upserts.iter().zip(&watchers);
        // Announced first: an ACK must find its commit known. Nobody listening is no reason to stop.
        let _ = self
            .outputs
            .events
            .send(TrackerEvent::Commit(changes::CommitRecord {
                noticed,
                origins,
                resources: commit.upserts.len(),
                awaited: watched
                    .filter(|(_, watchers)| **watchers > 0)
                    .map(|((key, resource), _)| (key.clone(), resource.version))
                    .collect(),
                deliveries: watchers.iter().sum(),
                span: span.clone(),
            }));
        let notice = self.outputs.commits.is_some().then(|| EffectEvent::Commit {
            upserts: commit.upserts.clone(),
            removals: commit.removals.clone(),
        });
        info_span!("commit").in_scope(|| self.outputs.store.commit(commit));
        if let (Some(commits), Some(notice)) = (&self.outputs.commits, notice) {
            // Nobody listening is no reason to stop.
            let _ = commits.send(notice);
        }
        if !self.committed {
            self.committed = true;
            tracing::info!(
                proxies = self.derive.derived().views.len(),
                resources = self.derive.derived().resources.len(),
                "ready"
            );
        }
    }

    /// What must come before the first commit.
    fn waiting_for(&self) -> Vec<String> {
        if self.committed {
            return Vec::new();
        }
        let sources = self.unsynced.iter().map(SourceName::to_string);
        let services = self
            .users
            .keys()
            .filter(|service| !self.inputs.cloud_map.contains_key(service))
            .map(|service| format!("cloud-map:{service}"));
        sources.chain(services).collect()
    }

    fn all_problems(&self) -> Arc<[Problem]> {
        let mut problems: Vec<Problem> = self.source_problems.values().flatten().cloned().collect();
        problems.extend(self.built.problems.iter().map(|problem| {
            let object = problem.object.as_ref();
            match object.and_then(|object| self.origins.get(object)) {
                Some(origin) => problem.clone().with_origin(Arc::clone(origin)),
                None => problem.clone(),
            }
        }));
        problems.sort();
        problems.dedup();
        problems.into()
    }

    fn publish(&self) {
        self.outputs
            .published
            .send_replace(Arc::new(EngineSnapshot {
                graph: Arc::clone(&self.built.graph),
                endpoints: self.endpoints.clone(),
                problems: Arc::clone(&self.problems),
                places: self.places.clone(),
                waiting_for: self.waiting_for(),
                registrable: RegistrationSnapshot::from(&self.inputs),
                workloads: IdentitySnapshot::from(&self.inputs),
            }));
    }
}

/// What the graph, beyond endpoints, depends on: problems, and whether anything is known at all.
fn knowledge(state: Option<&Arc<CloudMapState>>) -> Option<(bool, Option<&CloudMapFailure>)> {
    state.map(|state| (state.instances.is_empty(), state.failure.as_ref()))
}

fn to_commit(changes: ResourceChanges) -> evermesh_xds::StoreCommit {
    let mut commit = evermesh_xds::StoreCommit {
        views: changes.views.into_iter().collect(),
        ..evermesh_xds::StoreCommit::default()
    };
    for (key, resource) in changes.resources {
        match resource {
            Some(resource) => commit.upserts.push((key, resource)),
            None => commit.removals.push(key),
        }
    }
    commit
}
