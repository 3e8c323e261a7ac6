//! Writes the status of the mesh's objects.
//!
//! What may have changed is noted as it happens, and looked at a few times a second: the newest counts, and what it
//! says already is not written again. An object of which the engine has not taken in the newest generation waits until
//! it has.
//!
//! Must not write unless this replica leads.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use evermesh_model::{Graph, Kind, ObjectRef, Problem};
use evermesh_xds::{ProxyId, Registry, Store};
use futures::{StreamExt, stream};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time,
};
use tokio_util::sync::CancellationToken;

use super::{
    Notice,
    condition::{self, Facts, Proxies},
    index::Index,
    registration,
};
use crate::{
    engine::Published,
    source::kubernetes::{Observation, Observed, api_resource},
};

/// How often what has changed is looked at.
const INTERVAL: Duration = Duration::from_millis(50);
/// How often who is connected is looked at, and what could not be written is tried again.
const SWEEP: Duration = Duration::from_secs(1);
/// Every how many sweeps a mesh, which everything in it is a part of, is looked at.
const SLOW: u64 = 5;
/// Writes at a time.
const WRITES: usize = 8;

/// The finalizers of App Mesh's own controller. What they stood for is gone with AWS, and nobody else removes them.
const OLD_FINALIZERS: [&str; 4] = [
    "finalizers.appmesh.k8s.aws/aws-appmesh-resources",
    "finalizers.appmesh.k8s.aws/mesh-members",
    "finalizers.appmesh.k8s.aws/virtualgateway-members",
    "finalizers.appmesh.k8s.aws/aws-cloudmap-resources",
];

/// What the writer reads, and how it names things.
pub struct Options {
    /// The engine's newest turn.
    pub published: watch::Receiver<Arc<Published>>,
    /// What is served.
    pub store: Arc<Store>,
    /// Who is connected.
    pub registry: Arc<Registry>,
    /// What the API holds.
    pub observed: Arc<Observed>,
    /// Whether we may write.
    pub leads: watch::Receiver<bool>,
    /// Whether pods are registered in Cloud Map: nodes there keep their finalizer until they are not.
    pub registers: bool,
    /// The region in ARNs.
    pub region: String,
    /// The account in ARNs.
    pub account: String,
}

/// Writes until `shutdown`.
pub async fn run(
    client: Client,
    options: Options,
    mut notices: mpsc::UnboundedReceiver<Notice>,
    shutdown: CancellationToken,
) {
    let mut writer = Writer {
        client,
        leads: false,
        options,
        index: Index::default(),
        dirty: BTreeSet::new(),
        slow: BTreeSet::new(),
        problems: BTreeMap::new(),
        problems_of: Arc::default(),
        arns: (Arc::default(), BTreeMap::new()),
        connected: BTreeMap::new(),
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
                Some(notice) => writer.note(notice),
                None => return,
            },
            _ = sweeps.tick() => {
                count += 1;
                writer.sweep(count % SLOW == 0);
            }
            _ = looks.tick() => writer.look().await,
        }
    }
}

struct Writer {
    client: Client,
    options: Options,
    leads: bool,
    index: Index,
    /// Objects whose status may have to change.
    dirty: BTreeSet<ObjectRef>,
    /// Those that are looked at every few seconds only: meshes, and what could not be written.
    slow: BTreeSet<ObjectRef>,
    problems: BTreeMap<ObjectRef, Vec<Problem>>,
    /// The list that `problems` was made from.
    problems_of: Arc<[Problem]>,
    /// The graph that ARNs were made from, and they.
    arns: (Arc<Graph>, BTreeMap<ObjectRef, Arns>),
    connected: BTreeMap<ProxyId, Arc<str>>,
    /// What was written and not yet seen again, with its resource version.
    written: BTreeMap<ObjectRef, (Value, u64)>,
}

#[derive(Debug, Clone, Default)]
struct Arns {
    arn: String,
    routes: BTreeMap<String, String>,
}

impl Writer {
    fn note(&mut self, notice: Notice) {
        let now = Timestamp::now();
        match notice {
            Notice::Commit { upserts, removals } => {
                for (key, resource) in upserts {
                    let concerned = self.index.put(key, resource, now);
                    self.mark(concerned);
                }
                for key in removals {
                    let concerned = self.index.remove(&key);
                    self.mark(concerned);
                }
            }
            Notice::Verdict(verdict) => self.mark(verdict.resource.origins.iter().cloned()),
        }
    }

    fn mark(&mut self, origins: impl IntoIterator<Item = Arc<str>>) {
        for object in origins.into_iter().filter_map(|origin| object_of(&origin)) {
            self.mark_object(object);
        }
    }

