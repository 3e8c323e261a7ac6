//! A canary release with pods, from the installation to the deletion of its namespace.

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

/// Requests per second, each from a pod and through the gateway.
const RATE: u32 = 100;

#[tokio::test]
async fn canary_release_with_the_oldest_envoy_fails_no_request() {
    release(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn canary_release_with_the_newest_envoy_fails_no_request() {
    let canary = release(EnvoyVersion::Newest).await;
    // Kubernetes' namespace controller deletes the mesh's objects; no finalizer may hold them.
    let delete = ["delete", "namespace", "shop", "--timeout=120s"];
    canary.cluster.kubectl().run(&delete).await.unwrap();
}

/// Shifts the weights of a new canary under load; returns the cluster.
async fn release(version: EnvoyVersion) -> CanaryCluster {
    let canary = canary(version).await;
    wait_until_active(&canary).await;

    let mut inside = canary.traffic(RATE).unwrap();
    let (stop, outside) = traffic_through_gateway(&canary).await;
    for weights in [[100, 0], [90, 10], [50, 50], [0, 100]] {
        if weights != [100, 0] {
            canary.shift(weights).await.unwrap();
        }
        let stats = inside.seconds(4).await.unwrap();
        let split = by_version(&stats.answers);
        say(&format!("{weights:?}: {split:?}"));
        assert!(split[0] + split[1] > 0, "{stats:?}");
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
    canary
}

/// Waits until every object is active.
async fn wait_until_active(canary: &CanaryCluster) {
    for (kind, condition) in [
        ("virtualnodes", "VirtualNodeActive"),
        ("virtualservices", "VirtualServiceActive"),
        ("virtualrouters", "VirtualRouterActive"),
        ("virtualgateways", "VirtualGatewayActive"),
    ] {
        let condition = format!("--for=condition={condition}");
        let wait = ["wait", kind, "--all", "--namespace=shop", "--timeout=120s"];
        let wait = [&wait[..], &[&condition]].concat();
        canary.cluster.kubectl().run(&wait).await.unwrap();
    }
}

/// Sends requests through the gateway until the sender is used.
async fn traffic_through_gateway(
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
        // A test that fails drops the sender, which also ends the load.
        let _ = stopped.await;
    };
    let running = tokio::spawn(async move { load.run_until(stopped, |_| ()).await.unwrap() });
    (stop, running)
}
