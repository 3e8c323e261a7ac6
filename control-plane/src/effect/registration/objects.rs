//! What registration writes into the cluster: the finalizer and the annotation of virtual nodes, and the readiness gate
//! of pods.
//!
//! In: what is to be there. Out: whether it is. Where an object changed meanwhile or is gone nothing is written: the
//! watch will tell, and the next round tries again.
//!
//! Must not write what is there already.

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
    effect::{condition, write::written},
    source::kubernetes::{ObservedObjects, api_of},
};

/// The cluster.
pub(super) struct ObjectWriter {
    pub(super) client: Client,
    pub(super) observed: Arc<ObservedObjects>,
}

impl ObjectWriter {
    /// Makes sure that a node cannot go before its instances have. Returns whether that is so.
    pub(super) async fn hold(&self, node: &NodeRegistration) -> kube::Result<bool> {
        let Some(observation) = self.observed.get(&node.object) else {
            return Ok(false);
        };
        let mut finalizers = observation.finalizers.clone();
        if finalizers.iter().any(|it| it == FINALIZER) {
            return Ok(true);
        }
        if observation.deleting {
            return Ok(false);
        }
        finalizers.push(FINALIZER.to_owned());
        let metadata = json!({"finalizers": finalizers, "resourceVersion": observation.version});
        self.patch_node(node, &metadata).await
    }

    /// Lets a node go.
    pub(super) async fn release(&self, node: &ObjectRef) -> kube::Result<bool> {
        let Some(observation) = self.observed.get(node) else {
            return Ok(true);
        };
        let mut finalizers = observation.finalizers.clone();
        finalizers.retain(|it| it != FINALIZER);
        if !observation.deleting || finalizers.len() == observation.finalizers.len() {
            return Ok(true);
        }
        let metadata = json!({"finalizers": finalizers, "resourceVersion": observation.version});
        self.patch(node, &metadata).await
    }

    /// Notes a node's service where the old controller did.
    pub(super) async fn note_service(
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

    /// Sets the readiness gate of a pod, of this very pod: its successor may have its name.
    pub(super) async fn set_gate(&self, verdict: &GateUpdate) -> kube::Result<bool> {
        let ObjectRef {
            kind: _,
            namespace,
            name,
        } = &verdict.pod;
        let condition = json!({
            "type": READINESS_GATE,
            "status": if verdict.open { "True" } else { "False" },
            "reason": verdict.reason,
            "message": verdict.message,
            "lastTransitionTime": condition::text(Timestamp::now()),
        });
        let patch =
            json!({"metadata": {"uid": verdict.uid}, "status": {"conditions": [condition]}});
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        // Conditions of others stay: the list is merged by type.
        let patch = Patch::Strategic(&patch);
        let params = PatchParams::default();
        written(api.patch_status(name, &params, &patch).await).map(|it| it.is_some())
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
        written(api.patch(&node.name, &params, &patch).await).map(|it| it.is_some())
    }
}
