//! A Kubernetes API on loopback: etcd and kube-apiserver, with RBAC, admission and CEL.
//!
//! No kubelet, scheduler or controller runs. A pod stays `Pending` until [`ApiServer::set_pod`] sets its status, and
//! [`ApiServer::create_namespace`] creates the service account that pods of a namespace need.
//!
//! Roles and webhook configurations take effect a moment after they were applied, so tests retry until they do.
//! Webhooks are called on loopback: their `clientConfig` has a `url`.
//!
//! An API server is ready after about three seconds and takes 320 MB of memory; each test starts its own.

mod accounts;
mod kubectl;
mod objects;
mod pki;
mod with_pods;

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use http::{Method, Request};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

pub use self::{kubectl::Kubectl, pki::Pki};
use crate::{
    hosts::LabHost,
    port::ReservedPort,
    process::{self, Process},
    relay::PortForward,
    tools,
    wait::retry,
};

/// Limit for the API server to become ready on a busy machine.
const START: Duration = Duration::from_mins(1);

/// Logs each request once: at its response, or at the end of a watch.
fn audit_policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [{"level": "Metadata"}],
    })
}

/// The audit log in the scratch folder.
const AUDIT_LOG: &str = "audit.log";

/// The progress of a pod, for [`ApiServer::set_pod`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PodState {
    /// The pod has an address; its containers are not ready.
    Started,
    /// The containers are ready; the pod is not, as while a readiness gate is closed.
    ContainersReady,
    /// The pod is ready.
    Ready,
}

/// A running API server and its etcd.
#[derive(Debug)]
pub struct ApiServer {
    /// The lab host that runs both processes, or `None` for this machine.
    host: Option<LabHost>,
    /// The way from this machine to the API on a lab host.
    forward: Option<PortForward>,
    has_pods: bool,
    pub(crate) kubectl: Kubectl,
    etcd_port: ReservedPort,
    port: ReservedPort,
    pki: Pki,
    // Declared before etcd, so that it ends first and does not report a lost connection.
    process: Option<Process>,
    etcd: Process,
    administrator: objects::Administrator,
    dir: TempDir,
}

impl ApiServer {
    /// Starts etcd and the API server on this machine and waits until they are ready.
    pub async fn start() -> Result<Self> {
        Self::start_at(None, false).await
    }

    /// Starts them on the loopback of a lab host. `kubectl` and all other clients run there too.
    pub async fn start_on(host: &LabHost) -> Result<Self> {
        Self::start_at(Some(host.clone()), false).await
    }

    /// Like [`Self::start_on`], for a Kubernetes cluster that runs pods: pods can call the API server, and it can call
    /// the kubelet.
    pub async fn start_with_pods_on(host: &LabHost) -> Result<Self> {
        Self::start_at(Some(host.clone()), true).await
    }

    async fn start_at(host: Option<LabHost>, has_pods: bool) -> Result<Self> {
        let dir = tools::scratch("kubernetes")?;
        let pki = Pki::create(dir.path())?;
        let [etcd_port, peer_port, port] = [
            ReservedPort::reserve()?,
            ReservedPort::reserve()?,
            ReservedPort::reserve()?,
        ];
        let forward = match &host {
            Some(host) => Some(PortForward::open(host.loopback(port.address().port())).await?),
            None => None,
        };
        let etcd = start_etcd(host.as_ref(), dir.path(), &etcd_port, &peer_port)?;
        let kubeconfig = dir.path().join("admin.kubeconfig");
        let mut server = Self {
            kubectl: Kubectl::new(host.clone(), kubeconfig, dir.path()),
            host,
            forward,
            has_pods,
            etcd_port,
            port,
            pki,
            process: None,
            etcd,
            administrator: objects::Administrator::default(),
            dir,
        };
        let user = json!({
            "client-certificate": server.pki.file("admin.crt"),
            "client-key": server.pki.file("admin.key"),
        });
        server.write_kubeconfig("admin", &user)?;
        server.restart_api_server().await?;
        Ok(server)
    }

