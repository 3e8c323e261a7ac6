//! `VirtualRouter`: routes that divide the traffic of virtual services among virtual nodes.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Duration, HeaderMatch, HttpMethod, HttpPathMatch, HttpTimeout, MeshReference, PortMapping,
    QueryParameter, Reference, TcpTimeout,
};
use crate::condition::Condition;

/// The ports of the router and its routes.
#[derive(
    CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "appmesh.k8s.aws",
    version = "v1beta2",
    kind = "VirtualRouter",
    plural = "virtualrouters",
    namespaced,
    category = "all",
    status = "VirtualRouterStatus",
    derive = "PartialEq",
    doc = "Routes that divide the traffic of virtual services among virtual nodes.",
    printcolumn(
        name = "WEIGHTS",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="WeightsAcked")].message"#,
        description = "The weights that every connected proxy concerned accepted last"
    ),
    printcolumn(
        name = "PROGRAMMED",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].status"#,
        description = "Whether every connected proxy concerned has accepted the newest generation"
    ),
    printcolumn(
        name = "ARN",
        type_ = "string",
        json_path = ".status.virtualRouterARN",
        description = "ARN of the virtual router"
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
pub struct VirtualRouterSpec {
    /// Name of the virtual router in ARNs. Default: `NAME_NAMESPACE` of the object. Immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_name: Option<String>,
    /// Ports on which clients call the virtual services that the router provides. Default: the ports of the target virtual
    /// nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub listeners: Option<Vec<VirtualRouterListener>>,
    /// Inline routes. They are tried by `priority` and by how specific they are, not in the order of the list. Default:
    /// none; without a route, requests are answered 404.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<InlineRoute>>,
    /// The mesh of the virtual router. Set by admission at creation; do not set it. Immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_ref: Option<MeshReference>,
}

/// A port on which clients call the virtual service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualRouterListener {
    /// Port and protocol.
    pub port_mapping: PortMapping,
}

/// An inline route of a virtual router. Exactly one of `httpRoute`, `http2Route`, `grpcRoute` and `tcpRoute` is required.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InlineRoute {
    /// Name of the route, unique in its router.
    pub name: String,
    /// Precedence of the route: 0 to 1000, lower values are tried first. Default: after all routes with a priority.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub priority: Option<u32>,
    /// Match and action for HTTP/1.1 requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_route: Option<HttpRoute>,
    /// Match and action for HTTP/2 requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http2_route: Option<HttpRoute>,
    /// Match and action for gRPC calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_route: Option<GrpcRoute>,
    /// Match and action for TCP connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_route: Option<TcpRoute>,
}

/// Match and action for HTTP requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRoute {
    /// Requests that the route applies to. All given fields must match.
    pub r#match: HttpRouteMatch,
    /// Targets of the route.
    pub action: RouteAction,
    /// Retries. Default: at most 2, after a failed or reset connection, a refused stream, status 503 or gRPC status
    /// `unavailable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_policy: Option<HttpRetryPolicy>,
    /// Timeouts in the proxy of the caller. The timeouts of the target's listener apply in addition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<HttpTimeout>,
}

/// The HTTP requests that a route applies to. Exactly one of `prefix` and `path` is required.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteMatch {
    /// Prefix of the path; begins with `/` and may end anywhere: `/x` matches `/x1`. The prefix `/` matches every path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Match of the whole path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<HttpPathMatch>,
    /// Request method. Default: any. CONNECT is never matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<HttpMethod>,
    /// URL scheme: `:scheme` of an HTTP/2 request, `x-forwarded-proto` of an HTTP/1.1 request, and `http` without it.
    /// Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<HttpScheme>,
    /// Headers, 1 to 10 entries. All of them must match.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 10))]
    pub headers: Option<Vec<HeaderMatch>>,
    /// Query parameters, 1 to 10 entries. All of them must match.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 10))]
    pub query_parameters: Option<Vec<QueryParameter>>,
    /// Port of the router on which the traffic arrives. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub port: Option<u64>,
}

/// The URL scheme of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")] // else it replaces the description of an optional field
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the schemes of RFC 9110
pub enum HttpScheme {
    Http,
    Https,
}

/// Match and action for gRPC calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrpcRoute {
    /// Calls that the route applies to. All given fields must match; `{}` matches every call.
    pub r#match: GrpcRouteMatch,
    /// Targets of the route.
    pub action: RouteAction,
    /// Retries. Default: at most 2, after a failed or reset connection, a refused stream, status 503 or gRPC status
    /// `unavailable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_policy: Option<GrpcRetryPolicy>,
    /// Timeouts in the proxy of the caller. The timeouts of the target's listener apply in addition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<HttpTimeout>,
}

