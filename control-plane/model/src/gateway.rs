//! Virtual gateways and their routes into the mesh.

use std::sync::Arc;

use serde::Serialize;

use crate::{
    AccessLogFile, ClientTls, GatewayListener, ObjectRef, Protocol, ResourceName, ServiceName,
    ServicePort, route::HttpMatch,
};

/// A resolved `VirtualGateway`. Ports of listeners are unique, and no listener uses [`Protocol::Tcp`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResolvedGateway {
    /// The identity of the gateway and of its proxies.
    pub name: ResourceName,
    /// The object from which the gateway was read.
    pub object: ObjectRef,
    /// Inbound ports, in the order of the manifest.
    pub listeners: Vec<GatewayListener>,
    /// Routes in descending precedence: the first one that matches a request handles it.
    pub routes: Vec<Arc<ResolvedGatewayRoute>>,
    /// TLS of calls to the targets of the routes; see [`crate::NodeBackend::tls`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Arc<ClientTls>>,
    /// The access log of the gateway's proxies; none if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLogFile>,
    /// Whether the gateway's proxies add the address of the client to `X-Forwarded-For`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub forwards_client_address: bool,
}

/// A resolved `GatewayRoute`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResolvedGatewayRoute {
    /// `awsName`, unique in the gateway.
    pub name: Arc<str>,
    /// The object from which the route was read.
    pub object: ObjectRef,
    /// The protocol of the field that holds the route (`httpRoute`, `http2Route` or `grpcRoute`); never
    /// [`Protocol::Tcp`].
    pub protocol: Protocol,
    /// `match.port`: the gateway's port to which the route is limited; all ports if absent.
    pub port: Option<u16>,
    /// The match of the request's host name; any host name if absent.
    pub hostname: Option<HostnameMatch>,
    /// The conditions on path, method, headers and query parameters.
    pub matches: HttpMatch,
    /// The virtual service, of the same mesh, that receives the requests.
    pub target: ServiceName,
    /// The port of the target; absent while the target has no provider and therefore no ports.
    pub target_port: Option<ServicePort>,
    /// Whether `Host` is rewritten to the target's host name. App Mesh's default is `true`.
    pub rewrite_hostname: bool,
    /// The rewrite of the request's path.
    pub rewrite_path: PathRewrite,
}

/// A match of a request's host name without its port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum HostnameMatch {
    /// The complete name
    Exact(Arc<str>),
    /// The end of the name, such as `.example.com`
    Suffix(Arc<str>),
}

impl HostnameMatch {
    /// The match in lower case, in which host names are compared.
    #[must_use]
    pub fn to_lowercase(&self) -> Self {
        match self {
            Self::Exact(name) => Self::Exact(name.to_lowercase().into()),
            Self::Suffix(suffix) => Self::Suffix(suffix.to_lowercase().into()),
        }
    }
}

/// The rewrite of a request's path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum PathRewrite {
    /// The path is not changed.
    Keep,
    /// The matched prefix is replaced by this one. App Mesh's default is `/`.
    Prefix(Arc<str>),
    /// The complete path is replaced.
    Full(Arc<str>),
}
