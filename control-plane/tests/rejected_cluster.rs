//! A cluster that Envoy refuses: requests of the old route go on, routes of other backends change, and the registry of
//! proxies tells which objects are not in force.
//!
//! The engine derives everything from manifests. No manifest leads to a cluster that Envoy refuses, so the test makes one
//! cluster invalid on the way from the engine's store to the store that is served.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod common;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use common::eventually;
use evermesh::{
    engine::{Engine, EngineOutputs},
    source::{ChangeBatch, SourceChange},
};
use evermesh_ingest::{IngestSettings, object::parse};
use evermesh_proto::{
    Resource, ResourceKey, ResourceType, cluster::Cluster, core::Node, protobuf::Duration as Proto,
};
use evermesh_testkit::{
    app,
    control_plane::bootstrap,
    envoy::{Envoy, EnvoyOptions, EnvoyVersion, lock_gateway_ports},
    http::Address,
    load::{Load, LoadStats},
};
use evermesh_xds::{
    ProxyRegistry, Store, StoreCommit, XdsServerOptions, serve, without_credentials,
};
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

/// The port of both services. Connections to the egress listener itself are for this port, so the test does not need
/// interception.
const PORT: u16 = 15_001;
const FRONT: &str = "mesh/shop/virtualNode/front_shop";

/// A mesh whose node `front` calls the services `color` and `shape`, each with the nodes `SERVICE-v1` and `SERVICE-v2`.
struct MeshUnderTest {
    engine: Engine,
    /// The store that the engine writes.
    derived: Arc<Store>,
    /// The store that the proxy gets.
    served: Arc<Store>,
    registry: Arc<ProxyRegistry>,
    xds: SocketAddr,
    /// The name of the cluster to make invalid.
    refused: Option<String>,
    /// The port of `color-v2`.
    second_color: u16,
}

impl MeshUnderTest {
    async fn start() -> Self {
        let outputs = EngineOutputs::unserved();
        let derived = Arc::clone(&outputs.store);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let xds = listener.local_addr().unwrap();
        let (served, registry) = (Store::new(), ProxyRegistry::new(None));
        let identify = |node: &Node| Ok(node.id.as_str().into()).into();
        let options = XdsServerOptions::new(without_credentials(identify));
        tokio::spawn(serve(
            listener,
            Arc::clone(&served),
            Arc::clone(&registry),
            options,
        ));
        let mut mesh = Self {
            engine: Engine::new([], IngestSettings::default(), outputs),
            derived,
            served,
            registry,
            xds,
            refused: None,
            second_color: 0,
        };
        let (objects, second_color) = objects().await;
        mesh.second_color = second_color;
        mesh.apply(objects);
        mesh
    }

    /// Derives the resources of changed objects and serves them.
    fn apply(&mut self, objects: Vec<Value>) {
        let changes = objects.into_iter().map(|value| {
            let parsed = parse(value);
            let (object, value) = parsed.object.unwrap();
            SourceChange::Object {
                object,
                origin: None,
                value: Some(value),
            }
        });
        let batch = ChangeBatch::new(Instant::now(), changes.collect());
        self.engine.step([batch]);
        self.serve_derived();
    }

    fn serve_derived(&self) {
        let upserts = self.derived.resources().into_iter();
        let upserts = upserts.map(|(key, resource)| {
            let is_refused = self.refused.as_deref() == Some(&*key.name);
            let resource = match key.kind {
                ResourceType::Cluster if is_refused => Arc::new(invalid(&resource)),
                _ => resource,
            };
            (key, resource)
        });
        let views = self.derived.views().into_iter();
        self.served.commit(StoreCommit {
            upserts: upserts.collect(),
            views: views.map(|(name, view)| (name, Some(view))).collect(),
            ..StoreCommit::default()
        });
    }

