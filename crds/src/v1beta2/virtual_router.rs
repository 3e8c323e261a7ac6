//! `VirtualRouter`: routes from a virtual service to virtual nodes.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Duration, HeaderMatch, HttpMethod, HttpPathMatch, HttpTimeout, MeshReference, PortMapping,
    QueryParameter, Reference, TcpTimeout,
};
use crate::condition::Condition;

/// The ports that clients call and the routes behind them.
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
    doc = "Routes that divide the traffic of a virtual service among virtual nodes.",
    printcolumn(
        name = "WEIGHTS",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="WeightsAcked")].message"#,
        description = "The last weights that every connected proxy concerned has accepted"
    ),
    printcolumn(
        name = "PROGRAMMED",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].status"#,
        description = "Whether every connected proxy concerned has accepted it"
    ),
    printcolumn(
        name = "ARN",
        type_ = "string",
        json_path = ".status.virtualRouterARN",
        description = "The virtual router's AWS name as an ARN"
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
pub struct VirtualRouterSpec {
    /// The router's name in ARNs. Default: `name_namespace` of the object. Cannot be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_name: Option<String>,
    /// The ports on which clients call the virtual services behind which the router stands.
    /// Default: the ports of the virtual nodes that it leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub listeners: Option<Vec<VirtualRouterListener>>,
    /// The routes; their order here does not matter. Default: none, and requests get 404.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<Route>>,
    /// The mesh that the router belongs to. Filled in when it is created; leave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_ref: Option<MeshReference>,
}

/// A port that clients call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualRouterListener {
    /// The port and what is spoken on it.
    pub port_mapping: PortMapping,
}

/// One route of a router: exactly one of `httpRoute`, `http2Route`, `grpcRoute` and `tcpRoute`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// The route's name, unique in its router.
    pub name: String,
    /// When the route is tried, from 0 (first) to 1000. Default: after all routes that have a priority.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub priority: Option<u32>,
    /// A route for HTTP/1.1 requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_route: Option<HttpRoute>,
    /// A route for HTTP/2 requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http2_route: Option<HttpRoute>,
    /// A route for gRPC calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_route: Option<GrpcRoute>,
    /// A route for TCP connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_route: Option<TcpRoute>,
}

/// A route for HTTP requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRoute {
    /// Which requests it takes: those that fit all of it.
    pub r#match: HttpRouteMatch,
    /// Where they go.
    pub action: RouteAction,
    /// When they are tried again. Default: twice, when the connection fails or the answer is 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_policy: Option<HttpRetryPolicy>,
    /// How long they may take, as the client sees it. The listener of the target has a timeout too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<HttpTimeout>,
}

/// Which HTTP requests a route takes. Exactly one of `prefix` and `path` is needed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteMatch {
    /// The beginning of the path; starts with `/`. `/` alone takes every path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The whole path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<HttpPathMatch>,
    /// The method. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<HttpMethod>,
    /// The scheme. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<HttpScheme>,
    /// Headers, 1 to 10; all of them must fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 10))]
    pub headers: Option<Vec<HeaderMatch>>,
    /// Query parameters, 1 to 10; all of them must fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 10))]
    pub query_parameters: Option<Vec<QueryParameter>>,
    /// The port of the router that was called. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub port: Option<u64>,
}

/// The scheme of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")] // it would replace that of an optional field
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names say it
pub enum HttpScheme {
    Http,
    Https,
}

/// A route for gRPC calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrpcRoute {
    /// Which calls it takes: those that fit all of it; `{}` takes every call.
    pub r#match: GrpcRouteMatch,
    /// Where they go.
    pub action: RouteAction,
    /// When they are tried again. Default: twice, when the connection fails or the answer is 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_policy: Option<GrpcRetryPolicy>,
    /// How long they may take, as the client sees it. The listener of the target has a timeout too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<HttpTimeout>,
}

/// Which gRPC calls a route takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrpcRouteMatch {
    /// The full name of the service, such as `color.ColorService`. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// A method of the service, which must be named then; 1 to 50 characters. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 50))]
    pub method_name: Option<String>,
    /// Metadata, 1 to 10 entries; all of them must fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 10))]
    pub metadata: Option<Vec<HeaderMatch>>,
    /// The port of the router that was called. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub port: Option<u64>,
}

/// A route for TCP connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpRoute {
    /// Which connections it takes. Default: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#match: Option<TcpRouteMatch>,
    /// Where they go.
    pub action: RouteAction,
    /// How long they may be idle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<TcpTimeout>,
}

/// Which TCP connections a route takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpRouteMatch {
    /// The port of the router that was called. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub port: Option<u64>,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteAction {
    /// The targets, 1 to 10, that divide the traffic among themselves.
    #[schemars(length(min = 1, max = 10))]
    pub weighted_targets: Vec<WeightedTarget>,
}

/// A share of a route's traffic: exactly one of `virtualNodeRef` and `virtualNodeARN` names who gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WeightedTarget {
    /// The virtual node's object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_node_ref: Option<Reference>,
    /// The virtual node's ARN.
    #[serde(rename = "virtualNodeARN", skip_serializing_if = "Option::is_none")]
    pub virtual_node_arn: Option<String>,
    /// The share, from 0 to 100, relative to the sum of all weights of the route. With 0 nothing is sent.
    #[schemars(range(min = 0, max = 100))]
    pub weight: u32,
    /// The port of the virtual node; needed when it has several listeners. Default: its only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub port: Option<u64>,
}

/// When and how often HTTP requests are tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRetryPolicy {
    /// Answers that are tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 25))]
    pub http_retry_events: Option<Vec<HttpRetryEvent>>,
    /// Failures of the connection that are tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1))]
    pub tcp_retry_events: Option<Vec<TcpRetryEvent>>,
    /// How often, after the first try. 0 switches retries off.
    #[schemars(range(min = 0))]
    pub max_retries: u64,
    /// How long each try may take.
    pub per_retry_timeout: Duration,
}

/// When and how often gRPC calls are tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrpcRetryPolicy {
    /// gRPC status codes that are tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 5))]
    pub grpc_retry_events: Option<Vec<GrpcRetryEvent>>,
    /// HTTP answers that are tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 25))]
    pub http_retry_events: Option<Vec<HttpRetryEvent>>,
    /// Failures of the connection that are tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1))]
    pub tcp_retry_events: Option<Vec<TcpRetryEvent>>,
    /// How often, after the first try. 0 switches retries off.
    #[schemars(range(min = 0))]
    pub max_retries: u64,
    /// How long each try may take.
    pub per_retry_timeout: Duration,
}

/// An HTTP answer that is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HttpRetryEvent {
    /// 500 to 508, 510, 511
    ServerError,
    /// 502, 503, 504
    GatewayError,
    /// 409
    ClientError,
    /// A refused stream
    StreamError,
}

/// A failure of the connection that is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TcpRetryEvent {
    /// No connection could be made.
    ConnectionError,
}

/// A gRPC status code that is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // gRPC's own names
pub enum GrpcRetryEvent {
    Cancelled,
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    Unavailable,
}

/// What became of the router.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualRouterStatus {
    /// Whether it works: `VirtualRouterActive`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Its AWS name as an ARN.
    #[serde(rename = "virtualRouterARN", skip_serializing_if = "Option::is_none")]
    pub virtual_router_arn: Option<String>,
    /// The AWS names of its routes as ARNs, by the name of the route.
    #[serde(rename = "routeARNs", skip_serializing_if = "Option::is_none")]
    pub route_arns: Option<BTreeMap<String, String>>,
    /// The `metadata.generation` that the status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
