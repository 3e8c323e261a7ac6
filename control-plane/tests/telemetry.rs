//! Statistics and traces of a proxy arrive with App Mesh's names: in Prometheus' format, at a DogStatsD, and at each
//! tracer but Jaeger, which the test `traces` covers.
//!
//! The servers of this test store what they receive, in place of the real collectors.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod common;

use std::{fs, net::SocketAddr};

use common::{DEADLINE, eventually};
use evermesh_testkit::{
    app,
    control_plane::{ControlPlane, bootstrap_with},
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
    http::Address,
    port::ReservedPort,
    recorder::Recorder,
    tools,
};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, UdpSocket, UnixDatagram},
    time::timeout,
};

/// Large enough for every datagram.
const DATAGRAM: usize = 65_536;

/// The Envoy of the node `front`, on this machine, in front of an application.
struct Fixture {
    envoy: Envoy,
    port: ReservedPort,
    _control_plane: ControlPlane,
    _config: TempDir,
}

impl Fixture {
    /// Starts everything; `arguments` are for `evermesh bootstrap`.
    async fn new(version: EnvoyVersion, arguments: &[&str]) -> Self {
        let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = ReservedPort::reserve().unwrap();
        let config = tools::scratch("config").unwrap();
        let manifests = manifests(port.address(), application.local_addr().unwrap());
        fs::write(config.path().join("mesh.yaml"), manifests).unwrap();
        tokio::spawn(async move { app::serve_http_on(application, "front").await });

        let mut control_plane = ControlPlane::start(config.path(), &[]).unwrap();
        control_plane.ready().await.unwrap();
        let node = "mesh/shop/virtualNode/front_shop";
        let bootstrap = bootstrap_with(node, control_plane.xds(), arguments).unwrap();
        let mut envoy = Envoy::start(&EnvoyOptions::new(version, bootstrap)).unwrap();
        envoy.ready().await.unwrap();
        Self {
            envoy,
            port,
            _control_plane: control_plane,
            _config: config,
        }
    }

    /// Calls the application through Envoy.
    async fn call(&self) {
        let address = Address::Tcp(self.port.address());
        assert_eq!(address.get("/").await.unwrap(), "front");
    }

    /// The lines of Prometheus' format that begin with `name` and a brace.
    async fn metrics(&self, name: &str) -> Vec<String> {
        let text = self.envoy.admin().get("/stats/prometheus").await.unwrap();
        let prefix = format!("{name}{{");
        let lines = text.lines().filter(|line| line.starts_with(&prefix));
        lines.map(str::to_owned).collect()
    }

    /// The metric of requests to the application.
    async fn ingress_requests(&self) -> String {
        let metrics = self.metrics("envoy_http_downstream_rq_total").await;
        let ingress = "envoy_http_conn_manager_prefix=\"ingress\"";
        let mut ingress = metrics.iter().filter(|metric| metric.contains(ingress));
        let (Some(only), None) = (ingress.next(), ingress.next()) else {
            panic!("{metrics:?}");
        };
        only.clone()
    }
}

