//! `VirtualService`: a host name that clients call, and its provider.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{MeshReference, Reference};
use crate::condition::Condition;

/// The host name of the service, and its provider.
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
    doc = "A host name that members of the mesh call, and the virtual node or virtual router that provides the service.",
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
        description = "The virtual node or virtual router that provides the service"
    ),
    printcolumn(
        name = "PROGRAMMED",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].status"#,
        description = "Whether every connected proxy concerned has accepted the newest generation"
    ),
    printcolumn(
        name = "ARN",
        type_ = "string",
        json_path = ".status.virtualServiceARN",
        description = "ARN of the virtual service"
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
pub struct VirtualServiceSpec {
    /// Host name of the service, exactly as clients write it. The name has to resolve in DNS, to any address except
    /// loopback, so that clients open a connection. Default: `NAME.NAMESPACE` of the object. Immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aws_name: Option<String>,
    /// Virtual node or virtual router that provides the service. Default: none; requests are answered 404.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<VirtualServiceProvider>,
    /// The mesh of the virtual service. Set by admission at creation; do not set it. Immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_ref: Option<MeshReference>,
}

/// The provider of a virtual service. Exactly one field is required.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualServiceProvider {
    /// A virtual node. The service has the ports of its listeners.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_node: Option<VirtualNodeServiceProvider>,
    /// A virtual router. The service has the ports of its listeners.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_router: Option<VirtualRouterServiceProvider>,
}

/// The virtual node that provides the service. Exactly one field is required.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualNodeServiceProvider {
    /// Reference to the virtual node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_node_ref: Option<Reference>,
    /// ARN of the virtual node, instead of `virtualNodeRef`. Region and account are ignored.
    #[serde(rename = "virtualNodeARN", skip_serializing_if = "Option::is_none")]
    pub virtual_node_arn: Option<String>,
}

/// The virtual router that provides the service. Exactly one field is required.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualRouterServiceProvider {
    /// Reference to the virtual router.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_router_ref: Option<Reference>,
    /// ARN of the virtual router, instead of `virtualRouterRef`. Region and account are ignored.
    #[serde(rename = "virtualRouterARN", skip_serializing_if = "Option::is_none")]
    pub virtual_router_arn: Option<String>,
}

/// Observed state of the virtual service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualServiceStatus {
    /// Conditions by type. `VirtualServiceActive`: the object is valid and its references resolve. `Programmed`: every connected proxy
    /// concerned has accepted the newest generation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// ARN of the virtual service.
    #[serde(rename = "virtualServiceARN", skip_serializing_if = "Option::is_none")]
    pub virtual_service_arn: Option<String>,
    /// The `metadata.generation` that the conditions describe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
