//! Traffic that goes through a pod's Envoy, and traffic that bypasses it.

use std::net::Ipv4Addr;

use crate::common::eventually;

use super::fixture::{self, PORT, PORTS, PodFixture, SIDE_PORT, UNLISTED};

/// Envoy's port for intercepted inbound connections.
const INGRESS: u16 = 15000;

/// Envoy's port for intercepted outbound connections.
const EGRESS: u16 = 15001;

pub(super) async fn listener_ports_lead_through_envoy_and_others_do_not(fixture: &PodFixture<'_>) {
    assert_eq!(PORTS.count(), 40);
    for port in PORTS {
        let before = fixture.requests(port).await;
        assert_eq!(fixture.get("member", port).await, "member");
        assert_eq!(fixture.requests(port).await, before + 1, "{port}");
    }
    let before = connections(fixture, INGRESS).await;
    assert!(before >= 40, "{before}");
    assert_eq!(fixture.get("member", UNLISTED).await, "member");
    assert_eq!(connections(fixture, INGRESS).await, before);
}

pub(super) async fn exempt_traffic_bypasses_envoy(fixture: &PodFixture<'_>) {
    for (container, ip, port, case) in [
        ("app", fixture.ignored, PORT, "an ignored address"),
        ("app", fixture.outside, SIDE_PORT, "an ignored port"),
        ("bypass", fixture.outside, PORT, "Envoy's user"),
    ] {
        let before = connections(fixture, EGRESS).await;
        let stats = fixture.call(container, ip, port).await;
        assert_eq!(
            (stats.requests(), stats.failed()),
            (10, 0),
            "{case}: {stats:?}"
        );
        assert_eq!(connections(fixture, EGRESS).await, before, "{case}");
    }
    // The mesh has the egress filter DROP_ALL, and the called pod is not a member.
    let before = connections(fixture, EGRESS).await;
    let stats = fixture.call("app", fixture.outside, PORT).await;
    assert_eq!((stats.requests(), stats.failed()), (10, 10), "{stats:?}");
    assert!(connections(fixture, EGRESS).await >= before + 10);
}

/// Leaves the mesh with the egress filter `ALLOW_ALL`.
pub(super) async fn allow_all_lets_traffic_through_envoy(fixture: &PodFixture<'_>) {
    let kubectl = fixture.cluster.kubectl();
    kubectl.apply(&fixture::mesh("ALLOW_ALL")).await.unwrap();
    eventually("a response", async || {
        all_requests_succeed(fixture, fixture.outside).await
    })
    .await;
    let before = connections(fixture, EGRESS).await;
    assert!(all_requests_succeed(fixture, fixture.outside).await);
    assert!(connections(fixture, EGRESS).await > before);
}

async fn all_requests_succeed(fixture: &PodFixture<'_>, ip: Ipv4Addr) -> bool {
    fixture.call("app", ip, PORT).await.failed() == 0
}

/// Number of connections that the member's Envoy has accepted at this port, including those without a filter chain.
async fn connections(fixture: &PodFixture<'_>, port: u16) -> u64 {
    let mut sum = 0;
    for counter in ["downstream_cx_total", "no_filter_chain_match"] {
        let name = format!("listener.0.0.0.0_{port}.{counter}");
        sum += fixture.counter(&name).await;
    }
    sum
}
