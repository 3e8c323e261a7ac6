use std::sync::Arc;

use evermesh_ingest::registration::{GateState, NodeRegistration, PodRegistration};

use super::{
    super::{
        gate,
        plan::{HealthChecks, InstanceListing},
    },
    empty, gated, holding, node, plan_of, pod, reasons, starting,
};

#[test]
fn a_gate_opens_when_cloud_map_shows_the_pod_healthy() {
    let of = |pod: PodRegistration, gate: GateState| node("v1", vec![gated(pod, gate)]);
    let ready = || pod("a", "10.0.0.1");
    let judged = |node: &NodeRegistration, listing: &InstanceListing| -> Vec<(bool, String)> {
        let plan = plan_of(&[node], listing);
        let gates = plan.gates.into_iter();
        gates.map(|it| (it.open, it.reason.to_owned())).collect()
    };
    let says = |open: bool, reason: &str| vec![(open, reason.to_owned())];

    let new = of(starting("a", "10.0.0.1"), GateState::Unset);
    assert_eq!(
        judged(&new, &empty(HealthChecks::None)),
        says(false, "ContainersNotReady")
    );
    let new = of(ready(), GateState::Unset);
    assert_eq!(
        judged(&new, &empty(HealthChecks::None)),
        says(false, "NotRegistered")
    );
    let told = of(ready(), GateState::Closed("NotRegistered".to_owned()));
    assert_eq!(judged(&told, &empty(HealthChecks::None)), vec![], "once");
    assert_eq!(
        judged(&told, &holding(HealthChecks::None, &[&told])),
        says(true, "Registered")
    );
    for checks in [HealthChecks::Custom, HealthChecks::Route53] {
        let mut listing = holding(checks, &[&told]);
        assert_eq!(
            judged(&told, &listing),
            says(true, "Registered"),
            "{checks:?}"
        );
        listing.instances.get_mut("10.0.0.1").unwrap().healthy = None;
        assert_eq!(
            judged(&told, &listing),
            says(false, "NotHealthy"),
            "{checks:?}"
        );
    }
    let predecessor = node("v1", vec![pod("z", "10.0.0.1")]);
    let listing = holding(HealthChecks::None, &[&predecessor]);
    assert_eq!(
        judged(&new, &listing),
        says(false, "NotRegistered"),
        "another pod's"
    );
    let without = node("v1", vec![ready()]);
    assert_eq!(judged(&without, &empty(HealthChecks::None)), vec![]);
}

#[test]
fn an_open_gate_closes_for_the_pod_alone() {
    let open = |pod: PodRegistration| node("v1", vec![gated(pod, GateState::Open)]);
    let ready = open(pod("a", "10.0.0.1"));
    for checks in [
        HealthChecks::None,
        HealthChecks::Custom,
        HealthChecks::Route53,
    ] {
        assert_eq!(reasons(&plan_of(&[&ready], &empty(checks))), []);
    }
    let unready = open(starting("a", "10.0.0.1"));
    let custom = holding(HealthChecks::Custom, &[&unready]);
    assert_eq!(
        reasons(&plan_of(&[&ready], &custom)),
        [],
        "its health is being set"
    );
    assert_eq!(
        reasons(&plan_of(&[&unready], &custom)),
        [(false, "ContainersNotReady")]
    );
    let route53 = holding(HealthChecks::Route53, &[&unready]);
    assert_eq!(
        reasons(&plan_of(&[&ready], &route53)),
        [(false, "Unhealthy")]
    );
    assert_eq!(gate::unanswered(&[&ready], "outage"), []);
}

#[test]
fn while_nobody_answers_a_gate_says_why_it_is_closed() {
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
    let told = gate::unanswered(&[&node], "there is no namespace shop.local");
    let told: Vec<(&Arc<str>, &str)> = told.iter().map(|it| (&it.pod.name, it.reason)).collect();
    let name = |pod: usize| &node.pods[pod].object.name;
    assert_eq!(
        told,
        [
            (name(0), "CloudMapUnavailable"),
            (name(2), "CloudMapUnavailable")
        ]
    );
}
