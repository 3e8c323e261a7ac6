//! Removal of Evermesh from a cluster with registration, in several orders.

use evermesh_local_cluster::{TestCluster, helm, install_with};
use evermesh_testkit::{chart, envoy::EnvoyVersion};
use tokio::process::Command;

use crate::{common::eventually, say};

/// A mesh with a node in Cloud Map. The address of Cloud Map does not answer, so the node keeps its finalizer.
const MESH: &str = "apiVersion: v1
kind: Namespace
metadata: {name: yard, labels: {mesh: yard}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {name: yard}
spec: {namespaceSelector: {matchLabels: {mesh: yard}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: red, namespace: yard}
spec:
  podSelector: {matchLabels: {app: red}}
  listeners: [{portMapping: {port: 80, protocol: http}}]
  serviceDiscovery: {awsCloudMap: {namespaceName: yard.local, serviceName: red}}
";

const VALUES: [&str; 6] = [
    "--set",
    "cloudMap.registration=true,region=us-east-1",
    "--set",
    "env.AWS_ACCESS_KEY_ID=test,env.AWS_SECRET_ACCESS_KEY=test",
    "--set",
    "extraArgs={--cloud-map-endpoint=http://127.0.0.1:9}",
];

const CONFIGURATIONS: [&str; 2] = [
    "mutatingwebhookconfiguration/appmesh-controller-mutating-webhook-configuration",
    "validatingwebhookconfiguration/appmesh-controller-validating-webhook-configuration",
];

#[tokio::test]
async fn evermesh_and_its_objects_can_be_removed_in_any_order() {
    let cluster = TestCluster::obtain(say).await.unwrap();
    if cluster.logs().is_none() {
        return; // The test deletes CRDs, with the objects of every mesh.
    }
    install(&cluster).await;
    let refused = remove_finalizers(&cluster).await.unwrap_err();
    assert!(refused.contains("run `helm uninstall` first"), "{refused}");

    say("Evermesh first, then the objects, then the finalizers");
    uninstall(&cluster).await;
    kubectl(&cluster, &["delete", "namespace", "yard", "--wait=false"]).await;
    kubectl(&cluster, &["delete", "mesh", "yard", "--timeout=60s"]).await;
    let held = ["get", "virtualnode/red", "--namespace=yard"];
    let held = [&held[..], &["--output=jsonpath={.metadata.finalizers}"]].concat();
    assert!(kubectl(&cluster, &held).await.contains("cloudmap"));
    let printed = remove_finalizers(&cluster).await.unwrap();
    assert!(
        printed.contains("may remain in the Cloud Map service red.yard.local"),
        "{printed}"
    );
    let gone = ["wait", "--for=delete", "namespace/yard", "--timeout=120s"];
    kubectl(&cluster, &gone).await;

    say("the CRDs first, then the namespace of Evermesh without Helm");
    install(&cluster).await;
    delete_crds(&cluster, &["--wait=false"]).await;
    kubectl(
        &cluster,
        &["delete", "namespace", chart::NAMESPACE, "--timeout=120s"],
    )
    .await;
    let refused = remove_finalizers(&cluster).await.unwrap_err();
    assert!(
        refused.contains("or delete the configuration if its owner is gone"),
        "{refused}"
    );
    kubectl(&cluster, &[&["delete"][..], &CONFIGURATIONS].concat()).await;
    remove_finalizers(&cluster).await.unwrap();
    eventually("the end of the CRDs", async || {
        crds(&cluster).await.is_empty()
    })
    .await;
    kubectl(&cluster, &["delete", "namespace", "yard", "--timeout=120s"]).await;
}

/// Installs Evermesh with registration and a node that has the finalizer.
async fn install(cluster: &TestCluster) {
    install_with(cluster, EnvoyVersion::Newest, &VALUES, say)
        .await
        .unwrap();
    cluster.kubectl().apply(MESH).await.unwrap();
    let get = ["get", "virtualnode/red", "--namespace=yard"];
    let get = [&get[..], &["--output=jsonpath={.metadata.finalizers}"]].concat();
    eventually("the finalizer of registration", async || {
        kubectl(cluster, &get).await.contains("cloudmap")
    })
    .await;
}

async fn uninstall(cluster: &TestCluster) {
    let uninstall = ["uninstall", "evermesh", "--wait", "--namespace"];
    let uninstall = [&uninstall[..], &[chart::NAMESPACE]].concat();
    helm(cluster, &uninstall).await.unwrap();
}

/// Runs `evermesh remove-finalizers`. Returns what it prints, as an error if it fails.
async fn remove_finalizers(cluster: &TestCluster) -> Result<String, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_evermesh"))
        .arg("remove-finalizers")
        .env("KUBECONFIG", cluster.kubectl().kubeconfig())
        .output()
        .await
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let printed = if output.status.success() {
        Ok(text(output.stdout))
    } else {
        Err(text(output.stderr))
    };
    say(&format!("evermesh remove-finalizers: {printed:?}"));
    printed
}

async fn crds(cluster: &TestCluster) -> Vec<String> {
    let list = kubectl(cluster, &["get", "crds", "--output=name"]).await;
    let ours = list
        .lines()
        .filter(|it| it.ends_with(".appmesh.k8s.aws") || it.ends_with(".evermesh.dev"));
    ours.map(str::to_owned).collect()
}

async fn delete_crds(cluster: &TestCluster, arguments: &[&str]) {
    let crds = crds(cluster).await;
    assert_eq!(crds.len(), 8);
    let crds: Vec<&str> = crds.iter().map(String::as_str).collect();
    kubectl(cluster, &[&["delete"], arguments, &crds].concat()).await;
}

async fn kubectl(cluster: &TestCluster, arguments: &[&str]) -> String {
    cluster.kubectl().run(arguments).await.unwrap()
}
