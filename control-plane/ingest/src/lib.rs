//! Ingest: turns Kubernetes objects into the graph that translation reads, and reports the users' mistakes.
//!
//! # Stages
//!
//! Sources deliver objects one at a time. [`object::parse`] validates a JSON document, and [`Inputs::apply`] stores the
//! object. [`build()`] turns all stored objects into a [`BuildOutput`]: the graph and the problems.
//!
//! ```text
//! JSON ──parse──► Object ──apply──► Inputs ──build──► Graph, Problems
//!
//! build: 1. parse each object    VirtualNode → unresolved node, with its mesh and awsName
//!        2. index names          of two nodes with the same awsName, the older takes precedence
//!        3. look up references   backend → index entry of a virtual service, or a problem
//!        4. resolve              unresolved node + lookups → ResolvedNode
//! ```
//!
//! Every stage is a pure function of `Arc`s. A [`BuildMemo`] keeps the inputs and outputs of the previous rebuild, so a
//! rebuild derives only what changed. The memo does not affect the result.
//!
//! A mistake does not stop a rebuild: the affected object or field is left out with a problem, and everything else is
//! served. [`endpoints()`] derives the endpoints of one node without a rebuild.
//!
//! # Example
//!
//! The node `front` calls the service `color.shop`, which the node `blue` provides. It also lists a service that does
//! not exist:
//!
//! ```
//! use evermesh_ingest::{BuildMemo, Inputs, build, object::parse};
//! use serde_json::Value;
//!
//! let manifests = "
//! apiVersion: appmesh.k8s.aws/v1beta2
//! kind: Mesh
//! metadata: {name: m}
//! spec: {namespaceSelector: {}} # selects all namespaces
//! ---
//! apiVersion: appmesh.k8s.aws/v1beta2
//! kind: VirtualNode
//! metadata: {name: blue, namespace: shop}
//! spec:
//!   listeners: [{portMapping: {port: 8080, protocol: http}}]
//!   serviceDiscovery: {dns: {hostname: blue.example.com}}
//! ---
//! apiVersion: appmesh.k8s.aws/v1beta2
//! kind: VirtualService
//! metadata: {name: color, namespace: shop}
//! spec: {provider: {virtualNode: {virtualNodeRef: {name: blue}}}}
//! ---
//! apiVersion: appmesh.k8s.aws/v1beta2
//! kind: VirtualNode
//! metadata: {name: front, namespace: shop}
//! spec:
//!   backends:
//!   - {virtualService: {virtualServiceRef: {name: color}}}
//!   - {virtualService: {virtualServiceRef: {name: tone}}}
//! ";
//!
//! let mut inputs = Inputs::default();
//! for document in serde_saphyr::from_multiple::<Value>(manifests).unwrap() {
//!     let (reference, object) = parse(document).object.expect("a valid document");
//!     inputs.apply(reference, Some(object));
//! }
//! let output = build(&inputs, &mut BuildMemo::default());
//!
//! // Names in the graph are `awsName`s; by default they contain the namespace.
//! let front = &output.graph.nodes[&"mesh/m/virtualNode/front_shop".parse().unwrap()];
//! let backends: Vec<_> = front.backends.iter().map(|backend| &*backend.service).collect();
//! assert_eq!(backends, ["color.shop"]);
//!
//! let problems: Vec<_> = output.problems.iter().map(ToString::to_string).collect();
//! assert_eq!(
//!     problems,
//!     [
//!         "VirtualNode/shop/front: spec.backends[1].virtualService: \
//!          `VirtualService/shop/tone` does not exist or is not valid, so the node cannot call it; \
//!          create or correct it (ReferenceNotFound)"
//!     ]
//! );
//! ```
//!
//! # Constraints
//!
//! This crate does no I/O and no logging. It has no clock, no environment and no hash order, so equal inputs give equal
//! graphs on every replica; `clippy.toml` enforces this.

pub mod admission;
mod backend_group;
mod build;
mod cloud_map;
mod conflict;
mod consent;
mod endpoints;
pub mod expression;
mod gateway;
mod gateway_admission;
mod gateway_route;
pub mod identity;
pub mod inputs;
mod listener;
pub mod local_ports;
mod logging;
mod matches;
pub mod membership;
mod mesh;
mod name_index;
mod node;
pub mod object;
mod pem;
mod pods;
pub mod registration;
mod requests;
mod route;
mod router;
pub mod schema;
pub mod secrets;
mod seniority;
mod service;
mod slices;
mod stage;
mod tls;
mod unique_names;
mod values;
mod virtual_ips;

pub use build::{BuildMemo, BuildOutput, build};
pub use endpoints::{cloud_map_users, endpoints};
pub use inputs::{IngestSettings, Inputs};
