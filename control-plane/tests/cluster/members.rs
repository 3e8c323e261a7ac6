//! Pods become members, and cease to be, without anybody who calls or is called taking notice.

use std::time::Duration;

use evermesh_testkit::{
    cluster::{Cluster, images},
    envoy::Version,
    load::Tally,
};

use crate::{canary, say};

/// For pods to be replaced one by one.
const LIMIT: Duration = Duration::from_mins(2);

/// How often both pods of a version are replaced.
const REPLACEMENTS: usize = 3;

#[tokio::test]
async fn pods_are_replaced_and_jobs_end_while_traffic_goes_on() {
    let canary = canary(Version::Newest).await;
    let cluster = &canary.cluster;
    canary.shift([50, 50]).await.unwrap();
    let mut traffic = canary.traffic(100).unwrap();
    traffic.report.second().await.unwrap();

    let tally = job(cluster).await;
    say(&format!("job {tally:?}"));
    assert_eq!((tally.failed(), tally.statuses.len()), (0, 1), "{tally:?}");
    assert!(tally.answers.keys().any(|it| it.starts_with("color-v1-")));

    let restart = [
        "rollout",
        "restart",
        "deployment/color-v2",
        "--namespace=shop",
    ];
    for _ in 0..REPLACEMENTS {
        cluster.kubectl().run(&restart).await.unwrap();
        cluster.rolled_out("shop", "color-v2", LIMIT).await.unwrap();
    }
    traffic.seconds(2).await.unwrap();
    let tally = traffic.finish().await.unwrap();
    say(&format!("{tally:?}"));
    assert_eq!(tally.failed(), 0, "{tally:?}");
    let pods = tally
        .answers
        .keys()
        .filter(|it| it.starts_with("color-v2-"));
    assert_eq!(pods.count(), 2 * (REPLACEMENTS + 1), "{tally:?}");
}

/// Runs a Job whose application calls out as the first thing it does and ends after a second; returns what it got.
async fn job(cluster: &Cluster) -> Tally {
    let image = images::tag("evermesh-test-app").unwrap();
    let job = format!(
        "apiVersion: batch/v1
kind: Job
metadata: {{name: once, namespace: shop}}
spec:
  backoffLimit: 0
  template:
    metadata: {{labels: {{app: front}}}}
    spec:
      restartPolicy: Never
      containers:
      - name: app
        image: {image}
        args: [load, --connect, 'color.shop:80', --host, color.shop, --rate, '50', --seconds, '1']
"
    );
    let kubectl = cluster.kubectl();
    kubectl.apply(&job).await.unwrap();
    let complete = ["wait", "--for=condition=Complete", "job/once"];
    let within = ["--namespace=shop", "--timeout=90s"];
    let complete = [&complete[..], &within[..]].concat();
    kubectl.run(&complete).await.unwrap();
    let logs = ["logs", "job/once", "--container=app", "--namespace=shop"];
    let logs = kubectl.run(&logs).await.unwrap();
    serde_json::from_str(logs.lines().last().unwrap()).unwrap()
}
