//! Counts how many of this replica's proxies have ACKed the resources derived from each object.
//!
//! Input: commits and answers as [`EffectChanges`], and the registry of connected proxies. Output: an [`AckCount`] for
//! each object that at least one proxy uses.
//!
//! The counter keeps what each proxy answered. After a change it reads only the answers that may differ: after an ACK,
//! the one of the proxy to the resource; after a commit, those of the proxies whose views list a changed resource; after
//! a connection, those of the proxy. Then it changes the counts of the objects from which these resources were derived.
//! A count has a number for the proxies that have ACKed everything, and an entry for each of the others.
//!
//! ```text
//!  commits, answers, sweep ──► dirty: proxy → resources ──recount──► answers by proxy ──► objects ──► AckCount
//! ```

mod object_answer;
mod objects;
mod plan;
mod proxies;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
    time::{Duration, SystemTime},
};

use evermesh_model::ObjectRef;
use evermesh_proto::{Resource, ResourceKey, ResourceType};
use evermesh_xds::{ConnectedProxy, ProxyAnswers, ProxyId, ProxyRegistry};
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::{objects::CountedObjects, proxies::ProxyIndex};
use super::{
    inbox::{AnsweredResources, AnsweringProxies, EffectChanges},
    index::ResourceIndex,
};

/// Time after connecting in which a proxy that has not ACKed anything yet is not counted. Without it, every proxy that
/// starts would make the `Programmed` conditions of its mesh false for a moment.
const STARTUP_TIME: Duration = Duration::from_secs(5);

/// Number of proxies that have ACKed all resources derived from one object. A part of the reports between replicas, so the
/// rules of [`PeerReport`](super::peers) hold for its fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct AckCount {
    /// Hash of what was derived from the object; equal on all replicas that serve the same of it.
    pub(super) digest: String,
    /// Number of connected proxies that use at least one of the resources.
    pub(super) concerned: usize,
    /// Number of these proxies that have ACKed the current version of every resource that they use.
    pub(super) acked: usize,
    /// Commit time of the oldest version that a proxy has not ACKed.
    pub(super) waiting_since: Option<Timestamp>,
    /// Proxies that NACKed a current version or a cluster that it needs: node ID and Envoy's message.
    pub(super) rejections: Vec<(String, String)>,
    pub(super) withheld: WithheldKeys,
}

/// Proxies that do not get a private key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct WithheldKeys {
    /// Number of these proxies.
    pub(super) proxies: usize,
    /// One of them: node ID and name of the Secret resource. All may be many.
    pub(super) example: Option<(String, String)>,
}

impl WithheldKeys {
    /// Adds other proxies.
    pub(super) fn add(&mut self, other: &Self) {
        self.proxies += other.proxies;
        if self.example.is_none() {
            self.example.clone_from(&other.example);
        }
    }
}

/// The connected proxies and their answers.
pub(super) trait AnswerSource {
    /// Equal while [`Self::connected`] returns the same proxies.
    fn turnover(&self) -> u64;

    fn connected(&self) -> Vec<ConnectedProxy>;

    /// `None` if the stream has ended.
    fn connected_proxy(&self, id: ProxyId) -> Option<ConnectedProxy>;

    /// The answers to resources that the view of the proxy lists; `None` if the stream has ended.
    fn answers(&self, id: ProxyId, keys: &[&ResourceKey]) -> Option<ProxyAnswers>;
}

impl AnswerSource for Arc<ProxyRegistry> {
    fn turnover(&self) -> u64 {
        ProxyRegistry::turnover(self)
    }

    fn connected(&self) -> Vec<ConnectedProxy> {
        ProxyRegistry::connected(self)
    }

    fn connected_proxy(&self, id: ProxyId) -> Option<ConnectedProxy> {
        ProxyRegistry::connected_proxy(self, id)
    }

    fn answers(&self, id: ProxyId, keys: &[&ResourceKey]) -> Option<ProxyAnswers> {
        ProxyRegistry::answers(self, id, keys.iter().copied())
    }
}

/// Keeps the counts of this replica up to date.
pub(super) struct AckCounter<S = Arc<ProxyRegistry>> {
    source: S,
    index: ResourceIndex,
    proxies: ProxyIndex,
    objects: CountedObjects,
    /// Resources of which the answers have to be read again, by proxy.
    dirty: BTreeMap<ProxyId, DirtyResources>,
    /// Proxies that connected or answered since the last sweep while they are starting. Such a proxy answers many times
    /// in its first second, so its answers are read once a sweep finds that it gave none since the sweep before. An
    /// answer that waits makes no count look better than it is.
    starting: BTreeSet<ProxyId>,
    /// Proxies that were in `starting` at the last sweep.
    settling: BTreeSet<ProxyId>,
    /// The turnover of the source at the last sweep that compared the proxies.
    swept: Option<u64>,
    /// Whether a known proxy may be starting.
    has_starting: bool,
    /// Whether Secrets changed since the last sweep. What an untrusted proxy does not get may have changed with them.
    has_changed_secrets: bool,
    /// Whether the next recount includes meshes.
    includes_meshes: bool,
}

