//! A snapshot of the objects on which admission depends, and the lookup of an object's mesh and gateway in it.
//!
//! The engine publishes a snapshot whenever one of its kinds changed; creating it clones pointers of [`Inputs`].

use std::sync::Arc;

use evermesh_crds::v1beta2;
use evermesh_model::{Kind, ObjectRef, Reason, problem::FieldPath};
use k8s_openapi::api::core::v1::Namespace;

use super::AdmissionDenial;
use crate::{
    inputs::{Inputs, ObjectMap},
    membership::{Labels, known_meshes, list, namespace_labels, selects},
    stage::Problems,
};

/// The objects that determine the mesh and the gateway of an object, the candidates for a pod's sidecar, and the holders
/// of names.
#[derive(Debug, Clone, Default)]
pub struct ClusterSnapshot {
    /// `Namespace`, whose labels meshes and gateways select
    pub namespaces: ObjectMap<Namespace>,
    /// `Mesh`
    pub meshes: ObjectMap<v1beta2::Mesh>,
    /// `VirtualNode`, which select pods
    pub virtual_nodes: ObjectMap<v1beta2::VirtualNode>,
    /// `VirtualService`
    pub virtual_services: ObjectMap<v1beta2::VirtualService>,
    /// `VirtualRouter`
    pub virtual_routers: ObjectMap<v1beta2::VirtualRouter>,
    /// `GatewayRoute`
    pub gateway_routes: ObjectMap<v1beta2::GatewayRoute>,
    /// `VirtualGateway`, which select pods and gateway routes
    pub virtual_gateways: ObjectMap<v1beta2::VirtualGateway>,
}

impl From<&Inputs> for ClusterSnapshot {
    fn from(inputs: &Inputs) -> Self {
        Self {
            namespaces: Arc::clone(&inputs.namespaces),
            meshes: Arc::clone(&inputs.meshes),
            virtual_nodes: Arc::clone(&inputs.virtual_nodes),
            virtual_services: Arc::clone(&inputs.virtual_services),
            virtual_routers: Arc::clone(&inputs.virtual_routers),
            gateway_routes: Arc::clone(&inputs.gateway_routes),
            virtual_gateways: Arc::clone(&inputs.virtual_gateways),
        }
    }
}

impl ClusterSnapshot {
    /// Returns whether both snapshots have the same pointers, so that nothing relevant for admission changed.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.namespaces, &other.namespaces)
            && Arc::ptr_eq(&self.meshes, &other.meshes)
            && Arc::ptr_eq(&self.virtual_nodes, &other.virtual_nodes)
            && Arc::ptr_eq(&self.virtual_services, &other.virtual_services)
            && Arc::ptr_eq(&self.virtual_routers, &other.virtual_routers)
            && Arc::ptr_eq(&self.gateway_routes, &other.gateway_routes)
            && Arc::ptr_eq(&self.virtual_gateways, &other.virtual_gateways)
    }

    /// The labels of a namespace; `None` if the namespace is not known yet.
    ///
    /// The API server sends reviews only for existing namespaces, so the watch is about to deliver an unknown one.
    pub fn labels(&self, namespace: &str) -> Option<Labels> {
        let reference = ObjectRef::new(Kind::Namespace, "", namespace);
        let known = self.namespaces.get(&reference)?;
        Some(namespace_labels(namespace, Some(known)))
    }

    /// The labels of the object's namespace. Denies the write if the namespace is unknown: without its labels, a selector
    /// with `NotIn` would select the object by mistake.
    fn labels_of_namespace(&self, object: &ObjectRef) -> Result<Labels, AdmissionDenial> {
        self.labels(&object.namespace).ok_or_else(|| {
            let message = format!(
                "namespace `{}` is not known to the control plane yet; try again in a few seconds",
                object.namespace
            );
            let field = FieldPath::spec().field("meshRef");
            denial(object, field, Reason::MeshNotFound, message)
        })
    }

    /// The only mesh that selects the namespace of `object`.
    pub(crate) fn mesh(&self, object: &ObjectRef) -> Result<&v1beta2::Mesh, AdmissionDenial> {
        let labels = self.labels_of_namespace(object)?;
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
                    "mesh `{}` is being deleted and accepts no new members; wait for its deletion, then create the mesh again",
                    reference.name
                ),
            ),
            [] => {
                let names: Vec<_> = self
                    .meshes
                    .keys()
                    .map(|mesh| Arc::clone(&mesh.name))
                    .collect();
                (
                    Reason::MeshNotFound,
                    format!(
                        "no mesh selects namespace `{}`; label the namespace to match a mesh's namespaceSelector ({})",
                        object.namespace,
                        known_meshes(&names)
                    ),
                )
            }
            several => {
                let names: Vec<_> = several.iter().map(|(mesh, _)| &mesh.name).collect();
                (
                    Reason::MeshAmbiguous,
                    format!(
                        "several meshes select namespace `{}`: {}; narrow their namespaceSelectors until only one matches",
                        object.namespace,
                        list(&names)
                    ),
                )
            }
        };
        let field = FieldPath::spec().field("meshRef");
        Err(denial(object, field, reason, message))
    }

    /// The only gateway of the mesh that selects a gateway route with these labels.
    pub(crate) fn gateway(
        &self,
        object: &ObjectRef,
        route: &Labels,
        mesh: &v1beta2::Mesh,
    ) -> Result<(&ObjectRef, &v1beta2::VirtualGateway), AdmissionDenial> {
        let namespace = self.labels_of_namespace(object)?;
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
                    "no virtual gateway of mesh `{}` selects this route and its namespace; label them to match a gateway's gatewayRouteSelector and namespaceSelector",
                    name(mesh)
                ),
            ),
            several => {
                let names: Vec<_> = several.iter().map(|(reference, _)| reference).collect();
                (
                    Reason::GatewayAmbiguous,
                    format!(
                        "several virtual gateways select this route: {}; narrow their selectors until only one matches",
                        list(&names)
                    ),
                )
            }
        };
        let field = FieldPath::spec().field("virtualGatewayRef");
        Err(denial(object, field, reason, message))
    }

    /// Returns whether a gateway belongs to the mesh: by its `meshRef`, or by its namespace if `meshRef` is not set.
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

/// `metadata.uid`, which every object of a Kubernetes cluster has.
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
    AdmissionDenial::from_snapshot(problems)
}
