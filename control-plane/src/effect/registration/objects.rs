//! Writes of registration into the Kubernetes cluster: the finalizer and the annotation of virtual nodes, and the
//! readiness gate of pods.
//!
//! A patch is sent only if the observed object differs. If the object has changed meanwhile or is gone, the API server
//! rejects the patch and the next round tries again.

use std::sync::Arc;

use evermesh_ingest::registration::{NodeRegistration, READINESS_GATE, SERVICE_ARN};
use evermesh_model::ObjectRef;
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{FINALIZER, gate::GateUpdate};
use crate::{
    effect::{condition, write::unless_outdated},
    source::kubernetes::{ObservedObjects, api_of},
};

pub(super) struct ObjectWriter {
    pub(super) client: Client,
    pub(super) observed: Arc<ObservedObjects>,
}

impl ObjectWriter {
    /// Adds the finalizer to a virtual node, so that its instances are removed from Cloud Map before the object goes.
    /// Returns whether the finalizer is set.
    pub(super) async fn add_finalizer(&self, node: &NodeRegistration) -> kube::Result<bool> {
        let Some(observed) = self.observed.get(&node.object) else {
            return Ok(false);
        };
        let mut finalizers = observed.finalizers.clone();
        if finalizers.iter().any(|it| it == FINALIZER) {
            return Ok(true);
        }
        if observed.deleting {
            return Ok(false);
        }
        finalizers.push(FINALIZER.to_owned());
        let metadata = json!({"finalizers": finalizers, "resourceVersion": observed.version});
        self.patch_node(node, &metadata).await
    }

    /// Removes the finalizer from a virtual node that is being deleted. Returns whether the finalizer is gone.
    pub(super) async fn remove_finalizer(&self, node: &ObjectRef) -> kube::Result<bool> {
        let Some(observed) = self.observed.get(node) else {
            return Ok(true);
        };
        let mut finalizers = observed.finalizers.clone();
        finalizers.retain(|it| it != FINALIZER);
        if !observed.deleting || finalizers.len() == observed.finalizers.len() {
            return Ok(true);
        }
        let metadata = json!({"finalizers": finalizers, "resourceVersion": observed.version});
        self.patch(node, &metadata).await
    }

    /// Sets the annotation `cloudMapServiceARN` of a virtual node, as App Mesh's controller did.
    pub(super) async fn annotate_service(
        &self,
        node: &NodeRegistration,
        arn: &str,
    ) -> kube::Result<bool> {
        if node.service_arn.as_deref() == Some(arn) {
            return Ok(true);
        }
        self.patch_node(node, &json!({"annotations": {SERVICE_ARN: arn}}))
            .await
    }

    /// Sets the readiness gate of a pod. The UID in the patch protects a new pod with the same name.
    pub(super) async fn set_gate(&self, update: &GateUpdate) -> kube::Result<bool> {
        let ObjectRef {
            kind: _,
            namespace,
            name,
        } = &update.pod;
        let condition = json!({
            "type": READINESS_GATE,
            "status": if update.open { "True" } else { "False" },
            "reason": update.reason.as_str(),
            "message": update.message,
            "lastTransitionTime": condition::format_time(Timestamp::now()),
        });
        let patch = json!({"metadata": {"uid": update.uid}, "status": {"conditions": [condition]}});
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        // A strategic merge patch merges conditions by type, so other conditions stay.
        let patch = Patch::Strategic(&patch);
        let params = PatchParams::default();
        unless_outdated(api.patch_status(name, &params, &patch).await).map(|it| it.is_some())
    }

    async fn patch_node(&self, node: &NodeRegistration, metadata: &Value) -> kube::Result<bool> {
        let mut metadata = metadata.clone();
        metadata["uid"] = node.uid.as_str().into();
        self.patch(&node.object, &metadata).await
    }

    async fn patch(&self, node: &ObjectRef, metadata: &Value) -> kube::Result<bool> {
        let api = api_of(&self.client, node);
        let patch = json!({"metadata": metadata});
        let patch = Patch::Merge(&patch);
        let params = PatchParams::default();
        unless_outdated(api.patch(&node.name, &params, &patch).await).map(|it| it.is_some())
    }
}
