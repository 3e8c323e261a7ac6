//! The canary example in a Kubernetes API: an API server on the control plane's host, with the chart installed.

use std::{net::Ipv4Addr, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{chart::Chart, control_plane::ControlPlane, hosts::LabHost, kubernetes::ApiServer};

const WEBHOOK_PORT: u16 = 9443;

/// The origin of changes of the route in `/debug/changes`.
const ROUTE: &str = "Route/demo/color";

const NAMESPACE: &str = "--namespace=demo";

/// Time between two reads of the route's status.
const POLL: Duration = Duration::from_millis(50);

/// Limit for the route to become Programmed.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct CanaryApi {
    api: ApiServer,
}

impl CanaryApi {
    /// Starts the API server on a host, installs the chart and starts the control plane with more arguments.
    pub(super) async fn build(
        host: &LabHost,
        arguments: &[String],
        mut progress: impl FnMut(&str),
    ) -> Result<(Self, ControlPlane)> {
        progress("starting a Kubernetes API server: etcd and kube-apiserver");
        let api = ApiServer::start_on(host).await?;
        progress("installing the chart: CRDs, roles and webhooks; starting the control plane");
        let arguments = format!("extraArgs={{{}}}", arguments.join(","));
        let chart = Chart::render_open(&["--set", &arguments])?;
        let webhook = (Ipv4Addr::LOCALHOST, WEBHOOK_PORT).into();
        let installed = chart.install(&api, webhook).await?;
        let mut control_plane = ControlPlane::start_installed_on(host, &installed)?;
        control_plane.ready().await?;
        installed.wait_for_webhooks(&api).await?;
        Ok((Self { api }, control_plane))
    }

    /// Applies a folder of manifests and returns the commands for the output.
    pub(super) async fn apply_all(&self, folder: &Path) -> Result<Vec<String>> {
        let mut commands = Vec::new();
        // mesh.yaml has the namespace, which the other files need.
        for path in [folder.join("mesh.yaml"), folder.to_owned()] {
            self.apply(&path).await?;
            let path = Path::new("examples")
                .join(path.strip_prefix(folder.parent().context("the folder has no parent")?)?);
            commands.push(format!("kubectl apply -f {}", path.display()));
        }
        Ok(commands)
    }

    /// Applies a file and returns the origin of the change in `/debug/changes`.
    pub(super) async fn apply(&self, file: &Path) -> Result<&'static str> {
        let file = file
            .to_str()
            .with_context(|| format!("{} is not UTF-8", file.display()))?;
        self.api.kubectl(&["apply", "--filename", file]).await?;
        Ok(ROUTE)
    }

    /// Waits until the route is Programmed and returns `kubectl get` with its output.
    pub(super) async fn kubectl_get(&self) -> Result<String> {
        let message = self.programmed().await?;
        let list = ["get", "virtualservices,routes", NAMESPACE];
        let table = self.api.kubectl(&list).await?;
        Ok(format!(
            "$ kubectl {}\n{}\nProgrammed: {message}",
            list.join(" "),
            table.trim_end()
        ))
    }

    /// Waits until the status says that the newest generation is Programmed, and returns the message.
    async fn programmed(&self) -> Result<String> {
        let mut last = Value::Null;
        let poll = async {
            loop {
                let object = self.api.get("route/color", "demo").await?;
                let object = object.unwrap_or_default();
                let status = &object["status"];
                let conditions = status["conditions"].as_array().into_iter().flatten();
                let mut programmed =
                    conditions.filter(|condition| condition["type"] == "Programmed");
                let is_current = status["observedGeneration"] == object["metadata"]["generation"];
                match programmed.next() {
                    // Before the proxies connect, no proxy has to accept the route.
                    Some(found)
                        if is_current
                            && found["status"] == "True"
                            && found["reason"] != "NoProxies" =>
                    {
                        let message = found["message"].as_str().unwrap_or_default();
                        return anyhow::Ok(message.to_owned());
                    }
                    _ => last = object["status"].clone(),
                }
                tokio::time::sleep(POLL).await;
            }
        };
        match tokio::time::timeout(LIMIT, poll).await {
            Ok(found) => found,
            Err(_) => bail!("the route was not Programmed within {LIMIT:?}; its status is {last}"),
        }
    }
}
