//! Index from a Kubernetes object to the xDS resources derived from it, with the commit time of each version.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::{Arc, OnceLock},
};

use evermesh_proto::{ContentVersion, ProxyView, Resource, ResourceKey};
use k8s_openapi::jiff::Timestamp;

/// A resource in the store.
#[derive(Debug, Clone)]
pub(super) struct ServedResource {
    pub(super) resource: Arc<Resource>,
    /// Time at which this version was committed.
    pub(super) committed_at: Timestamp,
}

/// All resources in the store, by key and by origin.
#[derive(Debug, Default)]
pub(super) struct ResourceIndex {
    served: BTreeMap<ResourceKey, ServedResource>,
    by_origin: BTreeMap<Arc<str>, DerivedKeys>,
}

/// The keys of the resources derived from one object: those of all proxies, and those of the proxies of one view each.
#[derive(Debug, Default)]
struct DerivedKeys {
    shared: BTreeSet<ResourceKey>,
    by_view: BTreeMap<Arc<str>, BTreeSet<ResourceKey>>,
    /// The digest of keys and versions, absent until it is asked for. A new version removes and inserts its key.
    digest: OnceLock<String>,
}

impl DerivedKeys {
    fn insert(&mut self, key: ResourceKey) {
        self.digest.take();
        match &key.scope {
            Some(view) => {
                let of_view = self.by_view.entry(Arc::clone(view)).or_default();
                of_view.insert(key);
            }
            None => {
                self.shared.insert(key);
            }
        }
    }

    fn remove(&mut self, key: &ResourceKey) {
        self.digest.take();
        match &key.scope {
            Some(view) => {
                if let Some(of_view) = self.by_view.get_mut(view) {
                    of_view.remove(key);
                    if of_view.is_empty() {
                        self.by_view.remove(view);
                    }
                }
            }
            None => {
                self.shared.remove(key);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.shared.is_empty() && self.by_view.is_empty()
    }
}

impl ResourceIndex {
    /// The resources derived from an object, which `origin` names as in [`Resource::origins`].
    fn derived_from(&self, origin: &str) -> impl Iterator<Item = (&ResourceKey, &ServedResource)> {
        let derived = self.by_origin.get(origin).into_iter();
        let keys = derived.flat_map(|it| it.shared.iter().chain(it.by_view.values().flatten()));
        keys.filter_map(|key| self.served.get_key_value(key))
    }

    /// Hash of the keys and versions of the resources derived from an object.
    pub(super) fn digest(&self, origin: &str) -> String {
        match self.by_origin.get(origin) {
            Some(derived) => derived
                .digest
                .get_or_init(|| self.new_digest(origin))
                .clone(),
            None => self.new_digest(origin),
        }
    }

    fn new_digest(&self, origin: &str) -> String {
        let mut text = String::new();
        for (key, served) in self.derived_from(origin) {
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

    /// Resources derived from an object that a view lists, in any order. Walks the view or the shared resources,
    /// whichever are fewer.
    pub(super) fn derived_in_view(
        &self,
        origin: &str,
        name: &str,
        view: &ProxyView,
    ) -> Vec<(&ResourceKey, &ServedResource)> {
        let Some(derived) = self.by_origin.get(origin) else {
            return Vec::new();
        };
        let is_listed = |key: &&ResourceKey| view.find(key.kind, &key.name) == Some(*key);
        let own = derived.by_view.get(name).into_iter().flatten();
        let own = own.filter(is_listed);
        let served = |key| self.served.get_key_value(key);
        if derived.shared.len() <= view.keys().len() {
            let shared = derived.shared.iter().filter(is_listed);
            own.chain(shared).filter_map(served).collect()
        } else {
            let listed = view.keys().iter();
            let shared = listed.filter(|key| derived.shared.contains(*key));
            own.chain(shared).filter_map(served).collect()
        }
    }

    pub(super) fn get(&self, key: &ResourceKey) -> Option<&ServedResource> {
        self.served.get(key)
    }

    /// Adds or replaces a resource. Returns the origins of the old and the new version.
    pub(super) fn upsert(
        &mut self,
        key: ResourceKey,
        resource: Arc<Resource>,
        now: Timestamp,
    ) -> BTreeSet<Arc<str>> {
        let mut affected = self.remove(&key);
        for origin in resource.origins.iter() {
            let keys = self.by_origin.entry(Arc::clone(origin)).or_default();
            keys.insert(key.clone());
            affected.insert(Arc::clone(origin));
        }
        let served = ServedResource {
            resource,
            committed_at: now,
        };
        self.served.insert(key, served);
        affected
    }

    /// Removes a resource. Returns its origins.
    pub(super) fn remove(&mut self, key: &ResourceKey) -> BTreeSet<Arc<str>> {
        let Some(removed) = self.served.remove(key) else {
            return BTreeSet::new();
        };
        for origin in removed.resource.origins.iter() {
            if let Some(keys) = self.by_origin.get_mut(origin) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_origin.remove(origin);
                }
            }
        }
        removed.resource.origins.iter().cloned().collect()
    }
}
