//! Which resources came from which object, and since when each is what it is.
//!
//! Must not know who holds them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evermesh_proto::{ResourceKey, Resource};
use k8s_openapi::jiff::Timestamp;

/// A resource that is served.
#[derive(Debug, Clone)]
pub(super) struct ServedResource {
    pub(super) resource: Arc<Resource>,
    /// When it became what it is.
    pub(super) since: Timestamp,
}

/// Everything that is served.
#[derive(Debug, Default)]
pub(super) struct ResourceIndex {
    served: BTreeMap<ResourceKey, ServedResource>,
    by_origin: BTreeMap<Arc<str>, BTreeSet<ResourceKey>>,
}

impl ResourceIndex {
    /// The resources that an object is part of.
    pub(super) fn of(&self, origin: &str) -> impl Iterator<Item = (&ResourceKey, &ServedResource)> {
        let keys = self.by_origin.get(origin).into_iter().flatten();
        keys.filter_map(|key| self.served.get_key_value(key))
    }

    /// One resource.
    pub(super) fn get(&self, key: &ResourceKey) -> Option<&ServedResource> {
        self.served.get(key)
    }

    /// A resource is new or has another content. Returns the objects concerned, before or now.
    pub(super) fn put(
        &mut self,
        key: ResourceKey,
        resource: Arc<Resource>,
        now: Timestamp,
    ) -> BTreeSet<Arc<str>> {
        let mut concerned = self.remove(&key);
        for origin in resource.origins.iter() {
            let keys = self.by_origin.entry(Arc::clone(origin)).or_default();
            keys.insert(key.clone());
            concerned.insert(Arc::clone(origin));
        }
        let served = ServedResource {
            resource,
            since: now,
        };
        self.served.insert(key, served);
        concerned
    }

    /// A resource is gone. Returns the objects concerned.
    pub(super) fn remove(&mut self, key: &ResourceKey) -> BTreeSet<Arc<str>> {
        let Some(gone) = self.served.remove(key) else {
            return BTreeSet::new();
        };
        for origin in gone.resource.origins.iter() {
            if let Some(keys) = self.by_origin.get_mut(origin) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_origin.remove(origin);
                }
            }
        }
        gone.resource.origins.iter().cloned().collect()
    }
}
