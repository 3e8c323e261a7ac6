//! Hosts with Envoys: `front` calls `color`; traffic of both is intercepted. The gateway `gate` has a host of its own.
//!
//! ```text
//! application on front ─▶ 15001 of its Envoy ═TLS═▶ color:PORT ─▶ 15000 of its Envoy ─▶ the application on color
//! ```
//!
//! Certificates and the socket of the secret discovery service are in a folder that every host sees.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Result;
use evermesh_testkit::{
    control_plane::{ControlPlane, bootstrap_with},
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
    hosts::{Lab, LabHost},
    http::Address,
    interception::Interception,
    process::Process,
    tools,
};
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::DEADLINE;

/// The name by which `color` is discovered: by DNS, or by [`endpoint_slice`].
pub(crate) const COLOR: &str = "color.shop.svc.cluster.local";

/// An address that no host has, so that only interception answers there.
const UNUSED: [u8; 4] = [10, 77, 200, 1];

/// The ports of HTTP applications on `color`.
const HTTP_PORTS: std::ops::RangeInclusive<u16> = 8000..=8007;
/// The ports of TCP applications on `color`, which send a greeting before they read.
pub(crate) const TCP_PORTS: [u16; 3] = [9000, 9001, 9002];

/// The port of a SPIRE server on `control`. Agents call it directly, past the Envoys.
pub(crate) const SPIRE_PORT: u16 = 8081;

/// The beginning of all manifests.
const MESH: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {mesh: shop}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {name: shop}
spec: {namespaceSelector: {matchLabels: {mesh: shop}}}
";

pub(crate) struct TlsHosts {
    pub(crate) control_plane: ControlPlane,
    pub(crate) control: LabHost,
    pub(crate) front: LabHost,
    pub(crate) gate: LabHost,
    pub(crate) color: LabHost,
    version: EnvoyVersion,
    folder: TempDir,
    _config: TempDir,
    _processes: Vec<Process>,
    _lab: Lab,
}

impl TlsHosts {
    /// Starts the hosts with their applications and a control plane with these manifests, which say `FOLDER` for the path
    /// of the folder.
    pub(crate) async fn start(version: EnvoyVersion, folder: TempDir, manifests: &str) -> Self {
        let mut lab = Lab::start().await.unwrap();
        let control = lab.host("control").await.unwrap();
        let front = lab.host("front").await.unwrap();
        let gate = lab.host("gate").await.unwrap();
        let color = lab.host("color").await.unwrap();
        // Without a name, only endpoints of Evermesh lead to the host.
        let names = (!manifests.contains(endpoint_slice())).then_some((COLOR, color.ip()));
        for caller in [&front, &gate] {
            caller.resolve(names).unwrap();
        }
        let config = tools::scratch("config").unwrap();
        let manifests = manifests
            .replace("FOLDER", &folder.path().display().to_string())
            .replace("ADDRESS", &color.ip().to_string());
        let file = config.path().join("mesh.yaml");
        fs::write(file, format!("{MESH}{manifests}")).unwrap();
        let mut control_plane = ControlPlane::start_on(&control, config.path(), &[]).unwrap();
        let processes = applications(&color).await;
        control_plane.ready().await.unwrap();
        Self {
            control_plane,
            control,
            front,
            gate,
            color,
            version,
            folder,
            _config: config,
            _processes: processes,
            _lab: lab,
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts the Envoy of a node or gateway, with the socket of the secret discovery service.
    pub(crate) async fn envoy(&self, host: &LabHost, resource: &str) -> Envoy {
        let socket = socket(self.folder()).display().to_string();
        let mut envoy = self.start_envoy(host, resource, &["--sds-socket", &socket]);
        envoy.ready().await.unwrap();
        envoy
    }

    /// Starts an Envoy without waiting until it is ready.
    pub(crate) fn start_envoy(&self, host: &LabHost, resource: &str, arguments: &[&str]) -> Envoy {
        let bootstrap = bootstrap_with(resource, self.control_plane.xds(), arguments).unwrap();
        Envoy::start_on(host, &EnvoyOptions::new(self.version, bootstrap)).unwrap()
    }

    /// Starts the Envoy of `color` and intercepts the connections to its applications.
    pub(crate) async fn color_envoy(&self) -> Envoy {
        let envoy = self.envoy(&self.color, "mesh/shop/virtualNode/color_shop");
        let envoy = envoy.await;
        let interception = Interception {
            app_ports: HTTP_PORTS.chain(TCP_PORTS).collect(),
            ignored_ports: vec![SPIRE_PORT],
            ..Interception::default()
        };
        interception.install(&self.color).unwrap();
        envoy
    }

    /// Starts the Envoy of `front` and intercepts the connections of its application.
    pub(crate) async fn front_envoy(&self) -> Envoy {
        let envoy = self.envoy(&self.front, "mesh/shop/virtualNode/front_shop");
        let envoy = envoy.await;
        let interception = Interception {
            ignored_ports: vec![SPIRE_PORT],
            ..Interception::default()
        };
        interception.install(&self.front).unwrap();
        envoy
    }

    /// The address at which the application on `front` calls a service, whatever its name.
    pub(crate) fn egress(&self, port: u16) -> Address {
        self.front.reach((UNUSED, port).into())
    }

    /// The status that the application on `front` gets from port `port` of the service `NAME.shop`.
    pub(crate) async fn call(&self, service: &str, port: u16) -> StatusCode {
        let host = format!("{service}.shop");
        status(&self.egress(port), &host, "/").await.unwrap()
    }

    /// The address of a port of `color` for a client without a proxy.
    pub(crate) fn direct(&self, port: u16) -> Address {
        self.control.reach((self.color.ip(), port).into())
    }

    /// Fails if the control plane reported an error or an Envoy rejected a resource.
    pub(crate) async fn has_no_error(&self) {
        let problems = self.control_plane.admin().get("/debug/problems").await;
        let problems = problems.unwrap();
        assert!(!problems.contains("\"severity\":\"error\""), "{problems}");
        let nacks = self.control_plane.metric("evermesh_xds_nacks_total").await;
        assert_eq!(nacks.unwrap(), 0);
    }
}

/// The socket of the secret discovery service in the folder of a test.
pub(crate) fn socket(folder: &Path) -> PathBuf {
    folder.join("sds.sock")
}

/// The status of a request.
pub(crate) async fn status(address: &Address, host: &str, path: &str) -> Result<StatusCode> {
    let request = Request::get(path).header("host", host);
    Ok(address.send(request.body(Full::default())?).await?.status)
}

/// The cluster to which an Envoy routes the first route of each virtual host, by the name of the virtual host and the
/// route configuration.
pub(crate) async fn routed_clusters(envoy: &Envoy) -> BTreeMap<(String, String), String> {
    let dump = envoy.config_dump().await.unwrap();
    let mut clusters = BTreeMap::new();
    let of_type = |it: &&Value| it["dynamic_route_configs"].is_array();
    let routes = dump["configs"].as_array().unwrap().iter().find(of_type);
    for config in routes.unwrap()["dynamic_route_configs"].as_array().unwrap() {
        let config = &config["route_config"];
        for host in config["virtual_hosts"].as_array().unwrap() {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let cluster = &host["routes"][0]["route"]["cluster"];
            clusters.insert((text(&config["name"]), text(&host["name"])), text(cluster));
        }
    }
    clusters
}

/// The service `NAME.shop` with the node `color` as provider.
pub(crate) fn service(name: &str) -> String {
    object(
        "VirtualService",
        name,
        &format!(
            "{{awsName: {name}.shop, provider: {{virtualNode: {{virtualNodeRef: {{name: color}}}}}}}}"
        ),
    )
}

/// An object in the namespace `shop`, with its spec in YAML's flow style.
pub(crate) fn object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: appmesh.k8s.aws/v1beta2\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
    )
}

