//! `Mesh`: the boundary inside which the other kinds refer to each other.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::Condition;

/// The members of the mesh and their common settings.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "appmesh.k8s.aws",
    version = "v1beta2",
    kind = "Mesh",
    plural = "meshes",
    status = "MeshStatus",
    derive = "PartialEq",
    doc = "The boundary of virtual nodes, services, routers and gateways: its members refer only to members of the same mesh.",
    printcolumn(
        name = "PROGRAMMED",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].status"#,
        description = "Whether every connected proxy concerned has accepted the newest generation"
    ),
    printcolumn(
        name = "ARN",
        type_ = "string",
        json_path = ".status.meshARN",
        description = "ARN of the mesh"
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
pub struct MeshSpec {
    /// Name of the mesh in ARNs, node IDs and names of Envoy clusters. Default: `metadata.name`. Immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_name: Option<String>,
    /// Label selector of the namespaces whose objects join the mesh when they are created. `{}` selects all namespaces.
    /// Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::common::label_selector")]
    pub namespace_selector: Option<LabelSelector>,
    /// Traffic that members may send to destinations other than their backends. Default: `DROP_ALL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_filter: Option<EgressFilter>,
    /// The 12-digit AWS account that owns the mesh, for a mesh that another account shares. A part of node IDs only.
    /// Default: the own account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_owner: Option<String>,
    /// IP families for service discovery and listeners.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_service_discovery: Option<MeshServiceDiscovery>,
}

/// Traffic that members may send to destinations other than their backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressFilter {
    /// `ALLOW_ALL`: all traffic passes. `DROP_ALL`: only traffic to AWS APIs passes (TLS on port 443 with a server name
    /// `*.amazonaws.com`).
    pub r#type: EgressFilterType,
}

/// The treatment of traffic that belongs to no backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EgressFilterType {
    /// Forwarded to its original destination.
    AllowAll,
    /// Closed or answered 404, except traffic to AWS APIs.
    DropAll,
}

/// IP families for service discovery and listeners.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshServiceDiscovery {
    /// The only IP family of endpoints: `IPv4_ONLY` or `IPv6_ONLY`. Proxies then listen on both families. Default:
    /// endpoints of both families, and proxies listen on IPv4 only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_preference: Option<IpPreference>,
}

/// The only IP family of endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")] // else it replaces the description of an optional field
pub enum IpPreference {
    /// IPv6.
    #[serde(rename = "IPv6_ONLY")]
    Ipv6Only,
    /// IPv4.
    #[serde(rename = "IPv4_ONLY")]
    Ipv4Only,
}

/// Observed state of the mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshStatus {
    /// Conditions by type. `MeshActive`: the object is valid and its references resolve. `Programmed`: every connected proxy
    /// concerned has accepted the newest generation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// ARN of the mesh.
    #[serde(rename = "meshARN", skip_serializing_if = "Option::is_none")]
    pub mesh_arn: Option<String>,
    /// The `metadata.generation` that the conditions describe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
