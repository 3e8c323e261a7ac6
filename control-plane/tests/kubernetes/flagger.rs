//! Flagger's App Mesh provider: the objects that it writes, how it reads them, and when it would repair them.
//!
//! The test repeats Flagger's algorithm in Rust, since Flagger itself needs pods.

use std::{net::TcpListener, path::PathBuf};

use evermesh_testkit::kubernetes;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, PostParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};

use crate::{
    common::eventually,
    fixture::{CANARY, GatewayFixture, PRIMARY, serve_app},
};

const NAMESPACE: &str = "shop";

/// The service account of Flagger, with the permissions that its chart grants for App Mesh.
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

/// The route of the gateway to the canary, which Flagger's user writes.
const GATEWAY_ROUTE: &str = "
apiVersion: appmesh.k8s.aws/v1beta2
kind: GatewayRoute
metadata: {name: podinfo, namespace: shop}
spec:
  httpRoute:
    match: {prefix: /podinfo}
    action: {target: {virtualService: {virtualServiceRef: {name: podinfo}}}}
";

/// Flagger's controller for one canary, `podinfo`.
struct Flagger {
    client: Client,
    port: u16,
    /// Whether the canary is an A/B test by request header.
    by_header: bool,
    /// Number of objects that were created.
    created: usize,
    /// Number of objects that were written again because their spec was not the expected one.
    repaired: usize,
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

    /// Reads an object, changes its spec and writes the whole object back; tries again after a conflict.
    async fn update(&self, kind: &str, name: &str, change: impl Fn(&mut Value)) {
        loop {
            let mut object = self.api(kind).get(name).await.unwrap();
            change(&mut object.data["spec"]);
            let written = object.data["spec"].clone();
            match self
                .api(kind)
                .replace(name, &PostParams::default(), &object)
                .await
            {
                Ok(stored) => {
                    assert_eq!(stored.data["spec"], written, "{kind} {name}");
                    return;
                }
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => panic!("{kind} {name}: {error}"),
            }
        }
    }

    /// Creates missing objects and repairs those whose spec is not the expected one.
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
            if flaggers_fields(&found) != wanted {
                self.repaired += 1;
                self.update("VirtualNode", &name, |spec| replace_fields(spec, &wanted))
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
            if without_weights(&flaggers_fields(&found)) != without_weights(&wanted) {
                self.repaired += 1;
                let action = &found.data["spec"]["routes"][0]["httpRoute"]["action"];
                wanted["routes"][0]["httpRoute"]["action"] = action.clone();
                self.update("VirtualRouter", name, |spec| replace_fields(spec, &wanted))
                    .await;
            }
        }
    }

    async fn set_routes(&self, canary: u32) {
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

/// The part of a spec that Flagger compares: everything except the two fields that the webhooks fill in.
fn flaggers_fields(object: &DynamicObject) -> Value {
    let mut spec = object.data["spec"].clone();
    for field in ["awsName", "meshRef"] {
        assert!(
            spec.as_object_mut().unwrap().remove(field).is_some(),
            "{field}"
        );
    }
    spec
}

/// Replaces the fields of a spec that [`flaggers_fields`] returns.
fn replace_fields(spec: &mut Value, wanted: &Value) {
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

/// Weights of canary and primary in the configuration that Envoy uses.
async fn weights_in_envoy(fixture: &GatewayFixture) -> [u64; 2] {
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
    collect(&fixture.gateway.config_dump().await.unwrap(), &mut weights);
    weights
}

/// Serves the primary and the canary at the addresses of their Services, on one port; returns the port.
fn serve_versions() -> u16 {
    // Another process may have the port of one address at the other address.
    let (primary, canary) = std::iter::from_fn(|| {
        let primary = TcpListener::bind((PRIMARY, 0)).unwrap();
        let port = primary.local_addr().unwrap().port();
        Some((primary, TcpListener::bind((CANARY, port))))
    })
    .find_map(|(primary, canary)| Some((primary, canary.ok()?)))
    .unwrap();
    let port = canary.local_addr().unwrap().port();
    serve_app(primary, "primary");
    serve_app(canary, "canary");
    port
}

/// The body of one response to a request with these headers.
async fn response(fixture: &GatewayFixture, headers: &[(&str, &str)]) -> String {
    let mut request = hyper::Request::get("/podinfo").header("host", "podinfo.shop:9898");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(http_body_util::Full::default()).unwrap();
    fixture.address().send(request).await.unwrap().body
}

#[tokio::test]
async fn flagger_shifts_weights_and_never_repairs_its_objects() {
    let fixture = GatewayFixture::build().await;
    fixture.api.apply(ACCOUNT).await.unwrap();
    let account = fixture.api.service_account_kubeconfig(NAMESPACE, "flagger");
    let kubeconfig: PathBuf = account.await.unwrap();
    let mut flagger = Flagger {
        client: kubernetes::client(&kubeconfig).await.unwrap(),
        port: serve_versions(),
        by_header: false,
        created: 0,
        repaired: 0,
    };
    eventually("the permissions of Flagger", async || {
        let nodes = flagger.api("VirtualNode");
        nodes.get_opt("podinfo").await.is_ok()
    })
    .await;
    flagger.reconcile().await;
    assert_eq!(flagger.created, 6);
    fixture.api.apply(GATEWAY_ROUTE).await.unwrap();
    eventually("a response of the primary", async || {
        response(&fixture, &[]).await == "primary"
    })
    .await;

    let (stop, traffic) = fixture.traffic_to("/podinfo");
    for canary in (5..=50).step_by(5).chain([100, 0]) {
        flagger.reconcile().await;
        flagger.set_routes(canary).await;
        let wanted = [u64::from(canary), 100 - u64::from(canary)];
        eventually("the new weights in Envoy", async || {
            weights_in_envoy(&fixture).await == wanted
        })
        .await;
        assert_eq!(flagger.get_routes().await, (wanted[0], wanted[1]));
        if wanted.contains(&0) {
            let version = if canary == 0 { "primary" } else { "canary" };
            for _ in 0..20 {
                assert_eq!(response(&fixture, &[]).await, version);
            }
        }
    }

    // Evermesh wrote only the statuses.
    flagger.reconcile().await;
    assert_eq!(flagger.repaired, 0);

    // For an A/B test Flagger itself changes the router's spec once.
    flagger.by_header = true;
    flagger.reconcile().await;
    flagger.set_routes(100).await;
    eventually("the canary for insiders", async || {
        response(&fixture, &[("x-canary", "insider")]).await == "canary"
    })
    .await;
    assert_eq!(response(&fixture, &[]).await, "primary");
    flagger.reconcile().await;
    assert_eq!(flagger.repaired, 1);

    stop.send(()).unwrap();
    let stats = traffic.await.unwrap();
    assert_eq!(stats.failed(), 0, "{stats:?}");
    assert_eq!(fixture.forbidden(), [""; 0]);
}
