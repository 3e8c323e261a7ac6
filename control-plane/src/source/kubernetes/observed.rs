//! Metadata and status of mesh objects as the API server last sent them, for the status writer and registration.
//!
//! Input: every event of the watches. Output: single objects, and the set of objects that changed since the last call.
//! Specs are not kept here; they go to the engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evermesh_model::{Kind, ObjectRef};
use kube::api::DynamicObject;
use parking_lot::Mutex;
use serde_json::Value;

/// A position in the sequence of objects that a watch sends to the engine.
///
/// The sequence contains the objects that differ from their last version in something that the graph can depend on.
/// Batches and observed objects carry a position, and the engine publishes the positions that a snapshot covers. So the
/// status writer can wait until the engine has processed the version of an object that it observes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchPosition {
    /// Number of the watch, from 0.
    pub watch: usize,
    /// Number of objects sent to the engine, this one included.
    pub count: u64,
}

/// Metadata and status of a mesh object.
#[derive(Debug, Clone, PartialEq)]
pub struct ObservedObject {
    /// Position up to which the engine has to process the watch to know the object as it is.
    pub position: WatchPosition,
    /// `metadata.resourceVersion`
    pub version: String,
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.generation`
    pub generation: i64,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// `metadata.finalizers`
    pub finalizers: Vec<String>,
    /// `status`, or null
    pub status: Value,
}

impl ObservedObject {
    /// `None` for a kind that is not a mesh kind.
    pub(super) fn new(kind: Kind, object: &DynamicObject, position: WatchPosition) -> Option<Self> {
        let metadata = &object.metadata;
        has_status(kind).then(|| Self {
            position,
            version: metadata.resource_version.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            deleting: metadata.deletion_timestamp.is_some(),
            finalizers: metadata.finalizers.clone().unwrap_or_default(),
            status: object.data.get("status").cloned().unwrap_or_default(),
        })
    }
}

/// All mesh objects of the watched namespaces.
#[derive(Debug, Default)]
pub struct ObservedObjects {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<ObjectRef, Arc<ObservedObject>>,
    /// Objects that changed since the last call of [`ObservedObjects::take_changed`].
    changed: BTreeSet<ObjectRef>,
}

impl ObservedObjects {
    pub fn get(&self, id: &ObjectRef) -> Option<Arc<ObservedObject>> {
        self.state.lock().objects.get(id).cloned()
    }

    /// All objects, sorted.
    pub fn all(&self) -> Vec<(ObjectRef, Arc<ObservedObject>)> {
        let state = self.state.lock();
        let all = state.objects.iter();
        all.map(|(id, it)| (id.clone(), Arc::clone(it))).collect()
    }

    /// The objects that changed since the last call.
    pub fn take_changed(&self) -> BTreeSet<ObjectRef> {
        std::mem::take(&mut self.state.lock().changed)
    }

    pub(super) fn put(&self, id: &ObjectRef, object: ObservedObject) {
        let mut state = self.state.lock();
        state.objects.insert(id.clone(), Arc::new(object));
        state.changed.insert(id.clone());
    }

    pub(super) fn remove(&self, id: &ObjectRef) {
        let mut state = self.state.lock();
        state.objects.remove(id);
        state.changed.remove(id);
    }
}

/// Whether the kind is a mesh kind, whose status Evermesh may write.
const fn has_status(kind: Kind) -> bool {
    match kind {
        Kind::Mesh
        | Kind::VirtualNode
        | Kind::VirtualService
        | Kind::VirtualRouter
        | Kind::VirtualGateway
        | Kind::GatewayRoute
        | Kind::BackendGroup
        | Kind::Route => true,
        Kind::Namespace
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::Pod
        | Kind::Node
        | Kind::Secret => false,
    }
}
