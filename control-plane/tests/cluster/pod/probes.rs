//! The kubelet's questions: what goes through Envoy has to suit its listener.

use std::time::Duration;

use evermesh_testkit::wait;

use super::scene::{self, PORT, PORTS, SIDE_PORT, Yard};

const LIMIT: Duration = Duration::from_mins(1);

/// The member has started, so its startup probe was answered; nobody else has called it yet.
pub(super) async fn a_probe_of_a_listeners_port_goes_through_envoy(yard: &Yard<'_>) {
    let mut counts = Vec::new();
    for port in PORTS {
        counts.push(yard.requests(port).await);
    }
    assert!(counts[0] > 0, "{counts:?}");
    assert!(counts[1..].iter().all(|count| *count == 0), "{counts:?}");
}

/// Ends with the listener in plaintext.
pub(super) async fn with_tls_a_probe_needs_a_port_without_a_listener(yard: &Yard<'_>) {
    let kubectl = yard.cluster.kubectl();
    let failed = [
        "get",
        "events",
        "--namespace=yard",
        "--output=name",
        "--field-selector=reason=Unhealthy,involvedObject.name=strict,involvedObject.fieldPath=spec.containers{app}",
    ];
    wait::eventually("a probe that fails", LIMIT, async || {
        !kubectl.run(&failed).await.unwrap().is_empty()
    })
    .await;
    // Both answer where there is no listener.
    for (pod, is_ready) in [("strict", false), ("strict-aside", true)] {
        assert_eq!(yard.get(pod, SIDE_PORT).await, pod);
        assert_eq!(yard.is_ready(pod).await, is_ready, "{pod}");
    }

    kubectl.apply(&scene::nodes("DISABLED")).await.unwrap();
    wait::eventually("a probe that succeeds", LIMIT, async || {
        yard.is_ready("strict").await
    })
    .await;
    assert_eq!(yard.get("strict", PORT).await, "strict");
}
