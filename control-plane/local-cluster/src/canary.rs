//! The canary with pods: Evermesh by its chart, a caller, a gateway and a service in two versions.
//!
//! The namespace is `shop`; `front` calls `http://color.shop`, and so does whoever comes by the gateway.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::process::Command;

use crate::{
    ROLLOUT, TestCluster, install::install, traffic::PodTraffic, workload::CanaryDeployment,
};
use evermesh_testkit::{chart, envoy::EnvoyVersion, http::Address, process, tools};

/// The mesh and its Services.
const MESH: &str = include_str!("canary.yaml");

/// Where the gateway takes traffic from outside.
const GATE: u16 = 30088;

/// The node port leads to the gateway a moment after its pod is ready.
const FIRST_ANSWER: Duration = Duration::from_secs(30);

const WORKLOADS: [CanaryDeployment; 4] = [
    CanaryDeployment {
        name: "color-v1",
        labels: &[("app", "color"), ("version", "v1")],
        replicas: 2,
        has_app: true,
    },
    CanaryDeployment {
        name: "color-v2",
        labels: &[("app", "color"), ("version", "v2")],
        replicas: 2,
        has_app: true,
    },
    CanaryDeployment {
        name: "front",
        labels: &[("app", "front")],
        replicas: 1,
        has_app: true,
    },
    CanaryDeployment {
        name: "gate",
        labels: &[("app", "gate")],
        replicas: 1,
        has_app: false,
    },
];

/// A cluster in which the canary runs.
#[derive(Debug)]
pub struct CanaryCluster {
    /// Where it runs.
    pub cluster: TestCluster,
}

impl CanaryCluster {
    /// Builds it up in a cluster, with this Envoy; `say` hears of each step.
    pub async fn build(
        cluster: TestCluster,
        version: EnvoyVersion,
        mut say: impl FnMut(&str),
    ) -> Result<Self> {
        install(&cluster, version, &mut say).await?;
        cluster.clear("shop").await?;
        let canary = Self { cluster };
        say("kubectl apply: a mesh, a service in two versions, a caller and a gateway");
        canary.cluster.kubectl().apply(MESH).await?;
        canary.shift([100, 0]).await?;
        for workload in WORKLOADS {
            let object = workload.object()?.to_string();
            canary.cluster.kubectl().apply(&object).await?;
        }
        say("waiting for the pods, each an application and its Envoy");
        for workload in WORKLOADS {
            canary
                .cluster
                .wait_for_rollout("shop", workload.name, ROLLOUT)
                .await?;
        }
        Ok(canary)
    }

    /// Applies the Route with these weights of v1 and v2, and waits until its status says that every proxy has them;
    /// returns how long both took.
    pub async fn shift(&self, weights: [u32; 2]) -> Result<Duration> {
        let kubectl = self.cluster.kubectl();
        let started = Instant::now();
        kubectl.apply(&route(weights)).await?;
        let programmed = [
            "wait",
            "--for=condition=Programmed",
            "--timeout=60s",
            "--namespace=shop",
            "route.evermesh.dev/color",
        ];
        let generation = "--for=jsonpath={.status.observedGeneration}=";
        let object = ["get", "route.evermesh.dev/color", "--namespace=shop"];
        let current = [&object[..], &["--output=jsonpath={.metadata.generation}"]].concat();
        let current = kubectl.run(&current).await?;
        let mut observed = programmed;
        let generation = format!("{generation}{}", current.trim());
        observed[1] = &generation;
        kubectl.run(&observed).await?;
        kubectl.run(&programmed).await?;
        Ok(started.elapsed())
    }

    /// What `kubectl` shows of the mesh.
    pub async fn shown(&self) -> Result<String> {
        let list = ["get", "virtualservices,routes", "--namespace=shop"];
        self.cluster.kubectl().run(&list).await
    }

    /// Removes the canary and Evermesh from a cluster that goes on.
    pub async fn remove(self) -> Result<()> {
        let kubectl = self.cluster.kubectl();
        let mut helm = Command::from(process::command(tools::installed("kubernetes/helm")?));
        helm.args([
            "uninstall",
            "evermesh",
            "--wait",
            "--namespace",
            chart::NAMESPACE,
        ]);
        kubectl.run(&["delete", "namespace", "shop"]).await?;
        let output = helm
            .env("KUBECONFIG", kubectl.kubeconfig())
            .output()
            .await?;
        if !output.status.success() {
            bail!("helm: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        kubectl
            .run(&["delete", "namespace", chart::NAMESPACE])
            .await
            .map(drop)
    }

    /// Requests of the caller to the service, from within its pod.
    pub fn traffic(&self, rate: u32) -> Result<PodTraffic> {
        PodTraffic::start(
            &self.cluster,
            "shop",
            "deployment/front",
            "color.shop",
            rate,
        )
    }

    /// The gateway, as somebody outside of the cluster reaches it, once it answers.
    pub async fn gateway(&self) -> Result<Address> {
        let gate = self.cluster.node_port(GATE).await?;
        let deadline = Instant::now() + FIRST_ANSWER;
        while let Err(error) = gate.get("/").await {
            if Instant::now() > deadline {
                return Err(error.context(format!(
                    "the gateway does not answer at {gate:?}, a node port of the cluster's first node, which has to be reachable from here: see docs/cluster.md"
                )));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(gate)
    }
}

/// The Route that splits the traffic.
pub fn route([v1, v2]: [u32; 2]) -> String {
    format!(
        "apiVersion: evermesh.dev/v1alpha1
kind: Route
metadata: {{name: color, namespace: shop}}
spec:
  virtualRouterRef: {{name: color}}
  httpRoute:
    match: {{prefix: /}}
    action:
      weightedTargets:
      - {{virtualNodeRef: {{name: color-v1}}, weight: {v1}}}
      - {{virtualNodeRef: {{name: color-v2}}, weight: {v2}}}
"
    )
}
