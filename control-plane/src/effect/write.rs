//! One write of the doors back to the API, and the events that go with it.
//!
//! Must not decide what is written.

use evermesh_model::ObjectRef;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
    runtime::events::{Event, EventType, Recorder},
};
use serde_json::Value;

use super::condition::Turn;
use crate::source::kubernetes::api_resource;

/// Longest note of an event, in bytes; the API takes no longer one.
const NOTE: usize = 1024;

/// One write.
pub(super) struct Write {
    pub(super) object: ObjectRef,
    pub(super) uid: String,
    pub(super) patch: Value,
    pub(super) is_status: bool,
    /// What is to be told beside.
    pub(super) turns: Vec<Turn>,
}

impl Write {
    pub(super) async fn send(
        &self,
        client: &Client,
        recorder: &Recorder,
    ) -> kube::Result<DynamicObject> {
        let ObjectRef {
            kind,
            namespace,
            name,
        } = &self.object;
        let resource = api_resource(*kind);
        let api: Api<DynamicObject> = if kind.is_namespaced() {
            Api::namespaced_with(client.clone(), namespace, &resource)
        } else {
            Api::all_with(client.clone(), &resource)
        };
        let patch = Patch::Merge(&self.patch);
        if !self.is_status {
            return api.patch(name, &PatchParams::default(), &patch).await;
        }
        let written = api
            .patch_status(name, &PatchParams::default(), &patch)
            .await?;
        for turn in &self.turns {
            if let Err(error) = recorder.publish(&event(turn), &self.reference()).await {
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

fn event(turn: &Turn) -> Event {
    let mut note = turn.message.clone();
    note.truncate(note.floor_char_boundary(NOTE));
    Event {
        type_: if turn.is_warning {
            EventType::Warning
        } else {
            EventType::Normal
        },
        reason: turn.reason.clone(),
        note: Some(note),
        action: "Configure".to_owned(),
        secondary: None,
    }
}
