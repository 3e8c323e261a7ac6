//! The engine: the single writer, which turns changes of objects into commits of xDS resources.
//!
//! The engine runs on a thread of its own and owns the inputs and the memos without a lock. It has no timer: each step
//! takes all queued batches, rebuilds once, and commits. Under load a step covers more batches; at rest a change is
//! committed at once.
//!
//! ```text
//!  ChangeBatch ──► Inputs ──► ingest::build ──► Graph ──► translate::derive_changes ──► Store::commit
//!                     └── only endpoints changed: ingest::endpoints ──► translate::derive_endpoints ──┘
//! ```
//!
//! The short path for endpoints makes the same bytes as a full rebuild would. Before the first commit the engine waits
//! until every source was read once and Cloud Map has answered for every service in use, so that a restart never removes
//! resources that still exist.
//!
//! The engine does no I/O and converts nothing: `ingest` and `translate` do, and both are pure. A panic in them is a bug;
//! [`quarantine`] leaves out the object that brings it out.

mod quarantine;

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
    CloudMapService, CloudMapState, Endpoint, Graph, Kind, ObjectRef, Problem, ResourceName,
    endpoint::CloudMapFailure, problem::limit_per_object,
};
use evermesh_translate::{DeriveMemo, ResourceChanges};
use evermesh_xds::Store;
use tokio::sync::{mpsc, watch};
use tracing::{Span, info_span};

pub use self::quarantine::abort_on_other_panics;
use self::quarantine::{Quarantine, Versions, guard};
use crate::{
    auth::AuthenticationMetrics,
    changes::{self, TrackerEvent, TrackerSender},
    effect::EffectInbox,
    liveness::WorkClock,
    metrics::{ProcessMetrics, RebuildKind},
    source::{ChangeBatch, SourceChange, SourceName},
    webhook::AdmissionMetrics,
};

/// Batches per rebuild; further ones wait for the next.
const MAX_BATCHES: usize = 4096;

/// Origins that the trace span of a change names; the first read may have thousands.
const ORIGINS_SHOWN: usize = 3;

/// The result of the newest rebuild, published for all other tasks.
#[derive(Debug, Default)]
pub struct EngineSnapshot {
    /// The graph of the last full rebuild.
    pub graph: Arc<Graph>,
    /// Endpoints that changed after the last full rebuild, by node.
    pub endpoints: BTreeMap<ResourceName, Arc<Vec<Endpoint>>>,
    /// All problems, sorted.
    pub problems: Arc<[Problem]>,
    /// Number of objects from each watch that this snapshot covers, by watch; see
    /// [`WatchPosition`](crate::source::kubernetes::WatchPosition).
    pub watch_positions: BTreeMap<usize, u64>,
    /// Sources and Cloud Map services that have to be read before the first commit; empty after it.
    pub waiting_for: Vec<String>,
    /// Inputs of Cloud Map registration.
    pub registrable: RegistrationSnapshot,
    /// Pods and nodes by which xDS authentication identifies proxies.
    pub workloads: IdentitySnapshot,
}

/// The channels and the store that the engine writes to.
pub struct EngineOutputs {
    pub store: Arc<Store>,
    /// Cloud Map services to poll: those that nodes name.
    pub wanted_services: watch::Sender<Arc<BTreeSet<CloudMapService>>>,
    pub snapshots: watch::Sender<Arc<EngineSnapshot>>,
    /// Commits, for the tracker of change latency.
    pub tracker_events: TrackerSender,
    /// Commits, for the status writer; `None` if this process writes no statuses.
    pub effect_inbox: Option<Arc<EffectInbox>>,
    /// Snapshot for admission; `None` until every source was read once.
    pub admission_snapshots: watch::Sender<Option<ClusterSnapshot>>,
    pub metrics: Arc<ProcessMetrics>,
    /// Marks of the engine, for `/livez`.
    pub work: Arc<WorkClock>,
}

