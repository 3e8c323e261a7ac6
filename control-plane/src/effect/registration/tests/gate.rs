use std::sync::Arc;

use evermesh_ingest::registration::{GateState, NodeRegistration, PodRegistration};

use super::{
    super::{
        gate,
        plan::{HealthCheck, InstanceListing},
    },
    empty, gated, holding, node, plan_of, pod, reasons, starting,
};
use crate::effect::reasons::GateReason;

#[test]
fn gate_opens_when_cloud_map_lists_the_pod_as_healthy() {
    let of = |pod: PodRegistration, gate: GateState| node("v1", vec![gated(pod, gate)]);
    let ready = || pod("a", "10.0.0.1");
    let decided =
        |node: &NodeRegistration, listing: &InstanceListing| reasons(&plan_of(&[node], listing));

    let new = of(starting("a", "10.0.0.1"), GateState::Unset);
    assert_eq!(
        decided(&new, &empty(HealthCheck::None)),
        vec![(false, GateReason::ContainersNotReady)]
    );
    let new = of(ready(), GateState::Unset);
    assert_eq!(
        decided(&new, &empty(HealthCheck::None)),
        vec![(false, GateReason::NotRegistered)]
    );
    let closed = of(ready(), GateState::Closed("NotRegistered".to_owned()));
    assert_eq!(decided(&closed, &empty(HealthCheck::None)), vec![], "once");
    assert_eq!(
        decided(&closed, &holding(HealthCheck::None, &[&closed])),
        vec![(true, GateReason::Registered)]
    );
    for health_check in [HealthCheck::Custom, HealthCheck::Route53] {
        let mut listing = holding(health_check, &[&closed]);
        assert_eq!(
            decided(&closed, &listing),
            vec![(true, GateReason::Registered)],
            "{health_check:?}"
        );
        listing.instances.get_mut("10.0.0.1").unwrap().healthy = None;
        assert_eq!(
            decided(&closed, &listing),
            vec![(false, GateReason::NotHealthy)],
            "{health_check:?}"
        );
    }
    let predecessor = node("v1", vec![pod("z", "10.0.0.1")]);
    let listing = holding(HealthCheck::None, &[&predecessor]);
    assert_eq!(
        decided(&new, &listing),
        vec![(false, GateReason::NotRegistered)],
        "another pod's"
    );
    let without = node("v1", vec![ready()]);
    assert_eq!(decided(&without, &empty(HealthCheck::None)), vec![]);
}

#[test]
fn open_gate_closes_only_for_unready_containers_or_a_failing_route53_check() {
    let open = |pod: PodRegistration| node("v1", vec![gated(pod, GateState::Open)]);
    let ready = open(pod("a", "10.0.0.1"));
    for health_check in [HealthCheck::None, HealthCheck::Custom, HealthCheck::Route53] {
        assert_eq!(reasons(&plan_of(&[&ready], &empty(health_check))), []);
    }
    let unready = open(starting("a", "10.0.0.1"));
    let custom = holding(HealthCheck::Custom, &[&unready]);
    assert_eq!(
        reasons(&plan_of(&[&ready], &custom)),
        [],
        "the pod is ready, its health is being set"
    );
    assert_eq!(
        reasons(&plan_of(&[&unready], &custom)),
        [(false, GateReason::ContainersNotReady)]
    );
    let route53 = holding(HealthCheck::Route53, &[&unready]);
    assert_eq!(
        reasons(&plan_of(&[&ready], &route53)),
        [(false, GateReason::Unhealthy)]
    );
    assert_eq!(gate::unavailable(&[&ready], "outage"), []);
}

#[test]
fn closed_gate_gives_the_reason_while_cloud_map_is_unavailable() {
    let pods = vec![
        gated(pod("a", "10.0.0.1"), GateState::Unset),
        gated(
            pod("b", "10.0.0.2"),
            GateState::Closed("CloudMapUnavailable".to_owned()),
        ),
        gated(
            pod("c", "10.0.0.3"),
            GateState::Closed("NotRegistered".to_owned()),
        ),
        pod("d", "10.0.0.4"),
    ];
    let node = node("v1", pods);
    let updates = gate::unavailable(&[&node], "outage");
    let updates: Vec<(&Arc<str>, GateReason)> =
        updates.iter().map(|it| (&it.pod.name, it.reason)).collect();
    let name = |pod: usize| &node.pods[pod].object.name;
    assert_eq!(
        updates,
        [
            (name(0), GateReason::CloudMapUnavailable),
            (name(2), GateReason::CloudMapUnavailable)
        ]
    );
}