    fn mark_object(&mut self, object: ObjectRef) {
        match object.kind {
            Kind::Mesh => self.slow.insert(object),
            _ => self.dirty.insert(object),
        };
    }

    /// Who came and who went concerns all that is in their views.
    fn sweep(&mut self, is_slow_due: bool) {
        let proxies = self.options.registry.connected();
        let connected: BTreeMap<ProxyId, Arc<str>> = proxies.into_iter().collect();
        let views: BTreeSet<Arc<str>> = connected
            .iter()
            .filter(|(id, _)| !self.connected.contains_key(id))
            .chain(
                self.connected
                    .iter()
                    .filter(|(id, _)| !connected.contains_key(id)),
            )
            .map(|(_, view)| Arc::clone(view))
            .collect();
        self.connected = connected;
        for view in views {
            let Some(view) = self.options.store.view(&view) else {
                continue;
            };
            let origins: BTreeSet<Arc<str>> = view
                .keys()
                .iter()
                .filter_map(|key| self.index.get(key))
                .flat_map(|served| served.resource.origins.iter().cloned())
                .collect();
            self.mark(origins);
        }
        if is_slow_due {
            self.dirty.append(&mut self.slow);
        }
    }

    async fn look(&mut self) {
        self.dirty.extend(self.options.observed.take_changed());
        let leads = *self.options.leads.borrow();
        if leads && !self.leads {
            tracing::info!("this replica writes status from now on");
            let all = self.options.observed.all();
            self.dirty.extend(all.into_iter().map(|(object, _)| object));
        }
        self.leads = leads;
        let published = Arc::clone(&self.options.published.borrow_and_update());
        self.take_problems(&published);
        if !leads || !published.waiting_for.is_empty() || self.dirty.is_empty() {
            if !leads {
                self.dirty.clear();
                self.written.clear();
            }
            return;
        }
        self.name(&published.graph);
        let mut later = BTreeSet::new();
        let mut writes = Vec::new();
        for object in std::mem::take(&mut self.dirty) {
            let Some(observation) = self.options.observed.get(&object) else {
                self.written.remove(&object);
                continue;
            };
            let place = observation.place;
            let seen = published.places.get(&place.watch).copied();
            if seen.unwrap_or_default() < place.count {
                later.insert(object);
                continue;
            }
            writes.extend(self.due(&object, &observation));
        }
        self.dirty = later;
        self.write(writes).await;
    }