    /// Whether the proxy uses everything that the route configuration has from an object, and its refusal otherwise.
    fn status(&self, origin: &str) -> (bool, Option<String>) {
        let key = ResourceKey {
            kind: ResourceType::Route,
            name: format!("rds_egress_http_{PORT}").into(),
            scope: Some(FRONT.into()),
        };
        let version = self.served.get(&key).unwrap().version;
        let connected = self.registry.connected();
        let [proxy] = connected.as_slice() else {
            return (false, None);
        };
        let answers = self.registry.answers(proxy.id, [&key]);
        let Some([Some(answer)]) = answers.as_ref().map(|it| it.answers.as_slice()) else {
            return (false, None);
        };
        (
            answer.has_acked(version, origin),
            answer.refusal(version, origin),
        )
    }

    async fn until_acked(&self, origins: &[&str]) {
        for origin in origins {
            eventually(&format!("the ACK of {origin}"), async || {
                self.status(origin) == (true, None)
            })
            .await;
        }
    }
}

/// The cluster with a connect timeout below zero, which Envoy refuses.
fn invalid(resource: &Resource) -> Resource {
    let timeout = Cluster {
        connect_timeout: Some(Proto {
            seconds: -1,
            nanos: 0,
        }),
        ..Default::default()
    };
    // Concatenated messages merge.
    let timeout = Resource::encode(Arc::clone(&resource.name), &timeout);
    let body = [&resource.body[..], &timeout.body[..]].concat();
    Resource::from_encoded(resource.kind, Arc::clone(&resource.name), body.into())
        .with_origins(Arc::clone(&resource.origins))
}

fn object(api: &str, kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
}

fn app_mesh(kind: &str, name: &str, spec: &Value) -> Value {
    object("appmesh.k8s.aws/v1beta2", kind, name, spec)
}

/// The Route of a service with the weights of its two nodes. A node of weight 0 is left out.
fn route(service: &str, weights: [u32; 2]) -> Value {
    let targets = [1, 2].into_iter().zip(weights);
    let targets = targets.filter(|(_, weight)| *weight > 0);
    let targets: Vec<Value> = targets
        .map(|(version, weight)| {
            json!({"virtualNodeRef": {"name": format!("{service}-v{version}")}, "weight": weight})
        })
        .collect();
    let rule = json!({"match": {"prefix": "/"}, "action": {"weightedTargets": targets}});
    let spec = json!({"virtualRouterRef": {"name": service}, "httpRoute": rule});
    object("evermesh.dev/v1alpha1", "Route", service, &spec)
}

/// All objects, and the port of `color-v2`. Starts the applications, which answer with the names of their nodes.
async fn objects() -> (Vec<Value>, u16) {
    let services = ["color", "shape"];
    let backends =
        services.map(|service| json!({"virtualService": {"virtualServiceRef": {"name": service}}}));
    let mut objects = vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}),
        json!({"apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "Mesh", "metadata": {"name": "shop"},
            "spec": {"namespaceSelector": {}}}),
        app_mesh("VirtualNode", "front", &json!({"backends": backends})),
    ];
    let mut second_color = 0;
    for service in services {
        let provider = json!({"virtualRouter": {"virtualRouterRef": {"name": service}}});
        let spec = json!({"awsName": format!("{service}.shop"), "provider": provider});
        objects.push(app_mesh("VirtualService", service, &spec));
        let spec = json!({"listeners": [{"portMapping": {"port": PORT, "protocol": "http"}}]});
        objects.push(app_mesh("VirtualRouter", service, &spec));
        objects.push(route(service, [100, 0]));
        for version in [1, 2] {
            let name = format!("{service}-v{version}");
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            if name == "color-v2" {
                second_color = port;
            }
            let spec = json!({
                "listeners": [{"portMapping": {"port": port, "protocol": "http"}}],
                "serviceDiscovery": {"dns": {"hostname": "127.0.0.1"}},
            });
            objects.push(app_mesh("VirtualNode", &name, &spec));
            tokio::spawn(async move { app::serve_http_on(listener, &name).await.unwrap() });
        }
    }
    (objects, second_color)
}

