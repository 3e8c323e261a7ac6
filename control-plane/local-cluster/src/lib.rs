//! A whole Kubernetes with pods: ours of one node on this machine, or the one that `KUBECONFIG` names.
//!
//! Ours is etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, containerd, kube-proxy (nftables),
//! `CoreDNS` and the CNI plug-ins bridge, host-local and portmap, all in network, mount and process namespaces and
//! cgroups of their own: nothing of the machine is touched, and everything ends with the handle or the process.
//! It needs root, about 700 MB and ten seconds.
//! Images come from [`Cluster::load`]; nothing is pulled, for nothing leaves the namespaces.
//!
//! Somebody else's cluster has to have the images already, see docs/cluster.md.

pub mod canary;
mod cgroup;
pub mod images;
mod install;
mod local;
mod parts;
mod traffic;
mod workload;

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

use self::local::Local;
pub use self::{
    install::{install, wait_until_serving},
    traffic::PodTraffic,
};
use evermesh_testkit::{
    http::Address,
    kubernetes::{self, Kubectl},
    tools,
};

/// How long the clusters of other tests may take.
const TURN: Duration = Duration::from_mins(20);

/// Where a pod's Envoy tells how it is.
const ENVOY_ADMIN: u16 = 9901;

/// For pods to be scheduled, started and ready, on a busy machine.
const ROLLOUT: Duration = Duration::from_mins(3);

/// A cluster that runs pods.
#[derive(Debug)]
pub struct TestCluster {
    kubectl: Kubectl,
    place: Place,
    /// Held until the cluster is gone.
    _turn: Option<File>,
}

#[derive(Debug)]
enum Place {
    Ours { local: Box<Local> },
    Theirs { dir: TempDir },
}

impl TestCluster {
    /// The cluster of the variable `KUBECONFIG`, or one of our own; `say` hears of each step.
    ///
    /// One at a time on a machine, whichever it is: a second caller waits for the first to end.
    pub async fn obtain(mut say: impl FnMut(&str)) -> Result<Self> {
        let Some(kubeconfig) = env::var_os("KUBECONFIG").filter(|it| !it.is_empty()) else {
            let turn = turn(&mut say).await?;
            return Self::start_in(Some(turn), say).await;
        };
        let kubeconfig = PathBuf::from(kubeconfig);
        if !kubeconfig.is_absolute() || !kubeconfig.is_file() {
            // Tests run in the folder of their crate, and kubectl takes a missing file for an empty one.
            bail!(
                "KUBECONFIG is {}: the absolute path of one file is needed",
                kubeconfig.display()
            );
        }
        let dir = tools::scratch("cluster")?;
        Ok(Self {
            kubectl: Kubectl::new(None, kubeconfig, dir.path()),
            place: Place::Theirs { dir },
            _turn: Some(turn(&mut say).await?),
        })
    }

    /// Starts one of our own and waits until it takes pods, whatever else runs; `say` hears of each step.
    pub async fn start(say: impl FnMut(&str)) -> Result<Self> {
        Self::start_in(None, say).await
    }

    async fn start_in(turn: Option<File>, say: impl FnMut(&str)) -> Result<Self> {
        let local = Local::start(say).await?;
        Ok(Self {
            kubectl: Kubectl::new(None, local.kubeconfig(), local.dir()),
            place: Place::Ours {
                local: Box::new(local),
            },
            _turn: turn,
        })
    }

    /// `kubectl` as an administrator.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// A client that may do everything.
    pub async fn client(&self) -> Result<Client> {
        kubernetes::client(self.kubectl.kubeconfig()).await
    }

    /// Makes these images of ours known to the node; a cluster of somebody else has them already.
    pub async fn load(&self, names: &[&str]) -> Result<()> {
        match &self.place {
            Place::Ours { local } => local.load(names).await,
            Place::Theirs { .. } => Ok(()),
        }
    }

    /// Removes a namespace that an earlier test may have left in a cluster that is not ours.
    pub async fn clear(&self, namespace: &str) -> Result<()> {
        if let Place::Theirs { .. } = self.place {
            let delete = ["delete", "namespace", namespace, "--ignore-not-found"];
            let delete = [&delete[..], &["--timeout=2m"]].concat();
            self.kubectl.run(&delete).await?;
        }
        Ok(())
    }

    /// The way to a node port from outside of the cluster.
    pub async fn node_port(&self, port: u16) -> Result<Address> {
        if let Place::Ours { local } = &self.place {
            return Ok(local.node_port(port));
        }
        let nodes = self.kubectl.run(&["get", "nodes", "--output=json"]).await?;
        let nodes: Value = serde_json::from_str(&nodes)?;
        let addresses = nodes["items"][0]["status"]["addresses"].as_array();
        let internal = addresses
            .into_iter()
            .flatten()
            .find(|it| it["type"] == "InternalIP");
        let ip = internal.and_then(|it| it["address"].as_str());
        let ip: IpAddr = ip.context("the first node has an InternalIP")?.parse()?;
        Ok(Address::Tcp((ip, port).into()))
    }

    /// Where the logs of its parts are, if it is ours.
    pub fn logs(&self) -> Option<&Path> {
        match &self.place {
            Place::Ours { local } => Some(local.logs()),
            Place::Theirs { .. } => None,
        }
    }

    /// Waits until every pod that a Deployment asks for is new and available.
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
            return Err(error.context(format!("the pods are\n{pods}\nand the warnings\n{events}")));
        }
        Ok(())
    }

    /// What a pod answers to the API server, which calls it at its address.
    pub async fn get(&self, namespace: &str, pod: &str, port: u16, path: &str) -> Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}");
        let request = Request::get(path).body(Vec::new())?;
        Ok(self.client().await?.request_text(request).await?)
    }

    /// The sum of those counters of a pod's Envoy whose name this expression finds.
    pub async fn counter_sum(&self, namespace: &str, pod: &str, names: &str) -> Result<u64> {
        let filter = names.replace('^', "%5E").replace('$', "%24");
        let path = format!("/stats?type=Counters&filter={filter}");
        let counters = self.get(namespace, pod, ENVOY_ADMIN, &path).await?;
        if counters.is_empty() {
            bail!("no counter of {namespace}/{pod} has a name like {names}");
        }
        let mut sum = 0;
        for line in counters.lines() {
            let (_, value) = line.split_once(": ").context("a counter has a value")?;
            sum += value.parse::<u64>()?;
        }
        Ok(sum)
    }

    /// A folder that lives as long as this handle.
    pub fn dir(&self) -> &Path {
        match &self.place {
            Place::Ours { local } => local.dir(),
            Place::Theirs { dir } => dir.path(),
        }
    }
}

/// Waits for the right to a cluster on this machine, which lasts as long as the file is open.
async fn turn(say: &mut impl FnMut(&str)) -> Result<File> {
    let path = env::temp_dir().join("evermesh-cluster.lock");
    let file = File::create(&path)?;
    let deadline = Instant::now() + TURN;
    let mut has_waited = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                if !has_waited {
                    say("waiting for another cluster of this machine to end");
                    has_waited = true;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("another cluster has {} locked", path.display()));
            }
        }
    }
}
