//! The part of the validating webhook that depends on other objects: the names that they hold, and the consent of a router
//! to a `Route`.
//!
//! A rebuild decides every contest by age, so that a new object with a name that is in use is not served anyway. The
//! rejection of its creation tells the author at once, and keeps the object from waiting for the name.

use evermesh_crds::v1beta2;
use evermesh_model::{Kind, ObjectRef, Reason, ServiceName, problem::FieldPath};
use kube::Resource;
use serde_json::Value;

use super::{AdmissionDenial, ClusterSnapshot, ObjectWrite, Operation, aws_name, snapshot};
use crate::{
    consent::{RouteNamespace, RouterConsent},
    inputs::ObjectMap,
    name_index::Name as _,
    object::{self, Object},
    route,
    stage::Problems,
};

/// Accepts or denies the write because of other objects. Follows [`check`](super::check).
pub fn check_claims(
    write: &ObjectWrite<'_>,
    snapshot: &ClusterSnapshot,
) -> Result<(), AdmissionDenial> {
    let mut problems = Problems::of(&write.object);
    if write.operation == Operation::Create && !write.is_terminating() {
        name_is_free(write, snapshot, &mut problems);
    }
    if write.object.kind == Kind::Route && write.needs_cluster_snapshot() {
        router_consents(write, snapshot, &mut problems);
    }
    AdmissionDenial::from_snapshot_problems(problems)
}

/// Checks the consent of the router of a `Route`. A router that does not exist may be created later.
fn router_consents(
    write: &ObjectWrite<'_>,
    snapshot: &ClusterSnapshot,
    problems: &mut Problems<'_>,
) {
    let reference = &write.new["spec"]["virtualRouterRef"];
    let namespace = reference["namespace"].as_str();
    let reference = ObjectRef::new(
        Kind::VirtualRouter,
        namespace.unwrap_or(&write.object.namespace),
        reference["name"].as_str().unwrap_or_default(),
    );
    let Some(router) = snapshot.virtual_routers.get(&reference) else {
        return;
    };
    let mesh = router.spec.mesh_ref.as_ref().map(|mesh| mesh.name.as_str());
    let Some(mesh) = mesh.or_else(|| mesh_of(&reference, snapshot)) else {
        return;
    };
    let consent = RouterConsent::read(&router.metadata, &mut Problems::of(&reference));
    let own = RouteNamespace {
        labels: snapshot
            .labels(&write.object.namespace)
            .unwrap_or_default()
            .into(),
        mesh: mesh_of(&write.object, snapshot).map(Into::into),
    };
    // Without a value, the rebuild leaves the route out for a reason of its own.
    let Some((_, Object::Route(object))) = object::parse(write.new.as_ref().clone()).object else {
        return;
    };
    if let Some(route) = route::parse(&write.object, &object).into_value() {
        problems.extend(consent.refusal((&reference, mesh), &route, Some(&own)));
    }
}

/// The fields by which a member of a mesh claims a name.
struct NameClaim<'a> {
    aws_name: Option<&'a str>,
    mesh: Option<&'a str>,
    /// The gateway of a `GatewayRoute`, whose name is unique on it.
    gateway: Option<&'a v1beta2::VirtualGatewayReference>,
}

impl<'a> NameClaim<'a> {
    fn new(aws_name: Option<&'a String>, mesh: Option<&'a v1beta2::MeshReference>) -> Self {
        Self {
            aws_name: aws_name.map(String::as_str),
            mesh: mesh.map(|mesh| mesh.name.as_str()),
            gateway: None,
        }
    }
}

