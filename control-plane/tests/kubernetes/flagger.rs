//! Flagger as it is: what its App Mesh provider writes, how it reads it back, and when it would write again.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    time::{Duration, Instant},
};

use evermesh_testkit::{app, kubernetes};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, PostParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};

use crate::{
    Scene, eventually,
    scene::{CANARY, PRIMARY},
};

/// How soon new weights are in Envoy, once the API server has said yes.
const LIVE: Duration = Duration::from_secs(1);

const NAMESPACE: &str = "shop";

/// The account of Flagger, with the rules of its chart for App Mesh.
const ACCOUNT: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: flagger, namespace: shop}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: flagger}
rules:
- apiGroups: [appmesh.k8s.aws]
  resources: [virtualnodes, virtualnodes/finalizers, virtualrouters, virtualrouters/finalizers, virtualservices,
    virtualservices/finalizers]
  verbs: [get, list, watch, create, update, patch, delete]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: flagger}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: flagger}
subjects: [{kind: ServiceAccount, name: flagger, namespace: shop}]
";

/// What its user has beside the canary: a way in.
const GATEWAY_ROUTE: &str = "
apiVersion: appmesh.k8s.aws/v1beta2
kind: GatewayRoute
metadata: {name: podinfo, namespace: shop}
spec:
  httpRoute:
    match: {prefix: /podinfo}
    action: {target: {virtualService: {virtualServiceRef: {name: podinfo}}}}
";

/// One canary called podinfo.
struct Flagger {
    client: Client,
    port: u16,
    /// Whether it is an A/B test by header.
    by_header: bool,
    /// How many objects were created, how many written again because they were not as they should be.
    created: usize,
    repaired: usize,
    /// How many writes lost against another's.
    conflicts: usize,
}

impl Flagger {
    fn api(&self, kind: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("appmesh.k8s.aws", "v1beta2", kind);
        Api::namespaced_with(
            self.client.clone(),
            NAMESPACE,
            &ApiResource::from_gvk(&kind),
        )
    }

    fn node(&self, role: &str, target: &str) -> Value {
        json!({
            "podSelector": {"matchLabels": {"app": target}},
            "listeners": [{
                "portMapping": {"port": self.port, "protocol": "http"},
                "timeout": {"http": {"perRequest": {"unit": "ms", "value": 15000}}},
            }],
            "serviceDiscovery": {"dns": {"hostname": format!("podinfo-{role}.shop.svc.cluster.local.")}},
            "backends": [{"virtualService": {"virtualServiceRef": {"name": "color"}}}],
        })
    }

    fn route(name: &str, matched: &Value, targets: &Value) -> Value {
        json!({
            "name": name,
            "httpRoute": {
                "match": matched,
                "action": {"weightedTargets": targets},
                "retryPolicy": {
                    "maxRetries": 3,
                    "perRetryTimeout": {"unit": "ms", "value": 5000},
                    "httpRetryEvents": ["gateway-error", "client-error", "stream-error"],
                },
                "timeout": {"perRequest": {"unit": "ms", "value": 15000}},
            },
        })
    }

    fn router(&self, name: &str, canary: u32) -> Value {
        let everything = json!({"prefix": "/"});
        let both = targets(canary, 100 - canary);
        let routes = if self.by_header && canary == 0 {
            let header = json!([{"name": "x-canary", "match": {"exact": "insider"}}]);
            let matched = json!({"prefix": "/", "headers": header});
            let primary = json!([both[1]]);
            let mut routes = [
                Self::route("podinfo-a", &matched, &both),
                Self::route("podinfo-b", &everything, &primary),
            ];
            routes[0]["priority"] = 10.into();
            routes[1]["priority"] = 20.into();
            json!(routes)
        } else {
            json!([Self::route(name, &everything, &both)])
        };
        json!({
            "listeners": [{"portMapping": {"port": self.port, "protocol": "http"}}],
            "routes": routes,
        })
    }

    async fn create(&mut self, kind: &str, name: &str, spec: &Value) {
        let object = json!({
            "apiVersion": "appmesh.k8s.aws/v1beta2",
            "kind": kind,
            "metadata": {"name": name, "namespace": NAMESPACE, "ownerReferences": [{
                "apiVersion": "flagger.app/v1beta1",
                "kind": "Canary",
                "name": "podinfo",
                "uid": "2f0a3f5c-1f0e-4d0e-9f55-0b6d1f0c7a11",
                "controller": true,
                "blockOwnerDeletion": true,
            }]},
            "spec": spec,
        });
        let object = serde_json::from_value(object).unwrap();
        self.api(kind)
            .create(&PostParams::default(), &object)
            .await
            .unwrap();
        self.created += 1;
    }

