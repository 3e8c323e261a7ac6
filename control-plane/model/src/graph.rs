//! Everything known, resolved.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

use crate::{
    Endpoint, Mesh, ResourceName, ServiceName, VirtualGateway, VirtualNode, VirtualRouter,
    VirtualService,
};

/// All meshes and their members. Immutable: a change makes a new graph that shares what stayed.
///
/// Every name in it leads to an entry: the mesh of a member, the service of a backend or a gateway route,
/// the provider of a service, the node of a target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Graph {
    /// By `awsName`.
    pub meshes: BTreeMap<Arc<str>, Arc<Mesh>>,
    /// By name.
    pub nodes: BTreeMap<ResourceName, Arc<VirtualNode>>,
    /// By mesh and host name.
    pub services: BTreeMap<ServiceName, Arc<VirtualService>>,
    /// By name.
    pub routers: BTreeMap<ResourceName, Arc<VirtualRouter>>,
    /// By name.
    pub gateways: BTreeMap<ResourceName, Arc<VirtualGateway>>,
    /// Of every node whose endpoints are ours to serve, ascending. Empty where there is none; absent as long
    /// as nothing is known, which is not the same: a proxy that has some keeps them.
    pub endpoints: BTreeMap<ResourceName, Arc<Vec<Endpoint>>>,
}
