//! A Kubernetes API with the chart installed, in three steps: without a replica ([`Cluster`]), with a replica and a mesh
//! ([`MeshFixture`]), and with a gateway that gets requests ([`GatewayFixture`]).

use std::{
    collections::BTreeSet,
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
    envoy::{Envoy, EnvoyOptions, EnvoyVersion, lock_gateway_ports, with_expression_limit},
    http::Address,
    kubernetes::ApiServer,
    load::{Load, LoadStats},
    port::{ReservedPort, reserve_addresses},
    relay::Relay,
    tools,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

use crate::common::eventually;

/// Addresses of the two Services that Flagger creates, as the gateway's DNS server answers.
pub(crate) const PRIMARY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
pub(crate) const CANARY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// User name of the control plane at the API server.
pub(crate) const USER: &str = "system:serviceaccount:appmesh-system:evermesh";

/// Manifests of a gateway, and of a service `color` with two versions at these ports.
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

/// An API server with the chart installed.
pub(crate) struct Cluster {
    pub(crate) api: ApiServer,
    /// Relay through which the control plane reaches the API server.
    pub(crate) relay: Relay,
    /// Relay through which the API server reaches the webhooks, in place of their Service.
    webhooks: Relay,
    installed: InstalledChart,
    dir: TempDir,
}

impl Cluster {
    /// Installs the chart; no replica runs yet.
    pub(crate) async fn install(api: ApiServer, chart: &Chart) -> Self {
        let webhooks = Relay::start(&[]).await.unwrap();
        let installed = chart.install(&api, webhooks.address()).await.unwrap();
        let relay = Relay::start(&[host_of(&api.url())]).await.unwrap();
        Self {
            api,
            relay,
            webhooks,
            installed,
            dir: tools::scratch("fixture").unwrap(),
        }
    }

    /// Waits until the API server calls the webhooks.
    pub(crate) async fn wait_for_webhooks(&self) {
        self.installed.wait_for_webhooks(&self.api).await.unwrap();
    }

    /// Starts a replica with its own token, waits until it is ready, and adds it to the webhooks' relay.
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

/// A cluster with one replica of the control plane, the objects of [`mesh`], and a Route that leads to `v1`.
pub(crate) struct MeshFixture {
    cluster: Cluster,
    pub(crate) control_plane: ControlPlane,
    /// The gateway's port.
    port: ReservedPort,
}

impl Deref for MeshFixture {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl DerefMut for MeshFixture {
    fn deref_mut(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}

impl MeshFixture {
    pub(crate) async fn build() -> Self {
        Self::build_with(&Chart::render_open(&[]).unwrap()).await
    }

    /// Builds the fixture with this chart.
    pub(crate) async fn build_with(chart: &Chart) -> Self {
        let api = ApiServer::start().await.unwrap();
        let cluster = Cluster::install(api, chart).await;
        let control_plane = cluster.start_replica().await;
        cluster.wait_for_webhooks().await;

        let port = ReservedPort::reserve().unwrap();
        let versions = [start_app("v1"), start_app("v2")];
        let manifests = mesh(port.address().port(), versions);
        cluster.api.apply(&manifests).await.unwrap();
        cluster.api.apply(&route([100, 0])).await.unwrap();
        Self {
            cluster,
            control_plane,
            port,
        }
    }

    /// Number of resources that the control plane has sent.
    pub(crate) async fn resources_sent(&self) -> u64 {
        let metric = "evermesh_xds_resources_total";
        self.control_plane.metric(metric).await.unwrap()
    }

    /// Requests of the control plane that its permissions did not allow.
    pub(crate) fn forbidden(&self) -> Vec<String> {
        self.api.forbidden(USER).unwrap()
    }

    /// Number of writes of a Route's status by the control plane, from the audit log.
    pub(crate) fn status_writes(&self, route: &str) -> usize {
        let events = self.api.audit().unwrap();
        let writes = events.iter().filter(|event| {
            let object = &event["objectRef"];
            event["user"]["username"] == USER
                && event["verb"] == "patch"
                && object["resource"] == "routes"
                && object["subresource"] == "status"
                && object["name"] == route
        });
        writes.count()
    }

    /// The Lease by which the replicas elect the leader.
    pub(crate) async fn lease(&self) -> Value {
        let lease = self.api.get("lease/evermesh", NAMESPACE).await.unwrap();
        lease.unwrap()
    }

    /// Waits until the leader has renewed its Lease `count` times. The leader does so once a second.
    pub(crate) async fn lease_renewals(&self, count: usize) {
        let mut renewals = BTreeSet::new();
        eventually("renewals of the Lease", async || {
            let lease = self.lease().await;
            renewals.insert(lease["spec"]["renewTime"].to_string());
            renewals.len() > count
        })
        .await;
    }
}

/// A [`MeshFixture`] with the gateway's Envoy.
pub(crate) struct GatewayFixture {
    mesh: MeshFixture,
    /// Relay through which the gateway reaches the control plane.
    pub(crate) xds: Relay,
    pub(crate) gateway: Envoy,
    _gateway_ports: File,
}

impl Deref for GatewayFixture {
    type Target = MeshFixture;

    fn deref(&self) -> &MeshFixture {
        &self.mesh
    }
}

impl DerefMut for GatewayFixture {
    fn deref_mut(&mut self) -> &mut MeshFixture {
        &mut self.mesh
    }
}

impl GatewayFixture {
    pub(crate) async fn build() -> Self {
        Self::build_with(&Chart::render_open(&[]).unwrap()).await
    }

    /// Builds the fixture with this chart.
    pub(crate) async fn build_with(chart: &Chart) -> Self {
        let mesh = MeshFixture::build_with(chart).await;
        let gateway_ports = lock_gateway().await;
        let xds = Relay::start(&[mesh.control_plane.xds()]).await.unwrap();
        let gateway = start_gateway(xds.address()).await;
        let fixture = Self {
            mesh,
            xds,
            gateway,
            _gateway_ports: gateway_ports,
        };
        eventually("a response through the gateway", async || {
            fixture.address().get("/").await.is_ok()
        })
        .await;
        fixture
    }

    pub(crate) fn address(&self) -> Address {
        Address::Tcp(self.port.address())
    }

    /// Sends 100 requests a second until the sender is used.
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
            // A test that fails drops the sender, which also ends the load.
            let _ = stopped.await;
        };
        let running = tokio::spawn(async move { load.run_until(stop_load, |_| ()).await.unwrap() });
        (stop, running)
    }

    /// The body of one response, which is the name of the version that answered.
    pub(crate) async fn response(&self) -> String {
        self.address().get("/").await.unwrap()
    }
}

/// Waits for the lock of the gateway's fixed ports, while tasks of this test go on.
pub(crate) async fn lock_gateway() -> File {
    let locked = tokio::task::spawn_blocking(|| lock_gateway_ports().unwrap());
    locked.await.unwrap()
}

/// `HOST:PORT` of a URL.
fn host_of(url: &str) -> SocketAddr {
    url.strip_prefix("https://").unwrap().parse().unwrap()
}

/// Starts an application that answers with its name; returns its port.
pub(crate) fn start_app(name: &'static str) -> u16 {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    serve_app(listener, name);
    port
}

/// Serves an application that answers with its name.
pub(crate) fn serve_app(listener: std::net::TcpListener, name: &'static str) {
    listener.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    tokio::spawn(async move { app::serve_http_on(listener, name).await.unwrap() });
}

/// The limit of the gateway's Envoy for the size of regular expressions; Evermesh's own is 1000.
const EXPRESSION_LIMIT: u32 = 500;

/// Starts the gateway's Envoy, which resolves the Services of Flagger, and waits until Envoy is ready.
pub(crate) async fn start_gateway(xds: SocketAddr) -> Envoy {
    let names = [
        ("podinfo-primary.shop.svc.cluster.local", PRIMARY),
        ("podinfo-canary.shop.svc.cluster.local", CANARY),
    ];
    let dns = DnsServer::start(&names).await.unwrap();
    let bootstrap = bootstrap("mesh/shop/virtualGateway/gate_shop", xds, false).unwrap();
    let bootstrap = dns.bootstrap_with_resolver(&bootstrap).unwrap();
    let bootstrap = with_expression_limit(&bootstrap, EXPRESSION_LIMIT).unwrap();
    let mut gateway = Envoy::start(&EnvoyOptions::new(EnvoyVersion::Newest, bootstrap)).unwrap();
    gateway.ready().await.unwrap();
    gateway
}
