//! Counts how many of this replica's proxies have ACKed the resources derived from each object.
//!
//! Input: commits and answers as [`EffectChanges`], and the registry of connected proxies. Output: an [`AckCount`] for
//! each object that at least one proxy uses.
//!
//! The counter keeps the answer of each proxy for each object ([`ObjectAnswer`]). A change makes it read again only the
//! answers that may differ: an ACK those of one proxy for the origins of one resource, a commit those of the proxies
//! whose views list a changed resource, a connection those of one proxy.
//!
//! ```text
//!  commits, answers, sweep ──► dirty: object → proxies ──recount──► answers: object → proxy → answer ──► AckCount
//! ```

mod object_answer;
mod proxies;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use evermesh_model::ObjectRef;
use evermesh_proto::{ProxyView, ResourceKey, ResourceType};
use evermesh_xds::{ConnectedProxy, ProxyAnswers, ProxyId, ProxyRegistry};
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

use self::{
    object_answer::{ObjectAnswer, Reading},
    proxies::{KnownProxy, ProxyIndex},
};
use super::{
    inbox::{AnsweredObjects, EffectChanges},
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
    /// Hash of the keys and versions of the object's resources; equal on all replicas that serve the same versions.
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
    fn connected(&self) -> Vec<ConnectedProxy>;

    /// `None` if the stream has ended.
    fn connected_proxy(&self, id: ProxyId) -> Option<ConnectedProxy>;

    /// The answers to resources that the view of the proxy lists; `None` if the stream has ended.
    fn answers(&self, id: ProxyId, keys: &[&ResourceKey]) -> Option<ProxyAnswers>;
}

impl AnswerSource for Arc<ProxyRegistry> {
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
    /// Proxies whose answers for an object have to be read again.
    dirty: Dirty,
    /// Proxies whose answers for a mesh wait for the next sweep that includes meshes: every resource has its mesh as an
    /// origin.
    dirty_meshes: Dirty,
    /// Answers of proxies that are starting, which wait for the next sweep: such a proxy answers several times in its
    /// first second. An answer that waits makes no count look better than it is.
    dirty_starting: Dirty,
    /// Whether Secrets changed since the last sweep. What an untrusted proxy does not get may have changed with them.
    has_changed_secrets: bool,
    objects: HashMap<Arc<str>, CountedObject>,
    counts: BTreeMap<ObjectRef, AckCount>,
}

/// Proxies by object, which is named as in [`Resource::origins`](evermesh_proto::Resource::origins).
type Dirty = BTreeMap<Arc<str>, BTreeSet<ProxyId>>;

/// The answers of the proxies that use an object.
struct CountedObject {
    object: ObjectRef,
    answers: BTreeMap<ProxyId, ObjectAnswer>,
}

impl<S: AnswerSource> AckCounter<S> {
    pub(super) fn new(source: S) -> Self {
        Self {
            source,
            index: ResourceIndex::default(),
            proxies: ProxyIndex::default(),
            dirty: Dirty::new(),
            dirty_meshes: Dirty::new(),
            dirty_starting: Dirty::new(),
            has_changed_secrets: false,
            objects: HashMap::new(),
            counts: BTreeMap::new(),
        }
    }

    /// The newest count of an object, or `None` if no proxy of this replica uses it.
    pub(super) fn get(&self, object: &ObjectRef) -> Option<&AckCount> {
        self.counts.get(object)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&ObjectRef, &AckCount)> {
        self.counts.iter()
    }

    /// The digest of the versions of an object's resources that this replica serves now.
    pub(super) fn digest(&self, object: &ObjectRef) -> String {
        self.index.digest(&object.to_string())
    }

