//! What the API holds of each of the mesh's objects beside the spec: what the doors back compare with before they write.
//!
//! In: every event of the watches. Out: single observations, and which ones differ since somebody last asked.
//!
//! Must not hold a spec: that goes to the engine, and only there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evermesh_model::{Kind, ObjectRef};
use kube::api::DynamicObject;
use parking_lot::Mutex;
use serde_json::Value;

/// A watch, and how many objects it has told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchPosition {
    /// Which watch.
    pub watch: usize,
    /// Counts up with every object.
    pub count: u64,
}

/// An object of the mesh's kinds as the API last showed it.
#[derive(Debug, Clone, PartialEq)]
pub struct ObservedObject {
    /// Which watch told it, and as which of its events: the engine publishes how far it has come with each watch.
    pub position: WatchPosition,
    /// `metadata.resourceVersion`
    pub version: String,
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.generation`: counts the versions of the spec.
    pub generation: i64,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// `metadata.finalizers`
    pub finalizers: Vec<String>,
    /// `status`; null if there is none.
    pub status: Value,
}

/// Every object of the mesh's kinds.
#[derive(Debug, Default)]
pub struct ObservedObjects {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<ObjectRef, Arc<ObservedObject>>,
    /// Objects that are not what they were when somebody last asked.
    changed: BTreeSet<ObjectRef>,
}

impl ObservedObjects {
    /// One object.
    pub fn get(&self, id: &ObjectRef) -> Option<Arc<ObservedObject>> {
        self.state.lock().objects.get(id).cloned()
    }

    /// Every object, in order.
    pub fn all(&self) -> Vec<(ObjectRef, Arc<ObservedObject>)> {
        let state = self.state.lock();
        let all = state.objects.iter();
        all.map(|(id, it)| (id.clone(), Arc::clone(it))).collect()
    }

    /// The objects that are not what they were at the last call.
    pub fn take_changed(&self) -> BTreeSet<ObjectRef> {
        std::mem::take(&mut self.state.lock().changed)
    }

    pub(super) fn put(&self, id: &ObjectRef, object: &DynamicObject, position: WatchPosition) {
        if !has_status(id.kind) {
            return;
        }
        let metadata = &object.metadata;
        let now = Arc::new(ObservedObject {
            position,
            version: metadata.resource_version.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            deleting: metadata.deletion_timestamp.is_some(),
            finalizers: metadata.finalizers.clone().unwrap_or_default(),
            status: object.data.get("status").cloned().unwrap_or_default(),
        });
        let mut state = self.state.lock();
        state.objects.insert(id.clone(), now);
        state.changed.insert(id.clone());
    }

    pub(super) fn remove(&self, id: &ObjectRef) {
        let mut state = self.state.lock();
        state.objects.remove(id);
        state.changed.remove(id);
    }
}

/// Whether it is one of the mesh's own kinds, the status of which is ours to write.
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
        Kind::Namespace | Kind::Service | Kind::EndpointSlice | Kind::Pod | Kind::Node => false,
    }
}