impl EngineOutputs {
    /// Outputs for tests and `lint`: a store that no proxy reads, and channels without receivers.
    pub fn unserved() -> Self {
        let store = Store::new();
        let (snapshots, newest) = watch::channel(Arc::default());
        Self {
            wanted_services: watch::Sender::default(),
            snapshots,
            tracker_events: changes::channel().0,
            effect_inbox: None,
            admission_snapshots: watch::Sender::default(),
            metrics: Arc::new(ProcessMetrics::new(
                Arc::clone(&store),
                newest,
                None,
                &AdmissionMetrics::default(),
                &AuthenticationMetrics::default(),
                &Arc::default(),
            )),
            work: Arc::default(),
            store,
        }
    }
}

/// The engine with its inputs and memos; see the [module documentation](self).
pub struct Engine {
    inputs: Inputs,
    build: BuildMemo,
    derive: DeriveMemo,
    built: BuildOutput,
    /// Nodes that use each Cloud Map service.
    service_users: BTreeMap<CloudMapService, Vec<ResourceName>>,
    /// Endpoints newer than those of `built.graph`.
    endpoints: BTreeMap<ResourceName, Arc<Vec<Endpoint>>>,
    source_problems: BTreeMap<Arc<str>, Vec<Problem>>,
    problems: Arc<[Problem]>,
    /// File and document of each object; absent for objects of a Kubernetes cluster.
    origins: BTreeMap<ObjectRef, Arc<str>>,
    /// Sources that have not been read once.
    unsynced: BTreeSet<SourceName>,
    watch_positions: BTreeMap<usize, u64>,
    committed: bool,
    quarantine: Quarantine,
    /// Whether the memos were lost, so that they do not know what the store has.
    has_fresh_memos: bool,
    /// Runs in each build; tests let it panic.
    #[cfg(test)]
    fault: fn(&Graph),
    outputs: EngineOutputs,
}

/// The scope of a rebuild: what the batches of one step changed.
#[derive(Default)]
struct RebuildScope {
    /// Something other than endpoints changed.
    full: bool,
    /// Problems of sources changed.
    problems: bool,
    /// Cloud Map services whose state changed.
    cloud_map: BTreeSet<CloudMapService>,
    origins: BTreeSet<Arc<str>>,
    /// The changed objects as they were before. Without Secrets, of which inputs keep only a digested form.
    before: Versions,
    /// Time at which a source noticed the first change.
    noticed: Option<Instant>,
}

