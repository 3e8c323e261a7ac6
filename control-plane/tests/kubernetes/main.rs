//! The control plane on a real API server, with a real Envoy and traffic.
//!
//! It runs as the chart installs it: with the arguments of its Deployment, the rights of its service account and its
//! webhooks in force.

#![allow(clippy::unwrap_used)] // what fails here fails a test

mod beside;
mod flagger;
mod identity;
mod outage;
mod proxy;
mod ready;
mod replicas;
mod rights;
mod scene;
mod status;
mod take_over;
mod teams;

use std::time::Duration;

use evermesh_local_cluster::canary::route;
use evermesh_testkit::wait;
pub(crate) use scene::Scene;

/// For what takes milliseconds when the machine is idle, or as long as a replica counts that is gone.
const PATIENCE: Duration = Duration::from_mins(1);

async fn eventually(what: &str, holds: impl AsyncFnMut() -> bool) {
    wait::eventually(what, PATIENCE, holds).await;
}
