//! One pod and its Envoy: what goes through it and what does not, how the kubelet asks, and whom the token lets in.

mod identity;
mod interception;
mod probes;
mod scene;

use evermesh_local_cluster::{self as cluster, TestCluster};
use evermesh_testkit::envoy::EnvoyVersion;

use crate::say;

#[tokio::test]
async fn a_pod_is_intercepted_probed_and_known_by_its_token() {
    let cluster = TestCluster::obtain(say).await.unwrap();
    cluster::install(&cluster, EnvoyVersion::Oldest, say)
        .await
        .unwrap();
    let yard = scene::build(&cluster).await;
    probes::a_probe_of_a_listeners_port_goes_through_envoy(&yard).await;
    interception::forty_ports_lead_through_envoy_and_no_other(&yard).await;
    interception::what_is_exempt_goes_around_envoy(&yard).await;
    interception::what_goes_through_envoy_may_arrive(&yard).await;
    identity::a_token_is_good_for_its_own_pods_node(&yard).await;
    probes::with_tls_a_probe_needs_a_port_without_a_listener(&yard).await;
    let gone = ["delete", "namespace", "yard", "--timeout=60s"];
    cluster.kubectl().run(&gone).await.unwrap();
}
