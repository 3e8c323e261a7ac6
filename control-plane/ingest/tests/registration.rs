//! Selection of the pods that must be registered in Cloud Map.
#![allow(clippy::unwrap_used)] // a failure here fails the test

mod fixture;

use evermesh_ingest::{
    BuildMemo, build,
    registration::{
        GateState, NodeRegistration, RegistrationSnapshot, registrations, terminating_node,
    },
};
use evermesh_model::{Graph, Kind, ObjectRef, ProxyKind, ResourceName};

const MESH: &str = "
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {name: shop}
spec: {namespaceSelector: {}}
---
apiVersion: v1
kind: Node
metadata: {name: worker, labels: {topology.kubernetes.io/region: eu-west-1, topology.kubernetes.io/zone: eu-west-1b}}
";

fn node(name: &str, metadata: &str, selector: &str) -> String {
    format!(
        "
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {{name: {name}, namespace: shop, uid: uid-of-{name}{metadata}}}
spec:
  {selector}
  listeners:
  - {{portMapping: {{port: 8080, protocol: http}}}}
  - {{portMapping: {{port: 9090, protocol: http}}}}
  serviceDiscovery:
    awsCloudMap: {{namespaceName: shop.local, serviceName: color, attributes: [{{key: version, value: {name}}}]}}
"
    )
}

fn pod(name: &str, namespace: &str, status: &str) -> String {
    format!(
        "
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, uid: uid-of-{name}, labels: {{app: color}}}}
spec:
  nodeName: worker
  readinessGates: [{{conditionType: conditions.appmesh.k8s.aws/aws-cloudmap-healthy}}]
  containers: []
status: {{{status}}}
"
    )
}

const READY: &str =
    "podIP: 10.0.0.1, phase: Running, conditions: [{type: ContainersReady, status: 'True'}]";

fn registrations_of(yaml: &str) -> Vec<NodeRegistration> {
    let inputs = fixture::inputs(yaml);
    let built = build(&inputs, &mut BuildMemo::default());
    let all = registrations(&RegistrationSnapshot::from(&inputs), &built.graph);
    all.into_values().flatten().collect()
}

fn pod_names(node: &NodeRegistration) -> Vec<&str> {
    node.pods.iter().map(|pod| &*pod.object.name).collect()
}

const ALL: &str = "podSelector: {}";

#[test]
fn node_registers_the_pods_that_it_selects_in_its_namespace() {
    let yaml = [
        MESH,
        &node("v1", "", "podSelector: {matchLabels: {app: color}}"),
        &node("v2", "", "podSelector: {matchLabels: {app: other}}"),
        &node("v3", "", ""),
        &pod("a", "shop", READY),
        &pod("b", "another", READY),
    ];
    let found = registrations_of(&yaml.concat());
    assert_eq!(pod_names(&found[0]), ["a"]);
    assert_eq!(pod_names(&found[1]), [""; 0]);
    assert_eq!(
        pod_names(&found[2]),
        [""; 0],
        "a node without selector has no pods"
    );
    let v1 = &found[0];
    assert_eq!(v1.name.to_string(), "mesh/shop/virtualNode/v1_shop");
    assert_eq!(v1.uid, "uid-of-v1");
    assert_eq!(v1.port, Some(8080), "the port of the first listener");
    assert_eq!(v1.attributes["version"], "v1");
    let pod = &v1.pods[0];
    assert_eq!((&*pod.uid, pod.ip), ("uid-of-a", [10, 0, 0, 1].into()));
    assert_eq!(pod.region.as_deref(), Some("eu-west-1"));
    assert_eq!(pod.zone.as_deref(), Some("eu-west-1b"));
    assert_eq!(pod.labels["app"], "color");
    assert!(pod.ready);
}

#[test]
fn only_running_pods_with_an_address_are_registered() {
    let condition =
        "{type: conditions.appmesh.k8s.aws/aws-cloudmap-healthy, reason: R, status: 'False'}";
    let yaml = [
        MESH,
        &node("v1", "", ALL),
        &pod("pending", "shop", "phase: Pending"),
        &pod("terminating", "shop", READY)
            .replace("uid:", "deletionTimestamp: 2026-01-01T00:00:00Z, uid:"),
        &pod("succeeded", "shop", "podIP: 10.0.0.2, phase: Succeeded"),
        &pod("starting", "shop", "podIP: 10.0.0.3, phase: Running"),
        &pod(
            "waiting",
            "shop",
            &READY.replace('[', &format!("[{condition}, ")),
        ),
    ];
    let found = registrations_of(&yaml.concat());
    assert_eq!(pod_names(&found[0]), ["starting", "waiting"]);
    let [starting, waiting] = &found[0].pods[..] else {
        panic!("two pods")
    };
    assert_eq!((starting.ready, waiting.ready), (false, true));
    assert_eq!(starting.gate, Some(GateState::Unset));
    assert_eq!(waiting.gate, Some(GateState::Closed("R".to_owned())));
}

#[test]
fn readiness_gate_is_open_while_its_condition_is_true() {
    let gate = "conditions.appmesh.k8s.aws/aws-cloudmap-healthy";
    let with = |status: &str| {
        let condition = format!(", {{type: {gate}, status: '{status}'}}]");
        READY.replace(']', &condition)
    };
    let yaml = [
        MESH,
        &node("v1", "", ALL),
        &pod("a-closed", "shop", &with("Unknown")),
        &pod("b-open", "shop", &with("True")),
        &pod("c-other-gate", "shop", &with("True"))
            .replace(&format!("conditionType: {gate}"), "conditionType: other"),
        &pod("d-no-gate", "shop", &with("True")).replace("readinessGates:", "ignored:"),
    ];
    let found = registrations_of(&yaml.concat()).remove(0);
    assert_eq!(
        pod_names(&found),
        ["a-closed", "b-open", "c-other-gate", "d-no-gate"]
    );
    let gates = found.pods.into_iter().map(|pod| pod.gate);
    assert!(gates.eq([
        Some(GateState::Closed(String::new())),
        Some(GateState::Open),
        None,
        None,
    ]));
}

