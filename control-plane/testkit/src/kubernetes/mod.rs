//! A real Kubernetes API on loopback: etcd and kube-apiserver, with RBAC, admission and CEL.
//!
//! Nothing runs pods here and no controller acts: a pod stays pending until a test says otherwise
//! ([`ApiServer::set_pod`]), and a namespace has the service account that its pods need only when it was made by
//! [`ApiServer::create_namespace`].
//! It is ready after about three seconds and takes 320 MB; each test starts its own.
//! Rights and webhook configurations take effect a moment after they were applied: ask again until they do.
//! Webhooks are called on loopback too, by a `clientConfig` with a `url`.
//!
//! Must not know what Evermesh installs: tests apply it.

mod accounts;
mod kubectl;
mod of_cluster;
mod pki;

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use http::Request;
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
    tools,
};

/// Until everything is ready, on a busy machine.
const START: Duration = Duration::from_mins(1);

/// Every request once, when it was answered or when its watch ended.
fn audit_policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [{"level": "Metadata"}],
    })
}

/// Where the API server writes it.
const AUDIT_LOG: &str = "audit.log";

/// How far a pod has come, by what its status says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PodState {
    /// It has an address, its containers are not ready.
    Started,
    /// Its containers are ready; the pod is not, as while a readiness gate is closed.
    ContainersReady,
    /// The pod is ready.
    Ready,
}

/// A running API server and its etcd.
#[derive(Debug)]
pub struct ApiServer {
    /// The host that it runs on, unless it is this machine.
    place: Option<LabHost>,
    of_cluster: bool,
    pub(crate) kubectl: Kubectl,
    etcd_port: ReservedPort,
    port: ReservedPort,
    pki: Pki,
    // Ended before etcd, which it would complain about.
    process: Option<Process>,
    etcd: Process,
    dir: TempDir,
}

impl ApiServer {
    /// Starts etcd and the API server and waits until the latter is ready.
    pub async fn start() -> Result<Self> {
        Self::start_at(None, false).await
    }

    /// Starts them on the loopback of a lab's host, where `kubectl` runs too and whatever else asks this API.
    pub async fn start_on(host: &LabHost) -> Result<Self> {
        Self::start_at(Some(host.clone()), false).await
    }

    /// The same for a whole cluster: pods reach it by its Service, and it reaches the kubelet.
    pub async fn start_of_cluster(host: &LabHost) -> Result<Self> {
        Self::start_at(Some(host.clone()), true).await
    }

    async fn start_at(place: Option<LabHost>, of_cluster: bool) -> Result<Self> {
        let dir = tools::scratch("kubernetes")?;
        let pki = Pki::create(dir.path())?;
        let [etcd_port, peer_port, port] = [
            ReservedPort::reserve()?,
            ReservedPort::reserve()?,
            ReservedPort::reserve()?,
        ];
        let etcd = start_etcd(place.as_ref(), dir.path(), &etcd_port, &peer_port)?;
        let kubeconfig = dir.path().join("admin.kubeconfig");
        let mut server = Self {
            kubectl: Kubectl::new(place.clone(), kubeconfig, dir.path()),
            place,
            of_cluster,
            etcd_port,
            port,
            pki,
            process: None,
            etcd,
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

    /// Ends the API server at once, as a crash does: from now on connections are refused. etcd keeps what it holds.
    pub fn kill_api_server(&mut self) {
        self.process = None;
    }

    /// Starts the API server again, or anew if it runs, at the same address with the same certificates and objects.
    pub async fn restart_api_server(&mut self) -> Result<()> {
        self.kill_api_server();
        let mut process = self.start_api_server()?;
        let client = self.client().await?;
        let mut last = String::new();
        let became_ready = process
            .wait_until("ready", START, async || {
                let ready = if self.place.is_none() {
                    ready(&client).await
                } else {
                    let readyz = ["get", "--raw", "/readyz?verbose"];
                    self.kubectl(&readyz).await.map(drop)
                };
                ready.map_err(|error| last = format!("{error:#}")).is_ok()
            })
            .await;
        if became_ready.is_err() {
            // For whoever reads the error; a later test of another process removes them.
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
            self.place.as_ref(),
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
        // Loopback is no address to publish as an endpoint, so it publishes none.
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
        if let Some(node) = self.place.as_ref().filter(|_| self.of_cluster) {
            // The last of several counts.
            command.args(self.cluster_flags(node.ip())?);
        }
        Process::spawn(
            "kube-apiserver",
            command,
            &self.dir.path().join("kube-apiserver.log"),
        )
    }

    /// The URL of the API.
    pub fn url(&self) -> String {
        format!("https://{}", self.port.address())
    }

    /// The kubeconfig of an administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubectl.kubeconfig().to_owned()
    }

    /// A client that may do everything.
    pub async fn client(&self) -> Result<Client> {
        client(&self.kubeconfig()).await
    }

    /// `kubectl` as an administrator, to be given arguments and run.
    pub fn kubectl_command(&self) -> Result<Command> {
        self.kubectl.command()
    }

    /// Runs `kubectl` as an administrator and returns what it printed; a failure is an error with its own words.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl.run(arguments).await
    }

    /// Applies manifests given as YAML.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        self.kubectl.apply(yaml).await
    }

