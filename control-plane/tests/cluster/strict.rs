//! From an installation that serves proxies in plaintext and without credentials to the default, as docs/install.md
//! tells it, under load.

use std::fs;

use evermesh_local_cluster::{
    PodTraffic, TestCluster, canary::CanaryCluster, helm, install_with, wait_until_serving,
};
use evermesh_testkit::{
    canary::by_version,
    chart::{self, OPEN_XDS},
    envoy::EnvoyVersion,
    load::LoadStats,
    tools,
};
use serde_json::Value;

use crate::{
    common::{DEADLINE, eventually},
    say,
};

/// Requests per second from the calling pod.
const RATE: u32 = 100;

#[tokio::test]
async fn upgrade_from_plaintext_to_the_default_fails_no_request() {
    let [upgrade, restart] = commands();
    let cluster = TestCluster::obtain(say).await.unwrap();
    let weaker = ["--set", OPEN_XDS];
    install_with(&cluster, EnvoyVersion::Newest, &weaker, say)
        .await
        .unwrap();
    let canary = CanaryCluster::deploy(cluster, say).await.unwrap();
    let cluster = &canary.cluster;
    canary.shift([50, 50]).await.unwrap();
    let before = pods(cluster, "shop", "app=front").await;
    let mut first = canary.traffic(RATE).unwrap();
    first.seconds(1).await.unwrap();

    say(&upgrade.join(" "));
    let upgrade: Vec<&str> = upgrade.iter().map(String::as_str).collect();
    helm(cluster, &upgrade[1..]).await.unwrap();
    wait_until_serving(cluster).await.unwrap();
    first.seconds(3).await.unwrap();

    // Callers first. The old pod of `front` stays until its requests have moved to the new one.
    restart_deployment(cluster, &restart, "gate").await;
    wait_before_end(cluster, "front", 300).await;
    run(cluster, &restart, "front").await;
    let mut new = String::new();
    eventually("the new pod of front", async || {
        let pods = pods(cluster, "shop", "app=front").await;
        new = pods
            .into_iter()
            .find(|it| !before.contains(it))
            .unwrap_or_default();
        !new.is_empty()
    })
    .await;
    let mut second = PodTraffic::start(cluster, "shop", &new, "color.shop", RATE).unwrap();
    second.report.next_second().await.unwrap();
    let first = first.finish().await.unwrap();
    assert_only_successes(&first);
    wait_before_end(cluster, "front", 0).await;
    cluster
        .wait_for_rollout("shop", "front", DEADLINE)
        .await
        .unwrap();

    restart_deployment(cluster, &restart, "color-v1").await;
    restart_deployment(cluster, &restart, "color-v2").await;
    canary.shift([0, 100]).await.unwrap();
    let split = by_version(&second.seconds(2).await.unwrap().answers);
    assert!(split[0] == 0 && split[1] > 0, "{split:?}");
    let second = second.finish().await.unwrap();
    assert_only_successes(&second);

    // Four applications and a gateway, and a terminating pod may still be connected.
    eventually("six proxies that have proven their identity", async || {
        let mut accepted = 0;
        for pod in pods(cluster, chart::NAMESPACE, "app.kubernetes.io/name=evermesh").await {
            let metrics = cluster.get(chart::NAMESPACE, &pod, 18080, "/metrics").await;
            let metrics = metrics.unwrap();
            assert!(!metrics.contains("outcome=\"anonymous\""), "{metrics}");
            accepted += counter(
                &metrics,
                "evermesh_xds_authentications_total{outcome=\"token\"}",
            );
        }
        accepted >= 6
    })
    .await;
}

fn assert_only_successes(stats: &LoadStats) {
    say(&format!("{stats:?}"));
    assert!(stats.requests() > 0);
    assert_eq!(stats.failed(), 0, "{stats:?}");
}

/// The two commands of the section of docs/install.md, as words.
fn commands() -> [Vec<String>; 2] {
    let page = tools::workspace().unwrap().join("docs/install.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, section) = page
        .split_once("\n## From plaintext to the default\n")
        .unwrap();
    let section = section.split("\n## ").next().unwrap();
    let section = section.replace("\\\n", " ");
    ["helm upgrade", "kubectl rollout restart"].map(|program| {
        let mut lines = section.lines().filter(|line| line.starts_with(program));
        let line = lines.next().unwrap();
        assert_eq!(lines.next(), None, "one command `{program}`");
        line.split_whitespace().map(str::to_owned).collect()
    })
}

/// Restarts a Deployment and waits until its pods are replaced.
async fn restart_deployment(cluster: &TestCluster, command: &[String], name: &str) {
    run(cluster, command, name).await;
    cluster
        .wait_for_rollout("shop", name, DEADLINE)
        .await
        .unwrap();
}

/// Sets the time for which a new pod has to be ready before an old one ends.
async fn wait_before_end(cluster: &TestCluster, name: &str, seconds: u32) {
    let deployment = format!("deployment/{name}");
    let patch = format!("--patch={{\"spec\":{{\"minReadySeconds\":{seconds}}}}}");
    let patch = ["patch", &deployment, "--namespace=shop", &patch];
    cluster.kubectl().run(&patch).await.unwrap();
}

/// Runs the command with the name of a Deployment.
async fn run(cluster: &TestCluster, command: &[String], name: &str) {
    let words = command.iter().map(|word| match word.as_str() {
        "deployment/NAME" => format!("deployment/{name}"),
        "NAMESPACE" => "shop".to_owned(),
        other => other.to_owned(),
    });
    let words: Vec<String> = words.collect();
    say(&words.join(" "));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    cluster.kubectl().run(&words[1..]).await.unwrap();
}

/// The pods with these labels that are ready and not terminating.
async fn pods(cluster: &TestCluster, namespace: &str, labels: &str) -> Vec<String> {
    let selector = format!("--selector={labels}");
    let list = ["get", "pods", "--namespace", namespace, &selector];
    let list = [&list[..], &["--output=json"]].concat();
    let pods = cluster.kubectl().run(&list).await.unwrap();
    let pods: Value = serde_json::from_str(&pods).unwrap();
    let pods = pods["items"].as_array().unwrap().iter().filter(|pod| {
        let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        pod["metadata"]["deletionTimestamp"].is_null()
            && conditions.any(|it| it["type"] == "Ready" && it["status"] == "True")
    });
    let names = pods.map(|pod| pod["metadata"]["name"].as_str().unwrap());
    names.map(str::to_owned).collect()
}

fn counter(metrics: &str, name: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, |value| value.trim().parse().unwrap())
}
