//! Evermesh in a cluster, as Helm installs it.

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

use crate::{ROLLOUT, TestCluster, images};
use evermesh_testkit::{chart, envoy::EnvoyVersion};

/// Installs Evermesh by its chart, with this Envoy for pods, and waits until its webhooks answer.
///
/// The images that pods of tests need are loaded too; `say` hears of each step.
pub async fn install(
    cluster: &TestCluster,
    version: EnvoyVersion,
    mut say: impl FnMut(&str),
) -> Result<()> {
    say("loading images: Evermesh, Envoy, a test application");
    let envoy = format!("envoy-{}", version.number());
    let needed = [
        "evermesh",
        "evermesh-proxy-init",
        "evermesh-test-app",
        &envoy,
    ];
    cluster.load(&needed).await?;
    say("helm install evermesh deploy/chart/evermesh --namespace appmesh-system");
    let mut arguments = vec!["--namespace".to_owned(), chart::NAMESPACE.to_owned()];
    arguments.extend(["--create-namespace", "--wait", "--timeout", "3m"].map(str::to_owned));
    for (value, name) in [
        ("image", "evermesh"),
        ("init.image", "evermesh-proxy-init"),
        ("sidecar.image", &envoy),
    ] {
        let image = images::tag(name)?;
        let (repository, tag) = image.rsplit_once(':').context("a name and a tag")?;
        arguments.extend([
            "--set".to_owned(),
            format!("{value}.repository={repository}"),
        ]);
        arguments.extend(["--set-string".to_owned(), format!("{value}.tag={tag}")]);
    }
    // Who cannot show whose proxy it is gets nothing.
    let strict = "xds.authentication=kubernetes";
    arguments.extend(["--set".to_owned(), strict.to_owned()]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let action = ["upgrade", "--install", "evermesh"];
    let mut helm = Command::from(chart::helm(&action, &arguments)?);
    let output = helm
        .env("KUBECONFIG", cluster.kubectl().kubeconfig())
        .output()
        .await?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let state = ["get", "pods,events", "--namespace", chart::NAMESPACE];
        bail!("helm: {why}\n{}", cluster.kubectl().run(&state).await?);
    }
    wait_until_serving(cluster).await
}

/// Waits until Evermesh's pods are there, and the API server reaches them: a cluster IP answers a moment after its pods
/// are ready.
pub async fn wait_until_serving(cluster: &TestCluster) -> Result<()> {
    cluster
        .wait_for_rollout(chart::NAMESPACE, "evermesh", ROLLOUT)
        .await?;
    chart::wait_for_webhooks(cluster.kubectl()).await
}
