//! The canary example under load, on real hosts with real Envoys: nothing fails and every split is as asked for.
//!
//! Needs the binary `evermesh-test-app`: `cargo test --workspace` builds it, `cargo build --bins` otherwise.

#![allow(clippy::unwrap_used)] // what fails here fails a test

use std::time::Duration;

use evermesh_testkit::{
    canary::{CanaryLab, CanaryLabOptions, by_version},
    chi_square,
};
use tokio::{
    sync::Mutex,
    time::{MissedTickBehavior, interval},
};

/// Held by the test that runs: a small machine carries the load of one.
static MACHINE: Mutex<()> = Mutex::const_new(());

/// How many times the weights change.
const SHIFTS: u32 = 200;

/// A new change at most this often.
const PACE: Duration = Duration::from_millis(100);

/// How many times an instance comes and another one goes.
const REPLACEMENTS: usize = 50;

/// What a split is judged by.
const REQUESTS_PER_STEP: u64 = 2000;

async fn shift_weights(stage: &CanaryLab) {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for shift in 0..SHIFTS {
        pace.tick().await;
        // From 90/10 in steps of ten to 10/90 and again, with an end at which one version gets nothing.
        let second = (shift + 1) * 10 % 110;
        stage.shift([100 - second, second]).await.unwrap();
    }
}

/// Each version has two instances; one of them is registered at a time, both while they change places.
async fn replace_instances(stage: &CanaryLab) {
    let versions = ["v1", "v2"];
    for version in versions {
        stage
            .deregister(&format!("color-{version}-b"))
            .await
            .unwrap();
    }
    for replacement in 0..REPLACEMENTS {
        let version = versions[replacement % 2];
        let [comes, goes] = match replacement / 2 % 2 {
            0 => ["b", "a"],
            _ => ["a", "b"],
        };
        stage
            .register(&format!("color-{version}-{comes}"))
            .await
            .unwrap();
        stage
            .deregister(&format!("color-{version}-{goes}"))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn no_request_fails_while_weights_and_instances_change() {
    let _machine = MACHINE.lock().await;
    let stage = CanaryLab::build(CanaryLabOptions::default(), |_| ())
        .await
        .unwrap();
    let traffic = stage.traffic().unwrap();
    tokio::join!(shift_weights(&stage), replace_instances(&stage));
    let total = traffic.finish().await.unwrap();

    assert_eq!(total.failed(), 0, "{total:?}");
    let instances = ["color-v1-a", "color-v1-b", "color-v2-a", "color-v2-b"];
    assert!(
        total.answers.keys().eq(instances),
        "every instance was called: {total:?}"
    );
    assert_eq!(
        stage
            .control_plane
            .metric("evermesh_xds_nacks_total")
            .await
            .unwrap(),
        0
    );
    for envoy in stage.proxies() {
        let mut rejected = envoy.stats().await.unwrap();
        rejected.retain(|name, count| name.ends_with(".update_rejected") && *count > 0);
        assert!(rejected.is_empty(), "{rejected:?}");
    }
}

#[tokio::test]
async fn every_step_of_the_example_has_its_split() {
    let _machine = MACHINE.lock().await;
    let stage = CanaryLab::build(CanaryLabOptions::default(), |_| ())
        .await
        .unwrap();
    let steps = [[100, 0], [90, 10], [50, 50], [0, 100]];
    for weights in steps {
        // The first weights are those of the example as it stands.
        if weights != steps[0] {
            stage.shift(weights).await.unwrap();
        }
        // Every request is sent after the last ACK, so none may follow the weights before.
        let mut traffic = stage.traffic().unwrap();
        let mut requests = 0;
        while requests < REQUESTS_PER_STEP {
            requests += traffic.report.next_second().await.unwrap().requests();
        }
        let total = traffic.finish().await.unwrap();
        assert_eq!(total.failed(), 0, "{total:?}");
        let split = by_version(&total.answers);
        let fit = chi_square::goodness_of_fit(&split, &weights);
        println!("{weights:?}: {split:?}, {fit}");
        assert!(fit.is_consistent(), "{split:?} at {weights:?}: {fit}");
    }
}
