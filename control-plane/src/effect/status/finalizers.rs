//! Removes the finalizers of App Mesh's controller, which no longer runs, from objects that are being deleted.

use evermesh_model::ObjectRef;
use serde_json::json;

use super::StatusWriter;
use crate::{
    effect::{condition::Transition, reasons::INSTANCES_REMAIN, registration, write::ObjectPatch},
    source::kubernetes::ObservedObject,
};

/// Finalizers that App Mesh's controller set. The AWS resources that they protected no longer exist.
const OLD_FINALIZERS: [&str; 4] = [
    "finalizers.appmesh.k8s.aws/aws-appmesh-resources",
    "finalizers.appmesh.k8s.aws/mesh-members",
    "finalizers.appmesh.k8s.aws/virtualgateway-members",
    registration::FINALIZER,
];

/// Whether Evermesh or App Mesh's controller sets this finalizer.
pub(crate) fn is_old_finalizer(finalizer: &str) -> bool {
    OLD_FINALIZERS.contains(&finalizer)
}

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
            .filter(|it| !is_old_finalizer(it) || self.belongs_to_registration(object, it))
            .collect();
        let metadata = json!({"finalizers": kept, "resourceVersion": observed.version});
        (kept.len() < observed.finalizers.len()).then(|| ObjectPatch {
            object: object.clone(),
            uid: observed.uid.clone(),
            patch: json!({"metadata": metadata}),
            is_status: false,
            transitions: self
                .instances_remain(object, observed)
                .into_iter()
                .collect(),
        })
    }

    /// The event about a node that is deleted while registration, which registered it before, is off.
    fn instances_remain(
        &self,
        object: &ObjectRef,
        observed: &ObservedObject,
    ) -> Option<Transition> {
        let mut finalizers = observed.finalizers.iter();
        let was_registered = finalizers.any(|it| it == registration::FINALIZER);
        if self.registers || !was_registered {
            return None;
        }
        let service = self.snapshots.borrow().registrable.service(object)?;
        let message = format!(
            "registration in Cloud Map is off, so instances of the node may remain in service `{service}`; deregister them, or turn cloudMap.registration on before nodes are deleted"
        );
        tracing::warn!(%object, %service, "registration in Cloud Map is off, so instances of the deleted node may remain");
        Some(Transition {
            is_warning: true,
            reason: INSTANCES_REMAIN.to_owned(),
            message,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use evermesh_ingest::{Inputs, object::parse, registration::RegistrationSnapshot};
    use evermesh_model::Kind;
    use serde_json::Value;

    use super::*;
    use crate::{
        effect::status::fixture::{fixture, observed},
        engine::EngineSnapshot,
    };

    /// Reasons and messages of the events about the deletion of a node with this discovery and this finalizer.
    fn events(discovery: &Value, finalizer: &str) -> Vec<(String, String)> {
        let node = json!({
            "apiVersion": "appmesh.k8s.aws/v1beta2",
            "kind": "VirtualNode",
            "metadata": {"name": "color", "namespace": "shop"},
            "spec": {"serviceDiscovery": discovery},
        });
        let (object, node) = parse(node).object.unwrap();
        assert_eq!(object.kind, Kind::VirtualNode);
        let mut inputs = Inputs::default();
        inputs.apply(object.clone(), Some(node));
        let fixture = fixture();
        fixture.snapshots.send_replace(Arc::new(EngineSnapshot {
            registrable: RegistrationSnapshot::from(&inputs),
            ..EngineSnapshot::default()
        }));
        let mut observed = observed(Value::Null);
        observed.deleting = true;
        observed.finalizers.push(finalizer.to_owned());
        let patch = fixture.writer.without_old_finalizers(&object, &observed);
        let patch = patch.unwrap();
        assert_eq!(patch.patch["metadata"]["finalizers"], json!([]));
        let events = patch.transitions.into_iter();
        events
            .map(|event| {
                assert!(event.is_warning);
                (event.reason, event.message)
            })
            .collect()
    }

    #[tokio::test]
    async fn deletion_without_registration_tells_of_instances_that_may_remain() {
        let cloud_map =
            json!({"awsCloudMap": {"namespaceName": "shop.local", "serviceName": "red"}});
        let told = events(&cloud_map, registration::FINALIZER);
        let [(reason, message)] = &told[..] else {
            panic!("{told:?}")
        };
        assert_eq!(reason, "CloudMapInstancesRemain");
        assert!(message.contains("service `red.shop.local`"), "{message}");

        let dns = json!({"dns": {"hostname": "red"}});
        assert_eq!(events(&dns, registration::FINALIZER), []);
        assert_eq!(events(&cloud_map, OLD_FINALIZERS[0]), []);
    }
}
