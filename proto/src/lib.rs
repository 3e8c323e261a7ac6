//! The Envoy API as Rust types, and the resources that Evermesh serves over xDS.
//!
//! Envoy fetches its configuration from a control plane as *resources*: protobuf messages of five types, each with a
//! name. A resource refers to others by name:
//!
//! ```text
//! Listener ─────────▶ RouteConfiguration ─────▶ Cluster ────────▶ ClusterLoadAssignment
//! sockets, filters    host and path to cluster  how to connect    addresses of the cluster
//! (LDS)               (RDS)                     (CDS)             (EDS)
//!    └────────────────────────────────────────────┴─────────────▶ Secret
//!                                                                 certificates (SDS)
//! ```
//!
//! The modules below are the messages, generated at build time from Envoy's protos. [`Resource`] is an encoded message
//! with its name and version, [`ResourceKey`] identifies it among all resources, and [`ProxyView`] lists the keys of
//! one proxy:
//!
//! ```
//! use evermesh_proto::{ProxyView, Resource, ResourceKey, ResourceType, cluster::Cluster};
//!
//! let message = Cluster {
//!     name: "cds_egress_shop_color_ns_http_8080".into(),
//!     ..Default::default()
//! };
//! let resource = Resource::encode(message.name.as_str().into(), &message);
//!
//! // All callers in the mesh share the cluster of a node.
//! let key = ResourceKey {
//!     kind: ResourceType::Cluster,
//!     name: resource.name.clone(),
//!     scope: Some("mesh/shop".into()),
//! };
//! let view = ProxyView::new(vec![key.clone()]);
//! assert_eq!(view.find(ResourceType::Cluster, &message.name), Some(&key));
//!
//! // The version depends on the contents alone.
//! let again = Resource::encode(message.name.as_str().into(), &message);
//! assert_eq!(resource.version, again.version);
//! ```
//!
//! Write the types with their module (`route::VirtualHost`), because the model and the CRDs have types of similar names.
//! Maps are ordered, so equal messages have equal bytes. The payload of an `Any` is a shared `Bytes`, so a clone of a
//! packed message copies no payload.
//!
//! The generated gRPC clients and servers exist with the feature `grpc` only; without it the crate does not depend on
//! tonic. The crate knows nothing of App Mesh, Kubernetes or streams.

pub mod any;
pub mod json;
pub mod part;
pub mod resource;
pub mod rules;

pub use any::{Any, pack, unpack};
pub use part::{EncodedPart, ResourcePart};
pub use resource::{ContentVersion, ProxyView, Resource, ResourceKey, ResourceType};

/// The generated modules, one for each protobuf package.
#[allow(clippy::all, clippy::pedantic, missing_docs, unreachable_pub)] // generated
#[allow(rustdoc::all)] // generated
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}

/// `envoy.config.bootstrap.v3`
pub use pb::envoy::config::bootstrap::v3 as bootstrap;
/// `envoy.config.cluster.v3`
pub use pb::envoy::config::cluster::v3 as cluster;
/// `envoy.config.core.v3`
pub use pb::envoy::config::core::v3 as core;
/// `envoy.config.endpoint.v3`
pub use pb::envoy::config::endpoint::v3 as endpoint;
/// `envoy.config.listener.v3`
pub use pb::envoy::config::listener::v3 as listener;
/// `envoy.config.route.v3`
pub use pb::envoy::config::route::v3 as route;
/// `envoy.extensions.filters.network.http_connection_manager.v3`
pub use pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
/// `envoy.extensions.filters.network.tcp_proxy.v3`
pub use pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
/// `envoy.extensions.transport_sockets.tls.v3`
pub use pb::envoy::extensions::transport_sockets::tls::v3 as tls;
/// `envoy.service.discovery.v3`
pub use pb::envoy::service::discovery::v3 as discovery;
/// `envoy.type.matcher.v3`
pub use pb::envoy::r#type::matcher::v3 as matcher;
/// `envoy.type.v3`
pub use pb::envoy::r#type::v3 as types;
/// `google.protobuf`
pub use pb::google::protobuf;
