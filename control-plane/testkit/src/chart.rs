//! The Helm chart in an API server without pods.
//!
//! [`Chart::install`] applies the rendered objects except those that only pods give a meaning.
//! Webhook configurations name an address instead of a Service.
//! The test starts the control plane itself, with the arguments of the Deployment and the kubeconfig of its service
//! account:
//!
//! ```text
//! helm template → Chart → install(api) → InstalledChart → ControlPlane::start_installed
//! ```

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use http::{Method, Request, header::CONTENT_TYPE};
use kube::Client;
use serde_json::{Value, json};

use crate::{kubernetes::ApiServer, process, tools, wait::retry};

/// The namespace of the release.
pub const NAMESPACE: &str = "appmesh-system";

/// Values with which xDS serves proxies without credentials, in plaintext.
pub const OPEN_XDS: &str =
    "migration=true,xds.authentication=kubernetes-permissive,xds.tls.enabled=false";

/// Kinds that have no effect without pods.
const KINDS_FOR_PODS: [&str; 3] = ["Deployment", "NetworkPolicy", "PodDisruptionBudget"];

/// The folder of the chart.
pub fn path() -> Result<PathBuf> {
    Ok(tools::workspace()?.join("deploy/chart/evermesh"))
}

/// A Helm command: `action`, the chart's folder, `arguments`.
pub fn helm(action: &[&str], arguments: &[&str]) -> Result<Command> {
    let mut command = process::command(tools::installed("kubernetes/helm")?);
    command.args(action).arg(path()?).args(arguments);
    Ok(command)
}

/// The output of `helm template` for the release `evermesh`.
pub fn render(arguments: &[&str]) -> Result<String> {
    let version = ["--namespace", NAMESPACE, "--kube-version", "1.36.0"];
    process::run(helm(&["template", "evermesh"], &version)?.args(arguments))
}

#[derive(Clone, Debug)]
pub struct Chart {
    /// The rendered objects; a test may change them before it installs them.
    pub objects: Vec<Value>,
}

/// A chart that was installed in an API server.
#[derive(Clone, Debug)]
pub struct InstalledChart {
    /// The kubeconfig of the service account of Evermesh.
    pub kubeconfig: PathBuf,
    /// The address at which the API server calls the webhooks.
    pub webhook: SocketAddr,
    arguments: Vec<String>,
}

impl Chart {
    /// Renders the chart with these arguments of Helm.
    pub fn render(arguments: &[&str]) -> Result<Self> {
        let rendered = render(arguments)?;
        let objects: Vec<Value> = serde_saphyr::from_multiple(&rendered)?;
        Ok(Self {
            objects: objects.into_iter().filter(Value::is_object).collect(),
        })
    }

    /// Like [`Self::render`], with values that let an Envoy connect without credentials and in plaintext.
    pub fn render_open(arguments: &[&str]) -> Result<Self> {
        Self::render(&[&["--set", OPEN_XDS], arguments].concat())
    }

    fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.objects
            .iter()
            .filter(move |object| object["kind"] == kind)
    }

    /// The pod spec of the Deployment.
    fn pod_spec(&self) -> Result<&Value> {
        let deployment = self.of_kind("Deployment").next();
        Ok(&deployment.context("the chart renders no Deployment")?["spec"]["template"]["spec"])
    }

    /// The arguments of the container in a pod with the address 10.0.0.1.
    pub fn arguments(&self) -> Result<Vec<String>> {
        let arguments = self.pod_spec()?["containers"][0]["args"].as_array();
        let arguments = arguments.context("the container has no arguments")?;
        arguments
            .iter()
            .map(|it| {
                let argument = it.as_str().context("an argument is not a string")?;
                Ok(argument.replace("$(POD_IP)", "10.0.0.1"))
            })
            .collect()
    }

    /// Installs the CRDs, the namespace and the objects, and waits until the roles take effect.
    pub async fn install(&self, api: &ApiServer, webhook: SocketAddr) -> Result<InstalledChart> {
        api.apply_path(&path()?.join("crds")).await?;
        api.wait_for_crds().await?;
        api.create_namespace(NAMESPACE).await?;
        let objects = self.objects.iter().filter(|it| {
            let kind = it["kind"].as_str().unwrap_or_default();
            !KINDS_FOR_PODS.contains(&kind)
        });
        let objects: Vec<String> = objects
            .map(|object| with_webhook_address(object, webhook).to_string())
            .collect();
        api.apply(&objects.join("\n---\n")).await?;
        let account = self.pod_spec()?["serviceAccountName"].as_str();
        let account = account.context("the pod spec has no service account")?;
        for role in self.of_kind("ClusterRole").chain(self.of_kind("Role")) {
            if role["metadata"]["labels"]
                .to_string()
                .contains("aggregate-to")
            {
                continue; // A role for people, which is not bound to the service account.
            }
            wait_for_role(api, account, role).await?;
        }
        Ok(InstalledChart {
            kubeconfig: api.service_account_kubeconfig(NAMESPACE, account).await?,
            webhook,
            arguments: self.arguments()?,
        })
    }
}

impl InstalledChart {
    /// The arguments of the container with other addresses.
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
                // Beside another controller, Evermesh serves no webhooks.
                None if flag == "--webhook-address=" => {}
                None => bail!("the Deployment of the chart has no argument {flag}"),
            }
        }
        arguments.push(format!("--webhook-host={}", self.webhook.ip()));
        Ok(arguments)
    }

    /// Waits until the API server calls the webhooks successfully.
    pub async fn wait_for_webhooks(&self, api: &ApiServer) -> Result<()> {
        wait_for_webhooks(&api.client().await?).await
    }
}

/// Waits until the API server calls the webhooks and accepts their certificate and response.
///
/// The probe is a Mesh that is created as a dry run: the mutating webhook sets its `awsName`.
pub async fn wait_for_webhooks(client: &Client) -> Result<()> {
    let probe = json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2",
        "kind": "Mesh",
        "metadata": {"name": "probe"},
        "spec": {"namespaceSelector": {"matchLabels": {"probe": "none"}}},
    });
    retry(
        "the API server does not get a response from the webhooks",
        async || {
            let request = Request::post("/apis/appmesh.k8s.aws/v1beta2/meshes?dryRun=All")
                .header(CONTENT_TYPE, "application/json")
                .body(probe.to_string().into_bytes())?;
            let created: Value = client.request(request).await?;
            if created["spec"]["awsName"] != "probe" {
                bail!("spec.awsName is not set");
            }
            Ok(())
        },
    )
    .await
}

/// The object with an address instead of a Service in each webhook's `clientConfig`.
fn with_webhook_address(object: &Value, address: SocketAddr) -> Value {
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

/// Waits until the API server grants the first rule of a role; it takes a role into account as a whole.
async fn wait_for_role(api: &ApiServer, account: &str, role: &Value) -> Result<()> {
    let granted = &role["rules"][0];
    let question = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": format!("system:serviceaccount:{NAMESPACE}:{account}"),
            "resourceAttributes": {
                "verb": granted["verbs"][0],
                "group": granted["apiGroups"][0],
                "resource": granted["resources"][0],
                "name": granted["resourceNames"][0],
                // Without one, the question is about all namespaces.
                "namespace": role["metadata"]["namespace"],
            },
        },
    });
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let failure = format!("the API server does not grant {}", question["spec"]);
    retry(&failure, async || {
        let answer = api.request(Method::POST, path, &question).await?;
        if answer["status"]["allowed"] != true {
            bail!("the answer is {}", answer["status"]);
        }
        Ok(())
    })
    .await
}

/// Values of an installation of the chart appmesh-controller.
pub fn appmesh_controller_values() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chart/appmesh-controller.yaml")
}
