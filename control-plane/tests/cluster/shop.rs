//! A canary release with pods, from the first install to the end of its namespace.

use std::time::Duration;

use evermesh_local_cluster::canary::CanaryCluster;
use evermesh_testkit::{
    canary::by_version,
    chi_square,
    envoy::EnvoyVersion,
    load::{Load, LoadStats},
};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::{canary, say};

/// Requests per second, from within and from outside.
const RATE: u32 = 100;

#[tokio::test]
async fn a_canary_release_with_pods_of_the_oldest_envoy_fails_no_request() {
    release(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn a_canary_release_with_pods_of_the_newest_envoy_fails_no_request() {
    release(EnvoyVersion::Newest).await;
}

async fn release(version: EnvoyVersion) {
    let canary = canary(version).await;
    everything_is_active(&canary).await;

    let mut inside = canary.traffic(RATE).unwrap();
    let (stop, outside) = through_the_gateway(&canary).await;
    for weights in [[100, 0], [90, 10], [50, 50], [0, 100]] {
        if weights != [100, 0] {
            canary.shift(weights).await.unwrap();
        }
        let tally = inside.seconds(4).await.unwrap();
        let split = by_version(&tally.answers);
        say(&format!("{weights:?}: {split:?}"));
        assert!(split[0] + split[1] > 0, "{tally:?}");
        assert!(
            chi_square::goodness_of_fit(&split, &weights).is_consistent(),
            "{weights:?}: {split:?}"
        );
    }
    let inside = inside.finish().await.unwrap();
    stop.send(()).unwrap();
    let outside = outside.await.unwrap();
    say(&format!("inside {inside:?}\noutside {outside:?}"));
    assert_eq!((inside.failed(), outside.failed()), (0, 0));
    assert!(outside.answers.keys().any(|it| it.starts_with("color-v2-")));

    // The mesh's objects are deleted with their namespace by the real controller, whatever holds them.
    let gone = ["delete", "namespace", "shop", "--timeout=60s"];
    canary.cluster.kubectl().run(&gone).await.unwrap();
}

async fn everything_is_active(canary: &CanaryCluster) {
    for (kind, condition) in [
        ("virtualnodes", "VirtualNodeActive"),
        ("virtualservices", "VirtualServiceActive"),
        ("virtualrouters", "VirtualRouterActive"),
        ("virtualgateways", "VirtualGatewayActive"),
    ] {
        let condition = format!("--for=condition={condition}");
        let wait = ["wait", kind, "--all", "--namespace=shop", "--timeout=30s"];
        let wait = [&wait[..], &[&condition]].concat();
        canary.cluster.kubectl().run(&wait).await.unwrap();
    }
}

async fn through_the_gateway(
    canary: &CanaryCluster,
) -> (oneshot::Sender<()>, JoinHandle<LoadStats>) {
    let target = canary.gateway().await.unwrap();
    let load = Load {
        target,
        host: "color.shop".to_owned(),
        path: "/".to_owned(),
        rate: RATE,
        duration: Duration::from_mins(10),
        http2: false,
    };
    let (stop, stopped) = oneshot::channel();
    let stopped = async move {
        let _ = stopped.await;
    };
    let running = tokio::spawn(async move { load.run_until(stopped, |_| ()).await.unwrap() });
    (stop, running)
}
