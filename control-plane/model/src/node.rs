//! Virtual nodes: an application, how others find it, and whom it may call.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

use crate::{CloudMapService, ObjectRef, Protocol, ResourceName, Timeout};

/// A virtual node. Ports of its listeners are unique.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResolvedNode {
    /// Its name, and the identity of its proxies.
    pub name: ResourceName,
    /// Where it comes from.
    pub object: ObjectRef,
    /// Inbound ports, in the order of the manifest.
    pub listeners: Vec<NodeListener>,
    /// How others find it; without one nobody does.
    pub discovery: Option<Discovery>,
    /// Services it may call, ascending by host name, each at most once. On any port either all of them
    /// are HTTP-like or exactly one is TCP, unless there are local ports: ingest leaves the others out with a problem.
    pub backends: Vec<NodeBackend>,
    /// The ports on which application and proxy meet where nothing is intercepted; absent where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_ports: Option<LocalPorts>,
}

/// Ports of a node whose traffic nobody intercepts: the application calls its proxy, and is called by it, on loopback.
///
/// The proxy has a port to itself: none of `backends` is a listener's or one of the application's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LocalPorts {
    /// By the proxy's port on loopback: what is called there, whatever `Host` says.
    pub backends: BTreeMap<u16, LocalBackend>,
    /// By a listener's port, on which the proxy is called by others: the application's own port on loopback. A listener
    /// that is not here is reached by nobody.
    pub application: BTreeMap<u16, u16>,
}

/// A port of one of the node's backends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LocalBackend {
    /// The host name of the backend.
    pub service: Arc<str>,
    /// One of its ports.
    pub port: u16,
}

/// One inbound port of a node or gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeListener {
    /// 1 to 65535
    pub port: u16,
    /// What it speaks.
    pub protocol: Protocol,
    /// Bounds on what the application behind it may take.
    pub timeout: Timeout,
}

/// How the endpoints of a node are found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Discovery {
    /// Envoy resolves a name.
    Dns {
        /// Handed to Envoy as it is: short names and trailing dots included.
        hostname: Arc<str>,
        /// What an answer means.
        response: DnsResponse,
    },
    /// We ask Cloud Map and serve what it answers.
    CloudMap {
        /// The Cloud Map service.
        service: CloudMapService,
        /// An instance counts if its attributes contain all of these.
        attributes: BTreeMap<Arc<str>, Arc<str>>,
        /// Whether the pods that the node selects are served as this cluster knows them, whatever Cloud Map says of
        /// their addresses.
        own_pods: bool,
    },
    /// `EndpointSlice`s of a Kubernetes Service that the node's DNS name means.
    Slices {
        /// The Service's namespace.
        namespace: Arc<str>,
        /// The Service's name.
        service: Arc<str>,
    },
}

impl Discovery {
    /// Whether the endpoints are ours to serve (EDS), rather than Envoy's to resolve.
    pub const fn is_eds(&self) -> bool {
        !matches!(self, Self::Dns { .. })
    }
}

/// App Mesh `dns.responseType`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum DnsResponse {
    /// The name stands for a load balancer: one address at a time (Envoy `LOGICAL_DNS`).
    #[default]
    LoadBalancer,
    /// Every address is an endpoint (Envoy `STRICT_DNS`).
    Endpoints,
}

/// A service that a node may call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeBackend {
    /// The host name of a virtual service of the same mesh.
    pub service: Arc<str>,
}
