//! `VirtualService`: a host name that clients call, and who answers.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{MeshReference, Reference};
use crate::condition::Condition;

/// The host name and who answers for it.
#[derive(
    CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "appmesh.k8s.aws",
    version = "v1beta2",
    kind = "VirtualService",
    plural = "virtualservices",
    namespaced,
    category = "all",
    status = "VirtualServiceStatus",
    derive = "PartialEq",
    doc = "A host name that members of the mesh call, and the virtual node or router that answers.",
    printcolumn(
        name = "HOST",
        type_ = "string",
        json_path = ".spec.awsName",
        description = "The host name that clients call"
    ),
    printcolumn(
        name = "PROVIDER",
        type_ = "string",
        json_path = ".spec.provider..name",
        description = "The virtual node or router that answers"
    ),
    printcolumn(
        name = "PROGRAMMED",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].status"#,
        description = "Whether every connected proxy concerned has accepted it"
    ),
    printcolumn(
        name = "ARN",
        type_ = "string",
        json_path = ".status.virtualServiceARN",
        description = "The virtual service's AWS name as an ARN"
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
pub struct VirtualServiceSpec {
    /// The host name, exactly as clients write it; it must resolve in DNS, to whatever address.
    /// Default: `name.namespace` of the object. Cannot be changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_name: Option<String>,
    /// Who answers. Default: nobody; the name is reserved and requests get 404.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<VirtualServiceProvider>,
    /// The mesh that the virtual service belongs to. Filled in when it is created; leave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_ref: Option<MeshReference>,
}

/// Who answers for a virtual service: exactly one of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualServiceProvider {
    /// A virtual node, on all ports of its listeners.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_node: Option<VirtualNodeServiceProvider>,
    /// A virtual router, on the ports of its listeners.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_router: Option<VirtualRouterServiceProvider>,
}

/// A virtual node that answers: exactly one of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualNodeServiceProvider {
    /// The virtual node's object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_node_ref: Option<Reference>,
    /// The virtual node's ARN.
    #[serde(rename = "virtualNodeARN", skip_serializing_if = "Option::is_none")]
    pub virtual_node_arn: Option<String>,
}

/// A virtual router that answers: exactly one of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualRouterServiceProvider {
    /// The virtual router's object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_router_ref: Option<Reference>,
    /// The virtual router's ARN.
    #[serde(rename = "virtualRouterARN", skip_serializing_if = "Option::is_none")]
    pub virtual_router_arn: Option<String>,
}

/// What became of the virtual service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualServiceStatus {
    /// Whether it works: `VirtualServiceActive`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Its AWS name as an ARN.
    #[serde(rename = "virtualServiceARN", skip_serializing_if = "Option::is_none")]
    pub virtual_service_arn: Option<String>,
    /// The `metadata.generation` that the status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
