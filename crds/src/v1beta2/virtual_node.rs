//! `VirtualNode`: a group of pods, how callers discover them, and which services they call.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    BackendDefaults, ClientPolicy, Duration, FileTrust, Http2ConnectionPool, HttpConnectionPool,
    HttpTimeout, ListenerCertificate, Logging, MeshReference, PortMapping, PortProtocol, Reference,
    SdsSecret, SubjectAlternativeNames, TcpConnectionPool, TcpTimeout, TlsMode,
};
use crate::condition::Condition;

/// The pods of the node, how callers discover them, and which services they call.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "appmesh.k8s.aws",
    version = "v1beta2",
    kind = "VirtualNode",
    plural = "virtualnodes",
    namespaced,
    category = "all",
    status = "VirtualNodeStatus",
    derive = "PartialEq",
    doc = "A group of equivalent pods: their ports, how callers discover them, and which virtual services they call.",
    printcolumn(
        name = "PROGRAMMED",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].status"#,
        description = "Whether every connected proxy concerned has accepted the newest generation"
    ),
    printcolumn(
        name = "ARN",
        type_ = "string",
        json_path = ".status.virtualNodeARN",
        description = "ARN of the virtual node"
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
pub struct VirtualNodeSpec {
    /// Name of the virtual node in ARNs, node IDs and names of Envoy clusters. Default: `NAME_NAMESPACE` of the object.
    /// Immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_name: Option<String>,
    /// Label selector of the pods of the node, in the namespace of the object. `{}` selects all pods. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::common::label_selector")]
    pub pod_selector: Option<LabelSelector>,
    /// Ports on which the pods accept traffic. Listeners require `serviceDiscovery`. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 0))]
    pub listeners: Option<Vec<Listener>>,
    /// Discovery of the pods' addresses by callers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_discovery: Option<ServiceDiscovery>,
    /// Virtual services that the pods may call. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backends: Option<Vec<Backend>>,
    /// Backend groups whose virtual services the pods may call, in addition to `backends`. The name `*` stands for all
    /// virtual services of the namespace in this mesh. `backendDefaults` apply, except to services that are also listed
    /// in `backends`. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_groups: Option<Vec<Reference>>,
    /// Defaults for backends without settings of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_defaults: Option<BackendDefaults>,
    /// Logging of the proxies. Default: no access log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logging: Option<Logging>,
    /// The mesh of the virtual node. Set by admission at creation; do not set it. Immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_ref: Option<MeshReference>,
}

/// A port on which the pods accept traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// Port and protocol.
    pub port_mapping: PortMapping,
    /// Health check of each pod by the proxies of its callers, which send no requests to unhealthy pods as long as half
    /// of the pods are healthy. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheckPolicy>,
    /// Ejection of failing pods by the proxies of their callers. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    /// Limits of concurrent connections or requests to the application of each pod, enforced by the proxy of the pod. A
    /// request beyond them is answered with status 503, a connection is closed. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_pool: Option<VirtualNodeConnectionPool>,
    /// Timeouts of requests or connections to the application. They apply in addition to the timeouts of the caller's
    /// route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<ListenerTimeout>,
    /// TLS of the port. Default: plaintext.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
}

/// Health check of each pod by the proxies of its callers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheckPolicy {
    /// Number of consecutive successful checks after which a pod is healthy; 2 to 10.
    #[schemars(range(min = 2, max = 10))]
    pub healthy_threshold: u32,
    /// Time between checks, 5000 to 300000 milliseconds.
    #[schemars(range(min = 5000, max = 300_000))]
    pub interval_millis: u32,
    /// Path of the HTTP request, which begins with `/` and may contain a query; a pod is healthy if it answers with
    /// status 200. Used with `http` and `http2`. Default: `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Port number, 1 to 65535; must be the port of the listener. Default: the port of the listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Protocol of the check: an HTTP request (`http`, `http2`), the gRPC health service (`grpc`) or a TCP connection
    /// (`tcp`).
    pub protocol: PortProtocol,
    /// Time to wait for a response, 2000 to 60000 milliseconds.
    #[schemars(range(min = 2000, max = 60000))]
    pub timeout_millis: u32,
    /// Number of consecutive failed checks after which a pod is unhealthy; 2 to 10.
    #[schemars(range(min = 2, max = 10))]
    pub unhealthy_threshold: u32,
}

/// Ejection of failing pods by the proxies of their callers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutlierDetection {
    /// Number of consecutive server errors (status 5xx or failed connection) after which a pod is ejected; at least 1.
    #[schemars(range(min = 1))]
    pub max_server_errors: u64,
    /// Time between evaluations of which pods to admit again; more than 0.
    pub interval: Duration,
    /// Duration of the first ejection of a pod; more than 0. Repeated ejections last longer, in proportion to their
    /// number, up to 5 minutes or this duration, whichever is longer.
    pub base_ejection_duration: Duration,
    /// Maximum percentage of pods that are ejected at the same time, 0 to 100. One pod may be ejected regardless of it.
    #[schemars(range(min = 0, max = 100))]
    pub max_ejection_percent: u32,
}

