//! The resources in the store with their commit times, and a digest of what was derived from each Kubernetes object.
//!
//! A digest is a sum of hashes, one for each [`ResourcePart`] that was derived from the object. A commit therefore updates
//! the digest of an object without a look at the other resources of the object: a mesh has all of them. A change of one
//! virtual host leaves the digests of the objects behind the other virtual hosts as they are.
//!
//! [`ResourcePart`]: evermesh_proto::ResourcePart

use std::{
    collections::{BTreeMap, HashMap},
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
    by_origin: HashMap<Arc<str>, PartSum>,
}

/// The number of parts derived from one object, and the sum of their hashes.
#[derive(Debug, Default)]
struct PartSum {
    parts: usize,
    sum: u128,
    /// Time of the last commit that changed the sum.
    changed_at: Timestamp,
}

/// A part of a resource, or a resource that has none.
#[derive(PartialEq)]
struct HashedPart<'r> {
    /// Empty for the base and for a resource without parts.
    name: &'r str,
    contents: Contents<'r>,
    origins: &'r [Arc<str>],
}

#[derive(PartialEq)]
enum Contents<'r> {
    Resource(ContentVersion),
    Part(&'r [u8]),
}

#[derive(Default, PartialEq)]
struct SumChange {
    parts: isize,
    /// Difference of the sums, modulo 2^128.
    sum: u128,
}

impl ResourceIndex {
    /// Hash of what was derived from an object, which `origin` names as in [`Resource::origins`].
    pub(super) fn digest(&self, origin: &str) -> String {
        let sum = self.by_origin.get(origin).map_or(0, |it| it.sum);
        format!("{sum:032x}")
    }

    /// The time of the last commit that changed the digest; `None` if nothing was derived from the object.
    pub(super) fn changed_at(&self, origin: &str) -> Option<Timestamp> {
        Some(self.by_origin.get(origin)?.changed_at)
    }

    pub(super) fn get(&self, key: &ResourceKey) -> Option<&ServedResource> {
        self.served.get(key)
    }

    /// Takes the newest version of a resource; `None` removes it. Calls `on_change` with the origins whose digests
    /// changed.
    pub(super) fn commit(
        &mut self,
        key: &ResourceKey,
        newest: Option<&Arc<Resource>>,
        now: Timestamp,
        mut on_change: impl FnMut(&Arc<str>),
    ) {
        let last = match newest {
            Some(resource) => {
                let served = ServedResource {
                    resource: Arc::clone(resource),
                    committed_at: now,
                };
                self.served.insert(key.clone(), served)
            }
            None => self.served.remove(key),
        };
        let last = last.map(|it| it.resource);
        for (origin, change) in changes(key, last.as_deref(), newest.map(AsRef::as_ref)) {
            if change == SumChange::default() {
                continue;
            }
            let sum = self.by_origin.entry(Arc::clone(origin)).or_default();
            sum.parts = sum.parts.wrapping_add_signed(change.parts);
            sum.sum = sum.sum.wrapping_add(change.sum);
            sum.changed_at = now;
            if sum.parts == 0 {
                self.by_origin.remove(origin);
            }
            on_change(origin);
        }
    }
}

/// Changes of the [`PartSum`]s of the origins of a resource, those of the last version included. They are zero for the
/// origins of parts that only have another place.
fn changes<'r>(
    key: &ResourceKey,
    last: Option<&'r Resource>,
    newest: Option<&'r Resource>,
) -> BTreeMap<&'r Arc<str>, SumChange> {
    let (last, newest) = (parts(last), parts(newest));
    let mut changes: BTreeMap<&Arc<str>, SumChange> = BTreeMap::new();
    for index in 0..last.len().max(newest.len()) {
        let (last, newest) = (last.get(index), newest.get(index));
        if last == newest {
            continue;
        }
        for (part, sign) in [(last, -1), (newest, 1)] {
            let Some(part) = part else { continue };
            let hash = part.hash(key);
            for origin in part.origins {
                let change = changes.entry(origin).or_default();
                change.parts += sign;
                change.sum = if sign < 0 {
                    change.sum.wrapping_sub(hash)
                } else {
                    change.sum.wrapping_add(hash)
                };
            }
        }
    }
    changes
}

