//! The user's API: the seven kinds of App Mesh exactly as they were, and [`extension::Route`].
//!
//! The types are what manifests say, nothing more: a field that may be absent is an `Option`, and
//! writing a value back gives what was read. Their comments are the descriptions in the CRDs, which
//! [`all`] makes and [`to_yaml`] prints.
//!
//! Must not know how a mesh works, nor talk to a cluster.
#![allow(clippy::duplicated_attributes)] // several printer columns of one type are none

pub mod condition;
mod definition;
pub mod extension;
pub mod v1beta2;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The definitions of all kinds: those of App Mesh, then ours.
pub fn all() -> Vec<CustomResourceDefinition> {
    use definition::{app_mesh, extension};
    vec![
        app_mesh(v1beta2::Mesh::crd()),
        app_mesh(v1beta2::VirtualNode::crd()),
        app_mesh(v1beta2::VirtualService::crd()),
        app_mesh(v1beta2::VirtualRouter::crd()),
        app_mesh(v1beta2::VirtualGateway::crd()),
        app_mesh(v1beta2::GatewayRoute::crd()),
        app_mesh(v1beta2::BackendGroup::crd()),
        extension(extension::Route::crd()),
    ]
}

/// A definition as a YAML document.
pub fn to_yaml(definition: &CustomResourceDefinition) -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(definition)
}
