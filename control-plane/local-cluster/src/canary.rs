//! The canary example with pods: a service in two versions, a caller and a gateway.
//!
//! ```text
//!  front ──► http://color.shop ──┬──► color-v1, 2 pods
//!  node port ──► gateway ────────┴──► color-v2, 2 pods
//! ```
//!
//! All objects are in the namespace `shop`; the Route `color` has the weights.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::{
    ROLLOUT, TestCluster,
    deployment::CanaryDeployment,
    install::{helm, install},
    traffic::PodTraffic,
};
use evermesh_testkit::{chart, envoy::EnvoyVersion, http::Address};

/// The mesh and its Services.
const MANIFESTS: &str = include_str!("canary.yaml");

/// The node port of the gateway.
const GATEWAY_PORT: u16 = 30088;

/// Limit for the node port to reach the gateway after its pod is ready.
const FIRST_ANSWER: Duration = Duration::from_secs(30);

const DEPLOYMENTS: [CanaryDeployment; 4] = [
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

/// A cluster in which the example runs.
#[derive(Debug)]
pub struct CanaryCluster {
    pub cluster: TestCluster,
}

impl CanaryCluster {
    /// Installs Evermesh with this Envoy and then the example; `progress` gets a line for each step.
    pub async fn build(
        cluster: TestCluster,
        version: EnvoyVersion,
        mut progress: impl FnMut(&str),
    ) -> Result<Self> {
        install(&cluster, version, &mut progress).await?;
        Self::deploy(cluster, progress).await
    }

    /// Creates the example in a cluster in which Evermesh is installed.
    pub async fn deploy(cluster: TestCluster, mut progress: impl FnMut(&str)) -> Result<Self> {
        cluster.clear("shop").await?;
        let canary = Self { cluster };
        progress("kubectl apply: a mesh, a service in two versions, a caller and a gateway");
        canary.cluster.kubectl().apply(MANIFESTS).await?;
        canary.shift([100, 0]).await?;
        for deployment in DEPLOYMENTS {
            let object = deployment.object()?.to_string();
            canary.cluster.kubectl().apply(&object).await?;
        }
        progress("waiting for the pods, each with an application and an Envoy");
        for deployment in DEPLOYMENTS {
            canary
                .cluster
                .wait_for_rollout("shop", deployment.name, ROLLOUT)
                .await?;
        }
        Ok(canary)
    }

    /// Applies the Route with these weights and waits until it is Programmed; returns the time for both.
    pub async fn shift(&self, weights: [u32; 2]) -> Result<Duration> {
        let kubectl = self.cluster.kubectl();
        let started = Instant::now();
        kubectl.apply(&route(weights)).await?;
        let object = ["route.evermesh.dev/color", "--namespace=shop"];
        let generation = ["get", "--output=jsonpath={.metadata.generation}"];
        let generation = kubectl.run(&[&generation[..], &object].concat()).await?;
        let observed = format!(
            "--for=jsonpath={{.status.observedGeneration}}={}",
            generation.trim()
        );
        for condition in [observed.as_str(), "--for=condition=Programmed"] {
            let wait = ["wait", condition, "--timeout=60s"];
            kubectl.run(&[&wait[..], &object].concat()).await?;
        }
        Ok(started.elapsed())
    }

    /// The output of `kubectl get` for the services and routes.
    pub async fn kubectl_get(&self) -> Result<String> {
        let list = ["get", "virtualservices,routes", "--namespace=shop"];
        self.cluster.kubectl().run(&list).await
    }

    /// Removes the example and Evermesh from a cluster that is kept.
    pub async fn remove(self) -> Result<()> {
        let kubectl = self.cluster.kubectl();
        kubectl.run(&["delete", "namespace", "shop"]).await?;
        let uninstall = ["uninstall", "evermesh", "--wait"];
        let namespace = ["--namespace", chart::NAMESPACE];
        helm(&self.cluster, &[uninstall.as_slice(), &namespace].concat()).await?;
        kubectl
            .run(&["delete", "namespace", chart::NAMESPACE])
            .await
            .map(drop)
    }

    /// Starts to send requests from the pod of `front` to `color`.
    pub fn traffic(&self, rate: u32) -> Result<PodTraffic> {
        PodTraffic::start(
            &self.cluster,
            "shop",
            "deployment/front",
            "color.shop",
            rate,
        )
    }

    /// The address of the gateway for clients outside of the cluster; waits until it answers.
    pub async fn gateway(&self) -> Result<Address> {
        let address = self.cluster.node_port(GATEWAY_PORT).await?;
        let deadline = Instant::now() + FIRST_ANSWER;
        while let Err(error) = address.get("/").await {
            if Instant::now() > deadline {
                return Err(error.context(format!(
                    "the gateway does not answer at {address:?}; make node ports of the cluster's first node reachable from here (docs/cluster.md)"
                )));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(address)
    }
}

/// The manifest of the Route with these weights of v1 and v2.
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