    /// Applies the manifests in a file, or in the files of a folder.
    pub async fn apply_path(&self, path: &Path) -> Result<()> {
        self.kubectl.apply_path(path).await
    }

    /// Installs the mesh's kinds as `crds/yaml` defines them, and waits until the API serves them.
    pub async fn install_crds(&self) -> Result<()> {
        self.apply_path(&tools::workspace()?.join("crds/yaml"))
            .await?;
        self.wait_for_crds().await
    }

    /// Waits until the API serves every kind that is defined.
    pub async fn wait_for_crds(&self) -> Result<()> {
        self.kubectl(&[
            "wait",
            "--for=condition=Established",
            "--timeout=30s",
            "crd",
            "--all",
        ])
        .await?;
        Ok(())
    }

    /// Makes sure that a namespace exists, with the service account that Kubernetes' controllers would give it.
    pub async fn create_namespace(&self, name: &str) -> Result<()> {
        let objects = [
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}}),
        ];
        self.apply(&objects.map(|object| object.to_string()).join("\n---\n"))
            .await
    }

    /// Sets what a kubelet would say of a pod: its address, and how far it has come.
    ///
    /// Conditions that others have set, such as a readiness gate's, stay.
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
        let patch = [
            "--subresource",
            "status",
            "--type",
            "strategic",
            "--patch",
            &status.to_string(),
        ];
        self.kubectl(
            &[
                &["patch", "pod", name, "--namespace", namespace],
                &patch[..],
            ]
            .concat(),
        )
        .await?;
        Ok(())
    }
}

/// A client by a kubeconfig, such as a service account's.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// A command on a host, or on this machine.
fn command(place: Option<&LabHost>, program: PathBuf) -> std::process::Command {
    match place {
        Some(host) => host.command(program),
        None => process::command(program),
    }
}

fn start_etcd(
    place: Option<&LabHost>,
    dir: &Path,
    client: &ReservedPort,
    peer: &ReservedPort,
) -> Result<Process> {
    let [client, peer] = [client, peer].map(|port| format!("http://{}", port.address()));
    let mut command = command(place, tools::installed("kubernetes/etcd")?);
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
        // It waits for other candidates before it elects itself.
        .args(["--heartbeat-interval", "20", "--election-timeout", "100"])
        .args(["--unsafe-no-fsync", "--socket-reuse-port"]);
    Process::spawn("etcd", command, &dir.join("etcd.log"))
}

/// Whether the API server says that all of it is ready; the error names the parts that are not.
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
