//! What the mutating webhooks wrote into an object: `awsName`, `meshRef` and `virtualGatewayRef` when it was
//! created, and a mesh's `ipPreference` at every write.
//!
//! The answer is a list of operations, each on one field, so that what our types do not know survives.
//!
//! Must not write anything else: other controllers compare whole specs with what they wrote, and would
//! write again and again.

use evermesh_model::{Kind, Reason, problem::FieldPath};
use json_patch::{AddOperation, Patch, PatchOperation, jsonptr::PointerBuf};
use serde_json::{Value, json};

use super::{AdmissionDenial, ClusterSnapshot, ObjectWrite, Operation, aws_name, snapshot};
use crate::{membership::Labels, stage::Problems};

/// The IP family of the cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IpFamily {
    /// IPv4, or both
    #[default]
    Ipv4,
    /// IPv6
    Ipv6,
}

/// What is to be written into the object; often nothing.
pub fn fill(
    write: &ObjectWrite<'_>,
    snapshot: &ClusterSnapshot,
    family: IpFamily,
) -> Result<Patch, AdmissionDenial> {
    let mut patch = SpecPatch::of(write.new);
    let is_app_mesh = write.object.kind.api_version() == Kind::Mesh.api_version();
    if !is_app_mesh || write.is_terminating() {
        return Ok(patch.finish());
    }
    if write.operation == Operation::Create {
        read_only_fields_are_absent(write)?;
        fill_name(write, &mut patch);
        if write.object.kind != Kind::Mesh {
            fill_membership(write, snapshot, &mut patch)?;
        }
    }
    if write.object.kind == Kind::Mesh {
        force_ip_preference(write.new, family, &mut patch);
    }
    Ok(patch.finish())
}

fn read_only_fields_are_absent(write: &ObjectWrite<'_>) -> Result<(), AdmissionDenial> {
    let fields: &[&str] = match write.object.kind {
        Kind::Mesh => &[],
        Kind::GatewayRoute => &["meshRef", "virtualGatewayRef"],
        _ => &["meshRef"],
    };
    let mut problems = Problems::of(&write.object);
    for field in fields {
        if !write.new["spec"][*field].is_null() {
            problems.add(
                FieldPath::spec().field(field),
                Reason::ReadOnly,
                "is filled in by the control plane when the object is created: leave it out",
            );
        }
    }
    AdmissionDenial::of(problems.into_list())
}

fn fill_name(write: &ObjectWrite<'_>, patch: &mut SpecPatch) {
    let is_missing = match &write.new["spec"]["awsName"] {
        Value::Null => true,
        Value::String(name) => name.is_empty(),
        // No text: the schema refuses it in a moment.
        _ => false,
    };
    let is_named = !write.object.name.is_empty();
    if is_missing && is_named && write.object.kind != Kind::BackendGroup {
        patch.set(&["awsName"], aws_name(&write.object, None).into());
    }
}

fn fill_membership(
    write: &ObjectWrite<'_>,
    snapshot: &ClusterSnapshot,
    patch: &mut SpecPatch,
) -> Result<(), AdmissionDenial> {
    let mesh = snapshot.mesh(&write.object)?;
    let mesh_uid = snapshot::uid(mesh.metadata.uid.as_ref());
    patch.set(
        &["meshRef"],
        json!({ "name": snapshot::name(mesh), "uid": mesh_uid }),
    );
    if write.object.kind == Kind::GatewayRoute {
        let labels = labels(write.new);
        let (reference, gateway) = snapshot.gateway(&write.object, &labels, mesh)?;
        patch.set(
            &["virtualGatewayRef"],
            json!({
                "name": reference.name,
                "namespace": reference.namespace,
                "uid": snapshot::uid(gateway.metadata.uid.as_ref()),
            }),
        );
    }
    Ok(())
}

fn labels(object: &Value) -> Labels {
    let labels = object["metadata"]["labels"].as_object();
    labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// What the user wrote never counted: the cluster has one family, and members can only use that one.
fn force_ip_preference(mesh: &Value, family: IpFamily, patch: &mut SpecPatch) {
    const PARENT: &str = "meshServiceDiscovery";
    const FIELD: &str = "ipPreference";
    let (preference, is_wanted_alone) = match family {
        IpFamily::Ipv4 => ("IPv4_ONLY", false),
        IpFamily::Ipv6 => ("IPv6_ONLY", true),
    };
    match &mesh["spec"][PARENT] {
        Value::Null if is_wanted_alone => patch.set(&[PARENT], json!({ FIELD: preference })),
        Value::Object(parent) if parent.get(FIELD) != Some(&preference.into()) => {
            patch.set(&[PARENT, FIELD], preference.into());
        }
        _ => {}
    }
}

/// Collects what is to be set below `spec`.
struct SpecPatch {
    operations: Vec<PatchOperation>,
    is_missing: bool,
    /// A spec that is no object has no fields; the schema refuses it.
    is_usable: bool,
}

impl SpecPatch {
    fn of(object: &Value) -> Self {
        let spec = &object["spec"];
        Self {
            operations: Vec::new(),
            is_missing: spec.is_null(),
            is_usable: spec.is_null() || spec.is_object(),
        }
    }

    /// JSON patch's `add` sets a field whether it is there or not.
    fn set(&mut self, path: &[&str], value: Value) {
        if !self.is_usable {
            return;
        }
        if self.is_missing {
            self.is_missing = false;
            self.push(&[], json!({}));
        }
        self.push(path, value);
    }

    fn push(&mut self, path: &[&str], value: Value) {
        let steps = ["spec"].into_iter().chain(path.iter().copied());
        let path = PointerBuf::from_tokens(steps);
        self.operations
            .push(PatchOperation::Add(AddOperation { path, value }));
    }

    fn finish(self) -> Patch {
        Patch(self.operations)
    }
}
