//! `BackendGroup`: backends that several virtual nodes share.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{MeshReference, Reference};

/// The virtual services of the group.
#[derive(
    CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema,
)]
#[kube(
    group = "appmesh.k8s.aws",
    version = "v1beta2",
    kind = "BackendGroup",
    plural = "backendgroups",
    namespaced,
    category = "all",
    status = "BackendGroupStatus",
    derive = "PartialEq",
    doc = "A list of virtual services that virtual nodes can name together as backends."
)]
pub struct BackendGroupSpec {
    /// Virtual services of the group. The default of their `namespace` is the namespace of the virtual node that names
    /// the group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtualservices: Option<Vec<Reference>>,
    /// The mesh of the group. Set by admission at creation; do not set it. Immutable.
    #[serde(rename = "meshRef", skip_serializing_if = "Option::is_none")]
    pub mesh_ref: Option<MeshReference>,
}

/// Observed state of the group; empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BackendGroupStatus {}
