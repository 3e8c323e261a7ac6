//! The control plane on a real API server, with a real Envoy and traffic.

#![allow(clippy::unwrap_used)] // what fails here fails a test

mod cut;
mod proxy;
mod status;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    time::Duration,
};

use cut::Cut;
use evermesh_testkit::{
    app,
    control_plane::{ControlPlane, bootstrap},
    envoy::{Envoy, EnvoyOptions, Version},
    http::Address,
    kubernetes::ApiServer,
    load::{Load, Tally},
};
use tokio::{sync::oneshot, task::JoinHandle};

/// Status is written; replicas agree on who does it.
const LEADER_ELECTION: [&str; 2] = ["--leader-election-namespace", "shop"];

/// For what takes milliseconds when the machine is idle.
const PATIENCE: Duration = Duration::from_secs(30);

fn free_port() -> u16 {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.local_addr().unwrap().port()
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let poll = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let done = tokio::time::timeout(PATIENCE, poll).await;
    assert!(done.is_ok(), "{what} did not happen");
}

/// A gateway that leads to two versions of a service.
fn mesh(gateway: u16, versions: [u16; 2]) -> String {
    let mut yaml = format!(
        "apiVersion: v1
kind: Namespace
metadata: {{name: shop, labels: {{mesh: shop}}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {{name: shop}}
spec: {{namespaceSelector: {{matchLabels: {{mesh: shop}}}}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualGateway
metadata: {{name: gate, namespace: shop}}
spec:
  namespaceSelector: {{matchLabels: {{mesh: shop}}}}
  podSelector: {{matchLabels: {{app: gate}}}}
  listeners: [{{portMapping: {{port: {gateway}, protocol: http}}}}]
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: GatewayRoute
metadata: {{name: all, namespace: shop}}
spec:
  httpRoute:
    match: {{prefix: /}}
    action: {{target: {{virtualService: {{virtualServiceRef: {{name: color}}}}}}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualService
metadata: {{name: color, namespace: shop}}
spec: {{awsName: color.shop, provider: {{virtualRouter: {{virtualRouterRef: {{name: color}}}}}}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualRouter
metadata: {{name: color, namespace: shop}}
spec: {{listeners: [{{portMapping: {{port: 80, protocol: http}}}}]}}
"
    );
    for (index, port) in versions.into_iter().enumerate() {
        yaml += &format!(
            "---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {{name: color-v{}, namespace: shop}}
spec:
  podSelector: {{matchLabels: {{app: color}}}}
  listeners: [{{portMapping: {{port: {port}, protocol: http}}}}]
  serviceDiscovery: {{dns: {{hostname: 127.0.0.1}}}}
",
            index + 1
        );
    }
    yaml
}

fn route(weights: [u32; 2]) -> String {
    format!(
        "apiVersion: evermesh.dev/v1alpha1
kind: Route
metadata: {{name: color, namespace: shop}}
spec:
  virtualRouterRef: {{name: color}}
  httpRoute:
    match: {{prefix: /}}
    action:
      weightedTargets:
      - {{virtualNodeRef: {{name: color-v1}}, weight: {}}}
      - {{virtualNodeRef: {{name: color-v2}}, weight: {}}}
",
        weights[0], weights[1]
    )
}

/// An API server with a mesh, a control plane that reads it, and a gateway.
struct Scene {
    api: ApiServer,
    /// What the control plane takes for the API server.
    cut: Cut,
    control_plane: ControlPlane,
    gateway: Envoy,
    port: u16,
}

impl Scene {
    async fn build() -> Self {
        let api = ApiServer::start().await.unwrap();
        api.install_crds().await.unwrap();
        let [port, one, two] = [free_port(), free_port(), free_port()];
        api.apply(&mesh(port, [one, two])).await.unwrap();
        api.apply(&route([100, 0])).await.unwrap();
        for (port, name) in [(one, "v1"), (two, "v2")] {
            let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            tokio::spawn(async move { app::serve_http(listen, name).await.unwrap() });
        }
        let cut = Cut::before(&api).await;
        let mut control_plane =
            ControlPlane::start_on_cluster(cut.kubeconfig(), &LEADER_ELECTION).unwrap();
        control_plane.ready().await.unwrap();
        let bootstrap = bootstrap(
            "mesh/shop/virtualGateway/gate_shop",
            control_plane.xds(),
            false,
        )
        .unwrap();
        let mut gateway = Envoy::start(&EnvoyOptions::new(Version::Newest, bootstrap)).unwrap();
        gateway.ready().await.unwrap();
        let scene = Self {
            api,
            cut,
            control_plane,
            gateway,
            port,
        };
        eventually("an answer through the gateway", async || {
            scene.address().get("/").await.is_ok()
        })
        .await;
        scene
    }

    fn address(&self) -> Address {
        Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)))
    }

    /// Requests until they are told to stop.
    fn traffic(&self) -> (oneshot::Sender<()>, JoinHandle<Tally>) {
        let load = Load {
            target: self.address(),
            host: "color.shop".to_owned(),
            path: "/".to_owned(),
            rate: 100,
            duration: Duration::from_mins(10),
            http2: false,
        };
        let (stop, stopped) = oneshot::channel();
        let stop_load = async move {
            // A test that ends early ends the load too.
            let _ = stopped.await;
        };
        let running = tokio::spawn(async move { load.run_until(stop_load, |_| ()).await.unwrap() });
        (stop, running)
    }

    async fn answer(&self) -> String {
        self.address().get("/").await.unwrap()
    }

    /// The route configurations of the gateway.
    async fn route_names(&self) -> Vec<String> {
        let proxies = self.control_plane.proxies().await.unwrap();
        let resources = proxies[0]["resources"].as_array().unwrap().iter();
        let routes = resources.filter(|it| it["type"] == "route");
        let names = routes.map(|it| it["name"].as_str().unwrap().to_owned());
        names.collect()
    }

    async fn sent(&self) -> u64 {
        let metric = "evermesh_xds_resources_total";
        self.control_plane.metric(metric).await.unwrap()
    }
}

#[tokio::test]
async fn the_api_server_may_go_and_come_back() {
    let mut scene = Scene::build().await;
    assert!(scene.answer().await.contains("v1"));
    scene.api.apply(&route([0, 100])).await.unwrap();
    eventually("the shift to v2", async || {
        scene.answer().await.contains("v2")
    })
    .await;

    let sent = scene.sent().await;
    let (stop, traffic) = scene.traffic();
    for round in 0..20 {
        for _ in 0..10 {
            scene.cut.all();
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        scene.api.kill_api_server();
        if round == 0 {
            // Long enough to be noticed and told.
            eventually("a word of the silence", async || {
                let ready = scene.control_plane.admin().get("/readyz").await.unwrap();
                ready.contains("has not answered")
            })
            .await;
        }
        scene.api.restart_api_server().await.unwrap();
    }
    eventually("the end of the silence", async || {
        let ready = scene.control_plane.admin().get("/readyz").await.unwrap();
        ready == "ok\n"
    })
    .await;
    assert!(
        scene.cut.count() > 200,
        "{} connections cut",
        scene.cut.count()
    );
    assert_eq!(scene.sent().await, sent, "nothing changed, nothing is sent");

    scene.api.apply(&route([100, 0])).await.unwrap();
    eventually("the shift back", async || {
        scene.answer().await.contains("v1")
    })
    .await;
    assert_eq!(scene.sent().await, sent + 1, "one route configuration");
    stop.send(()).unwrap();
    let tally = traffic.await.unwrap();
    assert_eq!(tally.failed(), 0, "{tally:?}");
    assert!(tally.requests() > 1000, "{tally:?}");
    assert_eq!(
        scene
            .gateway
            .stat("listener_manager.lds.update_rejected")
            .await
            .unwrap(),
        0
    );
}