/// Resources of one view.
enum DirtyResources {
    /// Positions in the plan of the view.
    These(BTreeSet<usize>),
    All,
}

impl<S: AnswerSource> AckCounter<S> {
    pub(super) fn new(source: S) -> Self {
        Self {
            source,
            index: ResourceIndex::default(),
            proxies: ProxyIndex::default(),
            objects: CountedObjects::default(),
            dirty: BTreeMap::new(),
            starting: BTreeSet::new(),
            settling: BTreeSet::new(),
            swept: None,
            has_starting: false,
            has_changed_secrets: false,
            includes_meshes: false,
        }
    }

    /// The newest count of an object, or `None` if no proxy of this replica uses it.
    pub(super) fn get(&self, object: &ObjectRef) -> Option<&AckCount> {
        self.objects.get(&object.to_string())
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&ObjectRef, &AckCount)> {
        self.objects.all()
    }

    /// The digest of what this replica serves of an object now.
    pub(super) fn digest(&self, object: &ObjectRef) -> String {
        self.index.digest(&object.to_string())
    }

    /// The time of the last commit that changed the digest; `None` if this replica serves nothing of the object.
    pub(super) fn changed_at(&self, object: &ObjectRef) -> Option<Timestamp> {
        self.index.changed_at(&object.to_string())
    }

    pub(super) fn record(&mut self, changes: EffectChanges) {
        let EffectChanges {
            resources,
            views,
            answers,
        } = changes;
        let mut outdated: BTreeSet<Arc<str>> = BTreeSet::new();
        let now = Timestamp::now();
        for (key, resource) in resources {
            outdated.extend(self.commit(&key, resource.as_ref(), now));
        }
        for (name, view) in views {
            self.proxies.set_view(&name, view);
            outdated.insert(name);
        }
        for view in outdated {
            self.renew_plan(&view);
        }
        self.record_answers(answers);
    }

    /// Takes the newest version of a resource. Returns the views of which the plans are outdated.
    fn commit(
        &mut self,
        key: &ResourceKey,
        resource: Option<&Arc<Resource>>,
        now: Timestamp,
    ) -> Vec<Arc<str>> {
        self.has_changed_secrets |= key.kind == ResourceType::Secret;
        let objects = &mut self.objects;
        // An object is counted again even if no proxy uses the resource: its digest changed.
        self.index
            .commit(key, resource, now, |origin| objects.mark(origin));
        let dirty = &mut self.dirty;
        let on_update = |position, proxies: &BTreeSet<ProxyId>| {
            for id in proxies {
                mark(dirty, *id, position);
            }
        };
        self.proxies.update_plans(key, &self.index, on_update)
    }

    /// Makes the plan of a view anew, and lets the answers of its proxies be read again.
    fn renew_plan(&mut self, view: &str) {
        let proxies = self.proxies.with_view(view);
        for id in &proxies {
            self.withdraw(*id);
        }
        self.proxies.renew_plan(view, &self.index);
        let all = proxies.into_iter().map(|id| (id, DirtyResources::All));
        self.dirty.extend(all);
    }

    fn record_answers(&mut self, answers: AnsweringProxies) {
        if answers.is_incomplete {
            for proxy in self.source.connected() {
                if self.proxies.get(proxy.id).is_some() {
                    self.dirty.insert(proxy.id, DirtyResources::All);
                } else {
                    self.connect(proxy, SystemTime::now());
                }
            }
        }
        for (id, answered) in answers.proxies {
            if self.proxies.get(id).is_none()
                && let Some(proxy) = self.source.connected_proxy(id)
            {
                self.connect(proxy, SystemTime::now());
            }
            let Some((proxy, plan)) = self.proxies.with_plan(id) else {
                continue;
            };
            match answered {
                _ if proxy.is_starting => {
                    self.starting.insert(id);
                }
                AnsweredResources::Any => {
                    self.dirty.insert(id, DirtyResources::All);
                }
                AnsweredResources::These(resources) => {
                    let positions = resources
                        .iter()
                        .filter_map(|it| plan.position(it.kind, &it.name));
                    positions.for_each(|position| mark(&mut self.dirty, id, position));
                }
            }
        }
    }

    /// Reads again what may have changed without a commit or an answer since the last sweep: the answers of proxies that
    /// connected, disconnected or finished starting, and of untrusted proxies if Secrets changed. The next recount
    /// includes meshes only if `includes_meshes`.
    pub(super) fn sweep(&mut self, now: SystemTime, includes_meshes: bool) {
        self.includes_meshes |= includes_meshes;
        let turnover = self.source.turnover();
        if self.swept.replace(turnover) != Some(turnover) {
            self.compare_connected(now);
        }
        let has_changed_secrets = mem::take(&mut self.has_changed_secrets);
        if !mem::take(&mut self.has_starting) && !has_changed_secrets {
            return;
        }
        for (id, proxy) in self.proxies.all_mut() {
            proxy.is_starting = is_starting(proxy.since, now);
            self.has_starting |= proxy.is_starting;
            let is_unread = !proxy.is_starting
                && (mem::take(&mut proxy.is_awaited)
                    | self.starting.remove(&id)
                    | self.settling.remove(&id));
            if is_unread || (has_changed_secrets && !proxy.is_trusted) {
                self.dirty.insert(id, DirtyResources::All);
            }
        }
        let starting = mem::take(&mut self.starting);
        let settled = &mem::replace(&mut self.settling, starting) - &self.settling;
        let settled = settled.into_iter().map(|id| (id, DirtyResources::All));
        self.dirty.extend(settled);
    }

