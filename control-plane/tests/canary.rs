//! The canary example under load, on hosts with real Envoys: no request fails, and each split follows its weights.
//!
//! Needs the program `evermesh-test-app`: run `cargo build --workspace --bins` before this test alone.

#![allow(clippy::unwrap_used)] // a panic fails the test

use std::time::Duration;

use evermesh_testkit::{
    canary::{CanaryLab, CanaryLabOptions, by_version},
    chi_square,
};
use tokio::{
    sync::Mutex,
    time::{MissedTickBehavior, interval},
};

/// Lock held by the running test, because a small machine cannot carry the load of two.
static LOAD: Mutex<()> = Mutex::const_new(());

/// Number of weight changes.
const SHIFTS: u32 = 200;

/// Shortest time between two weight changes.
const PACE: Duration = Duration::from_millis(100);

/// Number of times that one instance replaces another one.
const REPLACEMENTS: usize = 50;

/// Requests per second for a split.
const RATE: u32 = 400;

/// Smallest number of requests in a split that is judged.
const REQUESTS_PER_STEP: u64 = 2000;

async fn shift_weights(lab: &CanaryLab) {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for shift in 0..SHIFTS {
        pace.tick().await;
        // Weights go from 90/10 to 0/100 in steps of ten, and then start again at 100/0.
        let second = (shift + 1) * 10 % 110;
        lab.shift([100 - second, second]).await.unwrap();
    }
}

/// Replaces the registered instance of each version by the other one, in turn. Both are registered for a moment.
async fn replace_instances(lab: &CanaryLab) {
    let versions = ["v1", "v2"];
    for version in versions {
        lab.deregister(&format!("color-{version}-b")).await.unwrap();
    }
    for replacement in 0..REPLACEMENTS {
        let version = versions[replacement % 2];
        let [next, last] = match replacement / 2 % 2 {
            0 => ["b", "a"],
            _ => ["a", "b"],
        };
        lab.register(&format!("color-{version}-{next}"))
            .await
            .unwrap();
        lab.deregister(&format!("color-{version}-{last}"))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn no_request_fails_while_weights_and_instances_change() {
    let _load = LOAD.lock().await;
    let lab = CanaryLab::build(CanaryLabOptions::default(), |_| ())
        .await
        .unwrap();
    let traffic = lab.traffic().unwrap();
    tokio::join!(shift_weights(&lab), replace_instances(&lab));
    let total = traffic.finish().await.unwrap();

    assert_eq!(total.failed(), 0, "{total:?}");
    let instances = ["color-v1-a", "color-v1-b", "color-v2-a", "color-v2-b"];
    assert!(
        total.answers.keys().eq(instances),
        "every instance answered: {total:?}"
    );
    assert_eq!(
        lab.control_plane
            .metric("evermesh_xds_nacks_total")
            .await
            .unwrap(),
        0
    );
    for envoy in lab.proxies() {
        let mut rejected = envoy.stats().await.unwrap();
        rejected.retain(|name, count| name.ends_with(".update_rejected") && *count > 0);
        assert!(rejected.is_empty(), "{rejected:?}");
    }
}

#[tokio::test]
async fn split_follows_the_weights_of_each_step() {
    let _load = LOAD.lock().await;
    let options = CanaryLabOptions {
        rate: RATE,
        ..CanaryLabOptions::default()
    };
    let lab = CanaryLab::build(options, |_| ()).await.unwrap();
    let steps = [[100, 0], [90, 10], [50, 50], [0, 100]];
    for weights in steps {
        // The example itself has the first weights.
        if weights != steps[0] {
            lab.shift(weights).await.unwrap();
        }
        // Every request is sent after the last ACK, so that none may follow earlier weights.
        let mut traffic = lab.traffic().unwrap();
        let mut requests = 0;
        while requests < REQUESTS_PER_STEP {
            requests += traffic.report.next_second().await.unwrap().requests();
        }
        let total = traffic.finish().await.unwrap();
        assert_eq!(total.failed(), 0, "{total:?}");
        let split = by_version(&total.answers);
        let fit = chi_square::goodness_of_fit(&split, &weights);
        assert!(fit.is_consistent(), "{split:?} at {weights:?}: {fit}");
    }
}