impl Engine {
    /// An engine without inputs that waits for these sources. Publishes a first snapshot that says so.
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
            service_users: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            source_problems: BTreeMap::new(),
            problems: Arc::default(),
            origins: BTreeMap::new(),
            unsynced: sources.into_iter().collect(),
            watch_positions: BTreeMap::new(),
            committed: false,
            quarantine: Quarantine::new(),
            has_fresh_memos: false,
            #[cfg(test)]
            fault: |_| (),
            outputs,
        };
        engine.publish();
        engine
    }

    /// Runs until all senders of batches are dropped.
    pub fn run(mut self, mut batches: mpsc::Receiver<ChangeBatch>) {
        let mut queue = Vec::new();
        while batches.blocking_recv_many(&mut queue, MAX_BATCHES) > 0 {
            self.outputs.work.begin();
            self.step(queue.drain(..));
            self.outputs.work.rest();
        }
    }

    /// Applies all batches and rebuilds once, or more often if that panics.
    pub fn step(&mut self, batches: impl IntoIterator<Item = ChangeBatch>) {
        let mut scope = RebuildScope::default();
        for batch in batches {
            self.apply(batch, &mut scope);
        }
        self.publish_admission_snapshot();
        if let Err(cause) = guard(|| self.rebuild(&scope)) {
            self.recover(&scope, &cause);
        }
    }

    fn apply(&mut self, batch: ChangeBatch, scope: &mut RebuildScope) {
        scope.noticed = Some(
            scope
                .noticed
                .map_or(batch.noticed, |noticed| noticed.min(batch.noticed)),
        );
        if let Some(position) = batch.position {
            self.watch_positions.insert(position.watch, position.count);
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
                    scope.problems |= before != origin;
                    let name = || object.to_string().into();
                    scope.origins.insert(origin.or(before).unwrap_or_else(name));
                    scope.problems |= self.quarantine.remove(&object).is_some();
                    if object.kind != Kind::Secret {
                        let before = scope.before.entry(object.clone());
                        before.or_insert_with(|| self.inputs.get(&object));
                    }
                    scope.full |= self.inputs.apply(object, value);
                }
                SourceChange::Problems { origin, problems } => {
                    scope.problems = true;
                    if problems.is_empty() {
                        self.source_problems.remove(&origin);
                    } else {
                        let problems = limit_per_object(problems);
                        self.source_problems.insert(origin, problems);
                    }
                }
                // The last answer for a service that no node names any more.
                SourceChange::CloudMap { service, .. }
                    if !self.service_users.contains_key(&service) => {}
                SourceChange::CloudMap { service, state } => {
                    let before = self.inputs.cloud_map.get(&service);
                    scope.full |= graph_inputs_of(before) != graph_inputs_of(Some(&state));
                    scope.origins.insert(format!("cloud-map:{service}").into());
                    scope.cloud_map.insert(service.clone());
                    self.inputs.set_cloud_map(service, Some(state));
                }
                SourceChange::Synced(source) => {
                    self.unsynced.remove(&source);
                    scope.full = true;
                }
            }
        }
    }

    /// Publishes the inputs of admission. Runs before the rebuild, which may take longer than an admission review may
    /// wait.
    fn publish_admission_snapshot(&self) {
        if !self.unsynced.is_empty() {
            return;
        }
        let now = ClusterSnapshot::from(&self.inputs);
        self.outputs.admission_snapshots.send_if_modified(|last| {
            let has_changed = last.as_ref().is_none_or(|last| !last.is_same(&now));
            if has_changed {
                *last = Some(now);
            }
            has_changed
        });
    }

    fn rebuild(&mut self, scope: &RebuildScope) {
        let started = Instant::now();
        let span = info_span!(
            "change",
            origins = ?scope.origins.iter().take(ORIGINS_SHOWN).collect::<Vec<_>>(),
            more = scope.origins.len().saturating_sub(ORIGINS_SHOWN),
            acked_ms = tracing::field::Empty,
            rejected = tracing::field::Empty,
        );
        let _entered = span.enter();
        let noticed = scope.noticed.unwrap_or(started);
        let origins: Vec<Arc<str>> = scope.origins.iter().cloned().collect();
        let kind = if scope.full || !self.committed || self.has_fresh_memos {
            self.rebuild_all(noticed, origins, &span);
            RebuildKind::Full
        } else {
            self.rebuild_endpoints(&scope.cloud_map, noticed, origins, &span);
            RebuildKind::Endpoints
        };
        if scope.full || scope.problems {
            self.problems = self.all_problems();
        }
        self.publish();
        self.outputs
            .metrics
            .observe_rebuild(kind, started.elapsed());
    }
}

impl Engine {
    /// Builds the graph, derives the resources and commits those that changed. Waits for all sources to finish their
    /// first read; a partial view would remove resources that still exist.
    fn rebuild_all(&mut self, noticed: Instant, origins: Vec<Arc<str>>, span: &Span) {
        if !self.unsynced.is_empty() {
            return;
        }
        let mut memo = std::mem::take(&mut self.build);
        let built = info_span!("build").in_scope(|| self.ingest(&mut memo));
        self.build = memo;
        let last = std::mem::replace(&mut self.built, built);
        self.endpoints.clear();
        if !Arc::ptr_eq(&last.graph.nodes, &self.built.graph.nodes) {
            self.update_wanted_services();
        }
        if !self.waiting_for().is_empty() {
            return;
        }
        let mut changes = info_span!("derive")
            .in_scope(|| evermesh_translate::derive_changes(&self.built.graph, &mut self.derive));
        if self.has_fresh_memos {
            changes = self.changes_of_store();
            self.has_fresh_memos = false;
        }
        self.commit(changes, noticed, origins, span);
    }

