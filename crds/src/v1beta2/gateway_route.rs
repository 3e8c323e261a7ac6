//! `GatewayRoute`: a route from a virtual gateway to a virtual service.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    HeaderMatch, HttpMethod, HttpPathMatch, MeshReference, QueryParameter, Reference,
    VirtualGatewayReference,
};
use crate::condition::Condition;

/// The requests that the route applies to, and their target. Exactly one of `httpRoute`, `http2Route` and `grpcRoute` is
/// required.
#[derive(
    CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "appmesh.k8s.aws",
    version = "v1beta2",
    kind = "GatewayRoute",
    plural = "gatewayroutes",
    namespaced,
    category = "all",
    status = "GatewayRouteStatus",
    derive = "PartialEq",
    doc = "Routes requests from a virtual gateway to a virtual service.",
    printcolumn(
        name = "PROGRAMMED",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].status"#,
        description = "Whether every connected proxy concerned has accepted the newest generation"
    ),
    printcolumn(
        name = "ARN",
        type_ = "string",
        json_path = ".status.gatewayRouteARN",
        description = "ARN of the gateway route"
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
pub struct GatewayRouteSpec {
    /// Name of the gateway route in ARNs. Default: `NAME_NAMESPACE` of the object. Immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_name: Option<String>,
    /// Precedence of the route among those for the same host name: 0 to 1000, lower values are tried first. Of routes with
    /// equal priority, the more specific match is tried first. Default: after all routes with a priority.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub priority: Option<u32>,
    /// Match and action for HTTP/1.1 requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_route: Option<HttpGatewayRoute>,
    /// Match and action for HTTP/2 requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http2_route: Option<HttpGatewayRoute>,
    /// Match and action for gRPC calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_route: Option<GrpcGatewayRoute>,
    /// The virtual gateway of the route. Set by admission at creation; do not set it. Immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_gateway_ref: Option<VirtualGatewayReference>,
    /// The mesh of the gateway route. Set by admission at creation; do not set it. Immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_ref: Option<MeshReference>,
}

/// Match and action for HTTP requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpGatewayRoute {
    /// Requests that the route applies to. All given fields must match.
    pub r#match: HttpGatewayRouteMatch,
    /// Target of the route, and rewrites of the request.
    pub action: HttpGatewayRouteAction,
}

/// The HTTP requests that a route applies to. At least one of `prefix`, `path` and `hostname` is required; `prefix` and
/// `path` exclude each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpGatewayRouteMatch {
    /// Prefix of the path; begins with `/` and may end anywhere: `/x` matches `/x1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Match of the whole path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<HttpPathMatch>,
    /// Host name of the request. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<GatewayRouteHostnameMatch>,
    /// Request method. Default: any. CONNECT is never matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<HttpMethod>,
    /// Headers, 1 to 10 entries. All of them must match.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 10))]
    pub headers: Option<Vec<HeaderMatch>>,
    /// Query parameters, 1 to 10 entries. All of them must match.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 10))]
    pub query_parameters: Option<Vec<QueryParameter>>,
    /// Port of the gateway on which the request arrives. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub port: Option<u64>,
}

/// A match of the host name, without its port. Exactly one field is required.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRouteHostnameMatch {
    /// The host name, in any case; 1 to 253 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub exact: Option<String>,
    /// Suffix of the host name, in any case, such as `.example.com`; 1 to 253 characters. A suffix that begins with a dot
    /// needs a label before it; any other suffix may be the whole name or the end of a label.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub suffix: Option<String>,
}

/// The target of HTTP requests, and their rewrites.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpGatewayRouteAction {
    /// Target of the route.
    pub target: GatewayRouteTarget,
    /// Rewrites of the request. Default: the host name is replaced by the name of the virtual service, and a matched
    /// prefix by `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<HttpGatewayRouteRewrite>,
}

/// The target of a gateway route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRouteTarget {
    /// The virtual service; it must belong to the same mesh.
    pub virtual_service: GatewayRouteVirtualService,
    /// Port of the virtual service. Required if the service has several ports. Default: its only port.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub port: Option<u64>,
}

/// The virtual service that a gateway route targets. Exactly one field is required.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRouteVirtualService {
    /// Reference to the virtual service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_service_ref: Option<Reference>,
    /// ARN of the virtual service, instead of `virtualServiceRef`. Region and account are ignored.
    #[serde(rename = "virtualServiceARN", skip_serializing_if = "Option::is_none")]
    pub virtual_service_arn: Option<String>,
}

/// Rewrites of HTTP requests. `prefix` and `path` exclude each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpGatewayRouteRewrite {
    /// Rewrite of the host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<GatewayRouteHostnameRewrite>,
    /// Rewrite of the matched prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<HttpGatewayRoutePrefixRewrite>,
    /// Rewrite of the whole path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<HttpGatewayRoutePathRewrite>,
}

/// The rewrite of the host name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRouteHostnameRewrite {
    /// `ENABLED`: replaces the host name by the name of the virtual service. `DISABLED`: keeps the host name.
    /// Default: `ENABLED`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_target_hostname: Option<DefaultRewrite>,
}

/// The rewrite of the matched prefix. At most one field may be set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpGatewayRoutePrefixRewrite {
    /// `ENABLED`: replaces the matched prefix by `/`. `DISABLED`: keeps the prefix. Default: `ENABLED`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_prefix: Option<DefaultRewrite>,
    /// Replacement of the matched prefix; begins and ends with `/`, 1 to 255 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub value: Option<String>,
}

/// The rewrite of the whole path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpGatewayRoutePathRewrite {
    /// Replacement of the path; 1 to 255 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub exact: Option<String>,
}

/// Whether the default rewrite applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")] // else it replaces the description of an optional field
#[serde(rename_all = "UPPERCASE")]
pub enum DefaultRewrite {
    /// The default rewrite applies.
    Enabled,
    /// The default rewrite does not apply.
    Disabled,
}

/// Match and action for gRPC calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrpcGatewayRoute {
    /// Calls that the route applies to. All given fields must match.
    pub r#match: GrpcGatewayRouteMatch,
    /// Target of the route, and rewrites of the request.
    pub action: GrpcGatewayRouteAction,
}

/// The gRPC calls that a route applies to. At least one of `serviceName` and `hostname` is required.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrpcGatewayRouteMatch {
    /// Full name of the gRPC service, such as `color.ColorService`. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// Host name of the request. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<GatewayRouteHostnameMatch>,
    /// Metadata, 1 to 10 entries. All of them must match.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 10))]
    pub metadata: Option<Vec<HeaderMatch>>,
    /// Port of the gateway on which the request arrives. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub port: Option<u64>,
}

/// The target of gRPC calls, and their rewrites.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrpcGatewayRouteAction {
    /// Target of the route.
    pub target: GatewayRouteTarget,
    /// Rewrites of the call. Default: the host name is replaced by the name of the virtual service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<GrpcGatewayRouteRewrite>,
}

/// Rewrites of gRPC calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrpcGatewayRouteRewrite {
    /// Rewrite of the host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<GatewayRouteHostnameRewrite>,
}

/// Observed state of the route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRouteStatus {
    /// Conditions by type. `GatewayRouteActive`: the object is valid and its references resolve. `Programmed`: every connected proxy
    /// concerned has accepted the newest generation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// ARN of the gateway route.
    #[serde(rename = "gatewayRouteARN", skip_serializing_if = "Option::is_none")]
    pub gateway_route_arn: Option<String>,
    /// The `metadata.generation` that the conditions describe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
