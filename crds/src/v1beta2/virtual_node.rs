//! `VirtualNode`: a group of pods, how they are found and what they call.

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

/// Which pods it is, how others find them, and what they call.
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
    doc = "A group of pods that serve the same: how others find them, on which ports, and which virtual services they call.",
    printcolumn(
        name = "PROGRAMMED",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].status"#,
        description = "Whether every connected proxy concerned has accepted it"
    ),
    printcolumn(
        name = "ARN",
        type_ = "string",
        json_path = ".status.virtualNodeARN",
        description = "The virtual node's AWS name as an ARN"
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
pub struct VirtualNodeSpec {
    /// The node's name in ARNs, node ids and Envoy's cluster names. Default: `name_namespace` of the object.
    /// Cannot be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_name: Option<String>,
    /// The pods that are this node, by their labels, in the namespace of the object.
    /// Default: none; `{}` is all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::common::label_selector")]
    pub pod_selector: Option<LabelSelector>,
    /// The ports on which the pods are called. Default: none. Listeners need a `serviceDiscovery`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 0))]
    pub listeners: Option<Vec<Listener>>,
    /// How others find the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_discovery: Option<ServiceDiscovery>,
    /// The virtual services that the pods call. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backends: Option<Vec<Backend>>,
    /// Backend groups whose virtual services the pods call. The name `*` is every virtual service of the
    /// namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_groups: Option<Vec<Reference>>,
    /// What holds for backends that do not say otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_defaults: Option<BackendDefaults>,
    /// What the pods' Envoys write down. Default: no access log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logging: Option<Logging>,
    /// The mesh that the node belongs to. Filled in when it is created; leave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_ref: Option<MeshReference>,
}

/// A port on which the pods are called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// The port and what is spoken on it.
    pub port_mapping: PortMapping,
    /// How clients' Envoys check that a pod is well. Default: they do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheckPolicy>,
    /// When clients' Envoys leave out a pod that fails. Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    /// How much the pod takes at once. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_pool: Option<VirtualNodeConnectionPool>,
    /// How long requests may take in the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<ListenerTimeout>,
    /// TLS on the port. Default: plain connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
}

/// How clients' Envoys check that a pod is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheckPolicy {
    /// Good answers in a row after which a pod counts as well; 2 to 10.
    #[schemars(range(min = 2, max = 10))]
    pub healthy_threshold: u32,
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
    /// What is asked: an HTTP request, gRPC's health service, or a TCP connection.
    pub protocol: PortProtocol,
    /// How long an answer may take, 2000 to 60000 milliseconds.
    #[schemars(range(min = 2000, max = 60000))]
    pub timeout_millis: u32,
    /// Bad answers in a row after which a pod counts as ill; 2 to 10.
    #[schemars(range(min = 2, max = 10))]
    pub unhealthy_threshold: u32,
}

/// When clients' Envoys leave out a pod that fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutlierDetection {
    /// Server errors (5xx, or no connection) in a row after which a pod is left out; at least 1.
    #[schemars(range(min = 1))]
    pub max_server_errors: u64,
    /// The time between looks at who is left out.
    pub interval: Duration,
    /// How long a pod is left out the first time; longer each time it happens again.
    pub base_ejection_duration: Duration,
    /// The most pods that are left out at once, 0 to 100 percent; one always may be.
    #[schemars(range(min = 0, max = 100))]
    pub max_ejection_percent: u32,
}

/// How much a pod takes at once: exactly one of the fields, that of the listener's protocol.
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

/// How long requests may take in a pod: exactly one of the fields, that of the listener's protocol.
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

/// TLS on a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTls {
    /// Whether TLS is spoken: `STRICT` always, `PERMISSIVE` if the client does, `DISABLED` never.
    pub mode: TlsMode,
    /// The certificate that is shown to clients.
    pub certificate: ListenerCertificate,
    /// How a client's certificate is validated. Default: none is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<ListenerTlsValidation>,
}

/// How a client's certificate is validated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTlsValidation {
    /// The authorities that are trusted.
    pub trust: ListenerTlsTrust,
    /// The names of which the certificate must carry one. Default: any name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_alternative_names: Option<SubjectAlternativeNames>,
}

/// The authorities that a listener trusts: exactly one of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTlsTrust {
    /// Authorities in a file of Envoy's container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileTrust>,
    /// Authorities that Envoy asks its secret discovery service for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sds: Option<SdsSecret>,
}

/// How others find the pods: exactly one of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceDiscovery {
    /// By a name in DNS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsServiceDiscovery>,
    /// By AWS Cloud Map. Cannot be changed once it is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_cloud_map: Option<AwsCloudMapServiceDiscovery>,
}

/// A name in DNS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DnsServiceDiscovery {
    /// The name. It is resolved where the client runs, with the search list of its pod.
    pub hostname: String,
    /// What the addresses behind the name are: `LOADBALANCER`, one load balancer; `ENDPOINTS`, each a pod.
    /// Default: `LOADBALANCER`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_type: Option<DnsResponseType>,
}

/// What the addresses behind a name are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")] // it would replace that of an optional field
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
    /// The name of the Cloud Map namespace; 1 to 1024 characters.
    #[schemars(length(min = 1, max = 1024))]
    pub namespace_name: String,
    /// The name of the Cloud Map service; 1 to 1024 characters.
    #[schemars(length(min = 1, max = 1024))]
    pub service_name: String,
    /// Attributes that an instance must have to count as one of the node's pods; the pods are registered
    /// with them too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Vec<AwsCloudMapInstanceAttribute>>,
}

/// An attribute of an instance in AWS Cloud Map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AwsCloudMapInstanceAttribute {
    /// The attribute's name; 1 to 255 characters.
    #[schemars(length(min = 1, max = 255))]
    pub key: String,
    /// The attribute's value; 1 to 1024 characters.
    #[schemars(length(min = 1, max = 1024))]
    pub value: String,
}

/// Something that the pods call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// A virtual service of the same mesh.
    pub virtual_service: VirtualServiceBackend,
}

/// A virtual service that the pods call: exactly one of `virtualServiceRef` and `virtualServiceARN`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualServiceBackend {
    /// The virtual service's object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_service_ref: Option<Reference>,
    /// The virtual service's ARN.
    #[serde(rename = "virtualServiceARN", skip_serializing_if = "Option::is_none")]
    pub virtual_service_arn: Option<String>,
    /// How the pods connect to it. Default: as `backendDefaults` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_policy: Option<ClientPolicy>,
}

/// What became of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualNodeStatus {
    /// Whether it works: `VirtualNodeActive`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Its AWS name as an ARN.
    #[serde(rename = "virtualNodeARN", skip_serializing_if = "Option::is_none")]
    pub virtual_node_arn: Option<String>,
    /// The `metadata.generation` that the status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
