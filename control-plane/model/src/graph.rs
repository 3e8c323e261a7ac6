//! Everything known, resolved.

use std::sync::Arc;

use serde::Serialize;

use crate::{
    Endpoint, ResolvedGateway, ResolvedMesh, ResolvedNode, ResolvedRouter, ResolvedService,
    ResourceName, ServiceName, memo::SharedMap,
};

/// All meshes and their members. Immutable: a change makes a new graph that shares what stayed,
/// down to whole maps.
///
/// Every name in it leads to an entry: the mesh of a member, the service of a backend or a gateway route,
/// the provider of a service, the node of a target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Graph {
    /// By `awsName`.
    pub meshes: SharedMap<Arc<str>, ResolvedMesh>,
    /// By name.
    pub nodes: SharedMap<ResourceName, ResolvedNode>,
    /// By mesh and host name.
    pub services: SharedMap<ServiceName, ResolvedService>,
    /// By name.
    pub routers: SharedMap<ResourceName, ResolvedRouter>,
    /// By name.
    pub gateways: SharedMap<ResourceName, ResolvedGateway>,
    /// Of every node whose endpoints are ours to serve, ascending. Empty where there is none; absent as long
    /// as nothing is known, which is not the same: a proxy that has some keeps them.
    pub endpoints: SharedMap<ResourceName, Vec<Endpoint>>,
}
