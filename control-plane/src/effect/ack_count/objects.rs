//! The objects that at least one proxy uses, each with its count.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    sync::Arc,
};

use evermesh_model::ObjectRef;
use evermesh_xds::ProxyId;

use super::{
    AckCount,
    object_answer::{self, ObjectAnswer},
};

/// The beginning of the origins that are meshes: a mesh is in no namespace.
const MESH_ORIGIN: &str = "Mesh/";

/// Objects by name, as in [`Resource::origins`](evermesh_proto::Resource::origins), and those whose counts have to be
/// made anew.
#[derive(Default)]
pub(super) struct CountedObjects {
    by_origin: HashMap<Arc<str>, CountedObject>,
    marked: Vec<Arc<str>>,
    /// Meshes wait for the next sweep that includes them: every resource has its mesh as an origin.
    marked_meshes: Vec<Arc<str>>,
    /// Number of objects that were looked up.
    #[cfg(test)]
    pub(super) visits: usize,
}

struct CountedObject {
    object: ObjectRef,
    /// Number of proxies that use the object.
    proxies: usize,
    /// The answers of proxies that have not ACKed everything.
    exceptions: BTreeMap<ProxyId, ObjectAnswer>,
    /// The count when it was made last; absent if no proxy counted.
    count: Option<AckCount>,
    is_marked: bool,
}

impl CountedObjects {
    pub(super) fn get(&self, origin: &str) -> Option<&AckCount> {
        self.by_origin.get(origin)?.count.as_ref()
    }

    /// All counts, in any order.
    pub(super) fn all(&self) -> impl Iterator<Item = (&ObjectRef, &AckCount)> {
        let all = self.by_origin.values();
        all.filter_map(|counted| Some((&counted.object, counted.count.as_ref()?)))
    }

    /// Adds a proxy that uses an object.
    pub(super) fn add_proxy(&mut self, origin: &Arc<str>) {
        let add = |counted: &mut CountedObject| {
            counted.proxies += 1;
            true
        };
        if self.change(origin, add) {
            return;
        }
        // Every origin of a resource is the name of an object.
        let Ok(object) = origin.parse() else { return };
        let counted = CountedObject {
            object,
            proxies: 0,
            exceptions: BTreeMap::new(),
            count: None,
            is_marked: false,
        };
        self.by_origin.insert(Arc::clone(origin), counted);
        self.change(origin, add);
    }

    /// Removes a proxy that used an object, with its answer.
    pub(super) fn remove_proxy(&mut self, origin: &Arc<str>, proxy: ProxyId) {
        self.change(origin, |counted| {
            counted.exceptions.remove(&proxy);
            counted.proxies -= 1;
            true
        });
    }

    /// Records the answer of a proxy that uses an object, if it is not an ACK of everything.
    pub(super) fn set_exception(
        &mut self,
        origin: &Arc<str>,
        proxy: ProxyId,
        exception: Option<ObjectAnswer>,
    ) {
        self.change(origin, |counted| match exception {
            Some(answer) if counted.exceptions.get(&proxy) == Some(&answer) => false,
            Some(answer) => {
                counted.exceptions.insert(proxy, answer);
                true
            }
            None => counted.exceptions.remove(&proxy).is_some(),
        });
    }

    /// Makes the count of an object anew, because the digest of its versions changed.
    pub(super) fn mark(&mut self, origin: &Arc<str>) {
        self.change(origin, |_| true);
    }

    /// Runs `change`, which returns whether the count may be different now. Returns false if no proxy uses the object.
    fn change(
        &mut self,
        origin: &Arc<str>,
        change: impl FnOnce(&mut CountedObject) -> bool,
    ) -> bool {
        #[cfg(test)]
        {
            self.visits += 1;
        }
        let Some(counted) = self.by_origin.get_mut(origin) else {
            return false;
        };
        if change(counted) && !mem::replace(&mut counted.is_marked, true) {
            let marked = if origin.starts_with(MESH_ORIGIN) {
                &mut self.marked_meshes
            } else {
                &mut self.marked
            };
            marked.push(Arc::clone(origin));
        }
        true
    }

    /// Lets the next [`Self::recount`] include meshes.
    pub(super) fn include_meshes(&mut self) {
        self.marked.append(&mut self.marked_meshes);
    }

    /// Makes the counts of the marked objects anew, with the digests that `digest` returns. Returns the objects whose
    /// counts changed.
    pub(super) fn recount(&mut self, digest: impl Fn(&str) -> String) -> Vec<ObjectRef> {
        let mut changed = Vec::new();
        for origin in mem::take(&mut self.marked) {
            let Some(counted) = self.by_origin.get_mut(&origin) else {
                continue;
            };
            counted.is_marked = false;
            let count = object_answer::count(counted.proxies, counted.exceptions.values(), || {
                digest(&origin)
            });
            if counted.count != count {
                counted.count = count;
                changed.push(counted.object.clone());
            }
            if counted.proxies == 0 {
                self.by_origin.remove(&origin);
            }
        }
        changed
    }
}
