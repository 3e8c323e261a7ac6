use std::{sync::Arc, time::Instant};

use evermesh_ingest::{IngestSettings, object::parse};
use evermesh_model::{Graph, Kind, ObjectRef, Reason};
use evermesh_proto::{ProxyView, Resource, ResourceKey};
use serde_json::{Value, json};

use super::super::{Engine, EngineOutputs};
use crate::source::{ChangeBatch, SourceChange};

/// The port of the nodes with which a rebuild panics.
const BAD: u16 = 6666;

/// Panics if the graph has a node with the port [`BAD`].
fn fail_at_bad_ports(graph: &Graph) {
    let mut listeners = graph.nodes.values().flat_map(|node| &node.listeners);
    assert!(
        listeners.all(|listener| listener.port != BAD),
        "the port is bad"
    );
}

fn engine(fault: fn(&Graph)) -> Engine {
    let mut engine = Engine::new([], IngestSettings::default(), EngineOutputs::unserved());
    engine.fault = fault;
    let mesh = json!({"apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "Mesh", "metadata": {"name": "m"},
        "spec": {"namespaceSelector": {}}});
    engine.step([batch([put(mesh), node("a", 8080), node("b", 8080)])]);
    engine
}

fn put(object: Value) -> SourceChange {
    let parsed = parse(object);
    let (object, value) = parsed.object.unwrap();
    SourceChange::Object {
        object,
        origin: None,
        value: Some(value),
    }
}

fn node(name: &str, port: u16) -> SourceChange {
    put(
        json!({"apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "VirtualNode",
        "metadata": {"name": name, "namespace": "shop"}, "spec": {
            "listeners": [{"portMapping": {"port": port, "protocol": "http"}}],
            "serviceDiscovery": {"dns": {"hostname": format!("{name}.shop.svc.cluster.local")}}}}),
    )
}

fn delete(name: &str) -> SourceChange {
    SourceChange::Object {
        object: ObjectRef::new(Kind::VirtualNode, "shop", name),
        origin: None,
        value: None,
    }
}

fn batch(changes: impl IntoIterator<Item = SourceChange>) -> ChangeBatch {
    ChangeBatch::new(Instant::now(), changes.into_iter().collect())
}

type Served = (
    Vec<(ResourceKey, Arc<Resource>)>,
    Vec<(Arc<str>, Arc<ProxyView>)>,
);

fn served(engine: &Engine) -> Served {
    let store = &engine.outputs.store;
    (store.resources(), store.views())
}

/// The objects that an engine reports as quarantined.
fn quarantined(engine: &Engine) -> Vec<String> {
    let problems = engine.problems.iter();
    let internal = problems.filter(|problem| problem.reason == Reason::InternalError);
    internal
        .filter_map(|problem| Some(problem.object.as_ref()?.to_string()))
        .collect()
}

#[test]
fn bad_versions_are_left_out_and_everything_else_is_served() {
    let mut engine = engine(fail_at_bad_ports);
    // A changed node keeps its last good version, a new one is absent, and the deletion of another one takes effect.
    engine.step([batch([
        node("a", BAD),
        delete("b"),
        node("c", BAD),
        node("d", 8080),
        node("e", BAD),
        node("f", 8080),
    ])]);
    let bad = ["a", "c", "e"].map(|name| format!("VirtualNode/shop/{name}"));
    assert_eq!(quarantined(&engine), bad);
    let mut expected = self::engine(|_| ());
    expected.step([batch([delete("b"), node("d", 8080), node("f", 8080)])]);
    assert_eq!(served(&engine), served(&expected));

    engine.step([batch([node("g", 8080)])]);
    expected.step([batch([node("g", 8080)])]);
    assert_eq!(served(&engine), served(&expected));
    assert_eq!(quarantined(&engine), bad);

    engine.step([batch([node("a", 8081), delete("c"), node("e", 8080)])]);
    expected.step([batch([node("a", 8081), node("e", 8080)])]);
    assert_eq!(served(&engine), served(&expected));
    assert!(quarantined(&engine).is_empty());
}

#[test]
fn problem_quotes_the_panic() {
    let mut engine = engine(fail_at_bad_ports);
    engine.step([batch([node("a", BAD)])]);
    let mut problems = engine.problems.iter();
    let problem = problems.find(|problem| problem.reason == Reason::InternalError);
    let message = &problem.unwrap().message;
    assert!(message.contains("(`the port is bad`)"), "{message}");
}

/// The first read has all objects in one step.
#[test]
fn bad_object_of_the_first_step_is_left_out() {
    let mut engine = Engine::new([], IngestSettings::default(), EngineOutputs::unserved());
    engine.fault = fail_at_bad_ports;
    let mesh = json!({"apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "Mesh", "metadata": {"name": "m"},
        "spec": {"namespaceSelector": {}}});
    engine.step([batch([
        node("bad", BAD),
        put(mesh),
        node("a", 8080),
        node("b", 8080),
    ])]);
    assert_eq!(served(&engine), served(&self::engine(|_| ())));
    assert_eq!(quarantined(&engine), ["VirtualNode/shop/bad"]);
}

#[test]
fn last_resources_stay_while_no_object_is_to_blame() {
    let mut engine = engine(|_| ());
    let before = served(&engine);
    engine.fault = |_| panic!("always");
    engine.step([batch([delete("a")])]);
    assert_eq!(served(&engine), before);
    assert!(quarantined(&engine).is_empty());
    engine.fault = |_| ();
    engine.step([batch([])]);
    let mut expected = self::engine(|_| ());
    expected.step([batch([delete("a")])]);
    assert_eq!(served(&engine), served(&expected));
}
