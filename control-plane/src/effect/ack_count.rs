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
use evermesh_proto::{ContentVersion, ResourceKey, ResourceType};
use evermesh_xds::{AckStatus, ProxyId, ProxyRegistry, Store};
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
    /// Proxies that NACKed a current version or a cluster that it needs: node ID and Envoy's message.
    pub(super) rejections: Vec<(String, String)>,
    #[serde(default)]
    pub(super) withheld: WithheldKeys,
}

/// Proxies that do not get a private key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WithheldKeys {
    /// Number of these proxies.
    pub(super) proxies: usize,
    /// One of them: node ID and name of the Secret resource. All may be many.
    pub(super) example: Option<(String, String)>,
}

impl WithheldKeys {
    /// Adds the proxies of another replica.
    pub(super) fn add(&mut self, other: &Self) {
        self.proxies += other.proxies;
        if self.example.is_none() {
            self.example.clone_from(&other.example);
        }
    }
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
    /// Whether Secrets changed since the last sweep. What an untrusted proxy does not get may have changed with them.
    has_changed_secrets: bool,
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
            has_changed_secrets: false,
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
                let mut keys = upserts.iter().map(|(key, _)| key).chain(&removals);
                self.has_changed_secrets |= keys.any(|key| key.kind == ResourceType::Secret);
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
    /// sweep, and of untrusted proxies if Secrets changed. Meshes become dirty only if `includes_meshes`.
    pub(super) fn sweep(&mut self, now: SystemTime, includes_meshes: bool) {
        let mut views = BTreeSet::new();
        let mut connected = BTreeMap::new();
        let has_changed_secrets = std::mem::take(&mut self.has_changed_secrets);
        for proxy in self.registry.connected() {
            let is_starting = is_starting(proxy.since, now);
            let before = self.connected.remove(&proxy.id);
            if before.is_none_or(|before| before.is_starting != is_starting)
                || (has_changed_secrets && !proxy.is_trusted)
            {
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
        let mut withheld = BTreeMap::new();
        let origin = object.to_string();
        for (key, served) in self.index.derived_from(&origin) {
            for status in self.registry.ack_statuses(&self.store, key) {
                let version = served.resource.version;
                let secret = withheld_secret(object, key, &status);
                let has_acked = secret.is_none() && status.answer.has_acked(version, &origin);
                *proxies.entry(status.proxy).or_insert(true) &= has_acked;
                if has_acked {
                    continue;
                }
                if let Some(secret) = secret {
                    withheld.insert(status.proxy, (status.node_id, secret));
                    continue;
                }
                if let Some(message) = status.answer.refusal(version, &origin) {
                    rejections.insert(status.proxy, (status.node_id, message));
                } else if status.answer.acked.is_none() && is_starting(status.since, now) {
                    starting.insert(status.proxy);
                    continue;
                }
                let committed_at = served.committed_at;
                waiting_since = Some(waiting_since.map_or(committed_at, |it| committed_at.min(it)));
            }
        }
        starting.retain(|proxy| !rejections.contains_key(proxy) && !withheld.contains_key(proxy));
        proxies.retain(|proxy, _| !starting.contains(proxy));
        (!proxies.is_empty()).then(|| AckCount {
            digest: self.digest(object),
            concerned: proxies.len(),
            acked: proxies.values().filter(|has_acked| **has_acked).count(),
            waiting_since,
            rejections: rejections.into_values().collect(),
            withheld: WithheldKeys {
                proxies: withheld.len(),
                example: withheld.into_values().next(),
            },
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

/// The Secret that the proxy does not get and that the object needs: the resource itself, or any Secret if the resource
/// is a listener of the object's own proxy.
fn withheld_secret(object: &ObjectRef, key: &ResourceKey, status: &AckStatus) -> Option<String> {
    let is_proxy = matches!(object.kind, Kind::VirtualNode | Kind::VirtualGateway);
    let mut withheld = status.withheld.iter();
    let name = match key.kind {
        ResourceType::Secret => withheld.find(|name| **name == key.name),
        // Only the listeners of a proxy itself have its object as origin.
        ResourceType::Listener if is_proxy => withheld.next(),
        _ => None,
    };
    name.map(ToString::to_string)
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

    /// Serves a store and opens a stream of a proxy, over plaintext, with the view `view`.
    async fn connect(
        store: &Arc<Store>,
        registry: &Arc<ProxyRegistry>,
    ) -> evermesh_testkit::xds::DeltaStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let options = XdsServerOptions::new(Arc::new(|_, _| Ok("view".into()).into()));
        let server =
            evermesh_xds::serve(listener, Arc::clone(store), Arc::clone(registry), options);
        tokio::spawn(server);
        let channel = Endpoint::from_shared(address).unwrap().connect_lazy();
        open_stream(channel, "node", None).await.unwrap()
    }

    #[tokio::test]
    async fn proxy_without_a_private_key_is_reported_for_its_node_and_for_the_mesh() {
        let (store, registry) = (Store::new(), ProxyRegistry::new(None));
        let of = |kind, name: &str, scope: Option<&str>, origin: &str| {
            let resource = Resource::from_encoded(kind, name.into(), "".into());
            let resource = resource.with_origins([Arc::from(origin)]);
            let key = ResourceKey {
                kind,
                name: name.into(),
                scope: scope.map(Into::into),
            };
            (key, resource)
        };
        let listener = of(
            ResourceType::Listener,
            "l",
            Some("view"),
            "VirtualNode/n/own",
        );
        let other = of(ResourceType::Cluster, "c", None, "VirtualNode/n/other");
        let (key, secret) = of(ResourceType::Secret, "s", None, "Mesh/m");
        let upserts: Vec<(ResourceKey, Arc<Resource>)> = vec![
            (listener.0, Arc::new(listener.1)),
            (other.0, Arc::new(other.1)),
        ];
        let keys = upserts.iter().map(|(key, _)| key.clone());
        let view = ProxyView::new(keys.chain([key.clone()]).collect());
        store.commit(StoreCommit {
            upserts: upserts.clone(),
            views: vec![("view".into(), Some(Arc::new(view)))],
            ..StoreCommit::default()
        });
        let _stream = connect(&store, &registry).await;
        let mut counter = AckCounter::new(Arc::clone(&store), Arc::clone(&registry));
        counter.record(committed(upserts));
        let now = registry.connected()[0].since + STARTUP_TIME;
        counter.sweep(now, true);
        let objects = ["Mesh/m", "VirtualNode/n/other", "VirtualNode/n/own"];
        let withheld = |counter: &mut AckCounter| {
            counter.recount(now);
            objects.map(|object| {
                let count = counter.get(&object.parse().unwrap());
                count.map_or(0, |count| count.withheld.proxies)
            })
        };
        assert_eq!(withheld(&mut counter), [0, 0, 0]);

        let secret = Arc::new(secret.into_confidential());
        let commit = vec![(key, secret)];
        store.commit(StoreCommit {
            upserts: commit.clone(),
            ..StoreCommit::default()
        });
        counter.record(committed(commit));
        counter.sweep(now, true);
        assert_eq!(withheld(&mut counter), [1, 0, 1]);
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
