//! Mesh: the boundary that the other kinds live in.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::Condition;

/// What holds for every member of the mesh.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "appmesh.k8s.aws",
    version = "v1beta2",
    kind = "Mesh",
    plural = "meshes",
    status = "MeshStatus",
    derive = "PartialEq",
    doc = "The boundary that virtual nodes, services, routers and gateways live in: members reach only members of their own mesh.",
    printcolumn(
        name = "PROGRAMMED",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].status"#,
        description = "Whether every connected proxy concerned has accepted it"
    ),
    printcolumn(
        name = "ARN",
        type_ = "string",
        json_path = ".status.meshARN",
        description = "The mesh's AWS name as an ARN"
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
pub struct MeshSpec {
    /// The mesh's name in ARNs, node ids and Envoy's cluster names. Default: `metadata.name`. Cannot be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_name: Option<String>,
    /// The namespaces whose objects join the mesh, by their labels. Default: none; `{}` is all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::common::label_selector")]
    pub namespace_selector: Option<LabelSelector>,
    /// What members may reach besides their backends. Default: nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_filter: Option<EgressFilter>,
    /// The account that owns the mesh, as 12 digits, when another account shared it. Default: one's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_owner: Option<String>,
    /// How members find one another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_service_discovery: Option<MeshServiceDiscovery>,
}

/// What members may reach besides their backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressFilter {
    /// `ALLOW_ALL`: anything. `DROP_ALL`: nothing but AWS endpoints (TLS on port 443 to `*.amazonaws.com`).
    pub r#type: EgressFilterType,
}

/// Whether unknown destinations are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EgressFilterType {
    /// They are.
    AllowAll,
    /// They are not.
    DropAll,
}

/// How members of a mesh find one another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshServiceDiscovery {
    /// The only IP family that is used. Default: both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_preference: Option<IpPreference>,
}

/// An IP family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")] // it would replace that of an optional field
pub enum IpPreference {
    /// IPv6
    #[serde(rename = "IPv6_ONLY")]
    Ipv6Only,
    /// IPv4
    #[serde(rename = "IPv4_ONLY")]
    Ipv4Only,
}

/// What became of the mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshStatus {
    /// Whether it works: `MeshActive`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Its AWS name as an ARN.
    #[serde(rename = "meshARN", skip_serializing_if = "Option::is_none")]
    pub mesh_arn: Option<String>,
    /// The `metadata.generation` that the status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
