//! The engine as a whole: any history of objects, in any batches, leads to the same resources, byte for byte, as a fresh
//! start with the final objects.

#![allow(clippy::unwrap_used)] // a panic fails the test

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use evermesh::{
    engine::{Engine, EngineOutputs},
    source::{ChangeBatch, SourceChange},
};
use evermesh_ingest::{IngestSettings, object::parse};
use evermesh_model::{
    CloudMapService, CloudMapState, Instance, Kind, ObjectRef, endpoint::CloudMapFailure,
};
use evermesh_proto::{ContentVersion, ResourceKey, ResourceType};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::sync::watch;

/// A change of one object or one Cloud Map service.
#[derive(Debug, Clone)]
enum Event {
    Put(Value),
    Delete(Kind, &'static str, &'static str),
    CloudMap(&'static str, Arc<CloudMapState>),
}

const NODES: [&str; 4] = ["n0", "n1", "n2", "n3"];
const SERVICES: [&str; 3] = ["s0", "s1", "s2"];
const ROUTERS: [&str; 2] = ["r0", "r1"];
const ROUTES: [&str; 3] = ["t0", "t1", "t2"];
const GROUPS: [&str; 2] = ["g0", "g1"];
const KUBERNETES_SERVICES: [&str; 2] = ["color", "shape"];
const CLOUD_MAP: [&str; 2] = ["c0", "c1"];

fn object(api: &str, kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
}

fn app_mesh(kind: &str, name: &str, spec: &Value) -> Value {
    object("appmesh.k8s.aws/v1beta2", kind, name, spec)
}

fn mesh() -> impl Strategy<Value = Value> {
    (prop_oneof![Just("ALLOW_ALL"), Just("DROP_ALL")], prop_oneof![4 => Just(json!({})), 1 => Just(json!({"matchLabels": {"no": "where"}}))]).prop_map(
        |(egress, selector)| {
            json!({"apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "Mesh", "metadata": {"name": "m"},
                "spec": {"egressFilter": {"type": egress}, "namespaceSelector": selector}})
        },
    )
}

fn node() -> impl Strategy<Value = Value> {
    let discovery = prop_oneof![
        Just(json!({"dns": {"hostname": "color.shop.svc.cluster.local"}})),
        Just(json!({"dns": {"hostname": "color.example", "responseType": "ENDPOINTS"}})),
        proptest::sample::select(&CLOUD_MAP[..]).prop_map(|service| json!({
            "awsCloudMap": {"namespaceName": "ns", "serviceName": service, "attributes": [{"key": "v", "value": "1"}]}
        })),
        proptest::sample::select(&CLOUD_MAP[..])
            .prop_map(|service| json!({"awsCloudMap": {"namespaceName": "ns", "serviceName": service}})),
    ];
    (
        proptest::sample::select(&NODES[..]),
        proptest::sample::subsequence(vec![("http", 8080), ("http2", 8081), ("grpc", 8080), ("tcp", 9000)], 0..=3),
        discovery,
        proptest::sample::subsequence(SERVICES.to_vec(), 0..=3),
        proptest::sample::subsequence([&GROUPS[..], &["*"]].concat(), 0..=2),
    )
        .prop_map(|(name, listeners, discovery, backends, groups)| {
            let listeners: Vec<Value> = listeners
                .iter()
                .map(|(protocol, port)| json!({"portMapping": {"port": port, "protocol": protocol}}))
                .collect();
            let backends: Vec<Value> = backends
                .iter()
                .map(|service| json!({"virtualService": {"virtualServiceRef": {"name": service}}}))
                .collect();
            let groups: Vec<Value> = groups.iter().map(|group| json!({"name": group})).collect();
            let spec = json!({"listeners": listeners, "serviceDiscovery": discovery, "backends": backends, "backendGroups": groups,
                "podSelector": {"matchLabels": {"app": name}}});
            app_mesh("VirtualNode", name, &spec)
        })
}

fn service() -> impl Strategy<Value = Value> {
    let provider = prop_oneof![
        1 => Just(None),
        2 => proptest::sample::select(&NODES[..]).prop_map(|name| Some(json!({"virtualNode": {"virtualNodeRef": {"name": name}}}))),
        3 => proptest::sample::select(&ROUTERS[..]).prop_map(|name| Some(json!({"virtualRouter": {"virtualRouterRef": {"name": name}}}))),
    ];
    (
        proptest::sample::select(&SERVICES[..]),
        prop_oneof![Just("color.shop"), Just("shape.shop")],
        provider,
    )
        .prop_map(|(name, host, provider)| {
            let spec = match provider {
                Some(provider) => json!({"awsName": host, "provider": provider}),
                None => json!({"awsName": host}),
            };
            app_mesh("VirtualService", name, &spec)
        })
}

fn group() -> impl Strategy<Value = Value> {
    let members = proptest::sample::subsequence(SERVICES.to_vec(), 0..=3);
    (proptest::sample::select(&GROUPS[..]), members).prop_map(|(name, members)| {
        let members: Vec<Value> = members.iter().map(|name| json!({"name": name})).collect();
        app_mesh("BackendGroup", name, &json!({"virtualservices": members}))
    })
}

/// A Kubernetes Service to which host names of virtual services refer.
fn kubernetes_service() -> impl Strategy<Value = Value> {
    let addresses = prop_oneof![
        Just(json!(["10.1.0.1"])),
        Just(json!(["10.1.0.2", "fd01::2"])),
        Just(json!(["None"]))
    ];
    (
        proptest::sample::select(&KUBERNETES_SERVICES[..]),
        addresses,
    )
        .prop_map(|(name, addresses)| {
            object("v1", "Service", name, &json!({"clusterIPs": addresses}))
        })
}

fn rule() -> impl Strategy<Value = Value> {
    let targets = proptest::collection::vec((proptest::sample::select(&NODES[..]), 0..3u8), 1..3);
    (prop_oneof![Just("/"), Just("/a"), Just("/a/b")], targets).prop_map(|(prefix, targets)| {
        let targets: Vec<Value> = targets
            .iter()
            .map(|(name, weight)| json!({"virtualNodeRef": {"name": name}, "weight": weight, "port": 8080}))
            .collect();
        json!({"match": {"prefix": prefix}, "action": {"weightedTargets": targets}})
    })
}

fn router() -> impl Strategy<Value = Value> {
    (proptest::sample::select(&ROUTERS[..]), proptest::collection::vec(rule(), 0..3)).prop_map(|(name, rules)| {
        let routes: Vec<Value> = rules
            .iter()
            .enumerate()
            .map(|(index, rule)| json!({"name": format!("t{index}"), "httpRoute": rule}))
            .collect();
        let spec = json!({"listeners": [{"portMapping": {"port": 8080, "protocol": "http"}}], "routes": routes});
        app_mesh("VirtualRouter", name, &spec)
    })
}

fn route() -> impl Strategy<Value = Value> {
    (
        proptest::sample::select(&ROUTES[..]),
        proptest::sample::select(&ROUTERS[..]),
        rule(),
        proptest::option::of(0..3u16),
    )
        .prop_map(|(name, router, rule, priority)| {
            let mut spec = json!({"virtualRouterRef": {"name": router}, "httpRoute": rule});
            // A Route whose weights are all zero is rejected.
            spec["httpRoute"]["action"]["weightedTargets"][0]["weight"] = json!(1);
            if let Some(priority) = priority {
                spec["priority"] = json!(priority);
            }
            object("evermesh.dev/v1alpha1", "Route", name, &spec)
        })
}

fn gateway() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(app_mesh(
            "VirtualGateway",
            "g",
            &json!({"namespaceSelector": {}, "podSelector": {}, "listeners": [{"portMapping": {"port": 8080, "protocol": "http"}}]})
        )),
        (
            proptest::sample::select(&SERVICES[..]),
            prop_oneof![Just("/"), Just("/x/")]
        )
            .prop_map(|(service, prefix)| {
                app_mesh(
                    "GatewayRoute",
                    "gr",
                    &json!({"httpRoute": {"match": {"prefix": prefix}, "action": {"target":
                    {"virtualService": {"virtualServiceRef": {"name": service}}, "port": 8080}}}}),
                )
            }),
    ]
}

