//! Probes of the kubelet: a probe of a listener's port goes through Envoy and has to suit the listener.

use super::fixture::{self, PORT, PORTS, PodFixture, SIDE_PORT};
use crate::common::eventually;

/// The startup probe of the member was answered, and no other request was sent yet.
pub(super) async fn probe_of_a_listeners_port_goes_through_envoy(fixture: &PodFixture<'_>) {
    let mut counts = Vec::new();
    for port in PORTS {
        counts.push(fixture.requests(port).await);
    }
    assert!(counts[0] > 0, "{counts:?}");
    assert!(counts[1..].iter().all(|count| *count == 0), "{counts:?}");
}

/// Leaves the listener without TLS.
pub(super) async fn strict_tls_fails_probes_of_the_listeners_port(fixture: &PodFixture<'_>) {
    let kubectl = fixture.cluster.kubectl();
    let failed = [
        "get",
        "events",
        "--namespace=pods",
        "--output=name",
        "--field-selector=reason=Unhealthy,involvedObject.name=strict,involvedObject.fieldPath=spec.containers{app}",
    ];
    eventually("a probe that fails", async || {
        !kubectl.run(&failed).await.unwrap().is_empty()
    })
    .await;
    // A port without a listener bypasses Envoy, and the probe of the other pod uses that port.
    for (pod, is_ready) in [("strict", false), ("strict-aside", true)] {
        assert_eq!(fixture.get(pod, SIDE_PORT).await, pod);
        assert_eq!(fixture.is_ready(pod).await, is_ready, "{pod}");
    }

    kubectl.apply(&fixture::nodes("DISABLED")).await.unwrap();
    eventually("a probe that succeeds", async || {
        fixture.is_ready("strict").await
    })
    .await;
    assert_eq!(fixture.get("strict", PORT).await, "strict");
}
