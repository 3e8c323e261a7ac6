//! The user's API: the seven kinds of App Mesh, with the schemas of its last release, and [`extension::Route`].
//!
//! A mesh is described by custom resources. These let the node `front` call `color.shop`, and send a tenth of the
//! requests to a new version:
//!
//! ```text
//! VirtualNode front ──backends──▶ VirtualService color.shop ──provider──▶ VirtualRouter color
//!  podSelector: app=front                                                  route: prefix /
//!                                                                            │ weight 90      │ weight 10
//!                                                                            ▼                ▼
//!                                                                  VirtualNode blue   VirtualNode green
//! Mesh shop: the namespaces whose objects belong together
//! ```
//!
//! A `VirtualGateway` accepts traffic from outside the mesh, and its `GatewayRoute`s select the virtual service for each
//! request. A `Route` is a route of a `VirtualRouter` as an object of its own, so that a team can own it. A `BackendGroup`
//! is a list of backends.
//!
//! The types hold what a manifest contains and add no defaults: a field that may be absent is an `Option`, and a value
//! serializes to what it was read from.
//!
//! ```
//! use evermesh_crds::v1beta2::VirtualService;
//!
//! let service: VirtualService = serde_json::from_value(serde_json::json!({
//!     "apiVersion": "appmesh.k8s.aws/v1beta2",
//!     "kind": "VirtualService",
//!     "metadata": { "name": "color", "namespace": "shop" },
//!     "spec": { "provider": { "virtualRouter": { "virtualRouterRef": { "name": "color" } } } },
//! }))?;
//! assert_eq!(service.spec.aws_name, None); // set by admission, not by this crate
//! # Ok::<(), serde_json::Error>(())
//! ```
//!
//! The doc comments of the types are the descriptions that `kubectl explain` shows. [`all`] returns the definitions. The
//! tests compare them with the committed YAML and, field by field, with the schemas of App Mesh.
#![allow(clippy::duplicated_attributes)] // several printer columns of one type have equal attributes

pub mod condition;
mod definition;
pub mod extension;
pub mod v1beta2;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The definitions of all kinds: the kinds of App Mesh, then `Route`.
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

/// Serializes a definition as a YAML document.
pub fn to_yaml(definition: &CustomResourceDefinition) -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(definition)
}
