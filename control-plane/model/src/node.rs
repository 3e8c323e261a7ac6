//! Virtual nodes: an application, the discovery of its endpoints and the services that it may call.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

use crate::{AccessLogFile, ClientTls, CloudMapService, NodeListener, ObjectRef, ResourceName};

/// A resolved `VirtualNode`. Ports of listeners are unique.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResolvedNode {
    /// The identity of the node and of its proxies.
    pub name: ResourceName,
    /// The object from which the node was read.
    pub object: ObjectRef,
    /// Inbound ports, in the order of the manifest.
    pub listeners: Vec<NodeListener>,
    /// The source of the node's endpoints. Without it other nodes cannot call this one.
    pub discovery: Option<Discovery>,
    /// Services that the node may call, in ascending order of host name, without duplicates.
    ///
    /// Without `local_ports`, connections to a port are distinguished by their address: a port has any number of HTTP,
    /// HTTP/2 and gRPC backends, or one TCP backend, and in addition TCP backends with virtual IPs of their own. Ingest
    /// drops conflicting backends and reports a problem.
    pub backends: Vec<NodeBackend>,
    /// Loopback ports between application and proxy. Absent if the node's traffic is intercepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_ports: Option<LocalPorts>,
    /// The access log of the node's proxies; none if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLogFile>,
    /// Whether the node's proxies add the address of the client to `X-Forwarded-For` of requests to the application.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub forwards_client_address: bool,
}

/// Local ports of a node whose traffic is not intercepted: application and proxy call each other on loopback.
///
/// No key of `backends` is the port of a listener or a port of the application.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LocalPorts {
    /// From the port on which the proxy listens for the application to the backend that it forwards to, regardless of
    /// `Host`.
    pub backends: BTreeMap<u16, LocalBackend>,
    /// From a listener's port, on which the proxy accepts requests of other nodes, to the application's port on
    /// loopback. A listener without an entry is not served.
    pub application: BTreeMap<u16, u16>,
}

/// A port of one of the node's backends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LocalBackend {
    /// The host name of the virtual service.
    pub service: Arc<str>,
    /// A port of the virtual service.
    pub port: u16,
}

/// The source of a node's endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Discovery {
    /// Envoy resolves a DNS name.
    Dns {
        /// The name, passed to Envoy unchanged: it may be relative or end with a dot.
        hostname: Arc<str>,
        /// The meaning of the addresses in a DNS answer.
        response: DnsResponse,
    },
    /// The control plane serves the instances of a Cloud Map service.
    CloudMap {
        /// The Cloud Map service to query.
        service: CloudMapService,
        /// Attributes that an instance must have to be an endpoint.
        attributes: BTreeMap<Arc<str>, Arc<str>>,
        /// Whether the state of the pods that the node selects comes from this Kubernetes cluster instead of Cloud Map.
        own_pods: bool,
    },
    /// The control plane serves the `EndpointSlice`s of the Kubernetes Service to which the node's DNS name refers.
    Slices {
        /// The namespace of the Kubernetes Service.
        namespace: Arc<str>,
        /// The name of the Kubernetes Service.
        service: Arc<str>,
        /// The DNS name in the manifest.
        hostname: Arc<str>,
    },
}

impl Discovery {
    /// Returns whether the control plane serves the endpoints (EDS), instead of Envoy resolving a DNS name.
    pub const fn is_eds(&self) -> bool {
        !matches!(self, Self::Dns { .. })
    }
}

/// App Mesh `dns.responseType`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum DnsResponse {
    /// The name belongs to a load balancer; Envoy uses one address at a time (`LOGICAL_DNS`).
    #[default]
    LoadBalancer,
    /// Every address is an endpoint (`STRICT_DNS`).
    Endpoints,
}

/// A virtual service that a node may call (`spec.backends`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeBackend {
    /// The host name of the virtual service, which belongs to the same mesh.
    pub service: Arc<str>,
    /// TLS of the calls; if absent, TLS is used without validation where the listener of the target offers it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Arc<ClientTls>>,
}
