//! `VirtualGateway`: Envoys that let traffic from outside into the mesh.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    BackendDefaults, Http2ConnectionPool, HttpConnectionPool, ListenerCertificate, Logging,
    MeshReference, TlsMode, TlsValidation,
};
use crate::condition::Condition;

/// Which pods it is, which gateway routes it serves, and on which ports.
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
    doc = "Envoys that let traffic from outside into the mesh. Gateway routes tell where it goes.",
    printcolumn(
        name = "PROGRAMMED",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].status"#,
        description = "Whether every connected proxy concerned has accepted it"
    ),
    printcolumn(
        name = "ARN",
        type_ = "string",
        json_path = ".status.virtualGatewayARN",
        description = "The virtual gateway's AWS name as an ARN"
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
pub struct VirtualGatewaySpec {
    /// The gateway's name in ARNs and node ids. Default: `name_namespace` of the object. Cannot be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_name: Option<String>,
    /// The namespaces whose gateway routes are attached, by their labels. Default: none; `{}` is all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::common::label_selector")]
    pub namespace_selector: Option<LabelSelector>,
    /// The gateway routes that are attached, by their labels. Default: all of those namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::common::label_selector")]
    pub gateway_route_selector: Option<LabelSelector>,
    /// The pods that are this gateway, by their labels, in the namespace of the object. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::common::label_selector")]
    pub pod_selector: Option<LabelSelector>,
    /// The ports that are open to the outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 0))]
    pub listeners: Option<Vec<VirtualGatewayListener>>,
    /// How the gateway connects to the targets of its routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_defaults: Option<BackendDefaults>,
    /// What the gateway's Envoys write down. Default: no access log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logging: Option<Logging>,
    /// The mesh that the gateway belongs to. Filled in when it is created; leave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_ref: Option<MeshReference>,
}

/// What a gateway's listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VirtualGatewayPortProtocol {
    /// gRPC over HTTP/2
    Grpc,
    /// HTTP/1.1
    Http,
    /// HTTP/2 with prior knowledge
    Http2,
}

/// A port and what is spoken on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualGatewayPortMapping {
    /// The port, from 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// What is spoken on it.
    pub protocol: VirtualGatewayPortProtocol,
}

/// A port that is open to the outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualGatewayListener {
    /// The port and what is spoken on it.
    pub port_mapping: VirtualGatewayPortMapping,
    /// How a load balancer in front may check the gateway. Envoy itself makes no use of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<VirtualGatewayHealthCheckPolicy>,
    /// How much the gateway takes at once. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_pool: Option<VirtualGatewayConnectionPool>,
    /// TLS on the port. Default: plain connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<VirtualGatewayListenerTls>,
}

/// How a gateway may be checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualGatewayHealthCheckPolicy {
    /// Good answers in a row after which it counts as well; 2 to 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 10))]
    pub healthy_threshold: Option<u32>,
    /// The time between checks, 5000 to 300000 milliseconds.
    #[schemars(range(min = 5000, max = 300_000))]
    pub interval_millis: u32,
    /// The path that is asked for, with `http` and `http2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The port, 1 to 65535; must be that of the listener. Default: that of the listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// What is asked: an HTTP request or gRPC's health service.
    pub protocol: VirtualGatewayPortProtocol,
    /// How long an answer may take, 2000 to 60000 milliseconds.
    #[schemars(range(min = 2000, max = 60000))]
    pub timeout_millis: u32,
    /// Bad answers in a row after which it counts as ill; 2 to 10.
    #[schemars(range(min = 2, max = 10))]
    pub unhealthy_threshold: u32,
}

/// How much a gateway takes at once: exactly one of the fields, that of the listener's protocol.
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

/// TLS on a port of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualGatewayListenerTls {
    /// Whether TLS is spoken: `STRICT` always, `PERMISSIVE` if the client does, `DISABLED` never.
    pub mode: TlsMode,
    /// The certificate that is shown to clients.
    pub certificate: ListenerCertificate,
    /// How a client's certificate is validated. Default: none is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<TlsValidation>,
}

/// What became of the gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualGatewayStatus {
    /// Whether it works: `VirtualGatewayActive`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Its AWS name as an ARN.
    #[serde(rename = "virtualGatewayARN", skip_serializing_if = "Option::is_none")]
    pub virtual_gateway_arn: Option<String>,
    /// The `metadata.generation` that the status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