    fn ingest(&self, memo: &mut BuildMemo) -> BuildOutput {
        let built = evermesh_ingest::build(&self.inputs, memo);
        #[cfg(test)]
        (self.fault)(&built.graph);
        built
    }

    /// Publishes the Cloud Map services that the graph's nodes name, and forgets the instances of all others: if a node
    /// names such a service again later, other pods may have these addresses.
    fn update_wanted_services(&mut self) {
        self.service_users = evermesh_ingest::cloud_map_users(&self.built.graph);
        let users = &self.service_users;
        self.inputs
            .cloud_map
            .retain(|service, _| users.contains_key(service));
        let wanted: BTreeSet<CloudMapService> = self.service_users.keys().cloned().collect();
        self.outputs.wanted_services.send_if_modified(|current| {
            let modified = **current != wanted;
            if modified {
                *current = Arc::new(wanted);
            }
            modified
        });
    }

    /// Rebuilds only the endpoints of the nodes that use these Cloud Map services.
    fn rebuild_endpoints(
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
            .filter_map(|service| self.service_users.get(service))
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

    fn commit(
        &mut self,
        changes: ResourceChanges,
        noticed: Instant,
        origins: Vec<Arc<str>>,
        span: &Span,
    ) {
        if self.committed && changes.is_empty() {
            return;
        }
        let commit = to_commit(changes);
        let keys = commit.upserts.iter().map(|(key, _)| key);
        let watchers = self.outputs.store.watchers(keys);
        let watched = commit.upserts.iter().zip(&watchers);
        // Announced before the commit, so that the tracker knows the commit before its first ACK.
        self.outputs
            .tracker_events
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
        let inbox = self.outputs.effect_inbox.as_ref();
        let effects = inbox.map(|inbox| {
            let (upserts, removals) = (commit.upserts.clone(), commit.removals.clone());
            (inbox, upserts, removals, commit.views.clone())
        });
        info_span!("commit").in_scope(|| self.outputs.store.commit(commit));
        if let Some((inbox, upserts, removals, views)) = effects {
            inbox.committed(upserts, removals, views);
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

    /// Sources and Cloud Map services without which the first commit would be incomplete.
    fn waiting_for(&self) -> Vec<String> {
        if self.committed {
            return Vec::new();
        }
        let sources = self.unsynced.iter().map(SourceName::to_string);
        let services = self
            .service_users
            .keys()
            .filter(|service| !self.inputs.cloud_map.contains_key(service))
            .map(|service| format!("cloud-map:{service}"));
        sources.chain(services).collect()
    }

    fn all_problems(&self) -> Arc<[Problem]> {
        let mut problems: Vec<Problem> = self.source_problems.values().flatten().cloned().collect();
        let derived = self.built.problems.iter().chain(self.quarantine.values());
        problems.extend(derived.map(|problem| {
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
            .snapshots
            .send_replace(Arc::new(EngineSnapshot {
                graph: Arc::clone(&self.built.graph),
                endpoints: self.endpoints.clone(),
                problems: Arc::clone(&self.problems),
                watch_positions: self.watch_positions.clone(),
                waiting_for: self.waiting_for(),
                registrable: RegistrationSnapshot::from(&self.inputs),
                workloads: IdentitySnapshot::from(&self.inputs),
            }));
    }
}

/// The parts of a Cloud Map state that change more of the graph than endpoints.
fn graph_inputs_of(
    state: Option<&Arc<CloudMapState>>,
) -> Option<(bool, bool, Option<&CloudMapFailure>)> {
    state.map(|state| {
        (
            state.instances.is_empty(),
            state.is_full,
            state.failure.as_ref(),
        )
    })
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