    /// Writes the whole object as it was read but for its spec.
    async fn update(&mut self, kind: &str, name: &str, change: impl Fn(&mut Value)) {
        loop {
            let mut object = self.api(kind).get(name).await.unwrap();
            change(&mut object.data["spec"]);
            let written = object.data["spec"].clone();
            match self
                .api(kind)
                .replace(name, &PostParams::default(), &object)
                .await
            {
                Ok(kept) => {
                    assert_eq!(kept.data["spec"], written, "{kind} {name}");
                    return;
                }
                // Flagger reports it and comes again.
                Err(kube::Error::Api(status)) if status.code == 409 => self.conflicts += 1,
                Err(error) => panic!("{kind} {name}: {error}"),
            }
        }
    }

    /// Creates what is missing, and writes again what is not as it should be.
    async fn reconcile(&mut self) {
        for (role, target) in [("primary", "podinfo-primary"), ("canary", "podinfo")] {
            let name = format!("podinfo-{role}");
            let wanted = self.node(role, target);
            let Some(found) = self.api("VirtualNode").get_opt(&name).await.unwrap() else {
                self.create("VirtualNode", &name, &wanted).await;
                continue;
            };
            assert_eq!(found.metadata.labels, None);
            assert_eq!(found.metadata.annotations, None);
            if own(&found) != wanted {
                self.repaired += 1;
                self.update("VirtualNode", &name, |spec| put(spec, &wanted))
                    .await;
            }
        }
        for (name, canary) in [("podinfo", 0), ("podinfo-canary", 100)] {
            let mut wanted = self.router(name, canary);
            let Some(found) = self.api("VirtualRouter").get_opt(name).await.unwrap() else {
                self.create("VirtualRouter", name, &wanted).await;
                let router = json!({"virtualRouterRef": {"name": name}});
                let service = json!({"provider": {"virtualRouter": router}});
                self.create("VirtualService", name, &service).await;
                continue;
            };
            if without_weights(&own(&found)) != without_weights(&wanted) {
                self.repaired += 1;
                let kept = &found.data["spec"]["routes"][0]["httpRoute"]["action"];
                wanted["routes"][0]["httpRoute"]["action"] = kept.clone();
                self.update("VirtualRouter", name, |spec| put(spec, &wanted))
                    .await;
            }
        }
    }

    async fn set_routes(&mut self, canary: u32) {
        self.update("VirtualRouter", "podinfo", |spec| {
            spec["routes"][0]["httpRoute"]["action"] =
                json!({"weightedTargets": targets(canary, 100 - canary)});
        })
        .await;
    }

    async fn get_routes(&self) -> (u64, u64) {
        let router = self.api("VirtualRouter").get("podinfo").await.unwrap();
        let targets = &router.data["spec"]["routes"][0]["httpRoute"]["action"]["weightedTargets"];
        assert_eq!(targets.as_array().unwrap().len(), 2);
        let weight = |name: &str| {
            let targets = targets.as_array().unwrap().iter();
            let mut of_name = targets.filter(|it| it["virtualNodeRef"]["name"] == name);
            of_name.next().unwrap()["weight"].as_u64().unwrap()
        };
        (weight("podinfo-canary"), weight("podinfo-primary"))
    }
}

fn targets(canary: u32, primary: u32) -> Value {
    json!([
        {"virtualNodeRef": {"name": "podinfo-canary"}, "weight": canary},
        {"virtualNodeRef": {"name": "podinfo-primary"}, "weight": primary},
    ])
}

/// A spec without the two fields that Flagger leaves to others; everything else it compares.
fn own(object: &DynamicObject) -> Value {
    let mut spec = object.data["spec"].clone();
    for field in ["awsName", "meshRef"] {
        assert!(
            spec.as_object_mut().unwrap().remove(field).is_some(),
            "{field}"
        );
    }
    spec
}

/// Replaces a spec but for those two fields.
fn put(spec: &mut Value, wanted: &Value) {
    let mut wanted = wanted.clone();
    for field in ["awsName", "meshRef"] {
        wanted[field] = spec[field].clone();
    }
    *spec = wanted;
}

fn without_weights(spec: &Value) -> Value {
    let mut spec = spec.clone();
    for route in spec["routes"].as_array_mut().unwrap() {
        for target in route["httpRoute"]["action"]["weightedTargets"]
            .as_array_mut()
            .unwrap()
        {
            *target = Value::Null;
        }
    }
    spec
}

