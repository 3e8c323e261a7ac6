//! Certificates of the webhooks: renewal, and repair after something else removed them.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use serde_json::json;

use crate::{
    cluster::{self, Clock, Cluster},
    common::eventually,
    object,
};

const DAY: Duration = Duration::from_hours(24);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewal_of_certificates_fails_no_request() {
    let clock = Clock::default();
    clock.set_back(8 * 365 * DAY);
    let cluster = Cluster::without_webhooks(&clock).await;
    cluster.configure_webhooks().await;
    let other_replica = cluster.start_replica(&clock).await;
    cluster
        .secret_becomes(|secret| secret["tls.crt"].is_string())
        .await;
    // The next authority is trusted for a year before it signs, half a day ago.
    clock.set_back(365 * DAY + DAY / 2);
    cluster.touch_secret().await;
    cluster
        .secret_becomes(|secret| secret["next-authority.crt"].is_string())
        .await;
    // The certificates before have expired; the next one is valid today.
    let last = cluster.secret().await;
    clock.set_back(DAY);
    cluster.touch_secret().await;
    cluster
        .secret_becomes(|secret| secret["tls.crt"] != last["tls.crt"])
        .await;
    assert_eq!(
        cluster.secret().await["authority.crt"],
        last["authority.crt"]
    );
    for object in [cluster::namespace("shop"), cluster::mesh()] {
        cluster.create_when_reachable(&object).await;
    }
    cluster.bundles_match_secret().await;

    let is_renewed = AtomicBool::new(false);
    let answers = AtomicUsize::new(0);
    let requests = async {
        while !is_renewed.load(Ordering::Relaxed) {
            let node = object("VirtualNode", "x", &json!({}));
            cluster.dry_run(&node).await.unwrap();
            answers.fetch_add(1, Ordering::Relaxed);
        }
    };
    let renewal = async {
        let last = cluster.secret().await;
        clock.set_back(Duration::ZERO);
        cluster.touch_secret().await;
        cluster
            .secret_becomes(|secret| secret["authority.crt"] == last["next-authority.crt"])
            .await;
        let answers_before = answers.load(Ordering::Relaxed);
        cluster.bundles_match_secret().await;
        eventually("ten more answers", async || {
            answers.load(Ordering::Relaxed) >= answers_before + 10
        })
        .await;
        is_renewed.store(true, Ordering::Relaxed);
    };
    tokio::join!(requests, renewal);
    assert_eq!(
        other_replica.certificate().await,
        cluster.certificate().await,
        "all replicas present the certificate of the Secret"
    );

    cluster.remove_bundles().await;
    cluster.bundles_match_secret().await;
    cluster
        .kubectl(&["delete", "secret", "evermesh-webhook"])
        .await
        .unwrap();
    cluster
        .secret_becomes(|secret| secret["tls.crt"].is_string())
        .await;
    cluster.bundles_match_secret().await;
    cluster
        .create_when_reachable(&object("VirtualNode", "x", &json!({})))
        .await;
}
