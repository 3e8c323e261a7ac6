//! The seven kinds of App Mesh, group `appmesh.k8s.aws/v1beta2`, with the schemas of its last release.

pub mod backend_group;
pub mod common;
pub mod gateway_route;
pub mod listener;
pub mod mesh;
pub mod tls;
pub mod virtual_gateway;
pub mod virtual_node;
pub mod virtual_router;
pub mod virtual_service;

pub use backend_group::*;
pub use common::*;
pub use gateway_route::*;
pub use listener::*;
pub use mesh::*;
pub use tls::*;
pub use virtual_gateway::*;
pub use virtual_node::*;
pub use virtual_router::*;
pub use virtual_service::*;
