//! The local cluster itself, without Evermesh.

use std::{fs, path::Path, process::Command};

use evermesh_local_cluster::{PodTraffic, TestCluster, images};
use evermesh_testkit::process;

use crate::{
    common::{DEADLINE, eventually},
    say,
};

fn echo() -> String {
    let image = images::reference("evermesh-test-app").unwrap();
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
async fn cluster_runs_pods_and_leaves_nothing_behind() {
    let cluster = TestCluster::obtain(say).await.unwrap();
    cluster.load(&["evermesh-test-app"]).await.unwrap();
    cluster.clear("echo").await.unwrap();
    let kubectl = cluster.kubectl();
    kubectl.apply(&echo()).await.unwrap();
    cluster
        .wait_for_rollout("echo", "echo", DEADLINE)
        .await
        .unwrap();

    // kube-proxy sets up the cluster IP a moment after the pods are ready.
    eventually("a response by name", async || {
        answers(&cluster, "echo.echo.svc.cluster.local").await > 0
    })
    .await;

    let before = pods(&cluster).await;
    let restart = ["rollout", "restart", "deployment/echo", "--namespace=echo"];
    kubectl.run(&restart).await.unwrap();
    cluster
        .wait_for_rollout("echo", "echo", DEADLINE)
        .await
        .unwrap();
    let after = pods(&cluster).await;
    assert_eq!((before.len(), after.len()), (2, 2), "{before:?} {after:?}");
    assert!(before.iter().all(|pod| !after.contains(pod)), "{after:?}");

    let gone = ["delete", "namespace", "echo", "--timeout=120s"];
    kubectl.run(&gone).await.unwrap();
    if cluster.logs().is_some() {
        let dir = cluster.dir().to_owned();
        assert!(
            !traces(&dir).is_empty(),
            "the search finds a running cluster"
        );
        drop(cluster);
        assert_eq!(traces(&dir), Vec::<String>::new());
    }
}

/// Number of requests that the Service with this name answered.
async fn answers(cluster: &TestCluster, name: &str) -> u64 {
    let mut traffic = PodTraffic::start(cluster, "echo", "deployment/echo", name, 50).unwrap();
    // Without a first report the name did not resolve.
    if traffic.report.next_second().await.is_err() {
        return 0;
    }
    let stats = traffic.finish().await.unwrap();
    stats.answers.get("echo").copied().unwrap_or_default()
}

/// The names of the pods that are not terminating.
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

/// Everything on the machine that belongs to the cluster of this folder: processes, cgroups, mounts and the folder.
fn traces(dir: &Path) -> Vec<String> {
    let name = dir.file_name().unwrap().to_str().unwrap();
    let mut traces = Vec::new();
    let cgroups = process::run(Command::new("find").args([
        "/sys/fs/cgroup",
        "-maxdepth",
        "2",
        "-name",
        name,
    ]));
    traces.extend(cgroups.unwrap().lines().map(str::to_owned));
    for entry in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
        // A process may end between the listing and the reading.
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mounts = fs::read(entry.path().join("mounts")).unwrap_or_default();
        for text in [command, mounts] {
            if String::from_utf8_lossy(&text).contains(name) {
                traces.push(entry.path().display().to_string());
            }
        }
    }
    if dir.exists() {
        traces.push(dir.display().to_string());
    }
    traces
}
