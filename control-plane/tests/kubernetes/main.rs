//! The control plane on a real API server, with a real Envoy and traffic.
//!
//! It runs as the chart installs it: with the arguments of its Deployment, the rights of its service account and its
//! webhooks in force.

#![allow(clippy::unwrap_used)] // what fails here fails a test

mod flagger;
mod outage;
mod proxy;
mod replicas;
mod rights;
mod scene;
mod status;
mod take_over;
mod teams;

use std::time::Duration;

pub(crate) use scene::{Scene, route};

/// For what takes milliseconds when the machine is idle.
const PATIENCE: Duration = Duration::from_secs(30);

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let poll = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let done = tokio::time::timeout(PATIENCE, poll).await;
    assert!(done.is_ok(), "{what} did not happen");
}
