//! The control plane crashes under load: proxies go on without it, and a new one has nothing to tell them.
//!
//! Needs the binary `evermesh-test-app`: `cargo test --workspace` builds it, `cargo build --bins` otherwise.

#![allow(clippy::unwrap_used)] // what fails here fails a test

use std::time::Duration;

use evermesh_testkit::{
    canary::{CanaryLab, CanaryLabOptions},
    control_plane::ControlPlane,
    wait,
};

/// How long there is no control plane, in seconds.
const DEAD: u64 = 3;

/// Envoys try to reconnect after at most half a minute.
const PATIENCE: Duration = Duration::from_mins(1);

/// What the connected proxies hold, as `proxy type name version`.
async fn held(control_plane: &ControlPlane) -> Vec<String> {
    let proxies = control_plane.proxies().await.unwrap();
    let mut held = Vec::new();
    for proxy in proxies.as_array().unwrap() {
        for resource in proxy["resources"].as_array().unwrap() {
            if !resource["acked"].is_null() {
                let [kind, name, version] =
                    ["type", "name", "acked"].map(|field| resource[field].as_str().unwrap());
                held.push(format!(
                    "{} {kind} {name} {version}",
                    proxy["node_id"].as_str().unwrap()
                ));
            }
        }
    }
    held.sort();
    held
}

/// Waits until something holds.
async fn eventually(what: &str, holds: impl AsyncFnMut() -> bool) {
    wait::eventually(what, PATIENCE, holds).await;
}

#[tokio::test]
async fn a_crash_of_the_control_plane_costs_nothing() {
    let mut stage = CanaryLab::build(CanaryLabOptions::default(), |_| ())
        .await
        .unwrap();
    let mut traffic = stage.traffic().unwrap();
    traffic.report.next_second().await.unwrap();
    let before = held(&stage.control_plane).await;

    stage.control_plane.kill();
    while traffic.report.try_next_second().is_some() {}
    for _ in 0..=DEAD {
        traffic.report.next_second().await.unwrap();
    }
    for envoy in stage.proxies() {
        assert_eq!(
            envoy.stat("control_plane.connected_state").await.unwrap(),
            0
        );
    }

    stage.control_plane.restart().unwrap();
    stage.control_plane.ready().await.unwrap();
    let count = async |name| stage.control_plane.metric(name).await.unwrap();
    eventually("the return of every proxy", async || {
        count("evermesh_xds_streams_open").await == stage.proxies().len() as u64
    })
    .await;
    // Nothing is sent, and everything that was held is known to be held.
    let sent_or_resumed = async || {
        count("evermesh_xds_resumed_total").await + count("evermesh_xds_resources_total").await
    };
    eventually("a word on every resource", async || {
        sent_or_resumed().await >= before.len() as u64
    })
    .await;
    assert_eq!(
        count("evermesh_xds_resources_total").await,
        0,
        "{} resumed; {:#?}",
        count("evermesh_xds_resumed_total").await,
        stage.control_plane.proxies().await.unwrap()
    );
    assert_eq!(
        count("evermesh_xds_resumed_total").await,
        before.len() as u64
    );
    assert_eq!(held(&stage.control_plane).await, before);

    stage.shift([50, 50]).await.unwrap();
    assert_eq!(
        count("evermesh_xds_resources_total").await,
        1,
        "the route alone"
    );
    let total = traffic.finish().await.unwrap();
    assert_eq!(total.failed(), 0, "{total:?}");
}
