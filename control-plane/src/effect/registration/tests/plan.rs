use std::collections::BTreeMap;

use evermesh_ingest::registration::GateState;

use super::{
    super::{
        instance::{self, Attributes},
        plan::{
            HealthCheck, InstanceAction, InstanceRequest, ListedInstance, RegistrationPlan,
            is_done, plan,
        },
    },
    empty, gated, holding, node, plan_of, pod, reasons, starting, terminating,
};
use crate::effect::reasons::GateReason;

/// `+` registers, `-` deregisters, `=` sets the health.
fn requests(plan: &RegistrationPlan) -> Vec<String> {
    let request = |action: &InstanceAction| {
        let InstanceAction { node, id, request } = action;
        match request {
            InstanceRequest::Deregister => format!("-{id} of {}", node.name),
            InstanceRequest::SetHealth(healthy) => format!("={id} of {}: {healthy}", node.name),
            InstanceRequest::Register(_) => format!("+{id} of {}", node.name),
        }
    };
    plan.actions.iter().map(request).collect()
}

#[test]
fn labels_lose_to_node_attributes_and_both_lose_to_builtin_attributes() {
    let names = [
        "own",
        "label",
        "AWS_INSTANCE_IPV4",
        "AWS_INSTANCE_PORT",
        "k8s.io/pod",
        "k8s.io/namespace",
        "appmesh.k8s.aws/mesh",
        "appmesh.k8s.aws/virtualNode",
        "REGION",
        "AVAILABILITY_ZONE",
        "AWS_INIT_HEALTH_STATUS",
    ];
    let all = |value: &str| names.map(|name| (name.to_owned(), value.to_owned()));
    let mut node = node("v1", vec![]);
    node.attributes = all("node").into();
    node.attributes.remove("label");
    let mut pod = pod("a", "10.0.0.1");
    pod.labels = all("pod").into();
    pod.region = Some("eu-west-1".to_owned());
    pod.zone = Some("eu-west-1a".to_owned());
    let expected = [
        ("own", "node"),
        ("label", "pod"),
        ("AWS_INSTANCE_IPV4", "10.0.0.1"),
        ("AWS_INSTANCE_PORT", "8080"),
        ("k8s.io/pod", "a"),
        ("k8s.io/namespace", "ns"),
        ("appmesh.k8s.aws/mesh", "shop"),
        ("appmesh.k8s.aws/virtualNode", "v1_ns"),
        ("REGION", "eu-west-1"),
        ("AVAILABILITY_ZONE", "eu-west-1a"),
        ("AWS_INIT_HEALTH_STATUS", "HEALTHY"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(instance::attributes(&node, &pod), expected.into());
}

#[test]
fn unknown_values_make_no_attribute() {
    let mut node = node("v1", vec![]);
    node.port = None;
    let attributes = instance::attributes(&node, &starting("a", "fd00::1"));
    let expected = [
        ("AWS_INIT_HEALTH_STATUS", "UNHEALTHY"),
        ("AWS_INSTANCE_IPV6", "fd00::1"),
        ("appmesh.k8s.aws/mesh", "shop"),
        ("appmesh.k8s.aws/virtualNode", "v1_ns"),
        ("k8s.io/namespace", "ns"),
        ("k8s.io/pod", "a"),
    ];
    let found: Vec<_> = attributes
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn unready_pods_are_registered_only_with_a_custom_health_check() {
    let node = node("v1", vec![pod("a", "10.0.0.1"), starting("b", "10.0.0.2")]);
    for health_check in [HealthCheck::None, HealthCheck::Route53] {
        let plan = plan_of(&[&node], &empty(health_check));
        assert_eq!(requests(&plan), ["+10.0.0.1 of v1"], "{health_check:?}");
        assert!(plan.is_unsettled);
    }
    let plan = plan_of(&[&node], &empty(HealthCheck::Custom));
    assert_eq!(requests(&plan), ["+10.0.0.1 of v1", "+10.0.0.2 of v1"]);
    let InstanceRequest::Register(attributes) = &plan.actions[1].request else {
        panic!("{plan:?}")
    };
    assert_eq!(attributes["AWS_INIT_HEALTH_STATUS"], "UNHEALTHY");
}

#[test]
fn matching_listing_makes_an_empty_plan() {
    for health_check in [HealthCheck::None, HealthCheck::Custom, HealthCheck::Route53] {
        let node = node("v1", vec![pod("a", "10.0.0.1")]);
        let plan = plan_of(&[&node], &holding(health_check, &[&node]));
        assert_eq!(plan, RegistrationPlan::default(), "{health_check:?}");
    }
}

#[test]
fn initial_health_and_attributes_of_cloud_map_are_not_compared() {
    let node = node("v1", vec![pod("a", "10.0.0.1")]);
    let mut listing = holding(HealthCheck::None, &[&node]);
    let attributes = &mut listing.instances.get_mut("10.0.0.1").unwrap().attributes;
    attributes.remove("AWS_INIT_HEALTH_STATUS");
    attributes.insert("AWS_EC2_INSTANCE_ID".to_owned(), "i".to_owned());
    assert_eq!(plan_of(&[&node], &listing), RegistrationPlan::default());

    let of_another = |change: fn(&mut Attributes)| {
        let mut listing = listing.clone();
        change(&mut listing.instances.get_mut("10.0.0.1").unwrap().attributes);
        requests(&plan_of(&[&node], &listing))
    };
    let more = of_another(|it| drop(it.insert("app".to_owned(), "color".to_owned())));
    assert_eq!(more, ["+10.0.0.1 of v1"]);
    let fewer = of_another(|it| drop(it.remove("AWS_INSTANCE_PORT")));
    assert_eq!(fewer, ["+10.0.0.1 of v1"]);
    let other = of_another(|it| drop(it.insert("k8s.io/pod".to_owned(), "z".to_owned())));
    assert_eq!(other, ["+10.0.0.1 of v1"]);
}

#[test]
fn custom_health_follows_the_readiness_of_the_pod() {
    let ready = node("v1", vec![pod("a", "10.0.0.1")]);
    let unready = node("v1", vec![starting("a", "10.0.0.1")]);
    let custom = |node| holding(HealthCheck::Custom, &[node]);
    let plan = plan_of(&[&unready], &custom(&ready));
    assert_eq!(requests(&plan), ["=10.0.0.1 of v1: false"]);
    let plan = plan_of(&[&ready], &custom(&unready));
    assert_eq!(requests(&plan), ["=10.0.0.1 of v1: true"]);
    let route53 = holding(HealthCheck::Route53, &[&unready]);
    let plan = plan_of(&[&ready], &route53);
    assert_eq!(requests(&plan), [""; 0], "Route 53 sets its own health");
    let plan = plan_of(&[&unready], &holding(HealthCheck::None, &[&ready]));
    assert_eq!(requests(&plan), ["-10.0.0.1 of v1"]);
}

#[test]
fn node_deregisters_only_its_own_instances() {
    let v1 = node("v1", vec![pod("gone", "10.0.0.1")]);
    let v2 = node("v2", vec![pod("b", "10.0.0.2")]);
    let mut other_mesh = node("v1", vec![pod("c", "10.0.0.3")]);
    other_mesh.name.mesh = "another".into();
    let mut listing = holding(HealthCheck::None, &[&v1, &v2, &other_mesh]);
    let unowned = ListedInstance {
        attributes: [("AWS_INSTANCE_IPV4".to_owned(), "10.0.0.4".to_owned())].into(),
        healthy: None,
    };
    listing.instances.insert("10.0.0.4".to_owned(), unowned);
    let v1 = node("v1", vec![]);
    let plan = plan_of(&[&v1], &listing);
    assert_eq!(requests(&plan), ["-10.0.0.1 of v1"]);
    assert!(plan.is_unsettled);
    assert_eq!(requests(&plan_of(&[], &listing)), [""; 0]);
}

#[test]
fn address_that_moves_to_another_node_is_registered_again() {
    let before = node("v1", vec![pod("a", "10.0.0.1")]);
    let listing = holding(HealthCheck::None, &[&before]);
    let (v1, v2) = (node("v1", vec![]), node("v2", vec![pod("b", "10.0.0.1")]));
    let plan = plan_of(&[&v1, &v2], &listing);
    assert_eq!(
        requests(&plan),
        ["+10.0.0.1 of v2"],
        "v1 does not deregister it"
    );
}

#[test]
fn deregistrations_come_before_registrations() {
    let before = node("v1", vec![pod("a", "10.0.0.9")]);
    let after = node("v1", vec![pod("b", "10.0.0.1")]);
    let plan = plan_of(&[&after], &holding(HealthCheck::None, &[&before]));
    assert_eq!(requests(&plan), ["-10.0.0.9 of v1", "+10.0.0.1 of v1"]);
}

#[test]
fn ready_pod_wins_a_shared_address() {
    let one = node("v1", vec![starting("a", "10.0.0.1"), pod("b", "10.0.0.1")]);
    let plan = plan_of(&[&one], &empty(HealthCheck::Custom));
    let InstanceRequest::Register(attributes) = &plan.actions[0].request else {
        panic!("{plan:?}")
    };
    assert_eq!(attributes["k8s.io/pod"], "b");
    let problem = &plan.problems[&one.object];
    assert!(
        problem.contains("Pod/ns/a") && problem.contains("Pod/ns/b"),
        "{problem}"
    );

    let gate = |name: &str| gated(pod(name, "10.0.0.1"), GateState::Unset);
    let (v1, v2) = (node("v1", vec![gate("a")]), node("v2", vec![gate("b")]));
    let plan = plan_of(&[&v1, &v2], &holding(HealthCheck::None, &[&v1]));
    assert_eq!(requests(&plan), [""; 0], "the first pod stays registered");
    assert_eq!(plan.problems.keys().collect::<Vec<_>>(), [&v2.object]);
    assert_eq!(
        reasons(&plan),
        [
            (true, GateReason::Registered),
            (false, GateReason::AddressTaken)
        ]
    );
}

#[test]
fn pending_request_is_repeated_only_with_other_contents() {
    let node = node("v1", vec![pod("a", "10.0.0.1")]);
    let requested = plan_of(&[&node], &empty(HealthCheck::None))
        .actions
        .remove(0);
    let sent: BTreeMap<_, _> = [(requested.id.clone(), requested.clone())].into();
    let again = plan(&[&node], &empty(HealthCheck::None), &sent);
    assert_eq!(requests(&again), [""; 0]);
    assert!(again.is_unsettled);
    assert!(!is_done(&requested, &empty(HealthCheck::None)));
    assert!(is_done(&requested, &holding(HealthCheck::None, &[&node])));

    let mut changed = node.clone();
    changed.port = Some(9090);
    let other = plan(&[&changed], &empty(HealthCheck::None), &sent);
    assert_eq!(requests(&other), ["+10.0.0.1 of v1"]);
}

#[test]
fn terminating_node_is_gone_when_no_instance_is_listed_or_pending() {
    let (before, v2) = (
        node("v1", vec![pod("a", "10.0.0.1")]),
        node("v2", vec![pod("b", "10.0.0.2")]),
    );
    let listing = holding(HealthCheck::None, &[&before, &v2]);
    let v1 = terminating("v1");
    let first = plan_of(&[&v1, &v2], &listing);
    assert_eq!(requests(&first), ["-10.0.0.1 of v1"]);
    assert_eq!(first.gone, []);
    assert!(first.is_unsettled);

    let rest = holding(HealthCheck::None, &[&v2]);
    assert_eq!(plan_of(&[&v1, &v2], &rest).gone, vec![v1.object.clone()]);
    let registered_late = plan_of(&[&before], &empty(HealthCheck::None))
        .actions
        .remove(0);
    let sent: BTreeMap<_, _> = [(registered_late.id.clone(), registered_late)].into();
    assert_eq!(plan(&[&v1, &v2], &rest, &sent).gone, []);
}
