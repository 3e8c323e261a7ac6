//! The canary release with pods.

use anyhow::Result;
use evermesh_local_cluster::{TestCluster, canary::CanaryCluster};
use evermesh_testkit::envoy::EnvoyVersion;

use crate::{
    STEPS,
    board::{ProgressTable, Step, say},
    conclude, measure, off,
};

/// Requests per second.
const RATE: u32 = 100;

/// What a split is judged by.
const REQUESTS_PER_STEP: u64 = 1000;

pub(crate) async fn play(board: &mut ProgressTable) -> Result<()> {
    say("==> A Kubernetes of one node: etcd, API server, controllers, kubelet, containerd");
    let cluster = TestCluster::obtain(|step| say(&format!("    {step}"))).await?;
    let is_ours = cluster.logs().is_some();
    let canary = CanaryCluster::build(cluster, EnvoyVersion::Newest, |step| {
        say(&format!("==> {step}"))
    })
    .await?;
    say(&format!(
        "==> the pod front calls http://color.shop, {RATE} times a second; ACKed is from before kubectl apply to \
         Programmed\n"
    ));
    let mut traffic = canary.traffic(RATE)?;
    let mut faults = String::new();
    for weights in STEPS {
        // The first weights are those that it was built with.
        let applied = if weights == STEPS[0] {
            None
        } else {
            say("\n$ kubectl apply -f route.yaml");
            Some(canary.shift(weights).await?)
        };
        say(&canary.kubectl_get().await?);
        ProgressTable::open();
        let step = Step::new(format!("{} / {}", weights[0], weights[1]), weights, applied);
        faults += &off(&measure(board, &mut traffic.report, step, REQUESTS_PER_STEP).await?);
    }
    traffic.finish().await?;
    if is_ours {
        say("\n==> ending the cluster");
        drop(canary);
    } else {
        say("\n==> removing the canary and Evermesh from the cluster");
        canary.remove().await?;
    }
    conclude(board, faults)
}
