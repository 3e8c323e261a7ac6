//! Objects as ingest takes them.

use std::sync::Arc;

use evermesh_crds::{extension, v1beta2};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
};

/// An object of a kind that a mesh needs.
#[derive(Debug, Clone)]
pub enum Object {
    /// `appmesh.k8s.aws/v1beta2`
    Mesh(Arc<v1beta2::Mesh>),
    /// `appmesh.k8s.aws/v1beta2`
    VirtualNode(Arc<v1beta2::VirtualNode>),
    /// `appmesh.k8s.aws/v1beta2`
    VirtualService(Arc<v1beta2::VirtualService>),
    /// `appmesh.k8s.aws/v1beta2`
    VirtualRouter(Arc<v1beta2::VirtualRouter>),
    /// `appmesh.k8s.aws/v1beta2`
    VirtualGateway(Arc<v1beta2::VirtualGateway>),
    /// `appmesh.k8s.aws/v1beta2`
    GatewayRoute(Arc<v1beta2::GatewayRoute>),
    /// `appmesh.k8s.aws/v1beta2`
    BackendGroup(Arc<v1beta2::BackendGroup>),
    /// `evermesh.dev/v1alpha1`
    Route(Arc<extension::Route>),
    /// `v1`
    Namespace(Arc<Namespace>),
    /// `v1`
    Service(Arc<Service>),
    /// `discovery.k8s.io/v1`
    EndpointSlice(Arc<EndpointSlice>),
    /// `v1`
    Pod(Arc<Pod>),
    /// `v1`
    Node(Arc<Node>),
}
