//! The Envoy API as Rust types, generated at build time, and the few things every user of them needs:
//! packing an `Any`, protobuf JSON, and an encoded resource with its content version.
//!
//! Import the aliases below and use their types qualified (`route::VirtualHost`), so that a reader sees
//! which world a type is from. Maps are ordered and `Any` payloads are shared `Bytes`: equal messages
//! have equal bytes, and a clone of a packed message copies nothing.
//!
//! Must not know App Mesh, Kubernetes or streams.

pub mod any;
pub mod json;
pub mod resource;

pub use any::{Any, pack, unpack};
pub use resource::{ContentVersion, ProxyView, Resource, ResourceKey, ResourceType};

/// The generated modules, one a protobuf package.
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