#[test]
fn pod_on_an_unknown_kubernetes_node_has_no_region_and_no_zone() {
    let yaml = [
        MESH,
        &node("v1", "", ALL),
        &pod("a", "shop", READY).replace("nodeName: worker", "nodeName: unknown"),
    ];
    let found = registrations_of(&yaml.concat()).remove(0);
    assert_eq!((&found.pods[0].region, &found.pods[0].zone), (&None, &None));
}

#[test]
fn service_of_a_virtual_node_is_that_of_its_discovery() {
    let yaml = [
        MESH,
        &node("v1", ", annotations: {cloudMapServiceARN: 'arn:x'}", ALL),
    ]
    .concat();
    let objects = RegistrationSnapshot::from(&fixture::inputs(&yaml));
    let service = |name: &str| {
        let found = objects.service(&ObjectRef::new(Kind::VirtualNode, "shop", name));
        found.map(|service| service.to_string())
    };
    assert_eq!(service("v1").as_deref(), Some("color.shop.local"));
    assert_eq!(service("v2"), None);
    let found = registrations_of(&yaml).remove(0);
    assert_eq!(found.service_arn.as_deref(), Some("arn:x"));
    assert_eq!(
        found.object,
        ObjectRef::new(Kind::VirtualNode, "shop", "v1")
    );
    assert!(found.allowed && !found.terminating);
}

#[test]
fn only_one_of_two_nodes_that_select_a_pod_writes_its_condition() {
    let yaml = [
        MESH,
        &node("v1", "", ALL),
        &node("v2", "", ALL).replace("serviceName: color", "serviceName: other"),
        &pod("a", "shop", READY),
    ];
    let gates: Vec<bool> = registrations_of(&yaml.concat())
        .iter()
        .map(|node| node.pods[0].gate.is_some())
        .collect();
    assert_eq!(gates, [true, false]);
}

#[test]
fn terminating_node_has_no_pods() {
    let deletion = ", deletionTimestamp: 2026-01-01T00:00:00Z";
    let yaml = [MESH, &node("v1", deletion, ALL), &pod("a", "shop", READY)].concat();
    let served = registrations_of(&yaml).remove(0);
    assert!(served.terminating);
    assert_eq!(pod_names(&served), [""; 0]);

    let objects = RegistrationSnapshot::from(&fixture::inputs(&yaml));
    assert!(registrations(&objects, &Graph::default()).is_empty());
    let object = ObjectRef::new(Kind::VirtualNode, "shop", "v1");
    let last_name = ResourceName::new("another", ProxyKind::VirtualNode, "v1_shop");
    let (service, unserved) = terminating_node(&objects, &object, Some(last_name.clone())).unwrap();
    assert_eq!(service.to_string(), "color.shop.local");
    assert_eq!(unserved.name, last_name);
    assert!(unserved.terminating && unserved.allowed);
    let (_, with_default_name) = terminating_node(&objects, &object, None).unwrap();
    assert_eq!(&*with_default_name.name.name, "v1_shop");

    let live = [MESH, &node("v1", "", ALL)].concat();
    let objects = RegistrationSnapshot::from(&fixture::inputs(&live));
    assert_eq!(terminating_node(&objects, &object, None), None);
    assert!(objects.is_same(&objects.clone()));
}

#[test]
fn snapshot_changes_with_the_objects_on_which_registration_depends() {
    let (node, pod) = (node("a", "", ""), pod("p", "shop", READY));
    let mut inputs = fixture::inputs(&format!("{MESH}{node}{pod}"));
    for (kind, namespace, name, expected) in [
        (Kind::VirtualNode, "shop", "a", true),
        (Kind::Pod, "shop", "p", true),
        (Kind::Node, "", "worker", true),
        (Kind::Mesh, "", "shop", false),
    ] {
        let last = RegistrationSnapshot::from(&inputs);
        assert!(inputs.apply(ObjectRef::new(kind, namespace, name), None));
        let is_same = RegistrationSnapshot::from(&inputs).is_same(&last);
        assert_eq!(!is_same, expected, "{kind}");
    }
}

#[test]
fn mesh_says_which_namespaces_register_in_which_service() {
    let pods = |annotation: &str| {
        let mesh = MESH.replacen(
            "metadata: {name: shop}",
            &format!("metadata: {{name: shop, annotations: {{evermesh.dev/cloud-map-registration: '{annotation}'}}}}"),
            1,
        );
        let yaml = [&mesh, &node("v1", "", ALL), &pod("a", "shop", READY)];
        let found = registrations_of(&yaml.map(String::as_str).concat());
        assert_eq!(found.len(), 1, "a node without pods removes its instances");
        assert_eq!(found[0].allowed, !found[0].pods.is_empty(), "{annotation}");
        found[0].pods.len()
    };
    for (annotation, expected) in [
        ("shop.local/color: shop", 1),
        ("shop.local/*: other, shop", 1),
        ("shop.local/color: *", 1),
        ("shop.local/color: shop\n\n  shop.local/*: other", 1),
        ("shop.local/color: other\n\n  shop.local/*: shop", 0),
        ("shop.local/tone: shop", 0),
        ("another.local/*: shop", 0),
        ("", 0),
        ("shop.local: shop", 0),
    ] {
        assert_eq!(pods(annotation), expected, "{annotation}");
    }
}
