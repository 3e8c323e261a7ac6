//! The Helm chart, installed as a user installs it, but for what needs a cluster that runs pods.
//!
//! The API server calls the webhooks at an address instead of a Service, and the program that the Deployment would run
//! is started by the test: with the Deployment's arguments, and with the rights of its service account.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::{
    kubernetes::{ApiServer, Kubectl},
    process, tools,
};

/// Where the chart is installed.
pub const NAMESPACE: &str = "appmesh-system";

/// Nobody could act on these here: no pod runs, and there is no network between pods.
const OF_A_RUNNING_CLUSTER: [&str; 3] = ["Deployment", "NetworkPolicy", "PodDisruptionBudget"];

/// How long the API server may take to notice rights and webhooks.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the chart lies.
pub fn path() -> Result<PathBuf> {
    Ok(tools::workspace()?.join("deploy/chart/evermesh"))
}

/// Helm, on the chart, with further arguments.
pub fn helm(action: &[&str], arguments: &[&str]) -> Result<Command> {
    let mut command = process::command(tools::installed("kubernetes/helm")?);
    command.args(action).arg(path()?).args(arguments);
    Ok(command)
}

/// What the chart renders as the release `evermesh`.
pub fn render(arguments: &[&str]) -> Result<String> {
    let version = ["--namespace", NAMESPACE, "--kube-version", "1.36.0"];
    process::run(helm(&["template", "evermesh"], &version)?.args(arguments))
}

/// The chart's objects.
#[derive(Clone, Debug)]
pub struct Chart {
    /// As they were rendered; a test may break them.
    pub objects: Vec<Value>,
}

/// The chart as it is installed in an API server.
#[derive(Clone, Debug)]
pub struct InstalledChart {
    /// The kubeconfig of the service account that Evermesh runs as.
    pub kubeconfig: PathBuf,
    /// Where the API server calls the webhooks.
    pub webhook: SocketAddr,
    arguments: Vec<String>,
}

impl Chart {
    /// Renders it with these arguments of Helm.
    pub fn render(arguments: &[&str]) -> Result<Self> {
        let rendered = render(arguments)?;
        let objects: Vec<Value> = serde_saphyr::from_multiple(&rendered)?;
        Ok(Self {
            objects: objects.into_iter().filter(Value::is_object).collect(),
        })
    }

    fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.objects
            .iter()
            .filter(move |object| object["kind"] == kind)
    }

    /// The one Deployment's pods.
    fn pod(&self) -> Result<&Value> {
        let deployment = self.of_kind("Deployment").next();
        Ok(&deployment.context("the chart renders a Deployment")?["spec"]["template"]["spec"])
    }

    /// The arguments of the program in a pod with the address 10.0.0.1.
    pub fn arguments(&self) -> Result<Vec<String>> {
        let arguments = self.pod()?["containers"][0]["args"].as_array();
        let arguments = arguments.context("the container has arguments")?;
        arguments
            .iter()
            .map(|it| {
                let argument = it.as_str().context("an argument is a string")?;
                Ok(argument.replace("$(POD_IP)", "10.0.0.1"))
            })
            .collect()
    }

    /// Installs it, its definitions and its namespace, and waits until its rights are in force.
    pub async fn install(&self, api: &ApiServer, webhook: SocketAddr) -> Result<InstalledChart> {
        api.apply_path(&path()?.join("crds")).await?;
        api.wait_for_crds().await?;
        api.create_namespace(NAMESPACE).await?;
        let objects = self.objects.iter().filter(|it| {
            let kind = it["kind"].as_str().unwrap_or_default();
            !OF_A_RUNNING_CLUSTER.contains(&kind)
        });
        let objects: Vec<String> = objects
            .map(|object| at_an_address(object, webhook).to_string())
            .collect();
        api.apply(&objects.join("\n---\n")).await?;
        let account = self.pod()?["serviceAccountName"].as_str();
        let account = account.context("the pod has a service account")?;
        for role in self.of_kind("ClusterRole").chain(self.of_kind("Role")) {
            if role["metadata"]["labels"]
                .to_string()
                .contains("aggregate-to")
            {
                continue; // For people, and bound to nobody yet.
            }
            noticed(api, account, role).await?;
        }
        Ok(InstalledChart {
            kubeconfig: api.service_account_kubeconfig(NAMESPACE, account).await?,
            webhook,
            arguments: self.arguments()?,
        })
    }
}

