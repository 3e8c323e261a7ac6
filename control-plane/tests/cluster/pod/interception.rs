//! What goes through a pod's Envoy.

use std::{net::Ipv4Addr, time::Duration};

use evermesh_testkit::wait;

use super::scene::{self, PORT, PORTS, SIDE_PORT, UNLISTED, Yard};

/// For a change to reach Envoy.
const LIMIT: Duration = Duration::from_secs(30);

/// Envoy's port for what comes in.
const INGRESS: u16 = 15000;

/// Envoy's port for what goes out.
const EGRESS: u16 = 15001;

pub(super) async fn forty_ports_lead_through_envoy_and_no_other(yard: &Yard<'_>) {
    assert_eq!(PORTS.count(), 40);
    for port in PORTS {
        let before = yard.requests(port).await;
        assert_eq!(yard.get("member", port).await, "member");
        assert_eq!(yard.requests(port).await, before + 1, "{port}");
    }
    let before = connections(yard, INGRESS).await;
    assert!(before >= 40, "{before}");
    assert_eq!(yard.get("member", UNLISTED).await, "member");
    assert_eq!(connections(yard, INGRESS).await, before);
}

pub(super) async fn what_is_exempt_goes_around_envoy(yard: &Yard<'_>) {
    for (container, ip, port, what) in [
        ("app", yard.ignored, PORT, "an ignored address"),
        ("app", yard.outside, SIDE_PORT, "an ignored port"),
        ("bypass", yard.outside, PORT, "Envoy's user"),
    ] {
        let before = connections(yard, EGRESS).await;
        let tally = yard.call(container, ip, port).await;
        assert_eq!(
            (tally.requests(), tally.failed()),
            (10, 0),
            "{what}: {tally:?}"
        );
        assert_eq!(connections(yard, EGRESS).await, before, "{what}");
    }
    // The mesh knows nothing of the pod that is called, and drops what it does not know.
    let before = connections(yard, EGRESS).await;
    let tally = yard.call("app", yard.outside, PORT).await;
    assert_eq!((tally.requests(), tally.failed()), (10, 10), "{tally:?}");
    assert!(connections(yard, EGRESS).await >= before + 10);
}

/// Ends with another mesh: it lets out what it does not know.
pub(super) async fn what_goes_through_envoy_may_arrive(yard: &Yard<'_>) {
    let kubectl = yard.cluster.kubectl();
    kubectl.apply(&scene::mesh("ALLOW_ALL")).await.unwrap();
    wait::eventually("an answer", LIMIT, async || {
        arrives(yard, yard.outside).await
    })
    .await;
    let before = connections(yard, EGRESS).await;
    assert!(arrives(yard, yard.outside).await);
    assert!(connections(yard, EGRESS).await > before);
}

async fn arrives(yard: &Yard<'_>, ip: Ipv4Addr) -> bool {
    yard.call("app", ip, PORT).await.failed() == 0
}

/// How many connections the member's Envoy has taken at this port, whatever became of them.
async fn connections(yard: &Yard<'_>, port: u16) -> u64 {
    let mut sum = 0;
    for counter in ["downstream_cx_total", "no_filter_chain_match"] {
        let name = format!("listener.0.0.0.0_{port}.{counter}");
        sum += yard.count(&name).await;
    }
    sum
}