    /// Adds the proxies that connected, and removes those that are gone.
    fn compare_connected(&mut self, now: SystemTime) {
        let connected = self.source.connected();
        let ids: BTreeSet<ProxyId> = connected.iter().map(|proxy| proxy.id).collect();
        for id in self.proxies.gone(&ids) {
            self.disconnect(id);
        }
        for proxy in connected {
            if self.proxies.get(proxy.id).is_none() {
                self.connect(proxy, now);
            }
        }
    }

    /// Reads the dirty answers again. Returns the objects whose counts changed.
    pub(super) fn recount(&mut self, now: SystemTime) -> Vec<ObjectRef> {
        for (id, resources) in mem::take(&mut self.dirty) {
            self.read(id, resources, now);
        }
        if mem::take(&mut self.includes_meshes) {
            self.objects.include_meshes();
        }
        self.objects.recount(|origin| self.index.digest(origin))
    }

    /// Reads the answers of a proxy to some resources, and changes what they change.
    fn read(&mut self, id: ProxyId, resources: DirtyResources, now: SystemTime) {
        let Some((proxy, plan)) = self.proxies.with_plan(id) else {
            return;
        };
        let mut positions: Vec<usize> = match resources {
            DirtyResources::These(positions) => proxy.answers.with_dependent(positions, plan),
            DirtyResources::All => (0..plan.len()).collect(),
        };
        positions.retain(|position| plan.resource(*position).served.is_some());
        let keys: Vec<&ResourceKey> = positions.iter().map(|it| plan.key(*it)).collect();
        let Some(read) = self.source.answers(id, &keys) else {
            self.disconnect(id);
            return;
        };
        proxy.answers.withheld = read.withheld;
        let mut affected = BTreeSet::new();
        for (position, answer) in positions.into_iter().zip(read.answers) {
            let is_concerned = answer.is_some();
            for (object, uses) in proxy.answers.set_concerned(position, is_concerned, plan) {
                if uses {
                    self.objects.add_proxy(object);
                } else {
                    self.objects.remove_proxy(object, id);
                }
            }
            if proxy.answers.set_open(position, answer, plan) {
                affected.extend(plan.resource(position).objects.iter().copied());
            }
        }
        if affected.is_empty() {
            return;
        }
        let is_starting = is_starting(proxy.since, now);
        let mut exceptions = proxy.exceptions(&affected, plan, is_starting);
        proxy.is_awaited |= exceptions.values().any(|answer| answer.is_awaited);
        self.has_starting |= proxy.is_awaited;
        for object in affected {
            let exception = exceptions.remove(&object);
            self.objects
                .set_exception(&plan.objects()[object], id, exception);
        }
    }

    /// Adds a proxy. Its answers are read at once if it is not starting.
    fn connect(&mut self, proxy: ConnectedProxy, now: SystemTime) {
        let id = proxy.id;
        let is_starting = is_starting(proxy.since, now);
        self.proxies.insert(proxy, is_starting, &self.index);
        self.has_starting |= is_starting;
        if is_starting {
            self.starting.insert(id);
        } else {
            self.dirty.insert(id, DirtyResources::All);
        }
    }

    fn disconnect(&mut self, id: ProxyId) {
        self.withdraw(id);
        self.proxies.remove(id);
        self.starting.remove(&id);
        self.settling.remove(&id);
    }

    /// Removes the answers of a proxy from the counts.
    fn withdraw(&mut self, id: ProxyId) {
        let Some((proxy, plan)) = self.proxies.with_plan(id) else {
            return;
        };
        for (origin, concerning) in plan.objects().iter().zip(&proxy.answers.concerning) {
            if *concerning > 0 {
                self.objects.remove_proxy(origin, id);
            }
        }
    }
}

/// Marks the answer of a proxy to a resource as one to read again.
fn mark(dirty: &mut BTreeMap<ProxyId, DirtyResources>, id: ProxyId, position: usize) {
    let none = || DirtyResources::These(BTreeSet::new());
    if let DirtyResources::These(positions) = dirty.entry(id).or_insert_with(none) {
        positions.insert(position);
    }
}

fn is_starting(since: SystemTime, now: SystemTime) -> bool {
    // After the clock was set back `duration_since` fails: such a proxy is not starting.
    now.duration_since(since)
        .is_ok_and(|age| age < STARTUP_TIME)
}

#[cfg(test)]
mod tests;
