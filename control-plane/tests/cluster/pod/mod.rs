//! One pod and its Envoy: interception, probes of the kubelet, authentication by the pod's token, and ports.

mod fixture;
mod identity;
mod interception;
mod listeners;
mod probes;

use evermesh_local_cluster::TestCluster;
use evermesh_testkit::envoy::EnvoyVersion;

use self::fixture::PodFixture;
use crate::say;

#[tokio::test]
async fn pod_is_intercepted_probed_and_authenticated() {
    let cluster = TestCluster::obtain(say).await.unwrap();
    evermesh_local_cluster::install(&cluster, EnvoyVersion::Oldest, say)
        .await
        .unwrap();
    let fixture = PodFixture::build(&cluster).await;
    probes::probe_of_a_listeners_port_goes_through_envoy(&fixture).await;
    interception::listener_ports_lead_through_envoy_and_others_do_not(&fixture).await;
    interception::exempt_traffic_bypasses_envoy(&fixture).await;
    interception::allow_all_lets_traffic_through_envoy(&fixture).await;
    identity::token_is_valid_for_its_own_node(&fixture).await;
    listeners::pods_listen_only_at_the_documented_ports(&fixture).await;
    probes::strict_tls_fails_probes_of_the_listeners_port(&fixture).await;
    if cluster.logs().is_none() {
        // A cluster of `KUBECONFIG` outlives the test.
        let delete = ["delete", "namespace", "pods", "--timeout=120s"];
        cluster.kubectl().run(&delete).await.unwrap();
    }
}