fn name_is_free(write: &ObjectWrite<'_>, snapshot: &ClusterSnapshot, problems: &mut Problems<'_>) {
    let wanted = WantedName::of(write, snapshot);
    let holder = match write.object.kind {
        Kind::Mesh => wanted.holder(&snapshot.meshes, snapshot, |mesh| {
            NameClaim::new(mesh.spec.aws_name.as_ref(), None)
        }),
        Kind::VirtualNode => wanted.holder(&snapshot.virtual_nodes, snapshot, |node| {
            NameClaim::new(node.spec.aws_name.as_ref(), node.spec.mesh_ref.as_ref())
        }),
        Kind::VirtualService => wanted.holder(&snapshot.virtual_services, snapshot, |service| {
            NameClaim::new(
                service.spec.aws_name.as_ref(),
                service.spec.mesh_ref.as_ref(),
            )
        }),
        Kind::VirtualRouter => wanted.holder(&snapshot.virtual_routers, snapshot, |router| {
            NameClaim::new(router.spec.aws_name.as_ref(), router.spec.mesh_ref.as_ref())
        }),
        Kind::VirtualGateway => wanted.holder(&snapshot.virtual_gateways, snapshot, |gateway| {
            NameClaim::new(
                gateway.spec.aws_name.as_ref(),
                gateway.spec.mesh_ref.as_ref(),
            )
        }),
        Kind::GatewayRoute => {
            wanted.holder(&snapshot.gateway_routes, snapshot, |route| NameClaim {
                gateway: route.spec.virtual_gateway_ref.as_ref(),
                ..NameClaim::new(route.spec.aws_name.as_ref(), route.spec.mesh_ref.as_ref())
            })
        }
        _ => None,
    };
    if let Some(holder) = holder {
        let reason = match write.object.kind {
            Kind::VirtualService => ServiceName::DUPLICATE,
            _ => Reason::DuplicateName,
        };
        let message = format!(
            "awsName `{}` is already used by `{holder}`, which is older and keeps it; choose another awsName",
            wanted.name
        );
        problems.add(FieldPath::spec().field("awsName"), reason, message);
    }
}

/// The name that a new object claims.
struct WantedName<'a> {
    object: &'a ObjectRef,
    name: String,
    mesh: Option<&'a str>,
    gateway: &'a Value,
}

impl<'a> WantedName<'a> {
    fn of(write: &'a ObjectWrite<'_>, snapshot: &'a ClusterSnapshot) -> Self {
        let spec = &write.new["spec"];
        let mesh = spec["meshRef"]["name"].as_str();
        Self {
            object: &write.object,
            name: aws_name(&write.object, spec["awsName"].as_str()),
            mesh: mesh.or_else(|| mesh_of(&write.object, snapshot)),
            gateway: &spec["virtualGatewayRef"],
        }
    }

    /// The object that holds the name. An object that is being deleted holds it until it is gone, but denies no one.
    fn holder<'s, T: Resource>(
        &self,
        objects: &'s ObjectMap<T>,
        snapshot: &ClusterSnapshot,
        claim: impl Fn(&T) -> NameClaim<'_>,
    ) -> Option<&'s ObjectRef> {
        let is_service = self.object.kind == Kind::VirtualService;
        let (holder, _) = objects.iter().find(|(object, value)| {
            let NameClaim {
                aws_name: name,
                mesh,
                gateway,
            } = claim(value);
            let name = aws_name(object, name);
            let is_same_name = if is_service {
                name.eq_ignore_ascii_case(&self.name)
            } else {
                name == self.name
            };
            is_same_name
                && *object != self.object
                && value.meta().deletion_timestamp.is_none()
                && mesh.or_else(|| mesh_of(object, snapshot)) == self.mesh
                && gateway.is_none_or(|gateway| {
                    gateway.name == self.gateway["name"]
                        && gateway.namespace.as_deref() == self.gateway["namespace"].as_str()
                })
        })?;
        Some(holder)
    }
}

/// The name of the mesh that selects the namespace of the object; `None` for a mesh, which is in no namespace.
fn mesh_of<'a>(object: &ObjectRef, snapshot: &'a ClusterSnapshot) -> Option<&'a str> {
    snapshot.mesh(object).ok().map(snapshot::name)
}

#[cfg(test)]
mod tests;
