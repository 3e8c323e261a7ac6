//! The vocabulary of the middle: everything known about the mesh, resolved, immutable and ordered.
//!
//! Ingest turns the user's objects into a [`Graph`] and a list of [`Problem`]s; translation turns the
//! graph into Envoy resources. The words for objects are App Mesh's, the words for traffic are Envoy's.
//! Every reference inside a graph has been resolved: a name found in one map leads to an entry in
//! another, or the graph would not hold it.
//!
//! Must not depend on tokio, kube, prost or tonic; no clock, no environment, no hash order.

pub mod endpoint;
pub mod gateway;
pub mod graph;
pub mod memo;
pub mod mesh;
pub mod name;
pub mod node;
pub mod object;
pub mod problem;
pub mod route;
pub mod service;
pub mod traffic;

pub use endpoint::{CloudMapService, CloudMapState, Endpoint, Health, Instance, Locality};
pub use gateway::{ResolvedGateway, ResolvedGatewayRoute};
pub use graph::Graph;
pub use memo::{FastEq, Memo, MemoInput, SharedMap};
pub use mesh::{EgressPolicy, IpFamilyPreference, ResolvedMesh};
pub use name::{ProxyKind, ResourceName};
pub use node::{
    Discovery, DnsResponse, LocalBackend, LocalPorts, NodeBackend, NodeListener, ResolvedNode,
};
pub use object::{Kind, ObjectRef};
pub use problem::{FieldPath, Problem, Reason, Severity};
pub use route::{ResolvedRoute, RouteRule, RouteTarget};
pub use service::{ResolvedRouter, ResolvedService, ServiceName, ServicePort, ServiceProvider};
pub use traffic::{Protocol, Timeout};
