//! Counts how many of this replica's proxies have ACKed the resources derived from each object.
//!
//! Input: commits and deliveries as [`EffectEvent`]s, and the registry of connected proxies. Output: an [`AckCount`] for
//! each object that at least one proxy uses. An object is recounted only after something changed that its count depends
//! on: one of its resources, an answer to one of them, or a proxy that connected or disconnected.

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

/// Time after connecting in which a proxy that has not ACKed anything yet is not counted. Without it, every proxy that
/// starts would make the `Programmed` conditions of its mesh false for a moment.
const STARTUP_TIME: Duration = Duration::from_secs(5);

/// Number of proxies that have ACKed all resources derived from one object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AckCount {
    /// Hash of the keys and versions of the object's resources; equal on all replicas that serve the same versions.
    pub(super) digest: String,
    /// Number of connected proxies that use at least one of the resources.
    pub(super) concerned: usize,
    /// Number of these proxies that have ACKed the current version of every resource that they use.
    pub(super) acked: usize,
    /// Commit time of the oldest version that a proxy has not ACKed.
    pub(super) waiting_since: Option<Timestamp>,
    /// Proxies that NACKed a current version: node ID and Envoy's message.
    pub(super) rejections: Vec<(String, String)>,
}

/// Keeps the counts of this replica up to date.
pub(super) struct AckCounter {
    store: Arc<Store>,
    registry: Arc<ProxyRegistry>,
    index: ResourceIndex,
    /// Objects to recount.
    dirty: BTreeSet<ObjectRef>,
    /// Meshes to recount at the next sweep that includes meshes: every resource has its mesh as an origin.
    dirty_meshes: BTreeSet<ObjectRef>,
    connected: BTreeMap<ProxyId, KnownProxy>,
    counts: BTreeMap<ObjectRef, AckCount>,
}

/// A proxy that was connected at the last sweep.
struct KnownProxy {
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
            dirty_meshes: BTreeSet::new(),
            connected: BTreeMap::new(),
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
        let mut text = String::new();
        for (key, served) in self.index.derived_from(&object.to_string()) {
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

    pub(super) fn record(&mut self, event: EffectEvent) {
        let now = Timestamp::now();
        match event {
            EffectEvent::Commit { upserts, removals } => {
                for (key, resource) in upserts {
                    let affected = self.index.upsert(key, resource, now);
                    self.mark_dirty(affected);
                }
                for key in removals {
                    let affected = self.index.remove(&key);
                    self.mark_dirty(affected);
                }
            }
            EffectEvent::Delivery(delivery) => {
                self.mark_dirty(delivery.resource.origins.iter().cloned());
            }
        }
    }

    /// Marks the objects behind the views of proxies that connected, disconnected or finished starting since the last
    /// sweep. Meshes become dirty only if `includes_meshes`.
    pub(super) fn sweep(&mut self, now: SystemTime, includes_meshes: bool) {
        let mut views = BTreeSet::new();
        let mut connected = BTreeMap::new();
        for proxy in self.registry.connected() {
            let is_starting = is_starting(proxy.since, now);
            let before = self.connected.remove(&proxy.id);
            if before.is_none_or(|before| before.is_starting != is_starting) {
                views.insert(Arc::clone(&proxy.view));
            }
            let view = proxy.view;
            connected.insert(proxy.id, KnownProxy { view, is_starting });
        }
        let disconnected = std::mem::replace(&mut self.connected, connected);
        views.extend(disconnected.into_values().map(|known| known.view));
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
            self.mark_dirty(origins);
        }
        if includes_meshes {
            self.dirty.append(&mut self.dirty_meshes);
        }
    }

