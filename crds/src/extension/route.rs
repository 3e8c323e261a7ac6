//! Route: one route of a virtual router as an object of its own.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::rules;
use crate::{
    condition::Condition,
    v1beta2::{GrpcRoute, HttpRoute, Reference, TcpRoute},
};

/// Which router it belongs to, which requests it takes and where they go: exactly one of `httpRoute`,
/// `http2Route`, `grpcRoute` and `tcpRoute`.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::one_kind())]
#[kube(
    group = "evermesh.dev",
    version = "v1alpha1",
    kind = "Route",
    plural = "routes",
    namespaced,
    category = "all",
    status = "RouteStatus",
    derive = "PartialEq",
    cel,
    doc = "One route of a virtual router as an object of its own, so that each team owns its routes and shifts its own weights. It counts as if it stood in the router under the object's name.",
    printcolumn(
        name = "ROUTER",
        type_ = "string",
        json_path = ".spec.virtualRouterRef.name",
        description = "The virtual router that the route belongs to"
    ),
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
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
pub struct RouteSpec {
    /// The virtual router that the route belongs to. Its own routes win over one of the same name.
    pub virtual_router_ref: Reference,
    /// When the route is tried, from 0 (first) to 1000. Default: after all routes that have a priority.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub priority: Option<u32>,
    /// A route for HTTP/1.1 requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::one_path(), validation = rules::one_path_method(), validation = rules::prefix_is_path(), validation = rules::one_header_method(), validation = rules::header_range(), validation = rules::one_target_name(), validation = rules::some_weight())]
    pub http_route: Option<HttpRoute>,
    /// A route for HTTP/2 requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::one_path(), validation = rules::one_path_method(), validation = rules::prefix_is_path(), validation = rules::one_header_method(), validation = rules::header_range(), validation = rules::one_target_name(), validation = rules::some_weight())]
    pub http2_route: Option<HttpRoute>,
    /// A route for gRPC calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::method_of_service(), validation = rules::one_metadata_method(), validation = rules::metadata_range(), validation = rules::one_target_name(), validation = rules::some_weight())]
    pub grpc_route: Option<GrpcRoute>,
    /// A route for TCP connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::one_target_name(), validation = rules::some_weight())]
    pub tcp_route: Option<TcpRoute>,
}

/// What became of the route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// Whether it works: `RouteActive`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// The `metadata.generation` that the status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
