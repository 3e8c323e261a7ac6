//! `GatewayRoute`: from a virtual gateway to a virtual service.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    HeaderMatch, HttpMethod, HttpPathMatch, MeshReference, QueryParameter, Reference,
    VirtualGatewayReference,
};
use crate::condition::Condition;

/// Which requests it takes and where they go: exactly one of `httpRoute`, `http2Route` and `grpcRoute`.
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
    doc = "Leads requests that arrive at a virtual gateway to a virtual service.",
    printcolumn(
        name = "PROGRAMMED",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].status"#,
        description = "Whether every connected proxy concerned has accepted it"
    ),
    printcolumn(
        name = "ARN",
        type_ = "string",
        json_path = ".status.gatewayRouteARN",
        description = "The gateway route's AWS name as an ARN"
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
pub struct GatewayRouteSpec {
    /// The route's name in ARNs. Default: `name_namespace` of the object. Cannot be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_name: Option<String>,
    /// When the route is tried, from 0 (first) to 1000. Default: after all routes that have a priority.
    /// Among equals the longest prefix wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub priority: Option<u32>,
    /// A route for HTTP/1.1 requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_route: Option<HttpGatewayRoute>,
    /// A route for HTTP/2 requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http2_route: Option<HttpGatewayRoute>,
    /// A route for gRPC calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_route: Option<GrpcGatewayRoute>,
    /// The gateway that the route is attached to. Filled in when it is created; leave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_gateway_ref: Option<VirtualGatewayReference>,
    /// The mesh that the route belongs to. Filled in when it is created; leave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_ref: Option<MeshReference>,
}

/// A route for HTTP requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpGatewayRoute {
    /// Which requests it takes: those that fit all of it.
    pub r#match: HttpGatewayRouteMatch,
    /// Where they go, and how they are changed on the way.
    pub action: HttpGatewayRouteAction,
}

/// Which HTTP requests a route takes. One of `prefix`, `path` and `hostname` is needed; `prefix` and
/// `path` exclude each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpGatewayRouteMatch {
    /// The beginning of the path; starts with `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The whole path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<HttpPathMatch>,
    /// The host name that was called. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<GatewayRouteHostnameMatch>,
    /// The method. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<HttpMethod>,
    /// Headers, 1 to 10; all of them must fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 10))]
    pub headers: Option<Vec<HeaderMatch>>,
    /// Query parameters, 1 to 10; all of them must fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 10))]
    pub query_parameters: Option<Vec<QueryParameter>>,
    /// The port of the gateway that was called. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub port: Option<u64>,
}

/// A match of the host name, its port left aside: exactly one of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRouteHostnameMatch {
    /// The whole name; 1 to 253 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub exact: Option<String>,
    /// The end of the name, such as `.example.com`; 1 to 253 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub suffix: Option<String>,
}

/// Where HTTP requests go, and how they are changed on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpGatewayRouteAction {
    /// Where they go.
    pub target: GatewayRouteTarget,
    /// How they are changed. Default: the host name becomes the target's, and the matched prefix `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<HttpGatewayRouteRewrite>,
}

/// Where a gateway route leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRouteTarget {
    /// A virtual service of the same mesh.
    pub virtual_service: GatewayRouteVirtualService,
    /// The port of the virtual service; needed when it has several. Default: its only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub port: Option<u64>,
}

/// The virtual service that a gateway route leads to: exactly one of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRouteVirtualService {
    /// The virtual service's object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_service_ref: Option<Reference>,
    /// The virtual service's ARN.
    #[serde(rename = "virtualServiceARN", skip_serializing_if = "Option::is_none")]
    pub virtual_service_arn: Option<String>,
}

/// How HTTP requests are changed. `prefix` and `path` exclude each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpGatewayRouteRewrite {
    /// What becomes of the host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<GatewayRouteHostnameRewrite>,
    /// What becomes of the prefix that matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<HttpGatewayRoutePrefixRewrite>,
    /// What becomes of the whole path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<HttpGatewayRoutePathRewrite>,
}

/// What becomes of the host name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRouteHostnameRewrite {
    /// `ENABLED`: it becomes that of the target. `DISABLED`: it stays. Default: `ENABLED`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_target_hostname: Option<DefaultRewrite>,
}

/// What becomes of the prefix that matched: one of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpGatewayRoutePrefixRewrite {
    /// `ENABLED`: it becomes `/`. `DISABLED`: it stays. Default: `ENABLED`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_prefix: Option<DefaultRewrite>,
    /// It becomes this, which starts and ends with `/`; 1 to 255 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub value: Option<String>,
}

/// What becomes of the whole path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpGatewayRoutePathRewrite {
    /// It becomes this; 1 to 255 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub exact: Option<String>,
}

/// Whether App Mesh's own rewrite is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")] // it would replace that of an optional field
#[serde(rename_all = "UPPERCASE")]
pub enum DefaultRewrite {
    /// It is.
    Enabled,
    /// It is not.
    Disabled,
}

/// A route for gRPC calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrpcGatewayRoute {
    /// Which calls it takes: those that fit all of it.
    pub r#match: GrpcGatewayRouteMatch,
    /// Where they go, and how they are changed on the way.
    pub action: GrpcGatewayRouteAction,
}

/// Which gRPC calls a route takes. One of `serviceName` and `hostname` is needed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrpcGatewayRouteMatch {
    /// The full name of the service, such as `color.ColorService`. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// The host name that was called. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<GatewayRouteHostnameMatch>,
    /// Metadata, 1 to 10 entries; all of them must fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 10))]
    pub metadata: Option<Vec<HeaderMatch>>,
    /// The port of the gateway that was called. Default: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub port: Option<u64>,
}

/// Where gRPC calls go, and how they are changed on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrpcGatewayRouteAction {
    /// Where they go.
    pub target: GatewayRouteTarget,
    /// How they are changed. Default: the host name becomes the target's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<GrpcGatewayRouteRewrite>,
}

/// How gRPC calls are changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrpcGatewayRouteRewrite {
    /// What becomes of the host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<GatewayRouteHostnameRewrite>,
}

/// What became of the route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRouteStatus {
    /// Whether it works: `GatewayRouteActive`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Its AWS name as an ARN.
    #[serde(rename = "gatewayRouteARN", skip_serializing_if = "Option::is_none")]
    pub gateway_route_arn: Option<String>,
    /// The `metadata.generation` that the status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