impl InstalledChart {
    /// The arguments of the program with other addresses.
    pub fn arguments(
        &self,
        xds: SocketAddr,
        [admin, metrics]: [SocketAddr; 2],
        webhook: SocketAddr,
    ) -> Result<Vec<String>> {
        let mut arguments = self.arguments.clone();
        for (flag, address) in [
            ("--xds-address=", xds.to_string()),
            ("--admin-address=", admin.to_string()),
            ("--metrics-address=", metrics.to_string()),
            ("--advertise-address=", metrics.ip().to_string()),
            ("--webhook-address=", webhook.to_string()),
        ] {
            let found = arguments.iter_mut().find(|it| it.starts_with(flag));
            match found {
                Some(argument) => *argument = format!("{flag}{address}"),
                // Beside another controller it serves none.
                None if flag == "--webhook-address=" => {}
                None => bail!("the chart does not give {flag}"),
            }
        }
        arguments.push(format!("--webhook-host={}", self.webhook.ip()));
        Ok(arguments)
    }

    /// Waits until the API server asks the webhooks, trusts them and has an answer.
    pub async fn wait_for_webhooks(&self, api: &ApiServer) -> Result<()> {
        wait_for_webhooks(&api.kubectl).await
    }
}

/// Waits until the API server asks the webhooks, trusts them and has an answer.
pub async fn wait_for_webhooks(kubectl: &Kubectl) -> Result<()> {
    let probe = json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2",
        "kind": "Mesh",
        "metadata": {"name": "probe"},
        "spec": {"namespaceSelector": {"matchLabels": {"probe": "none"}}},
    });
    let dir = tools::scratch("probe")?;
    let file = dir.path().join("mesh.json");
    std::fs::write(&file, probe.to_string())?;
    let file = file.to_string_lossy();
    let create = [
        "create",
        "--dry-run=server",
        "--output=json",
        "--filename",
        &file,
    ];
    eventually("the webhooks are asked", async || {
        let created: Value = serde_json::from_str(&kubectl.run(&create).await?)?;
        if created["spec"]["awsName"] != "probe" {
            bail!("awsName is not filled in");
        }
        Ok(())
    })
    .await
}

/// A webhook configuration that leads to an address; other objects stay as they are.
fn at_an_address(object: &Value, address: SocketAddr) -> Value {
    let mut object = object.clone();
    if let Some(Value::Array(webhooks)) = object.get_mut("webhooks") {
        for webhook in webhooks {
            let client = &mut webhook["clientConfig"];
            let path = client["service"]["path"].as_str().unwrap_or_default();
            *client = json!({"url": format!("https://{address}{path}")});
        }
    }
    object
}

/// Waits until the API server grants what a role says: it takes up a role as a whole.
async fn noticed(api: &ApiServer, account: &str, role: &Value) -> Result<()> {
    let word = |list: &Value| list[0].as_str().unwrap_or_default().to_owned();
    let granted = &role["rules"][0];
    let resource = format!(
        "{}.{}",
        word(&granted["resources"]),
        word(&granted["apiGroups"])
    );
    let question = [
        "auth",
        "can-i",
        &word(&granted["verbs"]),
        resource.trim_end_matches('.'),
        &format!("--as=system:serviceaccount:{NAMESPACE}:{account}"),
        match role["metadata"]["namespace"].as_str() {
            Some(_) => "--namespace=appmesh-system",
            None => "--all-namespaces",
        },
    ];
    eventually(&question.join(" "), async || {
        api.kubectl(&question).await.map(drop)
    })
    .await
}

async fn eventually(what: &str, mut attempt: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    let mut last = None;
    let trying = async {
        while let Err(error) = attempt().await {
            last = Some(error);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, trying).await.is_err() {
        bail!(
            "in vain: {what}: {:#}",
            last.unwrap_or_else(|| anyhow::anyhow!("no answer"))
        );
    }
    Ok(())
}

/// The values of somebody who installed the chart appmesh-controller.
pub fn appmesh_controller_values() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chart/appmesh-controller.yaml")
}