    fn take_problems(&mut self, published: &Published) {
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

    /// ARNs change with the graph alone.
    fn name(&mut self, graph: &Arc<Graph>) {
        if !Arc::ptr_eq(&self.arns.0, graph) {
            let names = arns(graph, &self.options.region, &self.options.account);
            self.arns = (Arc::clone(graph), names);
        }
    }

    /// What has to be written of an object, if anything.
    fn due(&mut self, object: &ObjectRef, observation: &Observation) -> Option<Write> {
        if observation.deleting {
            let kept: Vec<&String> = observation
                .finalizers
                .iter()
                .filter(|it| !OLD_FINALIZERS.contains(&it.as_str()) || self.keeps(object, it))
                .collect();
            let metadata = json!({"finalizers": kept, "resourceVersion": observation.version});
            let write = Write {
                object: object.clone(),
                patch: json!({"metadata": metadata}),
                is_status: false,
            };
            return (kept.len() < observation.finalizers.len()).then_some(write);
        }
        let seen: u64 = observation.version.parse().unwrap_or(u64::MAX);
        if self
            .written
            .get(object)
            .is_some_and(|(_, version)| *version <= seen)
        {
            self.written.remove(object);
        }
        let current = self
            .written
            .get(object)
            .map_or(&observation.status, |(status, _)| status);
        let arns = self.arns.1.get(object).cloned();
        let facts = Facts {
            generation: observation.generation,
            problems: self.problems.get(object).cloned().unwrap_or_default(),
            proxies: self.proxies(object),
            route_arns: arns
                .as_ref()
                .map(|arns| arns.routes.clone())
                .unwrap_or_default(),
            arn: arns.map(|arns| arns.arn),
        };
        let status = condition::status(object.kind, &facts, current, Timestamp::now())?;
        (status != *current).then(|| Write {
            object: object.clone(),
            patch: json!({"status": status}),
            is_status: true,
        })
    }

    /// Whether a finalizer is that of registration, which removes it when it is done.
    fn keeps(&self, object: &ObjectRef, finalizer: &str) -> bool {
        self.options.registers
            && finalizer == registration::FINALIZER
            && registration::keeps_finalizer(&self.options.published.borrow().registrable, object)
    }

    fn proxies(&self, object: &ObjectRef) -> Proxies {
        let mut proxies: BTreeMap<ProxyId, bool> = BTreeMap::new();
        let mut waiting_since = None;
        let mut refusals = BTreeMap::new();
        for (key, served) in self.index.of(&object.to_string()) {
            for answer in self.options.registry.answers(&self.options.store, key) {
                let version = served.resource.version;
                let has_it = answer.acked == Some(version);
                *proxies.entry(answer.proxy).or_insert(true) &= has_it;
                if has_it {
                    continue;
                }
                waiting_since = Some(waiting_since.map_or(served.since, |it| served.since.min(it)));
                if let Some(rejection) = answer.rejection.filter(|it| it.version == version) {
                    refusals.insert(answer.proxy, (answer.node_id, rejection.message));
                }
            }
        }
        Proxies {
            concerned: proxies.len(),
            acked: proxies.values().filter(|has_it| **has_it).count(),
            waiting_since,
            refusals: refusals.into_values().collect(),
        }
    }

    async fn write(&mut self, writes: Vec<Write>) {
        let client = &self.client;
        let results: Vec<(Write, kube::Result<DynamicObject>)> = stream::iter(writes)
            .map(|write| async move {
                let result = write.send(client).await;
                (write, result)
            })
            .buffer_unordered(WRITES)
            .collect()
            .await;
        for (write, result) in results {
            match result {
                Ok(object) if write.is_status => {
                    let version = object.metadata.resource_version.unwrap_or_default();
                    let status = write.patch["status"].clone();
                    let version = version.parse().unwrap_or_default();
                    self.written.insert(write.object, (status, version));
                }
                Ok(_) => {}
                // Gone, or changed meanwhile: the watch will tell.
                Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => {}
                Err(error) => {
                    tracing::warn!(object = %write.object, %error, "its status could not be written; trying again");
                    self.slow.insert(write.object);
                }
            }
        }
    }
}

/// One write.
struct Write {
    object: ObjectRef,
    patch: Value,
    is_status: bool,
}

impl Write {
    async fn send(&self, client: &Client) -> kube::Result<DynamicObject> {
        let ObjectRef {
            kind,
            namespace,
            name,
        } = &self.object;
        let resource = api_resource(*kind);
        let api: Api<DynamicObject> = if kind.is_namespaced() {
            Api::namespaced_with(client.clone(), namespace, &resource)
        } else {
            Api::all_with(client.clone(), &resource)
        };
        let patch = Patch::Merge(&self.patch);
        if self.is_status {
            api.patch_status(name, &PatchParams::default(), &patch)
                .await
        } else {
            api.patch(name, &PatchParams::default(), &patch).await
        }
    }
}

/// The object that the text of an `ObjectRef` names.
fn object_of(origin: &str) -> Option<ObjectRef> {
    let mut parts = origin.split('/');
    let kind = parts.next()?;
    let kind = Kind::ALL.into_iter().find(|it| it.as_str() == kind)?;
    let (namespace, name) = match (parts.next()?, parts.next()) {
        (namespace, Some(name)) => (namespace, name),
        (name, None) => ("", name),
    };
    Some(ObjectRef::new(kind, namespace, name))
}

fn arns(graph: &Graph, region: &str, account: &str) -> BTreeMap<ObjectRef, Arns> {
    let arn = |path: String| Arns {
        arn: format!("arn:aws:appmesh:{region}:{account}:{path}"),
        routes: BTreeMap::new(),
    };
    let mut arns = BTreeMap::new();
    for (name, mesh) in &graph.meshes {
        arns.insert(mesh.object.clone(), arn(format!("mesh/{name}")));
    }
    for (name, node) in &graph.nodes {
        arns.insert(node.object.clone(), arn(name.to_string()));
    }
    for (name, service) in &graph.services {
        let path = format!("mesh/{}/virtualService/{}", name.mesh, name.hostname);
        arns.insert(service.object.clone(), arn(path));
    }
    for (name, router) in &graph.routers {
        let mut of_router = arn(name.to_string());
        for route in router.routes.iter().filter(|it| it.object == router.object) {
            let route_arn = format!("{}/route/{}", of_router.arn, route.name);
            of_router.routes.insert(route.name.to_string(), route_arn);
        }
        arns.insert(router.object.clone(), of_router);
    }
    for (name, gateway) in &graph.gateways {
        let of_gateway = arn(name.to_string());
        for route in &gateway.routes {
            let path = format!("{name}/gatewayRoute/{}", route.name);
            arns.insert(route.object.clone(), arn(path));
        }
        arns.insert(gateway.object.clone(), of_gateway);
    }
    arns
}