/// The name of the node that answers a request to a service through the proxy.
async fn answer(service: &str) -> Option<String> {
    let request = Request::get("/").header("host", format!("{service}.shop"));
    let request = request.body(Full::default()).unwrap();
    let address = Address::Tcp((Ipv4Addr::LOCALHOST, PORT).into());
    let response = address.send(request).await.ok()?;
    response.status.is_success().then_some(response.body)
}

async fn until_answered(service: &str, node: &str) {
    eventually(&format!("an answer of {node}"), async || {
        answer(service).await.as_deref() == Some(node)
    })
    .await;
}

/// Sends 100 requests a second to a service through the proxy until the sender is used.
fn traffic(service: &str) -> (oneshot::Sender<()>, JoinHandle<LoadStats>) {
    let load = Load {
        target: Address::Tcp((Ipv4Addr::LOCALHOST, PORT).into()),
        host: format!("{service}.shop"),
        path: "/".to_owned(),
        rate: 100,
        duration: Duration::from_mins(10),
        http2: false,
    };
    let (stop, stopped) = oneshot::channel();
    let stopped = async move {
        // A test that fails drops the sender, which also ends the load.
        let _ = stopped.await;
    };
    let running = tokio::spawn(async move { load.run_until(stopped, |_| ()).await.unwrap() });
    (stop, running)
}

const COLOR: [&str; 2] = ["Route/shop/color", "VirtualService/shop/color"];
const SHAPE: [&str; 2] = ["Route/shop/shape", "VirtualService/shop/shape"];
/// The origins of the route configuration as a whole.
const CALLER: [&str; 2] = ["VirtualNode/shop/front", "Mesh/shop"];

async fn only_the_route_to_a_refused_cluster_stays_as_it_is(version: EnvoyVersion) {
    let mut mesh = MeshUnderTest::start().await;
    let lock = tokio::task::spawn_blocking(|| lock_gateway_ports().unwrap());
    let _ports = lock.await.unwrap();
    let bootstrap = bootstrap(FRONT, mesh.xds, false).unwrap();
    let mut envoy = Envoy::start(&EnvoyOptions::new(version, bootstrap)).unwrap();
    envoy.ready().await.unwrap();
    until_answered("color", "color-v1").await;
    until_answered("shape", "shape-v1").await;
    mesh.until_acked(&[COLOR, SHAPE, CALLER].concat()).await;
    let loads = ["color", "shape"].map(traffic);

    let cluster = format!("cds_egress_shop_color-v2_shop_http_{}", mesh.second_color);
    mesh.refused = Some(cluster.clone());
    mesh.apply(vec![route("color", [50, 50])]);
    let reason = format!("the cluster `{cluster}`, which the object needs, was rejected: ");
    for origin in [COLOR, CALLER].concat() {
        eventually(&format!("the refusal of {origin}"), async || {
            let (has_acked, refusal) = mesh.status(origin);
            !has_acked && refusal.is_some_and(|refusal| refusal.starts_with(&reason))
        })
        .await;
    }
    mesh.apply(vec![route("shape", [0, 100])]);
    until_answered("shape", "shape-v2").await;
    mesh.until_acked(&SHAPE).await;
    assert!(!mesh.status(COLOR[0]).0);
    for _ in 0..50 {
        // The newest weights would send half of the requests to the refused cluster.
        assert_eq!(answer("color").await.as_deref(), Some("color-v1"));
    }

    mesh.refused = None;
    mesh.serve_derived();
    until_answered("color", "color-v2").await;
    mesh.until_acked(&[COLOR, SHAPE, CALLER].concat()).await;
    for (stop, load) in loads {
        stop.send(()).unwrap();
        let total = load.await.unwrap();
        assert_eq!(total.failed(), 0, "{total:?}");
    }
}

#[tokio::test]
async fn only_the_route_to_a_refused_cluster_stays_as_it_is_in_the_oldest_envoy() {
    only_the_route_to_a_refused_cluster_stays_as_it_is(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn only_the_route_to_a_refused_cluster_stays_as_it_is_in_the_newest_envoy() {
    only_the_route_to_a_refused_cluster_stays_as_it_is(EnvoyVersion::Newest).await;
}
