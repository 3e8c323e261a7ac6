//! The example in a cluster: an API server on the control plane's host, the chart installed in it, and `kubectl`.

use std::{net::Ipv4Addr, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{chart::Chart, control_plane::ControlPlane, hosts::LabHost, kubernetes::ApiServer};

/// Where the API server calls the webhooks.
const WEBHOOK_PORT: u16 = 9443;

/// How the control plane calls changes of the route.
const ROUTE: &str = "Route/demo/color";

const NAMESPACE: &str = "--namespace=demo";

/// How often it is asked for a status.
const POLL: Duration = Duration::from_millis(50);

/// How long a status may take.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct CanaryApi {
    api: ApiServer,
}

impl CanaryApi {
    /// Builds it up on a host, with a control plane that has these arguments too.
    pub(super) async fn build(
        host: &LabHost,
        arguments: &[String],
        mut say: impl FnMut(&str),
    ) -> Result<(Self, ControlPlane)> {
        say("starting a Kubernetes API server: etcd and kube-apiserver");
        let api = ApiServer::start_on(host).await?;
        say(
            "installing the chart: definitions, rights, webhooks; and starting the control plane by them",
        );
        let arguments = format!("extraArgs={{{}}}", arguments.join(","));
        let chart = Chart::render(&["--set", &arguments])?;
        let webhook = (Ipv4Addr::LOCALHOST, WEBHOOK_PORT).into();
        let installed = chart.install(&api, webhook).await?;
        let mut control_plane = ControlPlane::start_installed_on(host, &installed)?;
        control_plane.ready().await?;
        installed.wait_for_webhooks(&api).await?;
        Ok((Self { api }, control_plane))
    }

    /// Applies a folder of manifests; returns the commands.
    pub(super) async fn apply_all(&self, folder: &Path) -> Result<Vec<String>> {
        let mut commands = Vec::new();
        // The namespace comes first.
        for path in [folder.join("mesh.yaml"), folder.to_owned()] {
            self.apply(&path).await?;
            let path = Path::new("examples")
                .join(path.strip_prefix(folder.parent().context("a folder lies in a folder")?)?);
            commands.push(format!("kubectl apply -f {}", path.display()));
        }
        Ok(commands)
    }

    /// Applies a file; returns what a change of the route is called by the control plane.
    pub(super) async fn apply(&self, file: &Path) -> Result<&'static str> {
        let file = file.to_str().context("a path in UTF-8")?;
        self.api.kubectl(&["apply", "--filename", file]).await?;
        Ok(ROUTE)
    }

    pub(super) async fn shown(&self) -> Result<String> {
        let message = self.programmed().await?;
        let list = ["get", "virtualservices,routes", NAMESPACE];
        let table = self.api.kubectl(&list).await?;
        Ok(format!(
            "$ kubectl {}\n{}\nProgrammed: {message}",
            list.join(" "),
            table.trim_end()
        ))
    }

    /// Waits until the status says that the newest weights are in force; returns its words.
    async fn programmed(&self) -> Result<String> {
        let route = [
            "get",
            "routes.evermesh.dev",
            "color",
            NAMESPACE,
            "--output=json",
        ];
        let mut last = Value::Null;
        let asking = async {
            loop {
                let object: Value = serde_json::from_str(&self.api.kubectl(&route).await?)?;
                let status = &object["status"];
                let conditions = status["conditions"].as_array().into_iter().flatten();
                let mut programmed = conditions.filter(|it| it["type"] == "Programmed");
                let is_current = status["observedGeneration"] == object["metadata"]["generation"];
                match programmed.next() {
                    Some(found) if is_current && found["status"] == "True" => {
                        let message = found["message"].as_str().unwrap_or_default();
                        return anyhow::Ok(message.to_owned());
                    }
                    _ => last = object["status"].clone(),
                }
                tokio::time::sleep(POLL).await;
            }
        };
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(found) => found,
            Err(_) => bail!("the route was not programmed within {PATIENCE:?}: {last}"),
        }
    }
}
