//! The resources in the store with their commit times, and a digest of the versions that were derived from each
//! Kubernetes object.
//!
//! A digest is a sum of hashes, one for each resource. A commit therefore updates the digest of an object without a look
//! at the other resources of the object: a mesh has all of them.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Write as _,
    sync::Arc,
};

use evermesh_proto::{ContentVersion, Resource, ResourceKey};
use k8s_openapi::jiff::Timestamp;

/// A resource in the store.
#[derive(Debug, Clone)]
pub(super) struct ServedResource {
    pub(super) resource: Arc<Resource>,
    /// Time at which this version was committed.
    pub(super) committed_at: Timestamp,
}

/// All resources in the store by key, and the digest of each origin.
#[derive(Debug, Default)]
pub(super) struct ResourceIndex {
    served: HashMap<ResourceKey, ServedResource>,
    by_origin: HashMap<Arc<str>, VersionSum>,
}

/// The number of resources derived from one object, and the sum of their hashes.
#[derive(Debug, Default)]
struct VersionSum {
    resources: usize,
    sum: u128,
}

impl ResourceIndex {
    /// Hash of the keys and versions of the resources derived from an object, which `origin` names as in
    /// [`Resource::origins`].
    pub(super) fn digest(&self, origin: &str) -> String {
        let sum = self.by_origin.get(origin).map_or(0, |it| it.sum);
        format!("{sum:032x}")
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
        let hash = hash(&key, &resource);
        for origin in resource.origins.iter() {
            let derived = self.by_origin.entry(Arc::clone(origin)).or_default();
            derived.resources += 1;
            derived.sum = derived.sum.wrapping_add(hash);
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
        let Some(ServedResource { resource, .. }) = self.served.remove(key) else {
            return BTreeSet::new();
        };
        let hash = hash(key, &resource);
        for origin in resource.origins.iter() {
            if let Some(derived) = self.by_origin.get_mut(origin) {
                derived.resources -= 1;
                derived.sum = derived.sum.wrapping_sub(hash);
                if derived.resources == 0 {
                    self.by_origin.remove(origin);
                }
            }
        }
        resource.origins.iter().cloned().collect()
    }
}

/// Hash of the key and version of a resource.
fn hash(key: &ResourceKey, resource: &Resource) -> u128 {
    let (kind, scope) = (key.kind.as_str(), key.scope.as_deref().unwrap_or_default());
    let (name, version) = (&key.name, resource.version.to_bits());
    let mut text = String::new();
    // Writing into a String never fails.
    let _ = write!(text, "{kind}\0{name}\0{scope}\0{version:x}");
    ContentVersion::of(text.as_bytes()).to_bits()
}
