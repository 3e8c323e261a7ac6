//! Installs Evermesh in a cluster with Helm.

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

use crate::{ROLLOUT, TestCluster, images};
use evermesh_testkit::{chart, envoy::EnvoyVersion, process, tools};

/// Installs the chart with this Envoy as the sidecar, and waits until the webhooks answer.
///
/// Also loads the images of test pods. `progress` gets a line for each step.
pub async fn install(
    cluster: &TestCluster,
    version: EnvoyVersion,
    progress: impl FnMut(&str),
) -> Result<()> {
    install_with(cluster, version, &[], progress).await
}

/// Like [`install`], with further arguments of Helm.
pub async fn install_with(
    cluster: &TestCluster,
    version: EnvoyVersion,
    more: &[&str],
    mut progress: impl FnMut(&str),
) -> Result<()> {
    progress("loading images: Evermesh, Envoy and a test application");
    let envoy = format!("envoy-{}", version.number());
    let needed = [
        "evermesh",
        "evermesh-proxy-init",
        "evermesh-test-app",
        &envoy,
    ];
    cluster.load(&needed).await?;
    progress("helm install evermesh deploy/chart/evermesh --namespace appmesh-system");
    let mut arguments = vec!["--namespace".to_owned(), chart::NAMESPACE.to_owned()];
    arguments.extend(["--create-namespace", "--wait", "--timeout", "3m"].map(str::to_owned));
    for (value, name) in [
        ("image", "evermesh"),
        ("init.image", "evermesh-proxy-init"),
        ("sidecar.image", &envoy),
    ] {
        let image = images::reference(name)?;
        let (repository, tag) = image
            .rsplit_once(':')
            .with_context(|| format!("`{image}` has no tag"))?;
        arguments.extend([
            "--set".to_owned(),
            format!("{value}.repository={repository}"),
        ]);
        arguments.extend(["--set-string".to_owned(), format!("{value}.tag={tag}")]);
    }
    let chart = chart::path()?.display().to_string();
    let mut all = vec!["upgrade", "--install", "evermesh", &chart];
    all.extend(arguments.iter().map(String::as_str));
    all.extend(more);
    if let Err(error) = helm(cluster, &all).await {
        let state = ["get", "pods,events", "--namespace", chart::NAMESPACE];
        return Err(error.context(cluster.kubectl().run(&state).await?));
    }
    wait_until_serving(cluster).await
}

/// Runs Helm in the folder of the workspace; the error quotes its standard error.
pub async fn helm(cluster: &TestCluster, arguments: &[&str]) -> Result<()> {
    let mut helm = Command::from(process::command(tools::installed("kubernetes/helm")?));
    helm.args(arguments)
        .current_dir(tools::workspace()?)
        .env("KUBECONFIG", cluster.kubectl().kubeconfig());
    let output = helm.output().await?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("helm {} failed: {reason}", arguments.join(" "));
    }
    Ok(())
}

/// Waits until the pods of Evermesh are ready and the API server can call the webhooks, whose cluster IP answers a moment
/// later.
pub async fn wait_until_serving(cluster: &TestCluster) -> Result<()> {
    cluster
        .wait_for_rollout(chart::NAMESPACE, "evermesh", ROLLOUT)
        .await?;
    chart::wait_for_webhooks(&cluster.client().await?).await
}
