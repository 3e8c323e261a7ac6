//! Sends patches of objects to the API server, with the events that belong to them.

use evermesh_model::ObjectRef;
use futures::future::join_all;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    api::{DynamicObject, Patch, PatchParams},
    runtime::events::{EventType, Recorder},
};
use serde_json::Value;

use super::condition::Transition;
use crate::{
    event::{self, event, reporter},
    source::kubernetes::api_of,
    throttle::LogThrottle,
};

/// The `action` of the events about conditions. API.
const ACTION: &str = "Configure";

/// A JSON merge patch of one object.
pub(super) struct ObjectPatch {
    pub(super) object: ObjectRef,
    pub(super) uid: String,
    pub(super) patch: Value,
    /// Whether the patch goes to the `status` subresource.
    pub(super) is_status: bool,
    /// Events to publish after the patch succeeded.
    pub(super) transitions: Vec<Transition>,
}

/// Sends the patches of a leader.
pub(super) struct PatchSender {
    client: Client,
    recorder: Recorder,
    event_failure_log: LogThrottle,
}

impl PatchSender {
    /// `identity` is the name of this replica in events.
    pub(super) fn new(client: Client, identity: &str) -> Self {
        Self {
            recorder: Recorder::new(client.clone(), reporter(identity)),
            client,
            event_failure_log: LogThrottle::once_a_minute(),
        }
    }

    /// Sends a patch and, if it succeeds, its events.
    pub(super) async fn send(&self, patch: &ObjectPatch) -> kube::Result<DynamicObject> {
        let api = api_of(&self.client, &patch.object);
        let name = &patch.object.name;
        let merge = Patch::Merge(&patch.patch);
        let params = PatchParams::default();
        let patched = if patch.is_status {
            api.patch_status(name, &params, &merge).await?
        } else {
            api.patch(name, &params, &merge).await?
        };
        let events = patch.transitions.iter();
        join_all(events.map(|transition| self.publish(patch, transition))).await;
        Ok(patched)
    }

    async fn publish(&self, patch: &ObjectPatch, transition: &Transition) {
        let type_ = if transition.is_warning {
            EventType::Warning
        } else {
            EventType::Normal
        };
        let event = event(type_, &transition.reason, &transition.message, ACTION);
        if let Err(error) = event::publish(&self.recorder, &event, &patch.reference()).await
            && let Some(suppressed) = self.event_failure_log.pass()
        {
            tracing::warn!(object = %patch.object, %error, suppressed, "cannot publish an event");
        }
    }
}

impl ObjectPatch {
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
