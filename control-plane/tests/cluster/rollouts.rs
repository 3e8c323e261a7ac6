//! Rollouts under load: pods join and leave the mesh, and no request fails.

use std::collections::{BTreeMap, BTreeSet};

use evermesh_local_cluster::{TestCluster, images};
use evermesh_testkit::{envoy::EnvoyVersion, load::LoadStats};

use crate::{canary, common::DEADLINE, say};

/// The Deployments of the service.
const COLORS: [&str; 2] = ["color-v1", "color-v2"];

/// Pods of each Deployment.
const REPLICAS: usize = 5;

/// Number of times that all pods are replaced.
const ROUNDS: usize = 4;

#[tokio::test]
async fn replacing_forty_pods_fails_no_request() {
    let canary = canary(EnvoyVersion::Newest).await;
    let cluster = &canary.cluster;
    canary.shift([50, 50]).await.unwrap();
    let mut traffic = canary.traffic(100).unwrap();
    traffic.report.next_second().await.unwrap();

    let stats = job(cluster).await;
    say(&format!("job {stats:?}"));
    assert_eq!((stats.failed(), stats.statuses.len()), (0, 1), "{stats:?}");
    assert!(stats.answers.keys().any(|it| it.starts_with("color-v1-")));

    let replicas = format!("--replicas={REPLICAS}");
    change(cluster, &["scale", &replicas]).await;
    let mut seen = pods(cluster, "color").await;
    for round in 1..=ROUNDS {
        change(cluster, &["rollout", "restart"]).await;
        let now = pods(cluster, "color").await;
        assert_eq!(now.len(), COLORS.len() * REPLICAS, "{now:?}");
        let before = seen.len();
        seen.extend(now);
        say(&format!("round {round}: {} new pods", seen.len() - before));
    }
    traffic.seconds(2).await.unwrap();
    let stats = traffic.finish().await.unwrap();
    let retries = retries(cluster).await;
    say(&format!("{stats:?}, {retries} retries"));
    assert_eq!(stats.failed(), 0, "{stats:?}");
    // Envoy may retry a request that reached a terminating pod, but a rollout must not depend on retries.
    assert!(retries <= REPLICAS as u64, "{retries} retries");
    assert_eq!(seen.len(), COLORS.len() * REPLICAS * (ROUNDS + 1));
    let names: BTreeSet<&String> = seen.values().collect();
    let answered: BTreeSet<&String> = stats.answers.keys().collect();
    assert!(names.is_subset(&answered), "{names:?} {answered:?}");
}

/// Runs a `kubectl` command on the Deployments and waits for their rollout.
async fn change(cluster: &TestCluster, command: &[&str]) {
    let deployments = COLORS.map(|name| format!("deployment/{name}"));
    let mut command = command.to_vec();
    command.extend(deployments.iter().map(String::as_str));
    command.push("--namespace=shop");
    cluster.kubectl().run(&command).await.unwrap();
    for name in COLORS {
        cluster
            .wait_for_rollout("shop", name, DEADLINE)
            .await
            .unwrap();
    }
}

/// The running pods of an application that are not terminating: names by UID.
async fn pods(cluster: &TestCluster, app: &str) -> BTreeMap<String, String> {
    let selector = format!("--selector=app={app}");
    let list = [
        "get",
        "pods",
        "--namespace=shop",
        "--field-selector=status.phase=Running",
        &selector,
        "--output=go-template={{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.uid}} {{.metadata.name}}\n{{end}}{{end}}",
    ];
    let pods = cluster.kubectl().run(&list).await.unwrap();
    let pods = pods.lines().filter_map(|line| line.split_once(' '));
    pods.map(|(uid, name)| (uid.to_owned(), name.to_owned()))
        .collect()
}

/// Number of requests that the caller's Envoy has retried.
async fn retries(cluster: &TestCluster) -> u64 {
    let front = pods(cluster, "front").await;
    let (_, front) = front.first_key_value().unwrap();
    let names = "upstream_rq_retry$";
    cluster.counter_sum("shop", front, names).await.unwrap()
}

/// Runs a Job whose application sends requests at once and ends after a second; returns their statistics.
async fn job(cluster: &TestCluster) -> LoadStats {
    let image = images::reference("evermesh-test-app").unwrap();
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
    let within = ["--namespace=shop", "--timeout=120s"];
    let complete = [&complete[..], &within[..]].concat();
    kubectl.run(&complete).await.unwrap();
    let logs = ["logs", "job/once", "--container=app", "--namespace=shop"];
    let logs = kubectl.run(&logs).await.unwrap();
    serde_json::from_str(logs.lines().last().unwrap()).unwrap()
}
