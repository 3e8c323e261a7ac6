//! The cluster itself.

use std::{fs, path::Path, process::Command, time::Duration};

use evermesh_local_cluster::{PodTraffic, TestCluster, images};
use evermesh_testkit::process;

use crate::say;

const LIMIT: Duration = Duration::from_mins(1);

fn echo() -> String {
    let image = images::tag("evermesh-test-app").unwrap();
    format!(
        "apiVersion: v1
kind: Namespace
metadata: {{name: echo}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: echo, namespace: echo}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: echo}}}}
  template:
    metadata: {{labels: {{app: echo}}}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: app
        image: {image}
        args: [http, --name, echo, --listen, '0.0.0.0:8080']
        readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: echo, namespace: echo}}
spec: {{selector: {{app: echo}}, ports: [{{port: 80, targetPort: 8080}}]}}
"
    )
}

#[tokio::test]
async fn a_cluster_runs_pods_and_leaves_nothing_behind() {
    let cluster = TestCluster::obtain(say).await.unwrap();
    cluster.load(&["evermesh-test-app"]).await.unwrap();
    cluster.clear("echo").await.unwrap();
    let kubectl = cluster.kubectl();
    kubectl.apply(&echo()).await.unwrap();
    cluster
        .wait_for_rollout("echo", "echo", LIMIT)
        .await
        .unwrap();

    // A cluster IP answers a moment after its pods are ready.
    evermesh_testkit::wait::eventually("an answer by name", LIMIT, async || {
        answers(&cluster, "echo.echo.svc.cluster.local").await > 0
    })
    .await;

    let before = pods(&cluster).await;
    let restart = ["rollout", "restart", "deployment/echo", "--namespace=echo"];
    kubectl.run(&restart).await.unwrap();
    cluster
        .wait_for_rollout("echo", "echo", LIMIT)
        .await
        .unwrap();
    let after = pods(&cluster).await;
    assert_eq!((before.len(), after.len()), (2, 2), "{before:?} {after:?}");
    assert!(before.iter().all(|pod| !after.contains(pod)), "{after:?}");

    let gone = ["delete", "namespace", "echo", "--timeout=60s"];
    kubectl.run(&gone).await.unwrap();
    if cluster.logs().is_some() {
        let dir = cluster.dir().to_owned();
        assert!(!traces(&dir).is_empty(), "nothing shows that it runs");
        drop(cluster);
        assert_eq!(traces(&dir), Vec::<String>::new());
    }
}

/// How many of some requests are answered by the Service of this name.
async fn answers(cluster: &TestCluster, name: &str) -> u64 {
    let mut traffic = PodTraffic::start(cluster, "echo", "deployment/echo", name, 50).unwrap();
    // No first second means that the name was not found.
    if traffic.report.next_second().await.is_err() {
        return 0;
    }
    let tally = traffic.finish().await.unwrap();
    tally.answers.get("echo").copied().unwrap_or_default()
}

/// The names of the pods that are not about to end.
async fn pods(cluster: &TestCluster) -> Vec<String> {
    let get = [
        "get",
        "pods",
        "--namespace=echo",
        "--output=go-template={{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}} {{end}}{{end}}",
    ];
    let names = cluster.kubectl().run(&get).await.unwrap();
    names.split_whitespace().map(str::to_owned).collect()
}

/// What the cluster of this folder has on the machine: processes, cgroups, mounts and the folder.
fn traces(dir: &Path) -> Vec<String> {
    let ours = dir.file_name().unwrap().to_str().unwrap();
    let mut traces = Vec::new();
    let cgroups = process::run(Command::new("find").args([
        "/sys/fs/cgroup",
        "-maxdepth",
        "2",
        "-name",
        ours,
    ]));
    traces.extend(cgroups.unwrap().lines().map(str::to_owned));
    for entry in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
        // Processes come and go while we look.
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mounts = fs::read(entry.path().join("mounts")).unwrap_or_default();
        for said in [command, mounts] {
            if String::from_utf8_lossy(&said).contains(ours) {
                traces.push(entry.path().display().to_string());
            }
        }
    }
    if dir.exists() {
        traces.push(dir.display().to_string());
    }
    traces
}
