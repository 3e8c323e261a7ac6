//! What the API holds of each of the mesh's objects beside the spec: what the doors back compare with before they write.
//!
//! In: every event of the watches. Out: single observations, and a wake for whoever waits for one that differs.
//!
//! Must not hold a spec: that goes to the engine, and only there.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_model::{Kind, ObjectRef};
use kube::api::DynamicObject;
use parking_lot::RwLock;
use serde_json::Value;
use tokio::sync::Notify;

/// An object of the mesh's kinds as the API last showed it.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
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
pub struct Observed {
    objects: RwLock<BTreeMap<ObjectRef, Arc<Observation>>>,
    changed: Notify,
}

impl Observed {
    /// One object.
    pub fn get(&self, id: &ObjectRef) -> Option<Arc<Observation>> {
        self.objects.read().get(id).cloned()
    }

    /// Every object, in order.
    pub fn all(&self) -> Vec<(ObjectRef, Arc<Observation>)> {
        let objects = self.objects.read();
        let all = objects.iter();
        all.map(|(id, it)| (id.clone(), Arc::clone(it))).collect()
    }

    /// Waits until some object is not what it was. One waiter.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) fn put(&self, id: &ObjectRef, object: &DynamicObject) {
        if !has_status(id.kind) {
            return;
        }
        let metadata = &object.metadata;
        let now = Arc::new(Observation {
            uid: metadata.uid.clone().unwrap_or_default(),
            generation: metadata.generation.unwrap_or_default(),
            deleting: metadata.deletion_timestamp.is_some(),
            finalizers: metadata.finalizers.clone().unwrap_or_default(),
            status: object.data.get("status").cloned().unwrap_or_default(),
        });
        let before = self.objects.write().insert(id.clone(), Arc::clone(&now));
        if before.is_none_or(|before| before != now) {
            self.changed.notify_one();
        }
    }

    pub(super) fn remove(&self, id: &ObjectRef) {
        if self.objects.write().remove(id).is_some() {
            self.changed.notify_one();
        }
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