/// The node `color` with these listeners, each with its `portMapping` and `tls`.
pub(crate) fn color(listeners: &[String]) -> String {
    let listeners = listeners.join(",\n  ");
    let spec = format!(
        "{{serviceDiscovery: {{dns: {{hostname: {COLOR}}}}}, listeners: [\n  {listeners}]}}"
    );
    object("VirtualNode", "color", &spec)
}

/// The Kubernetes Service of [`COLOR`] with its endpoints. Then Evermesh serves them, instead of Envoy asking DNS.
pub(crate) fn endpoint_slice() -> &'static str {
    "---
apiVersion: v1
kind: Service
metadata: {name: color, namespace: shop}
spec: {clusterIP: None}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: color, namespace: shop, labels: {kubernetes.io/service-name: color}}
addressType: IPv4
endpoints: [{addresses: [ADDRESS], conditions: {ready: true}}]
"
}

/// The node `front` with a backend for each service, and `clientPolicy` of that backend.
pub(crate) fn front(backends: &[(&str, &str)]) -> String {
    let backends: Vec<String> = backends
        .iter()
        .map(|(name, policy)| {
            format!(
                "{{virtualService: {{virtualServiceRef: {{name: {name}}}, clientPolicy: {{{policy}}}}}}}"
            )
        })
        .collect();
    let spec = format!("{{backends: [\n  {}]}}", backends.join(",\n  "));
    object("VirtualNode", "front", &spec)
}

/// A listener in YAML's flow style. `tls` contains the fields of `tls` and is empty without TLS.
pub(crate) fn listener(port: u16, protocol: &str, tls: &str) -> String {
    let tls = match tls {
        "" => String::new(),
        tls => format!(", tls: {{{tls}}}"),
    };
    format!("{{portMapping: {{port: {port}, protocol: {protocol}}}{tls}}}")
}

/// The certificate of a folder, in YAML's flow style.
pub(crate) fn file_certificate(folder: &str) -> String {
    format!(
        "certificate: {{file: {{certificateChain: FOLDER/{folder}/tls.crt, privateKey: FOLDER/{folder}/tls.key}}}}"
    )
}

/// The authorities of a folder, in YAML's flow style.
pub(crate) fn file_trust(folder: &str) -> String {
    format!("trust: {{file: {{certificateChain: FOLDER/{folder}/ca.crt}}}}")
}

async fn applications(color: &LabHost) -> Vec<Process> {
    let anywhere = |port| SocketAddr::from(([0, 0, 0, 0], port));
    let mut command = color.command(tools::built("evermesh-test-app").unwrap());
    command.args(["http", "--name", "color"]);
    for port in HTTP_PORTS {
        command.args(["--listen", &anywhere(port).to_string()]);
    }
    let mut http = color.spawn("applications", command).unwrap();
    let first = color.loopback(*HTTP_PORTS.start());
    http.wait_until("answering", DEADLINE, async || first.get("/").await.is_ok())
        .await
        .unwrap();
    let mut processes = vec![http];
    for port in TCP_PORTS {
        let name = format!("tcp-{port}");
        processes.push(color.tcp_app(&name, anywhere(port)).await.unwrap());
    }
    processes
}
