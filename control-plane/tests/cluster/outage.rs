//! Traffic takes no notice of the control plane's pods.

use evermesh_local_cluster::wait_until_serving;
use evermesh_testkit::{canary::by_version, chart, envoy::EnvoyVersion};

use crate::{canary, say};

#[tokio::test]
async fn traffic_goes_on_while_the_pods_of_the_control_plane_are_replaced() {
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
    // While nobody serves, and while Envoys come back to those that do.
    traffic.seconds(2).await.unwrap();
    wait_until_serving(&canary.cluster).await.unwrap();
    canary.shift([0, 100]).await.unwrap();
    let split = by_version(&traffic.seconds(2).await.unwrap().answers);
    assert!(split[0] == 0 && split[1] > 0, "{split:?}");

    let tally = traffic.finish().await.unwrap();
    say(&format!("{tally:?}"));
    assert_eq!(tally.failed(), 0, "{tally:?}");
}
