//! `VirtualGateway`: proxies that accept traffic from outside the mesh.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    BackendDefaults, Http2ConnectionPool, HttpConnectionPool, ListenerCertificate, Logging,
    MeshReference, TlsMode, TlsValidation,
};
use crate::condition::Condition;

/// The pods of the gateway, its listeners, and the gateway routes that attach to it.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "appmesh.k8s.aws",
    version = "v1beta2",
    kind = "VirtualGateway",
    plural = "virtualgateways",
    namespaced,
    category = "all",
    status = "VirtualGatewayStatus",
    derive = "PartialEq",
    doc = "Proxies that accept traffic from outside the mesh. Gateway routes select the virtual service for each request.",
    printcolumn(
        name = "PROGRAMMED",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].status"#,
        description = "Whether every connected proxy concerned has accepted the newest generation"
    ),
    printcolumn(
        name = "ARN",
        type_ = "string",
        json_path = ".status.virtualGatewayARN",
        description = "ARN of the virtual gateway"
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
pub struct VirtualGatewaySpec {
    /// Name of the virtual gateway in ARNs and node IDs. Default: `NAME_NAMESPACE` of the object. Immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_name: Option<String>,
    /// Label selector of the namespaces whose gateway routes attach to the gateway. `{}` selects all namespaces.
    /// Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::common::label_selector")]
    pub namespace_selector: Option<LabelSelector>,
    /// Label selector of the gateway routes that attach to the gateway. Default: all routes of the selected namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::common::label_selector")]
    pub gateway_route_selector: Option<LabelSelector>,
    /// Label selector of the pods of the gateway, in the namespace of the object. `{}` selects all pods.
    /// Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::common::label_selector")]
    pub pod_selector: Option<LabelSelector>,
    /// Ports on which the gateway accepts traffic. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 0))]
    pub listeners: Option<Vec<VirtualGatewayListener>>,
    /// Connections from the gateway to the targets of its routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_defaults: Option<BackendDefaults>,
    /// Logging of the gateway. Default: no access log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logging: Option<Logging>,
    /// The mesh of the virtual gateway. Set by admission at creation; do not set it. Immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_ref: Option<MeshReference>,
}

/// The protocol of a gateway listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VirtualGatewayPortProtocol {
    /// gRPC over HTTP/2.
    Grpc,
    /// HTTP/1.1.
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// A port of a gateway and its protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualGatewayPortMapping {
    /// Port number, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Protocol of the port: `http` (HTTP/1.1), `http2` or `grpc`.
    pub protocol: VirtualGatewayPortProtocol,
}

/// A port on which a gateway accepts traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualGatewayListener {
    /// Port and protocol.
    pub port_mapping: VirtualGatewayPortMapping,
    /// Health check of the gateway by a load balancer in front of it. No proxy uses it. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<VirtualGatewayHealthCheckPolicy>,
    /// Limits of concurrent connections or requests of each pod of the gateway. A request beyond them is answered with
    /// status 503. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_pool: Option<VirtualGatewayConnectionPool>,
    /// TLS of the port. Default: plaintext.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<VirtualGatewayListenerTls>,
}

/// Health check of a gateway by a load balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualGatewayHealthCheckPolicy {
    /// Number of consecutive successful checks after which the gateway is healthy; 2 to 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 10))]
    pub healthy_threshold: Option<u32>,
    /// Time between checks, 5000 to 300000 milliseconds.
    #[schemars(range(min = 5000, max = 300_000))]
    pub interval_millis: u32,
    /// Path of the HTTP request. Used with `http` and `http2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Port number, 1 to 65535; must be the port of the listener. Default: the port of the listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Protocol of the check: an HTTP request (`http`, `http2`) or the gRPC health service (`grpc`).
    pub protocol: VirtualGatewayPortProtocol,
    /// Time to wait for a response, 2000 to 60000 milliseconds.
    #[schemars(range(min = 2000, max = 60000))]
    pub timeout_millis: u32,
    /// Number of consecutive failed checks after which the gateway is unhealthy; 2 to 10.
    #[schemars(range(min = 2, max = 10))]
    pub unhealthy_threshold: u32,
}

/// Limits of a gateway listener. Exactly one field is required: the one of the listener's protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualGatewayConnectionPool {
    /// Limits of an HTTP/1.1 listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpConnectionPool>,
    /// Limits of an HTTP/2 listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http2: Option<Http2ConnectionPool>,
    /// Limits of a gRPC listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<Http2ConnectionPool>,
}

/// TLS of a gateway listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualGatewayListenerTls {
    /// `STRICT`: accepts only TLS. `PERMISSIVE`: accepts TLS and plaintext. `DISABLED`: accepts only plaintext, and the
    /// other fields have no effect.
    pub mode: TlsMode,
    /// Certificate of the listener. Callers without a client policy use it without validation, except one of ACM.
    pub certificate: ListenerCertificate,
    /// Validation of client certificates, which clients then must present. Default: they are not requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<TlsValidation>,
}

/// Observed state of the virtual gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualGatewayStatus {
    /// Conditions by type. `VirtualGatewayActive`: the object is valid and its references resolve. `Programmed`: every connected proxy
    /// concerned has accepted the newest generation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// ARN of the virtual gateway.
    #[serde(rename = "virtualGatewayARN", skip_serializing_if = "Option::is_none")]
    pub virtual_gateway_arn: Option<String>,
    /// The `metadata.generation` that the conditions describe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
