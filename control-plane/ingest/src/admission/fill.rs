//! The mutating webhook: sets `awsName`, `meshRef` and `virtualGatewayRef` at creation, and a mesh's `ipPreference` at
//! every write.
//!
//! The result is a JSON patch whose operations concern one field each, so that fields unknown to Evermesh survive. No
//! other field is set: controllers such as Flagger compare whole specs and would write again and again.

use evermesh_model::{Kind, Reason, problem::FieldPath};
use json_patch::{AddOperation, Patch, PatchOperation, jsonptr::PointerBuf};
use serde_json::{Value, json};

use super::{AdmissionDenial, ClusterSnapshot, ObjectWrite, Operation, aws_name, snapshot};
use crate::{membership::Labels, stage::Problems};

/// The IP family of the Kubernetes cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IpFamily {
    /// IPv4
    #[default]
    Ipv4,
    /// IPv4 and IPv6
    Dual,
    /// IPv6 only
    Ipv6,
}

/// Returns the patch with the defaults; empty if the object has them already.
pub fn fill(
    write: &ObjectWrite<'_>,
    snapshot: &ClusterSnapshot,
    family: IpFamily,
) -> Result<Patch, AdmissionDenial> {
    let mut patch = SpecPatch::new(&write.new);
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
        force_ip_preference(&write.new, family, &mut patch);
    }
    Ok(patch.finish())
}

fn read_only_fields_are_absent(write: &ObjectWrite<'_>) -> Result<(), AdmissionDenial> {
    let fields: &[&str] = match write.object.kind {
        Kind::GatewayRoute => &["meshRef", "virtualGatewayRef"],
        _ => &["meshRef"],
    };
    let mut problems = Problems::of(&write.object);
    for field in fields {
        if !write.new["spec"][*field].is_null() {
            problems.add(
                FieldPath::spec().field(field),
                Reason::ReadOnly,
                "is set by the control plane when the object is created; remove it",
            );
        }
    }
    AdmissionDenial::from_problems(problems.into_list())
}

fn fill_name(write: &ObjectWrite<'_>, patch: &mut SpecPatch) {
    let is_missing = match &write.new["spec"]["awsName"] {
        Value::Null => true,
        Value::String(name) => name.is_empty(),
        // The schema rejects other types later.
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
        let labels = labels(&write.new);
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

/// Overwrites the user's preference. As in App Mesh, members can use only the IP family of the Kubernetes cluster. With
/// both families every mesh has a preference, so that listeners accept both.
fn force_ip_preference(mesh: &Value, family: IpFamily, patch: &mut SpecPatch) {
    const PARENT: &str = "meshServiceDiscovery";
    const FIELD: &str = "ipPreference";
    let (preference, is_forced) = match family {
        IpFamily::Ipv4 => ("IPv4_ONLY", false),
        IpFamily::Dual => ("IPv4_ONLY", true),
        IpFamily::Ipv6 => ("IPv6_ONLY", true),
    };
    match &mesh["spec"][PARENT] {
        Value::Null if is_forced => patch.set(&[PARENT], json!({ FIELD: preference })),
        Value::Object(parent) if parent.get(FIELD) != Some(&preference.into()) => {
            patch.set(&[PARENT, FIELD], preference.into());
        }
        _ => {}
    }
}

/// A JSON patch that sets fields below `spec`.
struct SpecPatch {
    operations: Vec<PatchOperation>,
    is_missing: bool,
    /// Whether the spec is an object or absent. The schema rejects any other spec.
    is_usable: bool,
}

impl SpecPatch {
    fn new(object: &Value) -> Self {
        let spec = &object["spec"];
        Self {
            operations: Vec::new(),
            is_missing: spec.is_null(),
            is_usable: spec.is_null() || spec.is_object(),
        }
    }

    /// Sets a field whether it exists or not, as JSON patch's `add` does.
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
