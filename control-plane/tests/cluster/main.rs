//! Tests that need pods: a complete Kubernetes cluster, Evermesh as Helm installs it, and Envoys as sidecars.
//!
//! Each test starts its own cluster, one test at a time. With `KUBECONFIG` all tests use that cluster, one at a time.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod canary_release;
#[path = "../common/mod.rs"]
mod common;
mod examples;
mod local_cluster;
mod outage;
mod pod;
mod removal;
mod rollouts;
mod strict;

use evermesh_local_cluster::{TestCluster, canary::CanaryCluster};
use evermesh_testkit::envoy::EnvoyVersion;

/// Prints progress, which cargo shows if the test fails.
fn say(line: &str) {
    eprintln!("{line}");
}

/// Starts a cluster with the canary example.
async fn canary(version: EnvoyVersion) -> CanaryCluster {
    let cluster = TestCluster::obtain(say).await.unwrap();
    CanaryCluster::build(cluster, version, say).await.unwrap()
}