fn cloud_map() -> impl Strategy<Value = Event> {
    let instance =
        (1..6u8, prop_oneof![Just("1"), Just("2")]).prop_map(|(last, version)| Instance {
            id: format!("i{last}").into(),
            ipv4: Some([10, 0, 0, last].into()),
            ipv6: None,
            attributes: BTreeMap::from([("v".into(), version.into())]),
        });
    let failure = prop_oneof![
        4 => Just(None),
        1 => Just(Some(CloudMapFailure::Unavailable("throttled".into()))),
        1 => Just(Some(CloudMapFailure::NotFound("no such service".into()))),
    ];
    (
        proptest::sample::select(&CLOUD_MAP[..]),
        proptest::collection::vec(instance, 0..4),
        any::<bool>(),
        failure,
    )
        .prop_map(|(service, mut instances, is_full, failure)| {
            instances.sort_by(|one, other| one.id.cmp(&other.id));
            instances.dedup_by(|one, other| one.id == other.id);
            let state = CloudMapState {
                instances,
                is_full,
                failure,
            };
            Event::CloudMap(service, Arc::new(state))
        })
}

fn event() -> impl Strategy<Value = Event> {
    let deleted = prop_oneof![
        proptest::sample::select(&NODES[..]).prop_map(|name| Event::Delete(
            Kind::VirtualNode,
            "shop",
            name
        )),
        proptest::sample::select(&SERVICES[..]).prop_map(|name| Event::Delete(
            Kind::VirtualService,
            "shop",
            name
        )),
        proptest::sample::select(&ROUTERS[..]).prop_map(|name| Event::Delete(
            Kind::VirtualRouter,
            "shop",
            name
        )),
        proptest::sample::select(&ROUTES[..]).prop_map(|name| Event::Delete(
            Kind::Route,
            "shop",
            name
        )),
        proptest::sample::select(&GROUPS[..]).prop_map(|name| Event::Delete(
            Kind::BackendGroup,
            "shop",
            name
        )),
        proptest::sample::select(&KUBERNETES_SERVICES[..]).prop_map(|name| Event::Delete(
            Kind::Service,
            "shop",
            name
        )),
        Just(Event::Delete(Kind::GatewayRoute, "shop", "gr")),
        Just(Event::Delete(Kind::Mesh, "", "m")),
    ];
    prop_oneof![
        2 => mesh().prop_map(Event::Put),
        8 => node().prop_map(Event::Put),
        6 => service().prop_map(Event::Put),
        5 => router().prop_map(Event::Put),
        6 => route().prop_map(Event::Put),
        2 => gateway().prop_map(Event::Put),
        4 => group().prop_map(Event::Put),
        4 => kubernetes_service().prop_map(Event::Put),
        5 => cloud_map(),
        4 => deleted,
    ]
}

