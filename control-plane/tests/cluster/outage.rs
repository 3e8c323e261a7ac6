//! Outage of the control plane's pods under load.

use evermesh_local_cluster::wait_until_serving;
use evermesh_testkit::{canary::by_version, chart, envoy::EnvoyVersion};

use crate::{canary, say};

#[tokio::test]
async fn deleting_the_control_planes_pods_fails_no_request() {
    let canary = canary(EnvoyVersion::Oldest).await;
    let kubectl = canary.cluster.kubectl();
    let mut traffic = canary.traffic(100).unwrap();
    traffic.report.next_second().await.unwrap();

    let delete = [
        "delete",
        "pods",
        "--namespace",
        chart::NAMESPACE,
        "--selector=app.kubernetes.io/name=evermesh",
        "--force",
        "--grace-period=0",
    ];
    say(&kubectl.run(&delete).await.unwrap());
    // Requests without a control plane, and while Envoys reconnect to the new pods.
    traffic.seconds(2).await.unwrap();
    wait_until_serving(&canary.cluster).await.unwrap();
    canary.shift([0, 100]).await.unwrap();
    let split = by_version(&traffic.seconds(2).await.unwrap().answers);
    assert!(split[0] == 0 && split[1] > 0, "{split:?}");

    let stats = traffic.finish().await.unwrap();
    say(&format!("{stats:?}"));
    assert_eq!(stats.failed(), 0, "{stats:?}");
}
