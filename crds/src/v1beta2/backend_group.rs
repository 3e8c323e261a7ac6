//! `BackendGroup`: backends that several virtual nodes share.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{MeshReference, Reference};

/// The members of the group.
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
    doc = "A set of virtual services that virtual nodes list as backends all at once."
)]
pub struct BackendGroupSpec {
    /// The virtual services of the group. Without a namespace, one in the namespace of the virtual node
    /// that lists the group is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtualservices: Option<Vec<Reference>>,
    /// The mesh that the group belongs to. Filled in when it is created; leave it out.
    #[serde(rename = "meshRef", skip_serializing_if = "Option::is_none")]
    pub mesh_ref: Option<MeshReference>,
}

/// What became of the group: nothing to tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BackendGroupStatus {}
