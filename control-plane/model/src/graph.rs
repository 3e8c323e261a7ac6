//! The graph: all meshes with their members, resolved.

use std::sync::Arc;

use serde::Serialize;

use crate::{
    Endpoint, ResolvedGateway, ResolvedMesh, ResolvedNode, ResolvedRouter, ResolvedSecret,
    ResolvedService, ResourceName, SecretName, ServiceName, memo::SharedMap,
};

/// All meshes and their members. A change produces a new graph, which shares unchanged values and maps with the old one.
///
/// Every name in a graph is a key of one of its maps: the mesh of a member, the service of a backend or gateway route,
/// the provider of a service and the node of a route target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Graph {
    /// Meshes by `awsName`.
    pub meshes: SharedMap<Arc<str>, ResolvedMesh>,
    /// Virtual nodes.
    pub nodes: SharedMap<ResourceName, ResolvedNode>,
    /// Virtual services by mesh and host name.
    pub services: SharedMap<ServiceName, ResolvedService>,
    /// Virtual routers.
    pub routers: SharedMap<ResourceName, ResolvedRouter>,
    /// Virtual gateways.
    pub gateways: SharedMap<ResourceName, ResolvedGateway>,
    /// Endpoints, in ascending order, of every node whose endpoints the control plane serves (EDS).
    ///
    /// An empty list means that the node has no endpoint. A missing entry means that its endpoints are not known yet;
    /// proxies keep the endpoints that they have.
    pub endpoints: SharedMap<ResourceName, Vec<Endpoint>>,
    /// Kubernetes Secrets to which meshes map ARNs of ACM, as far as they exist and are valid.
    #[serde(skip_serializing_if = "is_empty")]
    pub secrets: SharedMap<SecretName, ResolvedSecret>,
}

fn is_empty<K, V>(map: &SharedMap<K, V>) -> bool {
    map.is_empty()
}
