//! Virtual gateways and the routes that lead from them into the mesh.

use std::sync::Arc;

use serde::Serialize;

use crate::{ObjectRef, Protocol, ResourceName, ServiceName, ServicePort, route::HttpMatch};

/// A virtual gateway. Ports of its listeners are unique and none is TCP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResolvedGateway {
    /// Its name, and the identity of its proxies.
    pub name: ResourceName,
    /// Where it comes from.
    pub object: ObjectRef,
    /// Ports open to the outside, in the order of the manifest.
    pub listeners: Vec<ServicePort>,
    /// In the order in which they are tried: the first that matches counts.
    pub routes: Vec<Arc<ResolvedGatewayRoute>>,
}

/// One gateway route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResolvedGatewayRoute {
    /// Its `awsName`.
    pub name: Arc<str>,
    /// Where it comes from.
    pub object: ObjectRef,
    /// Which of the three kinds it was written as; never [`Protocol::Tcp`].
    pub protocol: Protocol,
    /// `match.port`: only requests to this port of the gateway; all of them when absent.
    pub port: Option<u16>,
    /// The host name of the request; any when absent.
    pub hostname: Option<HostnameMatch>,
    /// Which requests it takes.
    pub matches: HttpMatch,
    /// A virtual service of the same mesh.
    pub target: ServiceName,
    /// One of the target's ports; absent while the target has none (no provider).
    pub target_port: Option<ServicePort>,
    /// Whether `Host` becomes the target's host name. App Mesh's default is yes.
    pub rewrite_hostname: bool,
    /// What happens to the path.
    pub rewrite_path: PathRewrite,
}

/// A match of a request's host name, its port left aside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum HostnameMatch {
    /// The whole name
    Exact(Arc<str>),
    /// Its end, such as `.example.com`
    Suffix(Arc<str>),
}

/// What happens to a request's path on its way in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum PathRewrite {
    /// It stays.
    Keep,
    /// What the match's prefix took is replaced: App Mesh's default, with `/`.
    Prefix(Arc<str>),
    /// All of it is replaced.
    Full(Arc<str>),
}