    pub(super) fn record(&mut self, changes: EffectChanges) {
        let EffectChanges {
            resources,
            views,
            answers,
        } = changes;
        let mut concerned: Vec<BTreeSet<ProxyId>> = Vec::new();
        for key in resources.keys() {
            self.has_changed_secrets |= key.kind == ResourceType::Secret;
            concerned.push(self.proxies.listing(key));
        }
        let has_other_views = !views.is_empty();
        for (name, view) in views {
            self.replace_view(&name, view);
        }
        let now = Timestamp::now();
        for ((key, resource), mut proxies) in resources.into_iter().zip(concerned) {
            if has_other_views {
                proxies.extend(self.proxies.listing(&key));
            }
            let affected = match resource {
                Some(resource) => self.index.upsert(key, resource, now),
                None => self.index.remove(&key),
            };
            // An object is counted again even if no proxy uses the resource: its digest changed.
            for origin in affected {
                mark(&mut self.dirty, &mut self.dirty_meshes, origin, &proxies);
            }
        }
        self.record_answers(answers);
    }

    fn record_answers(&mut self, answers: AnsweredObjects) {
        if answers.is_incomplete {
            for proxy in self.source.connected() {
                if self.proxies.get(proxy.id).is_some() {
                    self.mark_view_dirty(proxy.id);
                } else {
                    self.connect(proxy.id);
                }
            }
        }
        for (origin, proxies) in answers.proxies {
            let (mut running, mut starting) = (BTreeSet::new(), BTreeSet::new());
            for id in proxies {
                if self.proxies.get(id).is_none() {
                    self.connect(id);
                }
                match self.proxies.get(id) {
                    Some(proxy) if proxy.is_starting => starting.insert(id),
                    _ => running.insert(id),
                };
            }
            for (dirty, proxies) in [
                (&mut self.dirty, running),
                (&mut self.dirty_starting, starting),
            ] {
                if !proxies.is_empty() {
                    mark(dirty, &mut self.dirty_meshes, Arc::clone(&origin), &proxies);
                }
            }
        }
    }

    /// Marks the objects behind the views of proxies that connected, disconnected or finished starting since the last
    /// sweep, and of untrusted proxies if Secrets changed. Meshes become dirty only if `includes_meshes`.
    pub(super) fn sweep(&mut self, now: SystemTime, includes_meshes: bool) {
        let has_changed_secrets = std::mem::take(&mut self.has_changed_secrets);
        let connected = self.source.connected();
        let ids: BTreeSet<ProxyId> = connected.iter().map(|proxy| proxy.id).collect();
        for id in self.proxies.gone(&ids) {
            self.mark_view_dirty(id);
            self.proxies.remove(id);
        }
        for proxy in connected {
            let is_starting = is_starting(proxy.since, now);
            let sees_other_secrets = has_changed_secrets && !proxy.is_trusted;
            let id = proxy.id;
            let is_dirty = match self.proxies.get_mut(id) {
                None => {
                    self.proxies.insert(KnownProxy::new(proxy, is_starting));
                    true
                }
                Some(known) => {
                    let has_started = known.is_starting && !is_starting;
                    known.is_starting = is_starting;
                    sees_other_secrets || (has_started && std::mem::take(&mut known.is_awaited))
                }
            };
            if is_dirty {
                self.mark_view_dirty(id);
            }
        }
        let mut later = std::mem::take(&mut self.dirty_starting);
        if includes_meshes {
            later.extend(std::mem::take(&mut self.dirty_meshes));
        }
        for (origin, proxies) in later {
            self.dirty.entry(origin).or_default().extend(proxies);
        }
    }

    /// Reads the dirty answers again. Returns the objects whose counts changed.
    pub(super) fn recount(&mut self, now: SystemTime) -> Vec<ObjectRef> {
        let dirty = std::mem::take(&mut self.dirty);
        let mut changed = Vec::new();
        for (origin, proxies) in dirty {
            let Some(counted) = self.read_answers(&origin, &proxies, now) else {
                continue;
            };
            let digest = || self.index.digest(&origin);
            let count = object_answer::count(counted.answers.values(), digest);
            if self.counts.get(&counted.object) != count.as_ref() {
                match count {
                    Some(count) => self.counts.insert(counted.object.clone(), count),
                    None => self.counts.remove(&counted.object),
                };
                changed.push(counted.object.clone());
            }
            if !counted.answers.is_empty() {
                self.objects.insert(origin, counted);
            }
        }
        changed
    }

