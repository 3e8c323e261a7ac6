//! `Route`: one route of a virtual router as an object of its own.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::rules;
use crate::{
    condition::Condition,
    v1beta2::{GrpcRoute, HttpRoute, Reference, TcpRoute},
};

/// The virtual router of the route, the requests that it matches, and their targets. Exactly one of `httpRoute`,
/// `http2Route`, `grpcRoute` and `tcpRoute` is required.
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
    doc = "One route of a virtual router as an object of its own, so that a team can own its routes and shift its own weights. It has the effect of an inline route of the router with the name of the object.",
    printcolumn(
        name = "ROUTER",
        type_ = "string",
        json_path = ".spec.virtualRouterRef.name",
        description = "The virtual router of the route"
    ),
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
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
pub struct RouteSpec {
    /// The virtual router of the route. An inline route of the router with the same name takes precedence.
    pub virtual_router_ref: Reference,
    /// Precedence of the route: 0 to 1000, lower values are tried first. Default: after all routes with a priority.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub priority: Option<u32>,
    /// Match and action for HTTP/1.1 requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::one_path(), validation = rules::one_path_method(), validation = rules::prefix_is_path(), validation = rules::one_header_method(), validation = rules::header_range(), validation = rules::one_target_name(), validation = rules::some_weight())]
    pub http_route: Option<HttpRoute>,
    /// Match and action for HTTP/2 requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::one_path(), validation = rules::one_path_method(), validation = rules::prefix_is_path(), validation = rules::one_header_method(), validation = rules::header_range(), validation = rules::one_target_name(), validation = rules::some_weight())]
    pub http2_route: Option<HttpRoute>,
    /// Match and action for gRPC calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::method_of_service(), validation = rules::one_metadata_method(), validation = rules::metadata_range(), validation = rules::one_target_name(), validation = rules::some_weight())]
    pub grpc_route: Option<GrpcRoute>,
    /// Match and action for TCP connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::one_target_name(), validation = rules::some_weight())]
    pub tcp_route: Option<TcpRoute>,
}

/// Observed state of the route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// Conditions by type. `RouteActive`: the object is valid and its references resolve. `Programmed`: every connected proxy
    /// concerned has accepted the newest generation. `WeightsAcked`: the message has the weights that these
    /// proxies accepted last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// The `metadata.generation` that the conditions describe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
