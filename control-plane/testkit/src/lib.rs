//! Real Envoys, hosts, Cloud Map and a Kubernetes API for tests, benchmarks and the demo.
//!
//! Nothing here is a mock: an [`Envoy`](envoy::Envoy) is the upstream binary, a [`Moto`](moto::Moto) a Cloud Map
//! API server, an [`ApiServer`](kubernetes::ApiServer) Kubernetes' own, a [`Lab`](hosts::Lab) a network of real network namespaces.
//! `scripts/setup` installs the programs that they start.
//! Every process started here dies with the process that started it, even when that one is killed.
//!
//! Must not depend on the crates under test: it starts the control plane as a user does, from its binary.

pub mod app;
pub mod app_mesh_agent;
pub mod canary;
pub mod chart;
pub mod chi_square;
pub mod collector;
pub mod control_plane;
pub mod dns;
pub mod envoy;
pub mod hosts;
pub mod http;
pub mod interception;
pub mod kubernetes;
pub mod load;
pub mod moto;
pub mod port;
pub mod process;
pub mod relay;
pub mod report;
pub mod self_signed;
pub mod static_bootstrap;
pub mod tools;
pub mod wait;
pub mod xds;
