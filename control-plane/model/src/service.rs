//! Virtual services and virtual routers.

use std::{fmt, net::IpAddr, sync::Arc};

use serde::{Serialize, Serializer};

use crate::{ObjectRef, Protocol, ResolvedRoute, ResourceName};

/// The identity of a virtual service: its mesh and its host name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// The `awsName` of the virtual service, which clients send as `Host`. First, because names of one mesh are compared
    /// most.
    pub hostname: Arc<str>,
    /// The `awsName` of the mesh.
    pub mesh: Arc<str>,
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

/// A resolved `VirtualService`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResolvedService {
    /// The mesh and host name.
    pub name: ServiceName,
    /// The object from which the service was read.
    pub object: ObjectRef,
    /// The node or router that answers requests.
    pub provider: ServiceProvider,
    /// The ports on which clients reach the service, in ascending order: the listeners of the router or node that
    /// provides it. A router without listeners contributes the ports of all its targets. Empty without a provider.
    pub ports: Vec<ServicePort>,
    /// The virtual IPs of the Kubernetes Service to which the host name refers, ascending. Empty if there is none, or if
    /// the host name has no namespace. They distinguish the connections of services that share a port.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub virtual_ips: Vec<IpAddr>,
}

/// A port on which clients reach a virtual service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ServicePort {
    /// 1 to 65535
    pub port: u16,
    /// The protocol that clients use on the port.
    pub protocol: Protocol,
}

/// The node or router that answers for a virtual service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum ServiceProvider {
    /// No provider. The host name is reserved, and Envoy answers requests with 404.
    None,
    /// A node of the same mesh, called on the port that the client used.
    Node(ResourceName),
    /// A router of the same mesh.
    Router(ResourceName),
}

/// A resolved `VirtualRouter` with its inline routes and its `Route` objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResolvedRouter {
    /// The identity of the router.
    pub name: ResourceName,
    /// The object from which the router was read.
    pub object: ObjectRef,
    /// The ports on which clients call the router, without duplicates. May be empty.
    pub listeners: Vec<ServicePort>,
    /// Routes in descending precedence: the first one that matches a request handles it.
    pub routes: Vec<Arc<ResolvedRoute>>,
}
