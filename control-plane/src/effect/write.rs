//! One write of the doors back to the API, and the events that go with it.
//!
//! Must not decide what is written.

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

/// One write.
pub(super) struct ObjectPatch {
    pub(super) object: ObjectRef,
    pub(super) uid: String,
    pub(super) patch: Value,
    pub(super) is_status: bool,
    /// What is to be told beside.
    pub(super) turns: Vec<Transition>,
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
        let written = api
            .patch_status(name, &PatchParams::default(), &patch)
            .await?;
        for turn in &self.turns {
            let type_ = if turn.is_warning {
                EventType::Warning
            } else {
                EventType::Normal
            };
            let event = event(type_, &turn.reason, &turn.message, "Configure");
            if let Err(error) = recorder.publish(&event, &self.reference()).await {
                tracing::warn!(object = %self.object, %error, "an event could not be told");
            }
        }
        Ok(written)
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

/// Whether something was written. That the object is gone, or changed meanwhile, is no failure: the watch will tell.
pub(super) fn written<T>(answer: kube::Result<T>) -> kube::Result<Option<T>> {
    match answer {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => Ok(None),
        Err(error) => Err(error),
    }
}
