//! Which pods belong into Cloud Map, from manifests as the API has them.
#![allow(clippy::unwrap_used)] // what fails here fails a test

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

fn of(yaml: &str) -> Vec<NodeRegistration> {
    let inputs = fixture::inputs(yaml);
    let built = build(&inputs, &mut BuildMemo::default());
    let all = registrations(&RegistrationSnapshot::from(&inputs), &built.graph);
    all.into_values().flatten().collect()
}

fn names(registrant: &NodeRegistration) -> Vec<&str> {
    registrant
        .pods
        .iter()
        .map(|pod| &*pod.object.name)
        .collect()
}

const ALL: &str = "podSelector: {}";

#[test]
fn a_node_has_the_pods_that_it_selects_in_its_namespace() {
    let yaml = [
        MESH,
        &node("v1", "", "podSelector: {matchLabels: {app: color}}"),
        &node("v2", "", "podSelector: {matchLabels: {app: other}}"),
        &node("v3", "", ""),
        &pod("a", "shop", READY),
        &pod("b", "another", READY),
    ];
    let found = of(&yaml.concat());
    assert_eq!(names(&found[0]), ["a"]);
    assert_eq!(names(&found[1]), [""; 0]);
    assert_eq!(names(&found[2]), [""; 0], "no selector selects nothing");
    let v1 = &found[0];
    assert_eq!(v1.name.to_string(), "mesh/shop/virtualNode/v1_shop");
    assert_eq!(v1.uid, "uid-of-v1");
    assert_eq!(v1.port, Some(8080), "of the first listener");
    assert_eq!(v1.attributes["version"], "v1");
    let pod = &v1.pods[0];
    assert_eq!(pod.region.as_deref(), Some("eu-west-1"));
    assert_eq!(pod.zone.as_deref(), Some("eu-west-1b"));
    assert_eq!(pod.labels["app"], "color");
    assert!(pod.ready);
}

#[test]
fn a_pod_counts_as_long_as_it_runs_and_has_an_address() {
    let condition =
        "{type: conditions.appmesh.k8s.aws/aws-cloudmap-healthy, reason: R, status: 'False'}";
    let yaml = [
        MESH,
        &node("v1", "", ALL),
        &pod("early", "shop", "phase: Pending"),
        &pod("leaving", "shop", READY)
            .replace("uid:", "deletionTimestamp: 2026-01-01T00:00:00Z, uid:"),
        &pod("over", "shop", "podIP: 10.0.0.2, phase: Succeeded"),
        &pod("starting", "shop", "podIP: 10.0.0.3, phase: Running"),
        &pod(
            "waiting",
            "shop",
            &READY.replace('[', &format!("[{condition}, ")),
        ),
    ];
    let found = of(&yaml.concat());
    assert_eq!(names(&found[0]), ["starting", "waiting"]);
    let [starting, waiting] = &found[0].pods[..] else {
        panic!("two pods")
    };
    assert_eq!((starting.ready, waiting.ready), (false, true));
    assert_eq!(starting.gate, Some(GateState::Unset));
    assert_eq!(waiting.gate, Some(GateState::Closed("R".to_owned())));
}

#[test]
fn of_two_nodes_that_select_a_pod_one_writes_its_condition() {
    let yaml = [
        MESH,
        &node("v1", "", ALL),
        &node("v2", "", ALL).replace("serviceName: color", "serviceName: other"),
        &pod("a", "shop", READY),
    ];
    let gates: Vec<bool> = of(&yaml.concat())
        .iter()
        .map(|it| it.pods[0].gate.is_some())
        .collect();
    assert_eq!(gates, [true, false]);
}

#[test]
fn a_node_that_leaves_has_no_pods_whether_or_not_it_is_served() {
    let deleting = ", deletionTimestamp: 2026-01-01T00:00:00Z";
    let yaml = [MESH, &node("v1", deleting, ALL), &pod("a", "shop", READY)].concat();
    let served = of(&yaml).remove(0);
    assert!(served.terminating);
    assert_eq!(names(&served), [""; 0]);

    let objects = RegistrationSnapshot::from(&fixture::inputs(&yaml));
    assert!(registrations(&objects, &Graph::default()).is_empty());
    let object = ObjectRef::new(Kind::VirtualNode, "shop", "v1");
    let last_name = ResourceName::new("another", ProxyKind::VirtualNode, "v1_shop");
    let (service, unserved) = terminating_node(&objects, &object, Some(last_name.clone())).unwrap();
    assert_eq!(service.to_string(), "color.shop.local");
    assert_eq!(unserved.name, last_name);
    assert!(unserved.terminating);
    let (_, guessed) = terminating_node(&objects, &object, None).unwrap();
    assert_eq!(&*guessed.name.name, "v1_shop");

    let staying = [MESH, &node("v1", "", ALL)].concat();
    let objects = RegistrationSnapshot::from(&fixture::inputs(&staying));
    assert_eq!(terminating_node(&objects, &object, None), None);
    assert!(objects.is_same(&objects.clone()));
}
