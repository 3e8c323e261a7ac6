//! Routes of virtual routers: matches, targets, retries.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde::Serialize;

use crate::{ObjectRef, Protocol, ResourceName, Timeout};

/// A resolved route of a virtual router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResolvedRoute {
    /// The name, unique in the router.
    pub name: Arc<str>,
    /// The `VirtualRouter` (inline route) or `Route` object that contains the route.
    pub object: ObjectRef,
    /// `match.port`: the router's port to which the route is limited; all ports if absent.
    pub port: Option<u16>,
    /// The matches and targets.
    pub rule: RouteRule,
}

/// The matches and targets of a route, by protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum RouteRule {
    /// An `httpRoute`, `http2Route` or `grpcRoute`.
    Http(HttpRule),
    /// A `tcpRoute`.
    Tcp(TcpRule),
}

/// A route for HTTP, HTTP/2 or gRPC requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HttpRule {
    /// The protocol of the field that holds the route (`httpRoute`, `http2Route` or `grpcRoute`); never
    /// [`Protocol::Tcp`].
    pub protocol: Protocol,
    /// The conditions on path, method, scheme, headers and query parameters.
    pub matches: HttpMatch,
    /// The targets, in the order of the manifest. Without a weight above 0, Envoy answers with 503.
    pub targets: Vec<RouteTarget>,
    /// The retry policy; App Mesh's default policy if absent.
    pub retry: Option<RetryPolicy>,
    /// The timeouts of requests.
    pub timeout: Timeout,
}

/// A route for TCP connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TcpRule {
    /// The targets, in the order of the manifest. Without a weight above 0, Envoy closes the connection.
    pub targets: Vec<RouteTarget>,
    /// Time without a byte after which Envoy closes a connection; 1 hour (Envoy's default) if absent, unlimited if 0.
    pub idle: Option<Duration>,
}

/// One weighted target of a route: a port of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RouteTarget {
    /// The node, which belongs to the same mesh.
    pub node: ResourceName,
    /// The port of one of the node's listeners.
    pub port: u16,
    /// The protocol of that listener.
    pub protocol: Protocol,
    /// Weight relative to the other targets of the route. Targets with weight 0 are kept so that their clusters stay
    /// warm.
    pub weight: u32,
}

/// The conditions of a route; a request must meet all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HttpMatch {
    /// The path without the query string. A gRPC service is matched as the prefix `/service/`, a gRPC method as an exact
    /// path.
    pub path: PathMatch,
    /// The method; any method if absent.
    pub method: Option<Method>,
    /// The scheme; any scheme if absent.
    pub scheme: Option<Scheme>,
    /// Conditions on headers or gRPC metadata.
    pub headers: Vec<RequestHeaderMatch>,
    /// Conditions on query parameters.
    pub query: Vec<QueryMatch>,
}

/// A match of a request's path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum PathMatch {
    /// The complete path
    Exact(Arc<str>),
    /// The beginning of the path. As in App Mesh, the prefix need not end at a slash: `/x` matches `/x1`.
    Prefix(Arc<str>),
    /// An RE2 regular expression for the complete path
    Regex(Arc<str>),
}

/// An HTTP method in the API of App Mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)] // RFC 9110 defines the methods
pub enum Method {
    Connect,
    Delete,
    Get,
    Head,
    Options,
    Patch,
    Post,
    Put,
    Trace,
}

impl Method {
    /// The method as it appears in a request line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Delete => "DELETE",
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Patch => "PATCH",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Trace => "TRACE",
        }
    }
}

/// The scheme of a request (`:scheme`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names are self-explanatory
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    /// The scheme as it appears in a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// A match of one header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RequestHeaderMatch {
    /// The name of the header. Envoy ignores case.
    pub name: Arc<str>,
    /// The condition on the value.
    pub value: ValueMatch,
    /// Whether the match is inverted. As in Envoy, only an inverted [`ValueMatch::Present`] accepts requests without the
    /// header; every other match needs a value.
    pub invert: bool,
}

/// A match of a header's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum ValueMatch {
    /// The header is present, with any value.
    Present,
    /// The complete value
    Exact(Arc<str>),
    /// The beginning of the value
    Prefix(Arc<str>),
    /// The end of the value
    Suffix(Arc<str>),
    /// An RE2 regular expression for the complete value
    Regex(Arc<str>),
    /// An integer in the half-open range from `start` to `end`
    Range {
        /// First integer in the range.
        start: i64,
        /// First integer after the range.
        end: i64,
    },
}

/// A match of one query parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueryMatch {
    /// The name of the parameter.
    pub name: Arc<str>,
    /// The complete value; any value if absent.
    pub exact: Option<Arc<str>>,
}

/// App Mesh `retryPolicy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RetryPolicy {
    /// Maximum number of retries after the first attempt; 0 disables retries.
    pub max_retries: u32,
    /// Timeout of each attempt.
    pub per_try_timeout: Duration,
    /// The events that cause a retry.
    pub on: BTreeSet<RetryEvent>,
}

/// An event that causes a retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum RetryEvent {
    /// `server-error`: responses 500 to 508, 510 and 511, and resets
    ServerError,
    /// `gateway-error`: responses 502, 503 and 504, and resets
    GatewayError,
    /// `client-error`: response 409
    ClientError,
    /// `stream-error`: refused streams
    StreamError,
    /// `connection-error`: failed connection attempts
    ConnectionError,
    /// gRPC `cancelled`
    GrpcCancelled,
    /// gRPC `deadline-exceeded`
    GrpcDeadlineExceeded,
    /// gRPC `internal`
    GrpcInternal,
    /// gRPC `resource-exhausted`
    GrpcResourceExhausted,
    /// gRPC `unavailable`
    GrpcUnavailable,
}
