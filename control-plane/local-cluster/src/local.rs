//! The local cluster: starts the components, waits for them and imports images.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use http::Request;
use kube::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    cgroup::Cgroup,
    components::{self, Components, DNS_READY_PORT, NODE, PROXY_HEALTH_PORT},
    images,
};
use evermesh_testkit::{
    hosts::{Lab, LabHost},
    http::Address,
    kubernetes::{self, ApiServer},
    process::Process,
    tools,
};

/// Limit for one step of the start on a busy machine.
const START: Duration = Duration::from_mins(2);

/// Time between two checks.
const POLL: Duration = Duration::from_millis(50);

/// The fields are in the order in which they are dropped: a component before those that it calls, files after the
/// processes that use them.
#[derive(Debug)]
pub(crate) struct LocalCluster {
    components: Vec<Component>,
    _api: ApiServer,
    node: LabHost,
    outside: LabHost,
    _cgroup: Cgroup,
    dir: TempDir,
    logs: TempDir,
    _lab: Lab,
}

#[derive(Debug)]
struct Component {
    name: &'static str,
    process: Process,
}

impl LocalCluster {
    pub(crate) async fn start(mut progress: impl FnMut(&str)) -> Result<Self> {
        let started = Instant::now();
        let mut report = |what: &str| {
            progress(&format!(
                "{:5.1} s  {what}",
                started.elapsed().as_secs_f64()
            ));
        };
        let (dir, logs) = (tools::scratch("cluster")?, tools::scratch("logs")?);
        let cgroup = Cgroup::create(dir.path())?;
        let mut lab = Lab::start().await?;
        let node = lab.node(NODE).await?;
        let outside = lab.host("outside").await?;
        let setup = Components {
            node: &node,
            dir: dir.path(),
            cgroup: cgroup.path(),
        };
        setup.prepare()?;
        report("namespaces, a bridge and cgroups are created");

        let spawn = |name: &'static str, command: Command| {
            let log = logs.path().join(format!("{name}.log"));
            anyhow::Ok(Component {
                name,
                process: Process::spawn(name, command, &log)?,
            })
        };
        let mut components = vec![spawn("containerd", setup.containerd()?)?];
        let api = ApiServer::start_with_pods_on(&node).await?;
        report("etcd and kube-apiserver are ready");
        components.push(spawn(
            "kube-controller-manager",
            setup.controller_manager(&api)?,
        )?);
        components.push(spawn("kube-scheduler", setup.scheduler(&api)?)?);
        components.push(spawn("kubelet", setup.kubelet(&api)?)?);
        components.push(spawn("kube-proxy", setup.proxy(&api)?)?);
        api.apply(&components::dns_rights()).await?;
        components.push(spawn("coredns", setup.dns(&api)?)?);
        report("the other components are started");

        write_kubeconfig(&dir.path().join("kubeconfig"), &api)?;
        let mut local = Self {
            components,
            _api: api,
            node,
            outside,
            _cgroup: cgroup,
            dir,
            logs,
            _lab: lab,
        };
        if let Err(error) = local.become_ready(&mut report).await {
            // Keep the logs that the error names; `scratch` of a later process removes them.
            local.logs.disable_cleanup(true);
            return Err(error);
        }
        Ok(local)
    }

    async fn become_ready(&mut self, report: &mut impl FnMut(&str)) -> Result<()> {
        let client = kubernetes::client(&self.kubeconfig()).await?;
        let socket = self.dir.path().join("containerd.sock");
        self.wait("containerd", "listening", async || {
            if !socket.exists() {
                bail!("{} does not exist", socket.display());
            }
            Ok(())
        })
        .await?;
        self.load(&["evermesh-pause"]).await?;
        report("containerd has the pause image");
        let account = "/api/v1/namespaces/default/serviceaccounts/default";
        self.wait(
            "kube-controller-manager",
            "running its controllers",
            async || get(&client, account).await.map(drop),
        )
        .await?;
        let rules = self.node.loopback(PROXY_HEALTH_PORT);
        self.wait("kube-proxy", "ready", async || {
            rules.get("/healthz").await.map(drop)
        })
        .await?;
        let names = self.node.loopback(DNS_READY_PORT);
        self.wait("coredns", "ready", async || {
            names.get("/ready").await.map(drop)
        })
        .await?;
        report("controllers, cluster IPs and DNS work");
        self.wait("kubelet", "ready", async || {
            let node = get(&client, &format!("/api/v1/nodes/{NODE}")).await?;
            let conditions = node["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten();
            let ready = conditions
                .into_iter()
                .find(|condition| condition["type"] == "Ready");
            match ready {
                Some(ready) if ready["status"] == "True" && node["spec"]["taints"].is_null() => {
                    Ok(())
                }
                other => bail!("its condition Ready is {}", other.unwrap_or(&Value::Null)),
            }
        })
        .await?;
        report("the node is Ready");
        Ok(())
    }

    /// Waits until `ready` succeeds. If it does not, or if any component ends, the error names the component and its log.
    async fn wait(
        &mut self,
        name: &str,
        what: &str,
        mut ready: impl AsyncFnMut() -> Result<()>,
    ) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            let Err(error) = ready().await else {
                return Ok(());
            };
            for component in &mut self.components {
                if let Some(status) = component.process.exited()? {
                    bail!(
                        "{} ended ({status}); {}",
                        component.name,
                        log_excerpt(self.logs.path(), component)
                    );
                }
            }
            if Instant::now() > deadline {
                let mut components = self.components.iter();
                let component = components.find(|component| component.name == name);
                let log = component.map(|component| log_excerpt(self.logs.path(), component));
                bail!(
                    "{name} is not {what} after {START:?}: {error:#}; {}",
                    log.unwrap_or_default()
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Writes these images and imports them into containerd.
    pub(crate) async fn load(&self, names: &[&str]) -> Result<()> {
        let socket = self.dir.path().join("containerd.sock");
        let socket = socket.display().to_string();
        for archive in images::write(names).await? {
            let mut import = tokio::process::Command::from(components::import(&socket, &archive));
            let output = import.output().await?;
            if !output.status.success() {
                bail!(
                    "importing {}: {}",
                    archive.display(),
                    String::from_utf8_lossy(&output.stderr).trim()
                );
            }
        }
        Ok(())
    }

    /// The path of an administrator's kubeconfig for clients on this machine.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// A folder that exists as long as the cluster.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A port of the node, reached through a lab host outside of the cluster.
    pub(crate) fn node_port(&self, port: u16) -> Address {
        self.outside.reach((self.node.ip(), port).into())
    }

    /// The folder with the logs of the components.
    pub(crate) fn logs(&self) -> &Path {
        self.logs.path()
    }
}

/// The path and the end of a component's log.
fn log_excerpt(logs: &Path, component: &Component) -> String {
    let log = logs.join(format!("{}.log", component.name));
    format!(
        "its log is {} and ends with: {}",
        log.display(),
        component.process.log()
    )
}

async fn get(client: &Client, path: &str) -> Result<Value> {
    let answer = client
        .request_text(Request::get(path).body(Vec::new())?)
        .await?;
    Ok(serde_json::from_str(&answer)?)
}

/// Copies the administrator's kubeconfig with the address of the API server for programs of this machine.
fn write_kubeconfig(path: &Path, api: &ApiServer) -> Result<()> {
    let mut config: Value = serde_json::from_str(&fs::read_to_string(api.kubeconfig())?)?;
    config["clusters"][0]["cluster"]["server"] = json!(api.local_url());
    fs::write(path, config.to_string()).with_context(|| format!("writing {}", path.display()))
}