fn parts(resource: Option<&Resource>) -> Vec<HashedPart<'_>> {
    let Some(resource) = resource else {
        return Vec::new();
    };
    if resource.parts.is_empty() {
        return vec![HashedPart {
            name: "",
            contents: Contents::Resource(resource.version),
            origins: &resource.origins,
        }];
    }
    let parts = resource.part_bodies();
    parts
        .map(|(part, body)| HashedPart {
            name: &part.name,
            contents: Contents::Part(body),
            origins: &part.origins,
        })
        .collect()
}

impl HashedPart<'_> {
    /// Hash of the key of the resource, and of the name and the contents of the part.
    fn hash(&self, key: &ResourceKey) -> u128 {
        let scope = key.scope.as_deref().unwrap_or_default();
        let texts = [key.kind.as_str(), &key.name, scope, self.name];
        let texts = texts.map(|text| ContentVersion::of(text.as_bytes()));
        let contents = match self.contents {
            Contents::Resource(version) => version,
            Contents::Part(body) => ContentVersion::of(body),
        };
        let [kind, name, scope, part] = texts.map(ContentVersion::to_bits);
        let all = [kind, name, scope, part, contents.to_bits()].map(u128::to_be_bytes);
        ContentVersion::of(all.as_flattened()).to_bits()
    }
}

#[cfg(test)]
mod tests {
    use evermesh_proto::{EncodedPart, ResourceType};

    use super::*;

    fn part(name: &str, body: &'static str, origins: &[&str]) -> EncodedPart {
        EncodedPart {
            body: body.into(),
            name: name.into(),
            needs: Arc::default(),
            origins: origins.iter().map(|&origin| origin.into()).collect(),
        }
    }

    /// A route configuration with a base of the mesh.
    fn routes(hosts: impl IntoIterator<Item = EncodedPart>) -> Arc<Resource> {
        let base = part("", "base", &["Mesh/m"]);
        let routes = Resource::from_parts(ResourceType::Route, "r".into(), base, hosts);
        Arc::new(routes)
    }

    /// Commits versions of the same route configuration. Returns the objects whose digests the last one changed.
    fn changed(versions: impl IntoIterator<Item = Option<Arc<Resource>>>) -> Vec<String> {
        let key = ResourceKey {
            kind: ResourceType::Route,
            name: "r".into(),
            scope: None,
        };
        let mut index = ResourceIndex::default();
        let mut changed = Vec::new();
        for version in versions {
            let digests = |index: &ResourceIndex| {
                let origins = ["Mesh/m", "VirtualRouter/n/a", "VirtualRouter/n/b"];
                origins.map(|origin| index.digest(origin))
            };
            let before = digests(&index);
            changed.clear();
            index.commit(&key, version.as_ref(), Timestamp::UNIX_EPOCH, |origin| {
                changed.push(origin.to_string());
            });
            let differing = before.iter().zip(digests(&index));
            let differing = differing.filter(|(before, after)| *before != after);
            assert_eq!(differing.count(), changed.len());
        }
        changed
    }

    const A: [&str; 1] = ["VirtualRouter/n/a"];
    const B: [&str; 1] = ["VirtualRouter/n/b"];

    #[test]
    fn changed_part_changes_the_digests_of_its_origins_only() {
        let version = |body| Some(routes([part("a", "same", &A), part("b", body, &B)]));
        assert_eq!(changed([version("1"), version("2")]), B);
    }

    #[test]
    fn moved_part_changes_no_digest() {
        let (a, b) = (part("a", "1", &A), part("b", "2", &B));
        let both = Some(routes([a.clone(), b.clone()]));
        let moved = Some(routes([b.clone(), a.clone()]));
        assert!(changed([both.clone(), moved]).is_empty());
        let without_first = Some(routes([b]));
        assert_eq!(changed([both, without_first]), A);
    }

    #[test]
    fn part_under_another_name_or_of_another_object_changes_digests() {
        let version = |name, origins: &[&str]| Some(routes([part(name, "1", origins)]));
        assert_eq!(changed([version("a", &A), version("b", &A)]), A);
        let both = changed([version("a", &A), version("a", &B)]);
        assert_eq!(both, [A, B].concat());
    }

    #[test]
    fn nothing_remains_of_a_removed_resource() {
        let version = Some(routes([part("a", "1", &A), part("b", "2", &B)]));
        let all = ["Mesh/m", A[0], B[0]];
        assert_eq!(changed([version.clone(), None]), all);
        assert_eq!(changed([version.clone(), None, version]), all);
    }
}
