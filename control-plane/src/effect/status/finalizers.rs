//! Removes the finalizers of App Mesh's controller, which no longer runs, from objects that are being deleted.

use evermesh_model::ObjectRef;
use serde_json::json;

use super::StatusWriter;
use crate::{
    effect::{registration, write::ObjectPatch},
    source::kubernetes::ObservedObject,
};

/// Finalizers that App Mesh's controller set. The AWS resources that they protected no longer exist.
const OLD_FINALIZERS: [&str; 4] = [
    "finalizers.appmesh.k8s.aws/aws-appmesh-resources",
    "finalizers.appmesh.k8s.aws/mesh-members",
    "finalizers.appmesh.k8s.aws/virtualgateway-members",
    registration::FINALIZER,
];

impl StatusWriter {
    /// Whether registration removes this finalizer once the node's instances are gone from Cloud Map.
    fn belongs_to_registration(&self, object: &ObjectRef, finalizer: &str) -> bool {
        self.registers
            && finalizer == registration::FINALIZER
            && registration::keeps_finalizer(&self.snapshots.borrow().registrable, object)
    }

    /// The patch that removes old finalizers from an object, if it has any.
    pub(super) fn without_old_finalizers(
        &self,
        object: &ObjectRef,
        observed: &ObservedObject,
    ) -> Option<ObjectPatch> {
        let kept: Vec<&String> = observed
            .finalizers
            .iter()
            .filter(|it| {
                !OLD_FINALIZERS.contains(&it.as_str()) || self.belongs_to_registration(object, it)
            })
            .collect();
        let metadata = json!({"finalizers": kept, "resourceVersion": observed.version});
        (kept.len() < observed.finalizers.len()).then(|| ObjectPatch {
            object: object.clone(),
            uid: observed.uid.clone(),
            patch: json!({"metadata": metadata}),
            is_status: false,
            transitions: Vec::new(),
        })
    }
}
