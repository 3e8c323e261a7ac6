//! What this replica's proxies made of everything that came of each object.
//!
//! In: commits and verdicts as they happen, and who is connected. Out: a [`AckCount`] for each object that proxies are
//! concerned with, made anew only when something it depends on happened.
//!
//! Must not know what a condition is, or who writes it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
    time::{Duration, SystemTime},
};

use evermesh_model::{Kind, ObjectRef};
use evermesh_proto::ContentVersion;
use evermesh_xds::{ProxyId, ProxyRegistry, Store};
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{EffectEvent, index::ResourceIndex};

/// How long after it connected a proxy may have nothing without counting as one that waits: it is starting, and every
/// proxy that starts would make a mesh look unfinished.
const STARTING: Duration = Duration::from_secs(5);

/// What proxies made of everything that came of one object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AckCount {
    /// Names all that came of the object, and its versions: equal on every replica that serves the same.
    pub(super) digest: String,
    /// How many proxies are concerned.
    pub(super) concerned: usize,
    /// How many have accepted all of it.
    pub(super) acked: usize,
    /// Since when the oldest part waits for an answer.
    pub(super) waiting_since: Option<Timestamp>,
    /// Who refused some of it, with the proxy's own words.
    pub(super) refusals: Vec<(String, String)>,
}

/// The counts of this replica.
pub(super) struct AckCounter {
    store: Arc<Store>,
    registry: Arc<ProxyRegistry>,
    index: ResourceIndex,
    /// Objects to be counted.
    dirty: BTreeSet<ObjectRef>,
    /// Meshes to be counted at leisure.
    slow: BTreeSet<ObjectRef>,
    connected: BTreeMap<ProxyId, Known>,
    counts: BTreeMap<ObjectRef, AckCount>,
}

/// A proxy that was connected at the last sweep.
struct Known {
    view: Arc<str>,
    is_starting: bool,
}

impl AckCounter {
    pub(super) fn new(store: Arc<Store>, registry: Arc<ProxyRegistry>) -> Self {
        Self {
            store,
            registry,
            index: ResourceIndex::default(),
            dirty: BTreeSet::new(),
            slow: BTreeSet::new(),
            connected: BTreeMap::new(),
            counts: BTreeMap::new(),
        }
    }

    /// The newest count of an object; none if no proxy here is concerned.
    pub(super) fn get(&self, object: &ObjectRef) -> Option<&AckCount> {
        self.counts.get(object)
    }

    /// Every count.
    pub(super) fn all(&self) -> impl Iterator<Item = (&ObjectRef, &AckCount)> {
        self.counts.iter()
    }

    /// What names the versions of everything that came of an object, here and now.
    pub(super) fn digest(&self, object: &ObjectRef) -> String {
        let mut text = String::new();
        for (key, served) in self.index.of(&object.to_string()) {
            let scope = key.scope.as_deref().unwrap_or_default();
            let version = served.resource.version;
            // Writing into a String never fails.
            let _ = write!(
                text,
                "{}\0{}\0{scope}\0{version}\0",
                key.kind.as_str(),
                key.name
            );
        }
        ContentVersion::of(text.as_bytes()).to_string()
    }

    pub(super) fn note(&mut self, notice: EffectEvent) {
        let now = Timestamp::now();
        match notice {
            EffectEvent::Commit { upserts, removals } => {
                for (key, resource) in upserts {
                    let concerned = self.index.put(key, resource, now);
                    self.mark(concerned);
                }
                for key in removals {
                    let concerned = self.index.remove(&key);
                    self.mark(concerned);
                }
            }
            EffectEvent::Delivery(verdict) => self.mark(verdict.resource.origins.iter().cloned()),
        }
    }

    /// Who came, who went and who has had the time to start concerns all that is in their views. A mesh, which
    /// everything in it is a part of, is counted only when what is slow is due.
    pub(super) fn sweep(&mut self, now: SystemTime, is_slow_due: bool) {
        let mut views = BTreeSet::new();
        let mut connected = BTreeMap::new();
        for proxy in self.registry.connected() {
            let is_starting = is_starting(proxy.since, now);
            let before = self.connected.remove(&proxy.id);
            if before.is_none_or(|before| before.is_starting != is_starting) {
                views.insert(Arc::clone(&proxy.view));
            }
            let view = proxy.view;
            connected.insert(proxy.id, Known { view, is_starting });
        }
        let gone = std::mem::replace(&mut self.connected, connected);
        views.extend(gone.into_values().map(|known| known.view));
        for view in views {
            let Some(view) = self.store.view(&view) else {
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

    /// Counts what has to be, and returns what came out different.
    pub(super) fn count(&mut self, now: SystemTime) -> Vec<ObjectRef> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty
            .into_iter()
            .filter(|object| {
                let count = self.counted(object, now);
                if self.counts.get(object) == count.as_ref() {
                    return false;
                }
                match count {
                    Some(count) => self.counts.insert(object.clone(), count),
                    None => self.counts.remove(object),
                };
                true
            })
            .collect()
    }

    fn counted(&self, object: &ObjectRef, now: SystemTime) -> Option<AckCount> {
        let mut proxies: BTreeMap<ProxyId, bool> = BTreeMap::new();
        let mut starting = BTreeSet::new();
        let mut waiting_since: Option<Timestamp> = None;
        let mut refusals = BTreeMap::new();
        for (key, served) in self.index.of(&object.to_string()) {
            for answer in self.registry.ack_statuses(&self.store, key) {
                let version = served.resource.version;
                let has_it = answer.acked == Some(version);
                *proxies.entry(answer.proxy).or_insert(true) &= has_it;
                if has_it {
                    continue;
                }
                if let Some(rejection) = answer.rejection.filter(|it| it.version == version) {
                    refusals.insert(answer.proxy, (answer.node_id, rejection.message));
                } else if answer.acked.is_none() && is_starting(answer.since, now) {
                    starting.insert(answer.proxy);
                    continue;
                }
                waiting_since = Some(waiting_since.map_or(served.since, |it| served.since.min(it)));
            }
        }
        starting.retain(|proxy| !refusals.contains_key(proxy));
        proxies.retain(|proxy, _| !starting.contains(proxy));
        (!proxies.is_empty()).then(|| AckCount {
            digest: self.digest(object),
            concerned: proxies.len(),
            acked: proxies.values().filter(|has_it| **has_it).count(),
            waiting_since,
            refusals: refusals.into_values().collect(),
        })
    }

    fn mark(&mut self, origins: impl IntoIterator<Item = Arc<str>>) {
        for object in origins.into_iter().filter_map(|it| it.parse().ok()) {
            let object: ObjectRef = object;
            match object.kind {
                Kind::Mesh => self.slow.insert(object),
                _ => self.dirty.insert(object),
            };
        }
    }
}

fn is_starting(since: SystemTime, now: SystemTime) -> bool {
    // A clock that was set back starts nobody anew.
    now.duration_since(since).is_ok_and(|age| age < STARTING)
}
