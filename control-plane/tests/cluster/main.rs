//! What takes pods: a whole Kubernetes, Evermesh as Helm installs it, and Envoys beside applications.
//!
//! Each test has a cluster of its own, one after the other; with `KUBECONFIG` all run on that one, in turn too.

#![allow(clippy::unwrap_used)] // what fails here fails a test

mod members;
mod outage;
mod pod;
mod pods;
mod shop;

use evermesh_local_cluster::{TestCluster, canary::CanaryCluster};
use evermesh_testkit::envoy::EnvoyVersion;

/// Where a test is, in its output.
fn say(line: &str) {
    eprintln!("{line}");
}

/// The canary in a cluster.
async fn canary(version: EnvoyVersion) -> CanaryCluster {
    let cluster = TestCluster::obtain(say).await.unwrap();
    CanaryCluster::build(cluster, version, say).await.unwrap()
}