/// Weights of canary and primary in what Envoy runs with.
async fn in_envoy(scene: &Scene) -> [u64; 2] {
    fn collect(value: &Value, weights: &mut [u64; 2]) {
        if let Some(clusters) = value["weighted_clusters"]["clusters"].as_array() {
            for cluster in clusters {
                let name = cluster["name"].as_str().unwrap_or_default();
                let weight = cluster["weight"].as_u64().unwrap_or_default();
                for (index, role) in ["podinfo-canary", "podinfo-primary"].iter().enumerate() {
                    if name.contains(role) {
                        weights[index] = weight;
                    }
                }
            }
        }
        match value {
            Value::Object(fields) => fields.values().for_each(|it| collect(it, weights)),
            Value::Array(items) => items.iter().for_each(|it| collect(it, weights)),
            _ => {}
        }
    }
    let mut weights = [0; 2];
    collect(&scene.gateway.config_dump().await.unwrap(), &mut weights);
    weights
}

/// Applications at the addresses of both Services, on the same port.
fn apps() -> u16 {
    let socket = TcpListener::bind((PRIMARY, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    drop(socket);
    for (ip, name) in [(PRIMARY, "primary"), (CANARY, "canary")] {
        let listen = SocketAddr::from((ip, port));
        tokio::spawn(async move { app::serve_http(listen, name).await.unwrap() });
    }
    port
}

async fn ask(scene: &Scene, headers: &[(&str, &str)]) -> String {
    let mut request = hyper::Request::get("/podinfo").header("host", "podinfo.shop:9898");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(http_body_util::Full::default()).unwrap();
    scene.address().send(request).await.unwrap().body
}

#[tokio::test]
async fn flagger_shifts_and_finds_what_it_wrote() {
    let scene = Scene::build().await;
    scene.api.apply(ACCOUNT).await.unwrap();
    let account = scene.api.service_account_kubeconfig(NAMESPACE, "flagger");
    let kubeconfig: PathBuf = account.await.unwrap();
    let mut flagger = Flagger {
        client: kubernetes::client(&kubeconfig).await.unwrap(),
        port: apps(),
        by_header: false,
        created: 0,
        repaired: 0,
        conflicts: 0,
    };
    eventually("the rights of Flagger", async || {
        let nodes = flagger.api("VirtualNode");
        nodes.get_opt("podinfo").await.is_ok()
    })
    .await;
    flagger.reconcile().await;
    assert_eq!(flagger.created, 6);
    scene.api.apply(GATEWAY_ROUTE).await.unwrap();
    eventually("an answer of the primary", async || {
        ask(&scene, &[]).await == "primary"
    })
    .await;

    let (stop, traffic) = scene.traffic_to("/podinfo");
    let mut slowest = Duration::ZERO;
    for canary in (5..=50).step_by(5).chain([100, 0]) {
        flagger.reconcile().await;
        flagger.set_routes(canary).await;
        let said_yes = Instant::now();
        let wanted = [u64::from(canary), 100 - u64::from(canary)];
        eventually("new weights in Envoy", async || {
            in_envoy(&scene).await == wanted
        })
        .await;
        let took = said_yes.elapsed();
        assert!(took < LIVE, "{canary}: {took:?}");
        slowest = slowest.max(took);
        assert_eq!(flagger.get_routes().await, (wanted[0], wanted[1]));
        if wanted.contains(&0) {
            let version = if canary == 0 { "primary" } else { "canary" };
            for _ in 0..20 {
                assert_eq!(ask(&scene, &[]).await, version);
            }
        }
    }
    println!("the slowest of 12 shifts was in Envoy {slowest:?} after the API server's answer");

    // Statuses were written meanwhile; what Flagger compares did not change.
    flagger.reconcile().await;
    assert_eq!(flagger.repaired, 0);

    // An A/B test: one repair is Flagger's own wish.
    flagger.by_header = true;
    flagger.reconcile().await;
    flagger.set_routes(100).await;
    eventually("the canary for insiders", async || {
        ask(&scene, &[("x-canary", "insider")]).await == "canary"
    })
    .await;
    assert_eq!(ask(&scene, &[]).await, "primary");
    flagger.reconcile().await;
    assert_eq!(flagger.repaired, 1);
    println!("{} conflicts", flagger.conflicts);

    stop.send(()).unwrap();
    let tally = traffic.await.unwrap();
    assert_eq!(tally.failed(), 0, "{tally:?}");
    assert_eq!(scene.forbidden(), [""; 0]);
}
