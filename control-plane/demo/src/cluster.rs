//! The canary release with pods (`--pods`).

use anyhow::Result;
use evermesh_local_cluster::{TestCluster, canary::CanaryCluster};
use evermesh_testkit::envoy::EnvoyVersion;

use crate::{
    STEPS, conclude, measure, split_fault,
    table::{ProgressTable, Step, print},
};

/// Requests per second.
const RATE: u32 = 100;

/// Sample size of each step; a split of 82/18 at the weights 90/10 is found in 99 of 100 runs.
const REQUESTS_PER_STEP: u64 = 1000;

pub(crate) async fn run(table: &mut ProgressTable) -> Result<()> {
    print(
        "==> a Kubernetes cluster of one node: etcd, API server, controllers, kubelet, containerd",
    );
    let cluster = TestCluster::obtain(|step| print(&format!("    {step}"))).await?;
    let is_local = cluster.logs().is_some();
    let progress = |step: &str| print(&format!("==> {step}"));
    let canary = CanaryCluster::build(cluster, EnvoyVersion::Newest, progress).await?;
    print(&format!(
        "==> the pod front calls http://color.shop {RATE} times a second; ACKed is the time from kubectl apply to \
         Programmed\n"
    ));
    let mut traffic = canary.traffic(RATE)?;
    let mut faults = String::new();
    for weights in STEPS {
        // The example starts with the first weights.
        let applied = if weights == STEPS[0] {
            None
        } else {
            print("\n$ kubectl apply -f route.yaml");
            Some(canary.shift(weights).await?)
        };
        print(&canary.kubectl_get().await?);
        ProgressTable::print_header();
        let step = Step::new(format!("{} / {}", weights[0], weights[1]), weights, applied);
        let step = measure(table, &mut traffic.report, step, REQUESTS_PER_STEP).await?;
        faults += &split_fault(&step);
    }
    traffic.finish().await?;
    if is_local {
        print("\n==> stopping the cluster");
        drop(canary);
    } else {
        print("\n==> removing the example and Evermesh from the cluster");
        canary.remove().await?;
    }
    conclude(table, faults)
}
