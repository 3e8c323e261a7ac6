//! A Kubernetes cluster that runs pods: a local one of one node, or the one that `KUBECONFIG` names.
//!
//! ```text
//!  this machine ──────────────► API server, through a forwarded loopback port
//!  lab host "outside" ────────► node ports
//!  lab node: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kube-proxy (nftables), CoreDNS,
//!            containerd with the CNI plug-ins bridge, host-local and portmap
//! ```
//!
//! The processes of the local cluster have their own network, mount and PID namespaces and their own cgroups, so it does
//! not change the machine. They end with the [`TestCluster`] or with this process.
//! A start needs root, about 700 MB of memory and ten seconds.
//!
//! The node cannot reach a registry: [`TestCluster::load`] imports the images.
//! A cluster of `KUBECONFIG` must have the images already; docs/cluster.md says how.

#![allow(missing_docs)] // used by tests and by our own tools only

pub mod canary;
mod cgroup;
mod components;
mod deployment;
pub mod images;
mod install;
mod local;
mod traffic;

use std::{
    env,
    fs::{File, TryLockError},
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use http::Request;
use kube::Client;
use serde_json::Value;
use tempfile::TempDir;

use self::local::LocalCluster;
pub use self::{
    install::{helm, install, install_with, wait_until_serving},
    traffic::PodTraffic,
};
use evermesh_testkit::{
    http::Address,
    kubernetes::{self, Kubectl},
    tools,
};

/// Limit for waiting until other clusters on this machine have ended.
const LOCK_WAIT: Duration = Duration::from_mins(20);

/// The port of a sidecar for its pages.
const ENVOY_ADMIN: u16 = 9901;

/// Limit for the pods of a Deployment to become ready on a busy machine.
const ROLLOUT: Duration = Duration::from_mins(3);

/// A Kubernetes cluster that runs pods.
#[derive(Debug)]
pub struct TestCluster {
    kubectl: Kubectl,
    backing: Backing,
    /// The lock of this machine, released after the cluster has ended.
    _lock: Option<File>,
}

#[derive(Debug)]
enum Backing {
    Local(Box<LocalCluster>),
    /// The cluster of `KUBECONFIG`, with a folder for the files of this process.
    Existing(TempDir),
}

impl TestCluster {
    /// Connects to the cluster of the variable `KUBECONFIG`, or starts a local one; `progress` gets a line for each step.
    ///
    /// A machine has one such cluster at a time: a second caller waits until the first has dropped its cluster.
    pub async fn obtain(mut progress: impl FnMut(&str)) -> Result<Self> {
        let Some(kubeconfig) = env::var_os("KUBECONFIG").filter(|path| !path.is_empty()) else {
            let lock = lock_machine(&mut progress).await?;
            return Self::start_with_lock(Some(lock), progress).await;
        };
        let kubeconfig = PathBuf::from(kubeconfig);
        if !kubeconfig.is_absolute() || !kubeconfig.is_file() {
            // Tests run in the folder of their crate, and kubectl treats a missing file like an empty one.
            bail!(
                "KUBECONFIG is `{}`; set it to the absolute path of one existing file",
                kubeconfig.display()
            );
        }
        let dir = tools::scratch("cluster")?;
        Ok(Self {
            kubectl: Kubectl::new(None, kubeconfig, dir.path()),
            backing: Backing::Existing(dir),
            _lock: Some(lock_machine(&mut progress).await?),
        })
    }

    /// Starts a local cluster, also beside others, and waits until it runs pods; `progress` gets a line for each step.
    pub async fn start(progress: impl FnMut(&str)) -> Result<Self> {
        Self::start_with_lock(None, progress).await
    }

    async fn start_with_lock(lock: Option<File>, progress: impl FnMut(&str)) -> Result<Self> {
        let local = LocalCluster::start(progress).await?;
        Ok(Self {
            kubectl: Kubectl::new(None, local.kubeconfig(), local.dir()),
            backing: Backing::Local(Box::new(local)),
            _lock: lock,
        })
    }

    /// `kubectl` with the rights of an administrator.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// An administrator's client.
    pub async fn client(&self) -> Result<Client> {
        kubernetes::client(self.kubectl.kubeconfig()).await
    }

    /// Imports these images into the local node. A cluster of `KUBECONFIG` must have them already.
    pub async fn load(&self, names: &[&str]) -> Result<()> {
        match &self.backing {
            Backing::Local(local) => local.load(names).await,
            Backing::Existing(_) => Ok(()),
        }
    }

    /// Deletes a namespace that an earlier test may have left in a cluster of `KUBECONFIG`.
    pub async fn clear(&self, namespace: &str) -> Result<()> {
        if let Backing::Existing(_) = self.backing {
            let delete = ["delete", "namespace", namespace, "--ignore-not-found"];
            let delete = [&delete[..], &["--timeout=2m"]].concat();
            self.kubectl.run(&delete).await?;
        }
        Ok(())
    }

    /// The address of a node port, for clients outside of the cluster.
    pub async fn node_port(&self, port: u16) -> Result<Address> {
        if let Backing::Local(local) = &self.backing {
            return Ok(local.node_port(port));
        }
        let nodes = self.kubectl.run(&["get", "nodes", "--output=json"]).await?;
        let nodes: Value = serde_json::from_str(&nodes)?;
        let addresses = nodes["items"][0]["status"]["addresses"].as_array();
        let internal = addresses
            .into_iter()
            .flatten()
            .find(|address| address["type"] == "InternalIP");
        let ip = internal.and_then(|address| address["address"].as_str());
        let ip: IpAddr = ip.context("the first node has no InternalIP")?.parse()?;
        Ok(Address::Tcp((ip, port).into()))
    }

    /// The folder with the logs of the components, if the cluster is local.
    pub fn logs(&self) -> Option<&Path> {
        match &self.backing {
            Backing::Local(local) => Some(local.logs()),
            Backing::Existing(_) => None,
        }
    }

    /// Waits until a Deployment has rolled out (`kubectl rollout status`); the error lists pods and warnings.
    pub async fn wait_for_rollout(
        &self,
        namespace: &str,
        deployment: &str,
        limit: Duration,
    ) -> Result<()> {
        let deployment = format!("deployment/{deployment}");
        let limit = format!("--timeout={}s", limit.as_secs());
        let rollout = [
            "rollout",
            "status",
            &deployment,
            "--namespace",
            namespace,
            &limit,
        ];
        if let Err(error) = self.kubectl.run(&rollout).await {
            let pods = ["get", "pods", "--output=wide", "--namespace", namespace];
            let events = ["events", "--types=Warning", "--namespace", namespace];
            let (pods, events) = (
                self.kubectl.run(&pods).await?,
                self.kubectl.run(&events).await?,
            );
            return Err(error.context(format!("pods:\n{pods}\nwarnings:\n{events}")));
        }
        Ok(())
    }

    /// Gets `path` from a port of a pod through the API server's proxy.
    pub async fn get(&self, namespace: &str, pod: &str, port: u16, path: &str) -> Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}");
        let request = Request::get(path).body(Vec::new())?;
        Ok(self.client().await?.request_text(request).await?)
    }

    /// The sum of the counters of a pod's Envoy whose names match this regular expression.
    pub async fn counter_sum(&self, namespace: &str, pod: &str, names: &str) -> Result<u64> {
        let filter = names.replace('^', "%5E").replace('$', "%24");
        let path = format!("/stats/prometheus?type=Counters&filter={filter}");
        let counters = self.get(namespace, pod, ENVOY_ADMIN, &path).await?;
        if counters.is_empty() {
            bail!("no counter of the Envoy of pod {namespace}/{pod} matches `{names}`");
        }
        let mut sum = 0;
        for line in counters.lines().filter(|line| !line.starts_with('#')) {
            let (_, value) = line
                .rsplit_once(' ')
                .with_context(|| format!("`{line}` is not a counter with a value"))?;
            sum += value.parse::<u64>()?;
        }
        Ok(sum)
    }

    /// A folder that exists as long as this value.
    pub fn dir(&self) -> &Path {
        match &self.backing {
            Backing::Local(local) => local.dir(),
            Backing::Existing(dir) => dir.path(),
        }
    }
}

/// Waits for the lock for clusters on this machine; it lasts while the file is open.
async fn lock_machine(progress: &mut impl FnMut(&str)) -> Result<File> {
    let path = env::temp_dir().join("evermesh-cluster.lock");
    let file = File::create(&path)?;
    let deadline = Instant::now() + LOCK_WAIT;
    let mut has_waited = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                if !has_waited {
                    progress("waiting for another cluster on this machine to end");
                    has_waited = true;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("another cluster holds the lock {}", path.display()));
            }
        }
    }
}