    /// Recounts all dirty objects. Returns those whose counts changed.
    pub(super) fn recount(&mut self, now: SystemTime) -> Vec<ObjectRef> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty
            .into_iter()
            .filter(|object| {
                let count = self.count(object, now);
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

    fn count(&self, object: &ObjectRef, now: SystemTime) -> Option<AckCount> {
        let mut proxies: BTreeMap<ProxyId, bool> = BTreeMap::new();
        let mut starting = BTreeSet::new();
        let mut waiting_since: Option<Timestamp> = None;
        let mut rejections = BTreeMap::new();
        for (key, served) in self.index.derived_from(&object.to_string()) {
            for answer in self.registry.ack_statuses(&self.store, key) {
                let version = served.resource.version;
                let has_acked = answer.acked == Some(version);
                *proxies.entry(answer.proxy).or_insert(true) &= has_acked;
                if has_acked {
                    continue;
                }
                if let Some(rejection) = answer.rejection.filter(|it| it.version == version) {
                    rejections.insert(answer.proxy, (answer.node_id, rejection.message));
                } else if answer.acked.is_none() && is_starting(answer.since, now) {
                    starting.insert(answer.proxy);
                    continue;
                }
                let committed_at = served.committed_at;
                waiting_since = Some(waiting_since.map_or(committed_at, |it| committed_at.min(it)));
            }
        }
        starting.retain(|proxy| !rejections.contains_key(proxy));
        proxies.retain(|proxy, _| !starting.contains(proxy));
        (!proxies.is_empty()).then(|| AckCount {
            digest: self.digest(object),
            concerned: proxies.len(),
            acked: proxies.values().filter(|has_acked| **has_acked).count(),
            waiting_since,
            rejections: rejections.into_values().collect(),
        })
    }

    fn mark_dirty(&mut self, origins: impl IntoIterator<Item = Arc<str>>) {
        for object in origins.into_iter().filter_map(|it| it.parse().ok()) {
            let object: ObjectRef = object;
            match object.kind {
                Kind::Mesh => self.dirty_meshes.insert(object),
                _ => self.dirty.insert(object),
            };
        }
    }
}

fn is_starting(since: SystemTime, now: SystemTime) -> bool {
    // After the clock was set back `duration_since` fails: such a proxy is not starting.
    now.duration_since(since)
        .is_ok_and(|age| age < STARTUP_TIME)
}

#[cfg(test)]
mod tests {
    use evermesh_proto::resource::{ProxyView, Resource, ResourceKey, ResourceType};
    use evermesh_testkit::{wait::eventually, xds::open_stream};
    use evermesh_xds::{StoreCommit, XdsServerOptions};
    use tokio::net::TcpListener;
    use tonic::transport::Endpoint;

    use super::*;

    /// A cluster that was derived from the route `n/r`. An empty body is a valid `Cluster` message.
    fn cluster(name: &str, body: &'static [u8]) -> (ResourceKey, Arc<Resource>) {
        let origins: [Arc<str>; 1] = ["Route/n/r".into()];
        let resource = Resource::from_encoded(ResourceType::Cluster, name.into(), body.into());
        let key = ResourceKey {
            kind: ResourceType::Cluster,
            name: name.into(),
            scope: None,
        };
        (key, Arc::new(resource.with_origins(origins)))
    }

    fn committed(upserts: Vec<(ResourceKey, Arc<Resource>)>) -> EffectEvent {
        EffectEvent::Commit {
            upserts,
            removals: Vec::new(),
        }
    }

    fn route() -> ObjectRef {
        ObjectRef::new(Kind::Route, "n", "r")
    }

    #[test]
    fn digest_depends_on_keys_and_versions_alone() {
        let digest = |commits: [(ResourceKey, Arc<Resource>); 2]| {
            let mut counter = AckCounter::new(Store::new(), ProxyRegistry::new(None));
            for commit in commits {
                counter.record(committed(vec![commit]));
            }
            counter.digest(&route())
        };
        let first = digest([cluster("a", b""), cluster("b", b"")]);
        assert_eq!(digest([cluster("b", b""), cluster("a", b"")]), first);
        assert_ne!(digest([cluster("a", b""), cluster("b", b"other")]), first);
        assert_ne!(digest([cluster("a", b""), cluster("c", b"")]), first);
    }

    #[test]
    fn object_without_proxies_has_no_count() {
        let mut counter = AckCounter::new(Store::new(), ProxyRegistry::new(None));
        counter.record(committed(vec![cluster("a", b"")]));
        assert!(counter.recount(SystemTime::now()).is_empty());
        assert_eq!(counter.get(&route()), None);
    }

    #[tokio::test]
    async fn proxy_without_an_ack_counts_as_waiting_once_it_had_time_to_start() {
        let (store, registry) = (Store::new(), ProxyRegistry::new(None));
        let (key, resource) = cluster("a", b"");
        store.commit(StoreCommit {
            upserts: vec![(key.clone(), Arc::clone(&resource))],
            views: vec![(
                "view".into(),
                Some(Arc::new(ProxyView::new(vec![key.clone()]))),
            )],
            ..StoreCommit::default()
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let options = XdsServerOptions::new(Arc::new(|_, _| Ok("view".into()).into()));
        let server =
            evermesh_xds::serve(listener, Arc::clone(&store), Arc::clone(&registry), options);
        tokio::spawn(server);
        let channel = Endpoint::from_shared(address).unwrap().connect_lazy();
        let stream = open_stream(channel, "node", None).await.unwrap();

        let mut counter = AckCounter::new(store, Arc::clone(&registry));
        counter.record(committed(vec![(key, resource)]));
        let connected_at = registry.connected()[0].since;
        counter.sweep(connected_at, false);
        assert!(
            counter.recount(connected_at).is_empty(),
            "a starting proxy is not counted"
        );

        let started = connected_at + STARTUP_TIME;
        counter.sweep(started, false);
        assert_eq!(counter.recount(started), [route()]);
        let count = counter.get(&route()).unwrap();
        assert_eq!((count.concerned, count.acked), (1, 0));
        assert!(count.waiting_since.is_some());
        assert_eq!(count.digest, counter.digest(&route()));

        drop(stream);
        let limit = Duration::from_secs(10);
        eventually("the disconnect", limit, async || registry.is_empty()).await;
        counter.sweep(started, false);
        assert_eq!(counter.recount(started), [route()]);
        assert_eq!(counter.get(&route()), None);
    }
}
