//! Index from a Kubernetes object to the xDS resources derived from it, with the commit time of each version.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evermesh_proto::{Resource, ResourceKey};
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
    by_origin: BTreeMap<Arc<str>, BTreeSet<ResourceKey>>,
}

impl ResourceIndex {
    /// The resources derived from an object, which `origin` names as in [`Resource::origins`].
    pub(super) fn derived_from(
        &self,
        origin: &str,
    ) -> impl Iterator<Item = (&ResourceKey, &ServedResource)> {
        let keys = self.by_origin.get(origin).into_iter().flatten();
        keys.filter_map(|key| self.served.get_key_value(key))
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