fn cloud_map_service(name: &str) -> CloudMapService {
    CloudMapService {
        namespace: "ns".into(),
        service: name.into(),
    }
}

fn change(event: &Event) -> SourceChange {
    match event {
        Event::Put(value) => {
            let parsed = parse(value.clone());
            let (object, value) = parsed
                .object
                .unwrap_or_else(|| panic!("{:?}", parsed.problems));
            SourceChange::Object {
                object,
                origin: Some("f.yaml#1".into()),
                value: Some(value),
            }
        }
        Event::Delete(kind, namespace, name) => SourceChange::Object {
            object: ObjectRef::new(*kind, *namespace, *name),
            origin: None,
            value: None,
        },
        Event::CloudMap(name, state) => SourceChange::CloudMap {
            service: cloud_map_service(name),
            state: Arc::clone(state),
        },
    }
}

fn batch(events: &[Event]) -> ChangeBatch {
    ChangeBatch::new(Instant::now(), events.iter().map(change).collect())
}

/// Everything that proxies and operators can see.
#[derive(Debug)]
struct Outcome {
    views: BTreeMap<String, Vec<(ResourceType, String, Option<ContentVersion>)>>,
    graph: Value,
    problems: Value,
}

/// The Cloud Map source: answers for the services that nodes name, as soon as they do.
struct CloudMap {
    wanted: watch::Receiver<Arc<BTreeSet<CloudMapService>>>,
    polled: Arc<BTreeSet<CloudMapService>>,
    states: BTreeMap<CloudMapService, Arc<CloudMapState>>,
}

impl CloudMap {
    fn remember(&mut self, events: &[Event]) {
        for event in events {
            if let Event::CloudMap(name, state) = event {
                self.states
                    .insert(cloud_map_service(name), Arc::clone(state));
            }
        }
    }

    /// The first answers for services that became wanted since the last call.
    fn first_answers(&mut self) -> Vec<SourceChange> {
        let wanted = Arc::clone(&self.wanted.borrow());
        let before = std::mem::replace(&mut self.polled, wanted);
        let new = self.polled.difference(&before);
        new.map(|service| SourceChange::CloudMap {
            service: service.clone(),
            state: self.states.get(service).cloned().unwrap_or_default(),
        })
        .collect()
    }
}

