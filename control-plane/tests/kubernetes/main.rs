//! The control plane on a real API server, with a real Envoy as the gateway and with traffic.
//!
//! The control plane runs as the chart installs it: with the arguments of its Deployment, the permissions of its service
//! account, and its webhooks called by the API server.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod backends;
mod beside_app_mesh;
mod chart_values;
#[path = "../common/mod.rs"]
mod common;
mod encrypted_xds;
mod examples;
mod fixture;
mod flagger;
mod identity;
mod migration;
mod outage;
mod proxy;
mod readiness;
mod rejected_cluster;
mod replicas;
mod secrets;
mod status;
mod teams;
