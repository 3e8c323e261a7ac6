//! What admission looks at beside the object under review, and the two questions it asks of it.
//!
//! Made from [`Inputs`] by cloning four pointers. Must not hold more than membership needs, of the mesh's objects and
//! of pods.

use std::sync::Arc;

use evermesh_crds::v1beta2;
use evermesh_model::{Kind, ObjectRef, Reason, problem::FieldPath};
use k8s_openapi::api::core::v1::Namespace;

use super::AdmissionDenial;
use crate::{
    inputs::{Inputs, ObjectMap},
    membership::{Labels, list, namespace_labels, selects, there_are},
    stage::Problems,
};

/// The objects that decide which mesh and which gateway an object belongs to.
#[derive(Debug, Clone, Default)]
pub struct ClusterSnapshot {
    /// `Namespace`: their labels are what meshes and gateways select
    pub namespaces: ObjectMap<Namespace>,
    /// `Mesh`
    pub meshes: ObjectMap<v1beta2::Mesh>,
    /// `VirtualNode`: what pods may be
    pub virtual_nodes: ObjectMap<v1beta2::VirtualNode>,
    /// `VirtualGateway`
    pub virtual_gateways: ObjectMap<v1beta2::VirtualGateway>,
}

impl From<&Inputs> for ClusterSnapshot {
    fn from(inputs: &Inputs) -> Self {
        Self {
            namespaces: Arc::clone(&inputs.namespaces),
            meshes: Arc::clone(&inputs.meshes),
            virtual_nodes: Arc::clone(&inputs.virtual_nodes),
            virtual_gateways: Arc::clone(&inputs.virtual_gateways),
        }
    }
}

impl ClusterSnapshot {
    /// Whether these are the same pointers: nothing that admission looks at changed.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.namespaces, &other.namespaces)
            && Arc::ptr_eq(&self.meshes, &other.meshes)
            && Arc::ptr_eq(&self.virtual_nodes, &other.virtual_nodes)
            && Arc::ptr_eq(&self.virtual_gateways, &other.virtual_gateways)
    }

    /// The labels of a namespace; none if it is not known. The API server has every namespace that it asks about, so
    /// that one is on its way to us.
    pub fn labels(&self, namespace: &str) -> Option<Labels> {
        let reference = ObjectRef::new(Kind::Namespace, "", namespace);
        let known = self.namespaces.get(&reference)?;
        Some(namespace_labels(namespace, Some(known)))
    }

    /// The labels of the namespace of `object`. Without them a selector such as `NotIn` would take what it must not.
    fn labels_around(&self, object: &ObjectRef) -> Result<Labels, AdmissionDenial> {
        self.labels(&object.namespace).ok_or_else(|| {
            let message = format!(
                "the namespace `{}` is not known here yet: try again in a moment",
                object.namespace
            );
            let field = FieldPath::spec().field("meshRef");
            denial(object, field, Reason::MeshNotFound, message)
        })
    }

    /// The one mesh that selects the namespace of `object`.
    pub(crate) fn mesh(&self, object: &ObjectRef) -> Result<&v1beta2::Mesh, AdmissionDenial> {
        let labels = self.labels_around(object)?;
        let selecting: Vec<_> = self
            .meshes
            .iter()
            .filter(|(_, mesh)| {
                let selector = mesh.spec.namespace_selector.as_ref();
                selector.is_some_and(|selector| selects(selector, &labels))
            })
            .collect();
        let (reason, message) = match selecting.as_slice() {
            [(_, mesh)] if mesh.metadata.deletion_timestamp.is_none() => return Ok(mesh),
            [(reference, _)] => (
                Reason::MeshTerminating,
                format!(
                    "the mesh `{}` is being deleted and takes no new members: wait until it is gone, and create the mesh again",
                    reference.name
                ),
            ),
            [] => {
                let names: Vec<_> = self
                    .meshes
                    .keys()
                    .map(|mesh| Arc::clone(&mesh.name))
                    .collect();
                let advice = "label the namespace as its namespaceSelector wants";
                (
                    Reason::MeshNotFound,
                    format!(
                        "no mesh selects the namespace `{}`; {}",
                        object.namespace,
                        there_are(&names, advice)
                    ),
                )
            }
            several => {
                let names: Vec<_> = several.iter().map(|(mesh, _)| &mesh.name).collect();
                (
                    Reason::MeshAmbiguous,
                    format!(
                        "the meshes {} all select the namespace `{}`: narrow their namespaceSelectors to one",
                        list(&names),
                        object.namespace
                    ),
                )
            }
        };
        let field = FieldPath::spec().field("meshRef");
        Err(denial(object, field, reason, message))
    }

    /// The one gateway of the mesh that selects a gateway route with these labels.
    pub(crate) fn gateway(
        &self,
        object: &ObjectRef,
        route: &Labels,
        mesh: &v1beta2::Mesh,
    ) -> Result<(&ObjectRef, &v1beta2::VirtualGateway), AdmissionDenial> {
        let namespace = self.labels_around(object)?;
        let selecting: Vec<_> = self
            .virtual_gateways
            .iter()
            .filter(|(_, gateway)| {
                let spec = &gateway.spec;
                let namespaces = spec.namespace_selector.as_ref();
                let routes = spec.gateway_route_selector.as_ref();
                namespaces.is_some_and(|selector| selects(selector, &namespace))
                    && routes.is_none_or(|selector| selects(selector, route))
            })
            .filter(|(reference, gateway)| self.is_of_mesh(reference, gateway, mesh))
            .collect();
        let (reason, message) = match selecting.as_slice() {
            [(reference, gateway)] => return Ok((reference, gateway)),
            [] => (
                Reason::GatewayNotFound,
                format!(
                    "no virtual gateway of the mesh `{}` selects this route and its namespace: label them as a gateway's gatewayRouteSelector and namespaceSelector want",
                    name(mesh)
                ),
            ),
            several => {
                let names: Vec<_> = several.iter().map(|(reference, _)| reference).collect();
                (
                    Reason::GatewayAmbiguous,
                    format!(
                        "{} all select this route: narrow their selectors to one",
                        list(&names)
                    ),
                )
            }
        };
        let field = FieldPath::spec().field("virtualGatewayRef");
        Err(denial(object, field, reason, message))
    }

    /// By its `meshRef`, or by its namespace where no webhook has filled that in.
    fn is_of_mesh(
        &self,
        reference: &ObjectRef,
        gateway: &v1beta2::VirtualGateway,
        mesh: &v1beta2::Mesh,
    ) -> bool {
        match &gateway.spec.mesh_ref {
            Some(own) => own.name == name(mesh) && own.uid == uid(mesh.metadata.uid.as_ref()),
            None => self
                .mesh(reference)
                .is_ok_and(|own| std::ptr::eq(own, mesh)),
        }
    }
}

pub(crate) fn name(mesh: &v1beta2::Mesh) -> &str {
    mesh.metadata.name.as_deref().unwrap_or_default()
}

/// An object of a cluster always has one.
pub(crate) fn uid(uid: Option<&String>) -> &str {
    uid.map_or("", String::as_str)
}

fn denial(
    object: &ObjectRef,
    field: FieldPath,
    reason: Reason,
    message: String,
) -> AdmissionDenial {
    let mut problems = Problems::of(object);
    problems.add(field, reason, message);
    AdmissionDenial::by_others(problems)
}
