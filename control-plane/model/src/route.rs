//! What is matched and where it goes.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde::Serialize;

use crate::{ObjectRef, Protocol, ResourceName, Timeout};

/// One route of a virtual router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResolvedRoute {
    /// Unique in its router.
    pub name: Arc<str>,
    /// The virtual router, or the `Route` object, it is written in.
    pub object: ObjectRef,
    /// `match.port`: only requests to this port of the router; all of them when absent.
    pub port: Option<u16>,
    /// What it does.
    pub rule: RouteRule,
}

/// What a route does, by what it speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum RouteRule {
    /// An `httpRoute`, `http2Route` or `grpcRoute`.
    Http(HttpRule),
    /// A `tcpRoute`.
    Tcp(TcpRule),
}

/// A rule for requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HttpRule {
    /// Which of the three kinds it was written as; never [`Protocol::Tcp`].
    pub protocol: Protocol,
    /// Which requests it takes.
    pub matches: HttpMatch,
    /// Where they go, in the order of the manifest. Empty, or all weights zero: answered 503.
    pub targets: Vec<RouteTarget>,
    /// When and how often they are tried again; App Mesh's default policy when absent.
    pub retry: Option<RetryPolicy>,
    /// How long they may take.
    pub timeout: Timeout,
}

/// A rule for connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TcpRule {
    /// Where they go, in the order of the manifest. Empty, or all weights zero: closed.
    pub targets: Vec<RouteTarget>,
    /// Closed after this long without a byte; Envoy's 1 hour when absent, never when zero.
    pub idle: Option<Duration>,
}

/// A share of the traffic for one port of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RouteTarget {
    /// A node of the same mesh.
    pub node: ResourceName,
    /// One of its listeners' ports.
    pub port: u16,
    /// What that listener speaks.
    pub protocol: Protocol,
    /// Relative to the other targets of the rule. Zero is kept: the cluster stays known and warm.
    pub weight: u32,
}

/// Which requests a rule takes: those that fit all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HttpMatch {
    /// The path, without the query string. A gRPC service is the prefix `/service/`, one of its methods
    /// an exact path.
    pub path: PathMatch,
    /// The method; any when absent.
    pub method: Option<Method>,
    /// The scheme; any when absent.
    pub scheme: Option<Scheme>,
    /// Headers, or gRPC metadata.
    pub headers: Vec<RequestHeaderMatch>,
    /// Query parameters.
    pub query: Vec<QueryMatch>,
}

/// A match of the path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum PathMatch {
    /// The whole path
    Exact(Arc<str>),
    /// Its beginning; not ended at a slash, so `/x` takes `/x1` as it did in App Mesh
    Prefix(Arc<str>),
    /// An RE2 expression for the whole path
    Regex(Arc<str>),
}

/// An HTTP method that App Mesh knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)] // RFC 9110 says what they are
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
    /// As it stands in a request line.
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
#[allow(missing_docs)] // the names say it
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    /// As it stands in a URL.
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
    /// Lower case or not: Envoy compares names without case.
    pub name: Arc<str>,
    /// What its value must be.
    pub value: ValueMatch,
    /// Whether the whole match is turned round: a header that is absent then fits.
    pub invert: bool,
}

/// A match of a header's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum ValueMatch {
    /// The header is there.
    Present,
    /// The whole value
    Exact(Arc<str>),
    /// Its beginning
    Prefix(Arc<str>),
    /// Its end
    Suffix(Arc<str>),
    /// An RE2 expression for the whole value
    Regex(Arc<str>),
    /// An integer from `start` up to but not including `end`
    Range {
        /// inclusive
        start: i64,
        /// exclusive
        end: i64,
    },
}

/// A match of one query parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueryMatch {
    /// Its name.
    pub name: Arc<str>,
    /// Its whole value; any when absent.
    pub exact: Option<Arc<str>>,
}

/// App Mesh `retryPolicy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RetryPolicy {
    /// Tries after the first; 0 switches retries off.
    pub max_retries: u32,
    /// How long each try may take.
    pub per_try_timeout: Duration,
    /// What is tried again.
    pub on: BTreeSet<RetryEvent>,
}

/// What a retry policy acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum RetryEvent {
    /// `server-error`: 500 to 508, 510, 511, and resets
    ServerError,
    /// `gateway-error`: 502, 503, 504, and resets
    GatewayError,
    /// `client-error`: 409
    ClientError,
    /// `stream-error`: refused streams
    StreamError,
    /// `connection-error`: no connection
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