    /// Kills the API server, as a crash does: connections are refused until [`Self::restart_api_server`]. etcd keeps
    /// the objects.
    pub fn kill_api_server(&mut self) {
        self.process = None;
    }

    /// Kills the API server if it runs, and starts it again with the same address, certificates and objects.
    pub async fn restart_api_server(&mut self) -> Result<()> {
        self.kill_api_server();
        let mut process = self.start_api_server()?;
        let client = self.client().await?;
        let mut last = String::new();
        let became_ready = process
            .wait_until("ready", START, async || {
                let ready = ready(&client).await;
                ready.map_err(|error| last = format!("{error:#}")).is_ok()
            })
            .await;
        if became_ready.is_err() {
            // Keep the logs that the error names; `scratch` of a later process removes them.
            self.dir.disable_cleanup(true);
        }
        became_ready.with_context(|| {
            let (dir, etcd) = (self.dir.path().display(), self.etcd.log());
            format!("the Kubernetes API is not ready: {last}; logs are in {dir}; etcd's ends with: {etcd}")
        })?;
        self.process = Some(process);
        Ok(())
    }

    fn start_api_server(&self) -> Result<Process> {
        let mut command = command(
            self.host.as_ref(),
            tools::installed("kubernetes/kube-apiserver")?,
        );
        let mut flag = |name: &str, value: &dyn AsRef<std::ffi::OsStr>| {
            command.arg(format!("--{name}")).arg(value.as_ref());
        };
        flag(
            "etcd-servers",
            &format!("http://{}", self.etcd_port.address()),
        );
        flag("bind-address", &self.port.address().ip().to_string());
        flag("secure-port", &self.port.address().port().to_string());
        // A loopback address is not a valid endpoint, so the Service `kubernetes` gets none.
        flag("advertise-address", &self.port.address().ip().to_string());
        flag("endpoint-reconciler-type", &"none");
        flag("tls-cert-file", &self.pki.file("server.crt"));
        flag("tls-private-key-file", &self.pki.file("server.key"));
        flag("client-ca-file", &self.pki.file("ca.crt"));
        flag("service-account-issuer", &"https://kubernetes.default.svc");
        flag("service-account-key-file", &self.pki.file("accounts.pub"));
        flag(
            "service-account-signing-key-file",
            &self.pki.file("accounts.key"),
        );
        flag("authorization-mode", &"Node,RBAC");
        flag("service-cluster-ip-range", &"10.96.0.0/16");
        let policy = self.dir.path().join("audit-policy.yaml");
        fs::write(&policy, audit_policy().to_string())?;
        flag("audit-policy-file", &policy);
        flag("audit-log-path", &self.dir.path().join(AUDIT_LOG));
        command.args(["--allow-privileged=true", "--permit-port-sharing=true"]);
        if let Some(node) = self.host.as_ref().filter(|_| self.has_pods) {
            // A later flag overrides an earlier one.
            command.args(self.flags_for_pods(node.ip())?);
        }
        // A tenth less CPU for a tenth more memory: the start makes much garbage.
        command.env("GOGC", "400");
        Process::spawn(
            "kube-apiserver",
            command,
            &self.dir.path().join("kube-apiserver.log"),
        )
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.port.address())
    }

    /// The URL for programs of this machine, which differs from [`Self::url`] if the API server is on a lab host.
    pub fn local_url(&self) -> String {
        match &self.forward {
            Some(forward) => format!("https://{}", forward.address()),
            None => self.url(),
        }
    }

    /// The path of an administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubectl.kubeconfig().to_owned()
    }

    /// An administrator's client on this machine.
    pub async fn client(&self) -> Result<Client> {
        let mut config = config(&self.kubeconfig()).await?;
        config.cluster_url = self.local_url().parse()?;
        Ok(Client::try_from(config)?)
    }

    /// A `kubectl` command of an administrator, without arguments.
    pub fn kubectl_command(&self) -> Result<Command> {
        self.kubectl.command()
    }

    /// Runs `kubectl` as an administrator and returns its output; the error quotes its standard error.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl.run(arguments).await
    }

    /// Installs the CRDs of `crds/yaml` and waits until the API serves them.
    pub async fn install_crds(&self) -> Result<()> {
        self.apply_path(&tools::workspace()?.join("crds/yaml"))
            .await?;
        self.wait_for_crds().await
    }

    /// Waits until the API serves the kinds of all CRDs, a moment after their condition `Established`.
    pub async fn wait_for_crds(&self) -> Result<()> {
        let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let crds = self.request(Method::GET, crds, &Value::Null).await?;
        for crd in crds["items"].as_array().into_iter().flatten() {
            let spec = &crd["spec"];
            let [group, version, plural] = [
                &spec["group"],
                &spec["versions"][0]["name"],
                &spec["names"]["plural"],
            ]
            .map(|it| it.as_str().unwrap_or_default());
            let path = format!("/apis/{group}/{version}/{plural}?limit=1");
            let failure = format!("the API does not serve {plural}.{group}");
            retry(&failure, async || {
                self.request(Method::GET, &path, &Value::Null).await?;
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Creates a namespace, unless it exists, and the service account `default` that a controller would create.
    pub async fn create_namespace(&self, name: &str) -> Result<()> {
        let objects = [
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}),
        ];
        self.apply(&objects.map(|object| object.to_string()).join("\n---\n"))
            .await
    }

    /// Sets the address and the conditions of a pod, as its kubelet would.
    ///
    /// Conditions of other types stay, such as that of a readiness gate.
    pub async fn set_pod(
        &self,
        namespace: &str,
        name: &str,
        ip: IpAddr,
        state: PodState,
    ) -> Result<()> {
        let condition = |kind: &str, holds: bool| json!({"type": kind, "status": if holds { "True" } else { "False" }});
        let status = json!({"status": {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "conditions": [
                condition("PodScheduled", true),
                condition("Initialized", true),
                condition("ContainersReady", state != PodState::Started),
                condition("Ready", state == PodState::Ready),
            ],
        }});
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/status");
        let strategic = "application/strategic-merge-patch+json";
        self.patch(&path, strategic, &status).await?;
        Ok(())
    }
}

/// A client with this kubeconfig.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    Ok(Client::try_from(config(kubeconfig).await?)?)
}

