//! Sends one patch of an object to the API server, with the events that belong to it.

use evermesh_model::ObjectRef;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    api::{DynamicObject, Patch, PatchParams},
    runtime::events::{EventType, Recorder},
};
use serde_json::Value;

use super::condition::Transition;
use crate::{event::event, source::kubernetes::api_of};

/// The `action` of the events about conditions. API.
const ACTION: &str = "Configure";

/// A JSON merge patch of one object.
pub(super) struct ObjectPatch {
    pub(super) object: ObjectRef,
    pub(super) uid: String,
    pub(super) patch: Value,
    /// Whether the patch goes to the `status` subresource.
    pub(super) is_status: bool,
    /// Transitions to publish as events after the patch succeeded.
    pub(super) transitions: Vec<Transition>,
}

impl ObjectPatch {
    pub(super) async fn send(
        &self,
        client: &Client,
        recorder: &Recorder,
    ) -> kube::Result<DynamicObject> {
        let api = api_of(client, &self.object);
        let name = &self.object.name;
        let patch = Patch::Merge(&self.patch);
        if !self.is_status {
            return api.patch(name, &PatchParams::default(), &patch).await;
        }
        let patched = api
            .patch_status(name, &PatchParams::default(), &patch)
            .await?;
        for transition in &self.transitions {
            let type_ = if transition.is_warning {
                EventType::Warning
            } else {
                EventType::Normal
            };
            let event = event(type_, &transition.reason, &transition.message, ACTION);
            if let Err(error) = recorder.publish(&event, &self.reference()).await {
                tracing::warn!(object = %self.object, %error, "cannot publish an event");
            }
        }
        Ok(patched)
    }

    fn reference(&self) -> ObjectReference {
        let ObjectRef {
            kind,
            namespace,
            name,
        } = &self.object;
        ObjectReference {
            api_version: Some(kind.api_version().to_owned()),
            kind: Some(kind.as_str().to_owned()),
            name: Some(name.to_string()),
            namespace: kind.is_namespaced().then(|| namespace.to_string()),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        }
    }
}

/// The patched object, or `None` if the object is gone or has changed meanwhile (404 or 409): the watch reports that,
/// so it is not an error.
pub(super) fn unless_outdated<T>(answer: kube::Result<T>) -> kube::Result<Option<T>> {
    match answer {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => Ok(None),
        Err(error) => Err(error),
    }
}
