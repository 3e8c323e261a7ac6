//! A cluster with a mesh and a gateway that has traffic.

use std::{
    fmt::Write as _,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    ops::{Deref, DerefMut},
    time::Duration,
};

use evermesh_local_cluster::canary::route;
use evermesh_testkit::{
    app,
    chart::{Chart, InstalledChart, NAMESPACE},
    control_plane::{ControlPlane, bootstrap},
    dns::DnsServer,
    envoy::{Envoy, EnvoyOptions, EnvoyVersion, lock_gateway_ports},
    http::Address,
    kubernetes::ApiServer,
    load::{Load, LoadStats},
    port::{ReservedPort, reserve_addresses},
    relay::Relay,
    tools,
};
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle};

use crate::eventually;

/// The names that the gateway can look up: two Services as Flagger knows them.
pub(crate) const PRIMARY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
pub(crate) const CANARY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// What the control plane is to the API server.
pub(crate) const USER: &str = "system:serviceaccount:appmesh-system:evermesh";

/// A gateway that leads to two versions of a service.
pub(crate) fn mesh(gateway: u16, versions: [u16; 2]) -> String {
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
        write!(
            yaml,
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
        )
        .unwrap();
    }
    yaml
}

/// An API server in which the chart is installed.
pub(crate) struct Cluster {
    pub(crate) api: ApiServer,
    /// What the control plane takes for the API server.
    pub(crate) relay: Relay,
    /// What the API server takes for the Service of the webhooks.
    webhooks: Relay,
    installed: InstalledChart,
    dir: TempDir,
}

impl Cluster {
    /// Installs the chart.
    pub(crate) async fn of(api: ApiServer, chart: &Chart) -> Self {
        let webhooks = Relay::start(&[]).await.unwrap();
        let installed = chart.install(&api, webhooks.address()).await.unwrap();
        let relay = Relay::start(&[host_of(&api.url())]).await.unwrap();
        Self {
            api,
            relay,
            webhooks,
            installed,
            dir: tools::scratch("scene").unwrap(),
        }
    }

    /// Waits until admission is in force.
    pub(crate) async fn admits(&self) {
        self.installed.wait_for_webhooks(&self.api).await.unwrap();
    }

    /// Starts a replica, with a token of its own, behind the Service of the webhooks.
    pub(crate) async fn start_replica(&self) -> ControlPlane {
        let [webhook] = reserve_addresses().unwrap();
        let kubeconfig = self.dir.path().join(format!("replica-{}", webhook.port()));
        let account = self.api.service_account_kubeconfig(NAMESPACE, "evermesh");
        let through_relay = fs::read_to_string(account.await.unwrap()).unwrap().replace(
            &self.api.url(),
            &format!("https://{}", self.relay.address()),
        );
        fs::write(&kubeconfig, through_relay).unwrap();
        let started = ControlPlane::start_installed(&self.installed, &kubeconfig, webhook);
        let mut control_plane = started.unwrap();
        control_plane.ready().await.unwrap();
        self.webhooks.add(webhook);
        control_plane
    }
}

/// A cluster with a mesh, a control plane that reads it, and a gateway.
pub(crate) struct Scene {
    cluster: Cluster,
    pub(crate) control_plane: ControlPlane,
    /// What the gateway takes for the control plane.
    pub(crate) xds: Relay,
    pub(crate) gateway: Envoy,
    port: ReservedPort,
    _turn: File,
}

impl Deref for Scene {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl DerefMut for Scene {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

impl Scene {
    pub(crate) async fn build() -> Self {
        Self::build_with(&Chart::render(&[]).unwrap()).await
    }

    /// The same, with this chart.
    pub(crate) async fn build_with(chart: &Chart) -> Self {
        let api = ApiServer::start().await.unwrap();
        let turn = lock_gateway_ports().unwrap();
        let port = ReservedPort::reserve().unwrap();
        let versions = [app("v1"), app("v2")];
        let cluster = Cluster::of(api, chart).await;
        let control_plane = cluster.start_replica().await;
        cluster.admits().await;
        let api = &cluster.api;

        let gateway = port.address().port();
        api.apply(&mesh(gateway, versions)).await.unwrap();
        api.apply(&route([100, 0])).await.unwrap();
        let xds = Relay::start(&[control_plane.xds()]).await.unwrap();
        let gateway = gateway_envoy(xds.address()).await;
        let scene = Self {
            cluster,
            control_plane,
            xds,
            gateway,
            port,
            _turn: turn,
        };
        eventually("an answer through the gateway", async || {
            scene.address().get("/").await.is_ok()
        })
        .await;
        scene
    }

    pub(crate) fn address(&self) -> Address {
        Address::Tcp(self.port.address())
    }

    /// Requests until they are told to stop.
    pub(crate) fn traffic(&self) -> (oneshot::Sender<()>, JoinHandle<LoadStats>) {
        self.traffic_to("/")
    }

    pub(crate) fn traffic_to(&self, path: &str) -> (oneshot::Sender<()>, JoinHandle<LoadStats>) {
        let load = Load {
            target: self.address(),
            host: "color.shop".to_owned(),
            path: path.to_owned(),
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

    pub(crate) async fn answer(&self) -> String {
        self.address().get("/").await.unwrap()
    }

    /// The route configurations of the gateway.
    pub(crate) async fn route_names(&self) -> Vec<String> {
        let proxies = self.control_plane.proxies().await.unwrap();
        let resources = proxies[0]["resources"].as_array().unwrap().iter();
        let routes = resources.filter(|it| it["type"] == "route");
        let names = routes.map(|it| it["name"].as_str().unwrap().to_owned());
        names.collect()
    }

    pub(crate) async fn sent(&self) -> u64 {
        let metric = "evermesh_xds_resources_total";
        self.control_plane.metric(metric).await.unwrap()
    }

    /// What the control plane asked for beyond its rights.
    pub(crate) fn forbidden(&self) -> Vec<String> {
        self.api.forbidden(USER).unwrap()
    }
}

/// `HOST:PORT` of a URL.
fn host_of(url: &str) -> SocketAddr {
    url.strip_prefix("https://").unwrap().parse().unwrap()
}

/// Starts an application that answers with its name; returns its port.
pub(crate) fn app(name: &'static str) -> u16 {
    let [listen] = reserve_addresses().unwrap();
    tokio::spawn(async move { app::serve_http(listen, name).await.unwrap() });
    listen.port()
}

/// The gateway of the mesh.
pub(crate) async fn gateway_envoy(xds: SocketAddr) -> Envoy {
    let names = [
        ("podinfo-primary.shop.svc.cluster.local", PRIMARY),
        ("podinfo-canary.shop.svc.cluster.local", CANARY),
    ];
    let dns = DnsServer::start(&names).await.unwrap();
    let bootstrap = bootstrap("mesh/shop/virtualGateway/gate_shop", xds, false).unwrap();
    let bootstrap = dns.bootstrap_with_resolver(&bootstrap).unwrap();
    let mut gateway = Envoy::start(&EnvoyOptions::new(EnvoyVersion::Newest, bootstrap)).unwrap();
    gateway.ready().await.unwrap();
    gateway
}