/// The gRPC calls that a route applies to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrpcRouteMatch {
    /// Full name of the gRPC service, such as `color.ColorService`. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// Method of the service; 1 to 50 characters. Requires `serviceName`. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 50))]
    pub method_name: Option<String>,
    /// Metadata, 1 to 10 entries. All of them must match.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 10))]
    pub metadata: Option<Vec<HeaderMatch>>,
    /// Port of the router on which the traffic arrives. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub port: Option<u64>,
}

/// Match and action for TCP connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpRoute {
    /// Connections that the route applies to. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#match: Option<TcpRouteMatch>,
    /// Targets of the route.
    pub action: RouteAction,
    /// Timeout in the proxy of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<TcpTimeout>,
}

/// The TCP connections that a route applies to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpRouteMatch {
    /// Port of the router on which the traffic arrives. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub port: Option<u64>,
}

/// The targets of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteAction {
    /// Targets among which the traffic is divided by weight, 1 to 10 entries.
    #[schemars(length(min = 1, max = 10))]
    pub weighted_targets: Vec<WeightedTarget>,
}

/// A target of a route. Exactly one of `virtualNodeRef` and `virtualNodeARN` is required.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WeightedTarget {
    /// Reference to the virtual node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_node_ref: Option<Reference>,
    /// ARN of the virtual node, instead of `virtualNodeRef`. Region and account are ignored.
    #[serde(rename = "virtualNodeARN", skip_serializing_if = "Option::is_none")]
    pub virtual_node_arn: Option<String>,
    /// Share of the traffic, relative to the sum of all weights of the route; 0 to 100. A target of weight 0 gets no
    /// traffic.
    #[schemars(range(min = 0, max = 100))]
    pub weight: u32,
    /// Port of the virtual node. Required if the node has several listeners. Default: the port of its only listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub port: Option<u64>,
}

/// The retries of HTTP requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRetryPolicy {
    /// HTTP events that are retried, 1 to 25: `server-error` (status 500 to 508, 510, 511, or a reset connection),
    /// `gateway-error` (status 502, 503, 504, or a reset connection), `client-error` (status 409), `stream-error` (a
    /// refused stream).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 25))]
    pub http_retry_events: Option<Vec<HttpRetryEvent>>,
    /// Connection events that are retried: `connection-error` (failed connection).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1))]
    pub tcp_retry_events: Option<Vec<TcpRetryEvent>>,
    /// Maximum number of retries of a request. 0 disables retries.
    #[schemars(range(min = 0))]
    pub max_retries: u64,
    /// Timeout of each try. Zero disables the timeout.
    pub per_retry_timeout: Duration,
}

/// The retries of gRPC calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrpcRetryPolicy {
    /// gRPC status codes that are retried, 1 to 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 5))]
    pub grpc_retry_events: Option<Vec<GrpcRetryEvent>>,
    /// HTTP events that are retried, 1 to 25: `server-error` (status 500 to 508, 510, 511, or a reset connection),
    /// `gateway-error` (status 502, 503, 504, or a reset connection), `client-error` (status 409), `stream-error` (a
    /// refused stream).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 25))]
    pub http_retry_events: Option<Vec<HttpRetryEvent>>,
    /// Connection events that are retried: `connection-error` (failed connection).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1))]
    pub tcp_retry_events: Option<Vec<TcpRetryEvent>>,
    /// Maximum number of retries of a request. 0 disables retries.
    #[schemars(range(min = 0))]
    pub max_retries: u64,
    /// Timeout of each try. Zero disables the timeout.
    pub per_retry_timeout: Duration,
}

/// An HTTP event that is retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HttpRetryEvent {
    /// Status 500 to 508, 510, 511, or a reset connection.
    ServerError,
    /// Status 502, 503, 504, or a reset connection.
    GatewayError,
    /// Status 409.
    ClientError,
    /// A refused stream.
    StreamError,
}

/// A connection event that is retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TcpRetryEvent {
    /// A failed connection.
    ConnectionError,
}

/// A gRPC status code that is retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // the status codes of gRPC
pub enum GrpcRetryEvent {
    Cancelled,
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    Unavailable,
}

/// Observed state of the virtual router.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualRouterStatus {
    /// Conditions by type. `VirtualRouterActive`: the object is valid and its references resolve. `Programmed`: every connected proxy
    /// concerned has accepted the newest generation. `WeightsAcked`: the message has the weights that these
    /// proxies accepted last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// ARN of the virtual router.
    #[serde(rename = "virtualRouterARN", skip_serializing_if = "Option::is_none")]
    pub virtual_router_arn: Option<String>,
    /// ARNs of the routes, by the name of the route.
    #[serde(rename = "routeARNs", skip_serializing_if = "Option::is_none")]
    pub route_arns: Option<BTreeMap<String, String>>,
    /// The `metadata.generation` that the conditions describe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