async fn config(kubeconfig: &Path) -> Result<Config> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    Ok(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)
}

/// A command on a lab host, or on this machine.
fn command(host: Option<&LabHost>, program: PathBuf) -> std::process::Command {
    match host {
        Some(host) => host.command(program),
        None => process::command(program),
    }
}

fn start_etcd(
    host: Option<&LabHost>,
    dir: &Path,
    client: &ReservedPort,
    peer: &ReservedPort,
) -> Result<Process> {
    let [client, peer] = [client, peer].map(|port| format!("http://{}", port.address()));
    let mut command = command(host, tools::installed("kubernetes/etcd")?);
    command
        .arg("--data-dir")
        .arg(dir.join("etcd"))
        .args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ])
        .args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ])
        .arg(format!("--initial-cluster=default={peer}"))
        // etcd waits for other candidates before it elects itself, by default a second.
        .args(["--heartbeat-interval", "20", "--election-timeout", "100"])
        .args(["--unsafe-no-fsync", "--socket-reuse-port"]);
    Process::spawn("etcd", command, &dir.join("etcd.log"))
}

/// Succeeds if `/readyz` does; the error names the checks that failed.
async fn ready(client: &Client) -> Result<()> {
    let answer = client
        .request_text(Request::get("/readyz?verbose").body(Vec::new())?)
        .await;
    match answer {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => {
            let failed: Vec<_> = status
                .message
                .lines()
                .filter(|line| line.starts_with("[-]"))
                .collect();
            if failed.is_empty() {
                bail!("{}", status.message);
            }
            bail!("{}", failed.join(", "))
        }
        Err(error) => Err(error.into()),
    }
}