    /// Takes an object out of `objects` and brings its answers up to date. `None` if the origin is not the name of an
    /// object.
    fn read_answers(
        &mut self,
        origin: &Arc<str>,
        proxies: &BTreeSet<ProxyId>,
        now: SystemTime,
    ) -> Option<CountedObject> {
        let mut counted = match self.objects.remove(origin) {
            Some(counted) => counted,
            None => CountedObject {
                object: origin.parse().ok()?,
                answers: BTreeMap::new(),
            },
        };
        for id in proxies {
            let reading = self.read_answer(origin, &counted.object, *id, now);
            match reading.answer {
                Some(answer) => counted.answers.insert(*id, answer),
                None => counted.answers.remove(id),
            };
            if reading.is_awaited
                && let Some(proxy) = self.proxies.get_mut(*id)
            {
                proxy.is_awaited = true;
            }
        }
        Some(counted)
    }

    fn read_answer(
        &self,
        origin: &str,
        object: &ObjectRef,
        id: ProxyId,
        now: SystemTime,
    ) -> Reading {
        let proxy = self.proxies.get(id);
        let proxy = proxy.and_then(|proxy| Some((proxy, self.proxies.view(&proxy.view)?)));
        let Some((proxy, view)) = proxy else {
            return Reading::default();
        };
        let served = self.index.derived_in_view(origin, &proxy.view, view);
        object_answer::read(&self.source, proxy, object, origin, &served, now)
    }

    /// Adds a proxy that has answered before a sweep has seen it.
    fn connect(&mut self, id: ProxyId) {
        if let Some(proxy) = self.source.connected_proxy(id) {
            let is_starting = is_starting(proxy.since, SystemTime::now());
            self.proxies.insert(KnownProxy::new(proxy, is_starting));
            self.mark_view_dirty(id);
        }
    }

    /// Marks what the proxies of a view used and use.
    fn replace_view(&mut self, name: &Arc<str>, view: Option<Arc<ProxyView>>) {
        let proxies = self.proxies.with_view(name);
        if !proxies.is_empty() {
            let before = self.proxies.view(name);
            let views = before.into_iter().chain(&view);
            let origins: BTreeSet<_> = views.flat_map(|view| self.origins_of(view)).collect();
            for origin in origins {
                mark(&mut self.dirty, &mut self.dirty_meshes, origin, &proxies);
            }
        }
        self.proxies.set_view(name, view);
    }

    /// Marks everything that a proxy uses.
    fn mark_view_dirty(&mut self, id: ProxyId) {
        let Some(proxy) = self.proxies.get(id) else {
            return;
        };
        let view = self.proxies.view(&proxy.view);
        let origins = view.map_or_else(BTreeSet::new, |view| self.origins_of(view));
        let dirty = if proxy.is_starting {
            &mut self.dirty_starting
        } else {
            &mut self.dirty
        };
        let proxies = [id].into();
        for origin in origins {
            mark(dirty, &mut self.dirty_meshes, origin, &proxies);
        }
    }

    fn origins_of(&self, view: &ProxyView) -> BTreeSet<Arc<str>> {
        let served = view.keys().iter().filter_map(|key| self.index.get(key));
        served
            .flat_map(|served| served.resource.origins.iter().cloned())
            .collect()
    }
}

/// Marks the answers of some proxies for the object `origin`.
fn mark(
    dirty: &mut Dirty,
    dirty_meshes: &mut Dirty,
    origin: Arc<str>,
    proxies: &BTreeSet<ProxyId>,
) {
    let dirty = if origin.starts_with(MESH_ORIGIN) {
        dirty_meshes
    } else {
        dirty
    };
    dirty.entry(origin).or_default().extend(proxies);
}

/// The beginning of the origins that are meshes: a mesh is in no namespace.
const MESH_ORIGIN: &str = "Mesh/";

fn is_starting(since: SystemTime, now: SystemTime) -> bool {
    // After the clock was set back `duration_since` fails: such a proxy is not starting.
    now.duration_since(since)
        .is_ok_and(|age| age < STARTUP_TIME)
}

#[cfg(test)]
mod tests;