/// Limits of a listener. Exactly one field is required: the one of the listener's protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualNodeConnectionPool {
    /// Limits of a TCP listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpConnectionPool>,
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

/// Timeouts of a listener. Exactly one field is required: the one of the listener's protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTimeout {
    /// Timeouts of a TCP listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpTimeout>,
    /// Timeouts of an HTTP/1.1 listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpTimeout>,
    /// Timeouts of an HTTP/2 listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http2: Option<HttpTimeout>,
    /// Timeouts of a gRPC listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<HttpTimeout>,
}

/// TLS of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTls {
    /// `STRICT`: accepts only TLS. `PERMISSIVE`: accepts TLS and plaintext. `DISABLED`: accepts only plaintext, and the
    /// other fields have no effect.
    pub mode: TlsMode,
    /// Certificate of the listener. Callers without a client policy use it without validation, except one of ACM.
    pub certificate: ListenerCertificate,
    /// Validation of client certificates, which clients then must present. Default: they are not requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<ListenerTlsValidation>,
}

/// The validation of client certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTlsValidation {
    /// Trusted certificate authorities.
    pub trust: ListenerTlsTrust,
    /// Subject alternative names (SANs) of which the certificate must have one. Default: any name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_alternative_names: Option<SubjectAlternativeNames>,
}

/// The certificate authorities that a listener trusts. Exactly one field is required.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTlsTrust {
    /// Authorities in a file of the proxy's container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileTrust>,
    /// Authorities that the proxy fetches from its secret discovery service (SDS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sds: Option<SdsSecret>,
}

/// Discovery of the pods' addresses by callers. Exactly one field is required.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceDiscovery {
    /// Discovery by DNS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsServiceDiscovery>,
    /// Discovery by AWS Cloud Map. Immutable once set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_cloud_map: Option<AwsCloudMapServiceDiscovery>,
}

/// Discovery by DNS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DnsServiceDiscovery {
    /// Host name. The proxy of the caller resolves it, with the DNS search list of its pod.
    pub hostname: String,
    /// Meaning of the addresses: `LOADBALANCER` (all lead to one load balancer, and the proxy uses one of them) or
    /// `ENDPOINTS` (each is a pod, and the proxy balances between them). Default: `LOADBALANCER`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_type: Option<DnsResponseType>,
}

/// The meaning of the addresses of a host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")] // else it replaces the description of an optional field
#[serde(rename_all = "UPPERCASE")]
pub enum DnsResponseType {
    /// Each address is a pod.
    Endpoints,
    /// All addresses lead to one load balancer.
    Loadbalancer,
}

/// A service in AWS Cloud Map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AwsCloudMapServiceDiscovery {
    /// Name of the Cloud Map namespace; 1 to 1024 characters.
    #[schemars(length(min = 1, max = 1024))]
    pub namespace_name: String,
    /// Name of the Cloud Map service; 1 to 1024 characters.
    #[schemars(length(min = 1, max = 1024))]
    pub service_name: String,
    /// Attributes that an instance must have to belong to the node. Pods of the node are registered with them.
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Vec<AwsCloudMapInstanceAttribute>>,
}

/// An attribute of a Cloud Map instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AwsCloudMapInstanceAttribute {
    /// Name of the attribute; 1 to 255 characters.
    #[schemars(length(min = 1, max = 255))]
    pub key: String,
    /// Value of the attribute; 1 to 1024 characters.
    #[schemars(length(min = 1, max = 1024))]
    pub value: String,
}

/// A virtual service that the pods may call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// The virtual service; it must belong to the same mesh.
    pub virtual_service: VirtualServiceBackend,
}

/// A virtual service that the pods may call. Exactly one of `virtualServiceRef` and `virtualServiceARN` is required.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualServiceBackend {
    /// Reference to the virtual service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_service_ref: Option<Reference>,
    /// ARN of the virtual service, instead of `virtualServiceRef`. Region and account are ignored.
    #[serde(rename = "virtualServiceARN", skip_serializing_if = "Option::is_none")]
    pub virtual_service_arn: Option<String>,
    /// Connections of the pods to the service. Default: `backendDefaults.clientPolicy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_policy: Option<ClientPolicy>,
}

/// Observed state of the virtual node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualNodeStatus {
    /// Conditions by type. `VirtualNodeActive`: the object is valid and its references resolve. `Programmed`: every connected proxy
    /// concerned has accepted the newest generation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// ARN of the virtual node.
    #[serde(rename = "virtualNodeARN", skip_serializing_if = "Option::is_none")]
    pub virtual_node_arn: Option<String>,
    /// The `metadata.generation` that the conditions describe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