fn manifests(listen: SocketAddr, application: SocketAddr) -> String {
    let (port, application) = (listen.port(), application.port());
    format!(
        "apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {{name: shop}}
spec: {{namespaceSelector: {{}}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata:
  name: front
  namespace: shop
  annotations: {{evermesh.dev/application-ports: \"{port}={application}\"}}
spec:
  listeners: [{{portMapping: {{port: {port}, protocol: http}}}}]
  serviceDiscovery: {{dns: {{hostname: front.shop}}}}
"
    )
}

/// Waits until the recorder has a request to `path` whose body contains all of `parts`.
async fn receives(recorder: &Recorder, path: &str, parts: &[&str]) {
    let event = format!("a request to {path} with {parts:?}");
    eventually(&event, async || {
        recorder.requests().iter().any(|request| {
            request.path.ends_with(path) && parts.iter().all(|part| request.body.contains(part))
        })
    })
    .await;
}

/// Every metric names the mesh and the node, and those of a listener its protocol and port.
async fn metrics_have_the_tags_of_app_mesh(version: EnvoyVersion) {
    let fixture = Fixture::new(version, &[]).await;
    fixture.call().await;
    let port = fixture.port.address().port();
    let member = "appmesh_mesh=\"shop\",appmesh_virtual_node=\"front_shop\"";
    let listener = format!("appmesh_listener_protocol=\"http\",appmesh_listener_port=\"{port}\"");
    assert_eq!(
        fixture.ingress_requests().await,
        format!(
            "envoy_http_downstream_rq_total{{{member},{listener},envoy_http_conn_manager_prefix=\"ingress\"}} 1"
        )
    );
    let rds = fixture.metrics("envoy_http_rds_update_success").await;
    let configuration = format!("envoy_rds_route_config=\"rds_ingress_http_{port}\"");
    assert!(
        rds.iter().any(|line| line.contains(&configuration)),
        "{rds:?}"
    );
    // The metric that Flagger sums: only requests of applications.
    assert_eq!(
        fixture.metrics("envoy_cluster_upstream_rq").await,
        [format!(
            "envoy_cluster_upstream_rq{{envoy_response_code=\"200\",{member},envoy_cluster_name=\"cds_ingress_shop_front_shop_http_{port}\"}} 1"
        )]
    );
}

/// Without `appmesh.mesh` and the node, the names stay the same.
async fn metrics_keep_their_names_without_the_member(version: EnvoyVersion) {
    let fixture = Fixture::new(version, &["--without-stats-tags"]).await;
    fixture.call().await;
    let metric = fixture.ingress_requests().await;
    assert!(
        metric.contains("appmesh_listener_protocol=\"http\""),
        "{metric}"
    );
    assert!(!metric.contains("appmesh_mesh"), "{metric}");
}

/// Envoy sends one datagram for each statistic, and drops those for which the receiver has no room. So any of them counts.
async fn statistics_arrive_at_dogstatsd(version: EnvoyVersion) {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let udp_address = udp.local_addr().unwrap().to_string();
    let folder = tools::scratch("statsd").unwrap();
    let path = folder.path().join("statsd.sock");
    let unix = UnixDatagram::bind(&path).unwrap();
    let path = path.to_str().unwrap();
    for arguments in [["--statsd", &udp_address], ["--statsd-socket", path]] {
        let _fixture = Fixture::new(version, &arguments).await;
        let mut datagram = vec![0; DATAGRAM];
        let received = async {
            match arguments[0] {
                "--statsd" => udp.recv(&mut datagram).await,
                _ => unix.recv(&mut datagram).await,
            }
        };
        let length = timeout(DEADLINE, received).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&datagram[..length]).into_owned();
        let tags = "#appmesh.mesh:shop,appmesh.virtual_node:front_shop";
        assert!(text.starts_with("envoy.") && text.contains(tags), "{text}");
    }
}

async fn spans_arrive_at_tracers(version: EnvoyVersion) {
    let datadog = Recorder::start().await.unwrap();
    let address = datadog.address().to_string();
    let fixture = Fixture::new(version, &["--datadog", &address]).await;
    fixture.call().await;
    receives(&datadog, "/traces", &["envoy-shop/front_shop"]).await;
    // The request to the tracer is not counted as one of an application.
    let counted = fixture.metrics("envoy_cluster_upstream_rq").await;
    assert_eq!(counted.len(), 1, "{counted:?}");

    let collector = Recorder::start().await.unwrap();
    let address = collector.address().to_string();
    let fixture = Fixture::new(version, &["--opentelemetry", &address]).await;
    fixture.call().await;
    // The attribute of the resource, with the lengths that protobuf writes before its value.
    let service = "service.name\u{12}\"\n mesh/shop/virtualNode/front_shop";
    receives(&collector, "trace.v1.TraceService/Export", &[service]).await;
    let counted = fixture.metrics("envoy_cluster_upstream_rq").await;
    assert_eq!(counted.len(), 1, "{counted:?}");

    let daemon = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = daemon.local_addr().unwrap().port().to_string();
    let fixture = Fixture::new(version, &["--xray-port", &port]).await;
    fixture.call().await;
    let mut datagram = vec![0; DATAGRAM];
    let length = timeout(DEADLINE, daemon.recv(&mut datagram)).await.unwrap();
    let segment = String::from_utf8_lossy(&datagram[..length.unwrap()]).into_owned();
    for part in [
        "\"name\":\"shop/front_shop\"",
        "\"origin\":\"AWS::AppMesh::Proxy\"",
        "\"virtual_node_name\":\"front_shop\"",
    ] {
        assert!(segment.contains(part), "{segment}");
    }
}

#[tokio::test]
async fn oldest_envoy_tags_metrics() {
    metrics_have_the_tags_of_app_mesh(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_tags_metrics() {
    metrics_have_the_tags_of_app_mesh(EnvoyVersion::Newest).await;
}

#[tokio::test]
async fn metrics_without_the_member_keep_their_names() {
    metrics_keep_their_names_without_the_member(EnvoyVersion::Newest).await;
}

#[tokio::test]
async fn oldest_envoy_sends_statistics_to_dogstatsd() {
    statistics_arrive_at_dogstatsd(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_sends_statistics_to_dogstatsd() {
    statistics_arrive_at_dogstatsd(EnvoyVersion::Newest).await;
}

#[tokio::test]
async fn oldest_envoy_sends_spans_to_every_tracer() {
    spans_arrive_at_tracers(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_sends_spans_to_every_tracer() {
    spans_arrive_at_tracers(EnvoyVersion::Newest).await;
}
