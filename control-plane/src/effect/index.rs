//! The resources in the store with their commit times, and a digest of the versions that were derived from each
//! Kubernetes object.
//!
//! A digest is a sum of hashes, one for each resource. A commit therefore updates the digest of an object without a look
//! at the other resources of the object: a mesh has all of them.

use std::{collections::HashMap, fmt::Write as _, sync::Arc};

use evermesh_proto::{ContentVersion, Resource, ResourceKey};
use k8s_openapi::jiff::Timestamp;

/// A resource in the store.
#[derive(Debug, Clone)]
pub(super) struct ServedResource {
    pub(super) resource: Arc<Resource>,
    /// Time at which this version was committed.
    pub(super) committed_at: Timestamp,
    /// Hash of the key and version.
    hash: u128,
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
    /// Time of the last commit that changed the sum.
    changed_at: Timestamp,
}

impl VersionSum {
    fn add(&mut self, hash: u128, now: Timestamp) {
        self.sum = self.sum.wrapping_add(hash);
        self.changed_at = now;
    }
}

impl ResourceIndex {
    /// Hash of the keys and versions of the resources derived from an object, which `origin` names as in
    /// [`Resource::origins`].
    pub(super) fn digest(&self, origin: &str) -> String {
        let sum = self.by_origin.get(origin).map_or(0, |it| it.sum);
        format!("{sum:032x}")
    }

    /// The time of the last commit that changed the digest; `None` if no resource was derived from the object.
    pub(super) fn changed_at(&self, origin: &str) -> Option<Timestamp> {
        Some(self.by_origin.get(origin)?.changed_at)
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
    ) -> Vec<Arc<str>> {
        let hash = hash(&key, &resource);
        let origins = Arc::clone(&resource.origins);
        let served = ServedResource {
            resource,
            committed_at: now,
            hash,
        };
        let last = self.served.insert(key, served);
        let mut affected = origins.to_vec();
        if let Some(last) = last {
            if last.resource.origins == origins {
                for origin in origins.iter() {
                    if let Some(derived) = self.by_origin.get_mut(origin) {
                        derived.add(hash.wrapping_sub(last.hash), now);
                    }
                }
                return affected;
            }
            self.subtract(&last, now);
            affected.extend_from_slice(&last.resource.origins);
        }
        for origin in origins.iter() {
            let derived = self.by_origin.entry(Arc::clone(origin)).or_default();
            derived.resources += 1;
            derived.add(hash, now);
        }
        affected
    }

    /// Removes a resource. Returns its origins.
    pub(super) fn remove(&mut self, key: &ResourceKey, now: Timestamp) -> Vec<Arc<str>> {
        let Some(last) = self.served.remove(key) else {
            return Vec::new();
        };
        self.subtract(&last, now);
        last.resource.origins.to_vec()
    }

    fn subtract(&mut self, last: &ServedResource, now: Timestamp) {
        for origin in last.resource.origins.iter() {
            if let Some(derived) = self.by_origin.get_mut(origin) {
                derived.resources -= 1;
                derived.add(last.hash.wrapping_neg(), now);
                if derived.resources == 0 {
                    self.by_origin.remove(origin);
                }
            }
        }
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
