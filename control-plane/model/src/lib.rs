//! The resolved, immutable form of a service mesh: what ingest produces and translation reads.
//!
//! # Domain
//!
//! AWS App Mesh, whose API Evermesh serves, describes a *mesh* of applications by Kubernetes objects:
//!
//! - A *virtual node* is an application with an Envoy sidecar: the ports it listens on, how its endpoints are found and
//!   which services it may call (its backends).
//! - A *virtual service* is a host name that applications call. Its provider is a virtual node or a virtual router.
//! - A *virtual router* splits the requests for a virtual service among virtual nodes by matches and weights.
//! - A *virtual gateway* is an Envoy through which requests enter the mesh; *gateway routes* send them to virtual
//!   services.
//!
//! Ingest turns these objects into a [`Graph`] and a list of [`Problem`]s. Translation turns the graph into Envoy
//! resources:
//!
//! ```text
//!  Kubernetes objects ──ingest──► Graph ──translate──► Envoy listeners, routes, clusters, endpoints
//!                          │
//!                          └────► Problems ──► statuses, lint output, metrics
//! ```
//!
//! Types that stand for an App Mesh object begin with `Resolved`. Every reference in a graph is resolved: a name found
//! in one map of the graph is a key of another map.
//!
//! # Example
//!
//! A mesh with a virtual service `color.shop` whose provider is the virtual node `color`, which listens on port 8080:
//!
//! ```
//! use std::{collections::BTreeMap, sync::Arc};
//! use evermesh_model::{
//!     EgressPolicy, Graph, Kind, NodeListener, ObjectRef, Protocol, ProxyKind, ResolvedMesh, ResolvedNode,
//!     ResolvedService, ResourceName, ServiceName, ServicePort, ServiceProvider,
//! };
//!
//! let node = ResourceName::new("m", ProxyKind::VirtualNode, "color_shop");
//! let service = ServiceName { mesh: "m".into(), hostname: "color.shop".into() };
//! let graph = Graph {
//!     meshes: Arc::new([("m".into(), Arc::new(ResolvedMesh {
//!         name: "m".into(),
//!         object: ObjectRef::new(Kind::Mesh, "", "m"),
//!         egress: EgressPolicy::DropAll,
//!         ip_preference: None,
//!         endpoint_slices: None,
//!         acm_certificates: BTreeMap::new(),
//!         acm_authorities: BTreeMap::new(),
//!         cloud_map_registration: None,
//!     }))].into()),
//!     nodes: Arc::new([(node.clone(), Arc::new(ResolvedNode {
//!         name: node.clone(),
//!         object: ObjectRef::new(Kind::VirtualNode, "shop", "color"),
//!         listeners: vec![NodeListener::new(8080, Protocol::Http)],
//!         discovery: None,
//!         backends: Vec::new(),
//!         local_ports: None,
//!         access_log: None,
//!         forwards_client_address: false,
//!     }))].into()),
//!     services: Arc::new([(service.clone(), Arc::new(ResolvedService {
//!         name: service.clone(),
//!         object: ObjectRef::new(Kind::VirtualService, "shop", "color"),
//!         provider: ServiceProvider::Node(node.clone()),
//!         ports: vec![ServicePort { port: 8080, protocol: Protocol::Http }],
//!         virtual_ips: Vec::new(),
//!     }))].into()),
//!     ..Graph::default()
//! };
//!
//! // The provider of a service is always a key of `nodes` or `routers`.
//! assert!(matches!(&graph.services[&service].provider, ServiceProvider::Node(name) if graph.nodes.contains_key(name)));
//! ```
//!
//! The doc of `evermesh_ingest` shows how manifests become such a graph.
//!
//! # Constraints
//!
//! This crate does not depend on tokio, kube, prost or tonic. It has no clock, no environment and no hash order, so
//! equal inputs give equal graphs on every replica; `clippy.toml` enforces this.

pub mod endpoint;
pub mod gateway;
pub mod graph;
pub mod listener;
pub mod logging;
pub mod memo;
pub mod mesh;
pub mod name;
pub mod node;
pub mod object;
pub mod problem;
pub mod route;
pub mod secret;
pub mod service;
pub mod tls;
pub mod traffic;

pub use endpoint::{
    CloudMapService, CloudMapState, Endpoint, EndpointPorts, Health, Instance, Locality,
};
pub use gateway::{ResolvedGateway, ResolvedGatewayRoute};
pub use graph::Graph;
pub use listener::{
    ActiveHealthCheck, GatewayListener, NodeListener, OutlierEjection, TrafficLimits,
};
pub use logging::{AccessLogFile, AccessLogFormat};
pub use memo::{FastEq, Memo, MemoInput, SharedMap};
pub use mesh::{
    AllowedNamespaces, EgressPolicy, IpFamilyPreference, MappedCertificate, ResolvedMesh,
};
pub use name::{ProxyKind, ResourceName};
pub use node::{Discovery, DnsResponse, LocalBackend, LocalPorts, NodeBackend, ResolvedNode};
pub use object::{Kind, ObjectRef};
pub use problem::{FieldPath, Problem, Reason, Severity};
pub use route::{ResolvedRoute, RouteRule, RouteTarget};
pub use secret::{KeyPair, Pem, ResolvedSecret};
pub use service::{ResolvedRouter, ResolvedService, ServiceName, ServicePort, ServiceProvider};
pub use tls::{CertificateSource, ClientTls, PeerValidation, SecretName, ServerTls, TrustSource};
pub use traffic::{Protocol, Timeout};
