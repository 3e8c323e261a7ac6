//! A whole Kubernetes of one node on this machine, in namespaces of its own.

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
    images,
    parts::{self, DNS_READY_PORT, NODE, PROXY_HEALTH_PORT, Parts},
};
use evermesh_testkit::{
    hosts::{Lab, LabHost},
    http::Address,
    kubernetes::{self, ApiServer},
    process::Process,
    relay::PortForward,
    tools,
};

/// For one step, on a busy machine.
const START: Duration = Duration::from_mins(2);

/// Between two looks.
const POLL: Duration = Duration::from_millis(50);

/// What runs, in the order in which it ends: a part before those that it asks, files after those who use them.
#[derive(Debug)]
pub(crate) struct Local {
    _door: PortForward,
    parts: Vec<Part>,
    _api: ApiServer,
    node: LabHost,
    outside: LabHost,
    _cgroup: Cgroup,
    dir: TempDir,
    logs: TempDir,
    _lab: Lab,
}

#[derive(Debug)]
struct Part {
    name: &'static str,
    process: Process,
}

impl Local {
    pub(crate) async fn start(mut say: impl FnMut(&str)) -> Result<Self> {
        let started = Instant::now();
        let mut tell = |what: &str| {
            say(&format!(
                "{:5.1} s  {what}",
                started.elapsed().as_secs_f64()
            ));
        };
        let (dir, logs) = (tools::scratch("cluster")?, tools::scratch("logs")?);
        let cgroup = Cgroup::create(dir.path())?;
        let mut lab = Lab::start().await?;
        let node = lab.node(NODE).await?;
        let outside = lab.host("outside").await?;
        let plan = Parts {
            node: &node,
            dir: dir.path(),
            cgroup: cgroup.path(),
        };
        plan.prepare()?;
        tell("namespaces, a bridge and cgroups are made");

        let spawn = |name: &'static str, command: Command| {
            let log = logs.path().join(format!("{name}.log"));
            anyhow::Ok(Part {
                name,
                process: Process::spawn(name, command, &log)?,
            })
        };
        let mut parts = vec![spawn("containerd", plan.containerd()?)?];
        let api = ApiServer::start_with_pods_on(&node).await?;
        tell("etcd and kube-apiserver are ready");
        parts.push(spawn(
            "kube-controller-manager",
            plan.controller_manager(&api)?,
        )?);
        parts.push(spawn("kube-scheduler", plan.scheduler(&api)?)?);
        parts.push(spawn("kubelet", plan.kubelet(&api)?)?);
        parts.push(spawn("kube-proxy", plan.proxy(&api)?)?);
        api.apply(&parts::dns_rights()).await?;
        parts.push(spawn("coredns", plan.dns(&api)?)?);
        tell("the other parts are started");

        let door = PortForward::open(node.loopback(api.address().port())).await?;
        write_kubeconfig(&dir.path().join("kubeconfig"), &api, &door)?;
        let mut local = Self {
            _door: door,
            parts,
            _api: api,
            node,
            outside,
            _cgroup: cgroup,
            dir,
            logs,
            _lab: lab,
        };
        if let Err(error) = local.become_ready(&mut tell).await {
            // For whoever reads the error; a later cluster of another process removes them.
            local.logs.disable_cleanup(true);
            return Err(error);
        }
        Ok(local)
    }

    async fn become_ready(&mut self, tell: &mut impl FnMut(&str)) -> Result<()> {
        let client = kubernetes::client(&self.kubeconfig()).await?;
        let socket = self.dir.path().join("containerd.sock");
        self.wait("containerd", "listening", async || {
            if !socket.exists() {
                bail!("it has no socket");
            }
            Ok(())
        })
        .await?;
        self.load(&["evermesh-pause"]).await?;
        tell("containerd has the pause image");
        let account = "/api/v1/namespaces/default/serviceaccounts/default";
        self.wait("kube-controller-manager", "at work", async || {
            get(&client, account).await.map(drop)
        })
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
        tell("controllers, cluster IPs and names work");
        self.wait("kubelet", "ready", async || {
            let node = get(&client, &format!("/api/v1/nodes/{NODE}")).await?;
            let conditions = node["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten();
            let ready = conditions.into_iter().find(|it| it["type"] == "Ready");
            match ready {
                Some(ready) if ready["status"] == "True" && node["spec"]["taints"].is_null() => {
                    Ok(())
                }
                other => bail!("the node says {}", other.unwrap_or(&Value::Null)),
            }
        })
        .await?;
        tell("the node is Ready");
        Ok(())
    }

    /// Waits for a part; if that is in vain, or any part ends meanwhile, the error says which and where its log is.
    async fn wait(
        &mut self,
        name: &str,
        what: &str,
        mut holds: impl AsyncFnMut() -> Result<()>,
    ) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            let Err(error) = holds().await else {
                return Ok(());
            };
            for part in &mut self.parts {
                if let Some(status) = part.process.exited()? {
                    bail!(
                        "{} ended ({status}); {}",
                        part.name,
                        told(self.logs.path(), part)
                    );
                }
            }
            if Instant::now() > deadline {
                let part = self.parts.iter().find(|part| part.name == name);
                let told = part.map(|part| told(self.logs.path(), part));
                bail!(
                    "{name} is not {what} after {START:?}: {error:#}; {}",
                    told.unwrap_or_default()
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Gives the node images of ours.
    pub(crate) async fn load(&self, names: &[&str]) -> Result<()> {
        let archives = tools::scratch("archives")?;
        let socket = self.dir.path().join("containerd.sock");
        let socket = socket.display().to_string();
        for archive in images::write(names, archives.path()).await? {
            let mut import = tokio::process::Command::from(parts::import(&socket, &archive));
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

    /// The kubeconfig of an administrator on this machine.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// A folder that lives as long as the cluster.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A port of the node, as somebody outside of the cluster reaches it.
    pub(crate) fn node_port(&self, port: u16) -> Address {
        self.outside.reach((self.node.ip(), port).into())
    }

    /// Where logs are: those of the parts, and of the API.
    pub(crate) fn logs(&self) -> &Path {
        self.logs.path()
    }
}

/// Where a part's log is, and how it ends.
fn told(logs: &Path, part: &Part) -> String {
    let log = logs.join(format!("{}.log", part.name));
    format!(
        "its log is {} and ends with: {}",
        log.display(),
        part.process.log()
    )
}

async fn get(client: &Client, path: &str) -> Result<Value> {
    let answer = client
        .request_text(Request::get(path).body(Vec::new())?)
        .await?;
    Ok(serde_json::from_str(&answer)?)
}

/// That of the administrator, with the address of the door.
fn write_kubeconfig(path: &Path, api: &ApiServer, door: &PortForward) -> Result<()> {
    let mut config: Value = serde_json::from_str(&fs::read_to_string(api.kubeconfig())?)?;
    config["clusters"][0]["cluster"]["server"] = json!(format!("https://{}", door.address()));
    fs::write(path, config.to_string()).context("the kubeconfig")
}
