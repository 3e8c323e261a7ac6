//! Virtual services and the routers behind them.

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};

use crate::{ObjectRef, Protocol, ResolvedRoute, ResourceName};

/// The identity of a virtual service: its mesh and its host name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// The mesh.
    pub mesh: Arc<str>,
    /// The `awsName`: what clients put into `Host`.
    pub hostname: Arc<str>,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mesh/{}/virtualService/{}", self.mesh, self.hostname)
    }
}

impl Serialize for ServiceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A virtual service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResolvedService {
    /// Its identity.
    pub name: ServiceName,
    /// Where it comes from.
    pub object: ObjectRef,
    /// Who answers.
    pub provider: ServiceProvider,
    /// The ports on which clients reach it, ascending: the router's listeners, or the node's. A router
    /// without listeners has the ports of all its targets. None without a provider.
    pub ports: Vec<ServicePort>,
}

/// A port on which clients reach a virtual service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ServicePort {
    /// 1 to 65535
    pub port: u16,
    /// What clients speak on it.
    pub protocol: Protocol,
}

/// Who answers for a virtual service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum ServiceProvider {
    /// Nobody: the name is reserved, requests get 404.
    None,
    /// A node of the same mesh, on the port that was called.
    Node(ResourceName),
    /// A router of the same mesh.
    Router(ResourceName),
}

/// A virtual router with all its routes, inline ones and `Route` objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResolvedRouter {
    /// Its name.
    pub name: ResourceName,
    /// Where it comes from.
    pub object: ObjectRef,
    /// The ports clients use; unique. May be empty.
    pub listeners: Vec<ServicePort>,
    /// In the order in which they are tried: the first that matches counts.
    pub routes: Vec<Arc<ResolvedRoute>>,
}
