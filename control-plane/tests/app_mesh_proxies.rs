//! Envoys with the bootstrap of App Mesh's own image: served over TLS and over a Unix socket, with any signature.
//!
//! Needs the program `evermesh-test-app`: run `cargo build --workspace --bins` before this test alone.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod common;

use std::{fs, net::Ipv4Addr};

use common::eventually;
use evermesh_testkit::{
    app_mesh_agent::{XdsEndpoint, bootstrap},
    control_plane::ControlPlane,
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
    hosts::{Lab, LabHost},
    interception::Interception,
    process::Process,
    self_signed::SelfSigned,
    tools,
};
use serde_json::Value;
use tempfile::TempDir;

/// Address of `color.demo.local`. No host has it, so that only the proxies answer there.
const COLOR: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 77, 255, 1), 80);

const ARN: &str = "arn:aws:appmesh:eu-west-1:111122223333:mesh/demo/virtualNode/front_demo";
const SHARED: &str = "mesh/demo@444455556666/virtualNode/front_demo";
const PLAIN: &str = "mesh/demo/virtualNode/front_demo";

fn manifests(weights: [u32; 2]) -> String {
    format!(
        "apiVersion: v1
kind: Namespace
metadata: {{name: demo, labels: {{mesh: demo}}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {{name: demo}}
spec: {{namespaceSelector: {{matchLabels: {{mesh: demo}}}}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {{name: front, namespace: demo}}
spec: {{backends: [{{virtualService: {{virtualServiceRef: {{name: color}}}}}}]}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualService
metadata: {{name: color, namespace: demo}}
spec: {{awsName: color.demo.local, provider: {{virtualRouter: {{virtualRouterRef: {{name: color}}}}}}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualRouter
metadata: {{name: color, namespace: demo}}
spec:
  listeners: [{{portMapping: {{port: 80, protocol: http}}}}]
  routes:
  - name: color
    httpRoute:
      match: {{prefix: /}}
      action:
        weightedTargets:
        - {{virtualNodeRef: {{name: v1}}, weight: {}}}
        - {{virtualNodeRef: {{name: v2}}, weight: {}}}
",
        weights[0], weights[1]
    )
}

/// Manifests of a version whose address is in an `EndpointSlice`.
fn version(name: &str, address: Ipv4Addr) -> String {
    format!(
        "apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {{name: {name}, namespace: demo}}
spec:
  listeners: [{{portMapping: {{port: 8080, protocol: http}}}}]
  serviceDiscovery: {{dns: {{hostname: {name}.demo.svc.cluster.local}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: demo}}
spec: {{ports: [{{name: http, port: 8080}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: demo, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: 8080, protocol: TCP}}]
endpoints: [{{addresses: [{address}], conditions: {{ready: true}}}}]
"
    )
}

/// Two versions of a service, and the control plane.
struct Fixture {
    control_plane: ControlPlane,
    certificate: SelfSigned,
    socket: String,
    dir: TempDir,
    control: LabHost,
    lab: Lab,
    _apps: Vec<Process>,
}

impl Fixture {
    async fn build() -> Self {
        let mut lab = Lab::start().await.unwrap();
        let control = lab.host("control").await.unwrap();
        let dir = tools::scratch("app-mesh").unwrap();
        let config = dir.path().join("config");
        fs::create_dir(&config).unwrap();
        let mut apps = Vec::new();
        for name in ["v1", "v2"] {
            let host = lab.host(name).await.unwrap();
            let listen = (Ipv4Addr::UNSPECIFIED, 8080).into();
            apps.push(host.http_app(name, listen).await.unwrap());
            let file = config.join(format!("{name}.yaml"));
            fs::write(file, version(name, host.ip())).unwrap();
        }
        fs::write(config.join("mesh.yaml"), manifests([1, 0])).unwrap();
        let certificate = SelfSigned::new(control.ip().into()).unwrap();
        let socket = dir.path().join("xds.sock").display().to_string();
        let arguments = [
            "--xds-tls-cert",
            &certificate.certificate(),
            "--xds-tls-key",
            &certificate.key(),
            "--xds-socket",
            &socket,
            // Envoy runs as another user.
            "--xds-socket-mode=666",
        ];
        let mut control_plane = ControlPlane::start_on(&control, &config, &arguments).unwrap();
        control_plane.ready().await.unwrap();
        Self {
            control_plane,
            certificate,
            socket,
            dir,
            control,
            lab,
            _apps: apps,
        }
    }

    fn shift(&self, weights: [u32; 2]) {
        let file = self.dir.path().join("config/mesh.yaml");
        fs::write(file, manifests(weights)).unwrap();
    }

    /// Starts a host whose traffic is intercepted by an Envoy with this bootstrap.
    async fn start_caller(
        &mut self,
        name: &str,
        version: EnvoyVersion,
        bootstrap: String,
    ) -> (LabHost, Envoy) {
        let host = self.lab.host(name).await.unwrap();
        // Without a user of its own, Envoy's connection to the control plane has no mark and would be intercepted.
        let interception = Interception {
            ignored_ips: vec![self.control.ip().into()],
            ..Interception::default()
        };
        interception.install(&host).unwrap();
        let mut envoy = Envoy::start_on(&host, &EnvoyOptions::new(version, bootstrap)).unwrap();
        envoy.ready().await.unwrap();
        (host, envoy)
    }

    /// Node IDs of the proxies that have ACKed every resource.
    async fn proxies_in_sync(&self) -> Vec<String> {
        let proxies = self.control_plane.proxies().await.unwrap();
        let proxies = proxies.as_array().unwrap().iter();
        let accepted = |resource: &Value| {
            resource["rejected"].is_null() && resource["acked"] == resource["sent"]
        };
        let mut ids: Vec<String> = proxies
            .filter(|it| it["proxy"] == PLAIN && it["flavour"] == "sotw")
            .filter(|it| it["resources"].as_array().unwrap().iter().all(accepted))
            .map(|it| it["node_id"].as_str().unwrap().to_owned())
            .collect();
        ids.sort();
        ids
    }
}

/// The version that answers a request from this host.
async fn responding_version(host: &LabHost) -> Option<String> {
    let request = http::Request::get("/").header("host", "color.demo.local");
    let request = request.body(http_body_util::Full::default()).unwrap();
    let answer = host.reach(COLOR.into()).send(request).await.ok()?;
    answer.status.is_success().then_some(answer.body)
}

async fn proxies_of_app_mesh_are_served(version: EnvoyVersion) {
    let mut fixture = Fixture::build().await;
    let authorities = fixture.certificate.certificate();
    let socket = fixture.socket.clone();
    let over_tls = XdsEndpoint::Tls(fixture.control_plane.xds(), &authorities);
    let over_socket = XdsEndpoint::Unix(&socket);
    let mut callers = Vec::new();
    for (name, id, endpoint) in [
        ("arn", ARN, over_tls),
        ("shared", SHARED, over_tls),
        ("socket", PLAIN, over_socket),
    ] {
        let bootstrap = bootstrap(id, endpoint);
        callers.push(fixture.start_caller(name, version, bootstrap).await);
    }
    for (weights, expected) in [([1, 0], "v1"), ([0, 1], "v2")] {
        fixture.shift(weights);
        for (host, _) in &callers {
            let event = format!("{} at {expected}", host.name());
            eventually(&event, async || {
                responding_version(host)
                    .await
                    .is_some_and(|it| it == expected)
            })
            .await;
        }
    }
    eventually("ACKs of all proxies", async || {
        fixture.proxies_in_sync().await == [ARN, PLAIN, SHARED]
    })
    .await;
    for (host, envoy) in &callers {
        let stats = envoy.stats().await.unwrap();
        let rejected = stats
            .iter()
            .filter(|(name, count)| name.ends_with(".update_rejected") && **count > 0);
        assert_eq!(rejected.count(), 0, "{}: {stats:?}", host.name());
        let dump = envoy.config_dump().await.unwrap().to_string();
        for kind in [
            "ClustersConfigDump",
            "ListenersConfigDump",
            "RoutesConfigDump",
            "EndpointsConfigDump",
        ] {
            assert!(dump.contains(kind), "{}: {kind}", host.name());
        }
        assert!(dump.contains("cds_egress_demo_v2_demo_http_8080"), "{dump}");
    }
    let metric = "evermesh_xds_nacks_total";
    assert_eq!(fixture.control_plane.metric(metric).await.unwrap(), 0);

    // A control plane that was killed leaves its socket behind; the next one replaces it.
    fixture.control_plane.restart().unwrap();
    fixture.control_plane.ready().await.unwrap();
    let (_, through_socket) = &callers[2];
    eventually("a connection through the new socket", async || {
        let connected = through_socket.stat("control_plane.connected_state").await;
        connected.is_ok_and(|it| it == 1)
            && fixture.proxies_in_sync().await.contains(&PLAIN.to_owned())
    })
    .await;
}

#[tokio::test]
async fn oldest_envoy_with_app_mesh_bootstrap_is_served() {
    proxies_of_app_mesh_are_served(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_with_app_mesh_bootstrap_is_served() {
    proxies_of_app_mesh_are_served(EnvoyVersion::Newest).await;
}
