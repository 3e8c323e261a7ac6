use std::collections::BTreeMap;

use evermesh_ingest::registration::GateState;

use super::{
    super::{
        instance::{self, Attributes},
        plan::{
            HealthChecks, InstanceAction, InstanceRequest, ListedInstance, RegistrationPlan,
            is_done, plan,
        },
    },
    empty, gated, holding, leaving, node, plan_of, pod, reasons, starting,
};

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
fn a_later_attribute_wins() {
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
fn what_is_not_known_is_no_attribute() {
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
fn ready_pods_are_registered_and_others_only_where_health_can_be_told() {
    let node = node("v1", vec![pod("a", "10.0.0.1"), starting("b", "10.0.0.2")]);
    for checks in [HealthChecks::None, HealthChecks::Route53] {
        let plan = plan_of(&[&node], &empty(checks));
        assert_eq!(requests(&plan), ["+10.0.0.1 of v1"], "{checks:?}");
        assert!(plan.is_unsettled);
    }
    let plan = plan_of(&[&node], &empty(HealthChecks::Custom));
    assert_eq!(requests(&plan), ["+10.0.0.1 of v1", "+10.0.0.2 of v1"]);
    let InstanceRequest::Register(attributes) = &plan.actions[1].request else {
        panic!("{plan:?}")
    };
    assert_eq!(attributes["AWS_INIT_HEALTH_STATUS"], "UNHEALTHY");
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    for checks in [
        HealthChecks::None,
        HealthChecks::Custom,
        HealthChecks::Route53,
    ] {
        let node = node("v1", vec![pod("a", "10.0.0.1")]);
        let plan = plan_of(&[&node], &holding(checks, &[&node]));
        assert_eq!(plan, RegistrationPlan::default(), "{checks:?}");
    }
}

#[test]
fn an_instance_is_the_same_whatever_its_first_health_and_what_cloud_map_added() {
    let node = node("v1", vec![pod("a", "10.0.0.1")]);
    let mut listing = holding(HealthChecks::None, &[&node]);
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
fn a_health_of_our_own_follows_the_containers() {
    let ready = node("v1", vec![pod("a", "10.0.0.1")]);
    let unready = node("v1", vec![starting("a", "10.0.0.1")]);
    let custom = |node| holding(HealthChecks::Custom, &[node]);
    let plan = plan_of(&[&unready], &custom(&ready));
    assert_eq!(requests(&plan), ["=10.0.0.1 of v1: false"]);
    let plan = plan_of(&[&ready], &custom(&unready));
    assert_eq!(requests(&plan), ["=10.0.0.1 of v1: true"]);
    let route53 = holding(HealthChecks::Route53, &[&unready]);
    let plan = plan_of(&[&ready], &route53);
    assert_eq!(requests(&plan), [""; 0], "Route 53's is not ours to set");
    let plan = plan_of(&[&unready], &holding(HealthChecks::None, &[&ready]));
    assert_eq!(requests(&plan), ["-10.0.0.1 of v1"]);
}

#[test]
fn a_node_removes_what_carries_its_names_and_nothing_else() {
    let v1 = node("v1", vec![pod("gone", "10.0.0.1")]);
    let v2 = node("v2", vec![pod("b", "10.0.0.2")]);
    let mut other_mesh = node("v1", vec![pod("c", "10.0.0.3")]);
    other_mesh.name.mesh = "another".into();
    let mut listing = holding(HealthChecks::None, &[&v1, &v2, &other_mesh]);
    let nobodys = ListedInstance {
        attributes: [("AWS_INSTANCE_IPV4".to_owned(), "10.0.0.4".to_owned())].into(),
        healthy: None,
    };
    listing.instances.insert("10.0.0.4".to_owned(), nobodys);
    let v1 = node("v1", vec![]);
    let plan = plan_of(&[&v1], &listing);
    assert_eq!(requests(&plan), ["-10.0.0.1 of v1"]);
    assert!(plan.is_unsettled);
    assert_eq!(requests(&plan_of(&[], &listing)), [""; 0]);
}

#[test]
fn an_address_that_moves_between_nodes_of_a_service_is_registered_anew() {
    let before = node("v1", vec![pod("a", "10.0.0.1")]);
    let listing = holding(HealthChecks::None, &[&before]);
    let (v1, v2) = (node("v1", vec![]), node("v2", vec![pod("b", "10.0.0.1")]));
    let plan = plan_of(&[&v1, &v2], &listing);
    assert_eq!(
        requests(&plan),
        ["+10.0.0.1 of v2"],
        "and not removed by v1"
    );
}

#[test]
fn room_is_made_first() {
    let before = node("v1", vec![pod("a", "10.0.0.9")]);
    let after = node("v1", vec![pod("b", "10.0.0.1")]);
    let plan = plan_of(&[&after], &holding(HealthChecks::None, &[&before]));
    assert_eq!(requests(&plan), ["-10.0.0.9 of v1", "+10.0.0.1 of v1"]);
}

#[test]
fn of_two_pods_with_one_address_the_ready_one_is_registered() {
    let one = node("v1", vec![starting("a", "10.0.0.1"), pod("b", "10.0.0.1")]);
    let plan = plan_of(&[&one], &empty(HealthChecks::Custom));
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
    let plan = plan_of(&[&v1, &v2], &holding(HealthChecks::None, &[&v1]));
    assert_eq!(requests(&plan), [""; 0], "the first, and always the first");
    assert_eq!(plan.problems.keys().collect::<Vec<_>>(), [&v2.object]);
    assert_eq!(
        reasons(&plan),
        [(true, "Registered"), (false, "AddressTaken")]
    );
}

#[test]
fn what_was_asked_for_is_not_asked_again_until_it_should_be_something_else() {
    let node = node("v1", vec![pod("a", "10.0.0.1")]);
    let asked = plan_of(&[&node], &empty(HealthChecks::None))
        .actions
        .remove(0);
    let sent: BTreeMap<_, _> = [(asked.id.clone(), asked.clone())].into();
    let again = plan(&[&node], &empty(HealthChecks::None), &sent);
    assert_eq!(requests(&again), [""; 0]);
    assert!(again.is_unsettled);
    assert!(!is_done(&asked, &empty(HealthChecks::None)));
    assert!(is_done(&asked, &holding(HealthChecks::None, &[&node])));

    let mut changed = node.clone();
    changed.port = Some(9090);
    let other = plan(&[&changed], &empty(HealthChecks::None), &sent);
    assert_eq!(requests(&other), ["+10.0.0.1 of v1"]);
}

#[test]
fn a_leaving_node_is_gone_when_nothing_of_it_is_listed_or_under_way() {
    let (before, v2) = (
        node("v1", vec![pod("a", "10.0.0.1")]),
        node("v2", vec![pod("b", "10.0.0.2")]),
    );
    let listing = holding(HealthChecks::None, &[&before, &v2]);
    let v1 = leaving("v1");
    let first = plan_of(&[&v1, &v2], &listing);
    assert_eq!(requests(&first), ["-10.0.0.1 of v1"]);
    assert_eq!(first.gone, []);
    assert!(first.is_unsettled);

    let rest = holding(HealthChecks::None, &[&v2]);
    assert_eq!(plan_of(&[&v1, &v2], &rest).gone, vec![v1.object.clone()]);
    let registered_late = plan_of(&[&before], &empty(HealthChecks::None))
        .actions
        .remove(0);
    let sent: BTreeMap<_, _> = [(registered_late.id.clone(), registered_late)].into();
    assert_eq!(plan(&[&v1, &v2], &rest, &sent).gone, []);
}
