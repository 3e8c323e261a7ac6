//! The end of finalizers that nobody else would remove.

use evermesh_model::ObjectRef;
use serde_json::json;

use super::StatusWriter;
use crate::{
    effect::{registration, write::ObjectPatch},
    source::kubernetes::ObservedObject,
};

/// The finalizers of App Mesh's own controller. What they stood for is gone with AWS, and nobody else removes them.
const OLD_FINALIZERS: [&str; 4] = [
    "finalizers.appmesh.k8s.aws/aws-appmesh-resources",
    "finalizers.appmesh.k8s.aws/mesh-members",
    "finalizers.appmesh.k8s.aws/virtualgateway-members",
    registration::FINALIZER,
];

impl StatusWriter {
    /// Whether a finalizer is that of registration, which removes it when it is done.
    fn keeps(&self, object: &ObjectRef, finalizer: &str) -> bool {
        self.registers
            && finalizer == registration::FINALIZER
            && registration::keeps_finalizer(&self.published.borrow().registrable, object)
    }

    /// The end of the finalizers that nobody else would remove.
    pub(super) fn without_old_finalizers(
        &self,
        object: &ObjectRef,
        observation: &ObservedObject,
    ) -> Option<ObjectPatch> {
        let kept: Vec<&String> = observation
            .finalizers
            .iter()
            .filter(|it| !OLD_FINALIZERS.contains(&it.as_str()) || self.keeps(object, it))
            .collect();
        let metadata = json!({"finalizers": kept, "resourceVersion": observation.version});
        (kept.len() < observation.finalizers.len()).then(|| ObjectPatch {
            object: object.clone(),
            uid: observation.uid.clone(),
            patch: json!({"metadata": metadata}),
            is_status: false,
            turns: Vec::new(),
        })
    }
}
