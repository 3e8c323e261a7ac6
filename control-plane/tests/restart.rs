//! Crash of the control plane under load: proxies go on without it, and receive nothing from the next process.
//!
//! Needs the program `evermesh-test-app`: run `cargo build --workspace --bins` before this test alone.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod common;

use common::eventually;
use evermesh_testkit::{
    canary::{CanaryLab, CanaryLabOptions},
    control_plane::ControlPlane,
};

/// Time without a control plane, in seconds.
const OUTAGE: u64 = 3;

/// The resources that the connected proxies have ACKed, as `proxy type name version`.
async fn acked(control_plane: &ControlPlane) -> Vec<String> {
    let proxies = control_plane.proxies().await.unwrap();
    let mut acked = Vec::new();
    for proxy in proxies.as_array().unwrap() {
        for resource in proxy["resources"].as_array().unwrap() {
            if !resource["acked"].is_null() {
                let [kind, name, version] =
                    ["type", "name", "acked"].map(|field| resource[field].as_str().unwrap());
                acked.push(format!(
                    "{} {kind} {name} {version}",
                    proxy["node_id"].as_str().unwrap()
                ));
            }
        }
    }
    acked.sort();
    acked
}

#[tokio::test]
async fn crash_of_the_control_plane_fails_no_request_and_resends_nothing() {
    let mut lab = CanaryLab::build(CanaryLabOptions::default(), |_| ())
        .await
        .unwrap();
    let mut traffic = lab.traffic().unwrap();
    traffic.report.next_second().await.unwrap();
    let before = acked(&lab.control_plane).await;

    lab.control_plane.kill();
    while traffic.report.try_next_second().is_some() {}
    for _ in 0..=OUTAGE {
        traffic.report.next_second().await.unwrap();
    }
    for envoy in lab.proxies() {
        assert_eq!(
            envoy.stat("control_plane.connected_state").await.unwrap(),
            0
        );
    }

    lab.control_plane.restart().unwrap();
    lab.control_plane.ready().await.unwrap();
    let count = async |name| lab.control_plane.metric(name).await.unwrap();
    eventually("the reconnection of every proxy", async || {
        count("evermesh_xds_streams_open").await == lab.proxies().len() as u64
    })
    .await;
    // Each resource is either resumed or sent; all of them have to be resumed.
    let sent_or_resumed = async || {
        count("evermesh_xds_resumed_total").await + count("evermesh_xds_resources_total").await
    };
    eventually("an answer about every resource", async || {
        sent_or_resumed().await >= before.len() as u64
    })
    .await;
    assert_eq!(
        count("evermesh_xds_resources_total").await,
        0,
        "{} resumed; {:#?}",
        count("evermesh_xds_resumed_total").await,
        lab.control_plane.proxies().await.unwrap()
    );
    assert_eq!(
        count("evermesh_xds_resumed_total").await,
        before.len() as u64
    );
    assert_eq!(acked(&lab.control_plane).await, before);

    lab.shift([50, 50]).await.unwrap();
    assert_eq!(
        count("evermesh_xds_resources_total").await,
        1,
        "only the route is sent"
    );
    let total = traffic.finish().await.unwrap();
    assert_eq!(total.failed(), 0, "{total:?}");
}