/// Runs an engine that takes in one batch per rebuild. It gets a change of a Cloud Map service also if no node names it,
/// as with a source that has just stopped asking.
fn run(batches: &[Vec<Event>]) -> Outcome {
    let outputs = EngineOutputs::unserved();
    let store = Arc::clone(&outputs.store);
    let newest = outputs.snapshots.subscribe();
    let mut cloud_map = CloudMap {
        wanted: outputs.wanted_services.subscribe(),
        polled: Arc::default(),
        states: BTreeMap::new(),
    };
    let mut engine = Engine::new([], IngestSettings::default(), outputs);
    for events in batches {
        cloud_map.remember(events);
        engine.step([batch(events)]);
        loop {
            let answers = cloud_map.first_answers();
            if answers.is_empty() {
                break;
            }
            engine.step([ChangeBatch::new(Instant::now(), answers)]);
        }
    }
    let published = newest.borrow().clone();
    let mut graph = serde_json::to_value(&*published.graph).unwrap();
    for (node, endpoints) in &published.endpoints {
        graph["endpoints"][node.to_string()] = serde_json::to_value(&**endpoints).unwrap();
    }
    // Views list a load assignment before Cloud Map has answered, and the store does not hold it yet.
    let version = |key: &ResourceKey| store.get(key).map(|resource| resource.version);
    Outcome {
        views: store
            .views()
            .iter()
            .map(|(name, view)| {
                let keys = view.keys().iter();
                let seen = keys
                    .map(|key| (key.kind, key.name.to_string(), version(key)))
                    .collect();
                (name.to_string(), seen)
            })
            .collect(),
        graph,
        problems: serde_json::to_value(&published.problems).unwrap(),
    }
}

/// The last event of each object and service that still exists, in another order.
fn final_inputs(history: &[Event]) -> Vec<Event> {
    let mut newest = BTreeMap::new();
    for event in history {
        let key = match change(event) {
            SourceChange::Object { object, .. } => object.to_string(),
            SourceChange::CloudMap { service, .. } => service.to_string(),
            other => panic!("{other:?}"),
        };
        newest.insert(key, event.clone());
    }
    newest
        .into_values()
        .rev()
        .filter(|event| !matches!(event, Event::Delete(..)))
        .collect()
}

/// Other pods may have the addresses when a node names the service again.
#[test]
fn instances_of_a_service_that_no_node_names_are_forgotten() {
    let selector = json!({"namespaceSelector": {}});
    let mesh = Event::Put(app_mesh("Mesh", "m", &selector));
    let node = Event::Put(app_mesh(
        "VirtualNode",
        "n0",
        &json!({
            "listeners": [{"portMapping": {"port": 8080, "protocol": "http"}}],
            "serviceDiscovery": {"awsCloudMap": {"namespaceName": "ns", "serviceName": "s"}},
        }),
    ));
    let instance = Instance {
        id: "i".into(),
        ipv4: Some([10, 0, 0, 9].into()),
        ipv6: None,
        attributes: BTreeMap::new(),
    };
    let state = CloudMapState {
        instances: vec![instance],
        ..CloudMapState::default()
    };
    let answer = Event::CloudMap("s", Arc::new(state));
    let outputs = EngineOutputs::unserved();
    let newest = outputs.snapshots.subscribe();
    let mut engine = Engine::new([], IngestSettings::default(), outputs);
    let endpoints = || newest.borrow().graph.endpoints.len();
    engine.step([batch(&[mesh, node.clone()])]);
    engine.step([batch(std::slice::from_ref(&answer))]);
    assert_eq!(endpoints(), 1);
    engine.step([batch(&[Event::Delete(Kind::VirtualNode, "shop", "n0")])]);
    engine.step([batch(std::slice::from_ref(&answer))]);
    engine.step([batch(std::slice::from_ref(&node))]);
    assert_eq!(endpoints(), 0, "a late answer counts for nothing");
    engine.step([batch(&[answer])]);
    assert_eq!(endpoints(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_history_in_any_batching_equals_a_fresh_start(
        history in proptest::collection::vec(event(), 1..60),
        cuts in proptest::collection::vec(1..6usize, 60),
    ) {
        let mut batches = Vec::new();
        let mut rest = &history[..];
        for cut in cuts {
            let (batch, later) = rest.split_at(cut.min(rest.len()));
            batches.push(batch.to_vec());
            rest = later;
        }
        batches.push(rest.to_vec());
        let incremental = run(&batches);
        let fresh = run(&[final_inputs(&history)]);
        prop_assert_eq!(incremental.graph, fresh.graph);
        prop_assert_eq!(incremental.problems, fresh.problems);
        for (name, view) in &fresh.views {
            prop_assert_eq!(incremental.views.get(name), Some(view), "{}", name);
        }
        prop_assert_eq!(incremental.views.len(), fresh.views.len());
    }
}
