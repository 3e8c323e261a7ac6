//! A lab with a control plane, whose hosts have an address of each IP family.

use std::{
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use evermesh_testkit::{
    control_plane::{ControlPlane, bootstrap},
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
    hosts::{Lab, LabHost},
    http::HttpResponse,
    interception::Interception,
    process::Process,
    tools,
};
use http::Request;
use http_body_util::Full;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::common::DEADLINE;

/// The objects that every mesh of these tests has.
const COMMON: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {mesh: shop}}
";

pub(crate) struct EgressLab {
    version: EnvoyVersion,
    control: LabHost,
    config: TempDir,
    control_plane: Option<ControlPlane>,
    processes: Vec<Process>,
    lab: Lab,
}

impl EgressLab {
    pub(crate) async fn start(version: EnvoyVersion) -> Self {
        let mut lab = Lab::start().await.unwrap();
        let control = lab.host("control").await.unwrap();
        add_ipv6(&control);
        Self {
            version,
            control,
            config: tools::scratch("config").unwrap(),
            control_plane: None,
            processes: Vec::new(),
            lab,
        }
    }

    pub(crate) async fn host(&mut self, name: &str) -> LabHost {
        let host = self.lab.host(name).await.unwrap();
        add_ipv6(&host);
        host
    }

    /// Starts an application that answers every HTTP request with `name`.
    pub(crate) async fn http_app(&mut self, host: &LabHost, name: &str, listen: &str) {
        let app = host.http_app(name, listen.parse().unwrap()).await.unwrap();
        self.processes.push(app);
    }

    /// Starts an application that sends `name` on every TCP connection before it reads.
    pub(crate) async fn tcp_app(&mut self, host: &LabHost, name: &str, listen: &str) {
        let app = host.tcp_app(name, listen.parse().unwrap()).await.unwrap();
        self.processes.push(app);
    }

    /// Runs a program of the test kit on a host until the test ends.
    pub(crate) fn run(&mut self, host: &LabHost, arguments: &[&str]) {
        let mut command = host.command(tools::built("evermesh-test-app").unwrap());
        command.args(arguments);
        self.processes
            .push(host.spawn(arguments[0], command).unwrap());
    }

    /// Writes the manifests, in addition to the namespace `shop`. A rename is atomic, so the control plane never reads
    /// half of a file.
    pub(crate) fn write(&self, manifests: &str) {
        let draft = self.config.path().join("mesh.draft");
        fs::write(&draft, format!("{COMMON}---\n{manifests}")).unwrap();
        fs::rename(draft, self.config.path().join("mesh.yaml")).unwrap();
    }

    /// Starts the control plane with the manifests that were written. `xds` is its address for proxies.
    pub(crate) async fn serve_at(&mut self, xds: IpAddr) {
        let control_plane = ControlPlane::start_at(&self.control, xds, self.config.path(), &[]);
        let mut control_plane = control_plane.unwrap();
        control_plane.ready().await.unwrap();
        self.control_plane = Some(control_plane);
    }

    pub(crate) async fn serve(&mut self) {
        self.serve_at(self.control.ip().into()).await;
    }

    /// The host of the control plane.
    pub(crate) fn control(&self) -> &LabHost {
        &self.control
    }

    pub(crate) fn control_plane(&self) -> &ControlPlane {
        self.control_plane.as_ref().unwrap()
    }

    /// Starts the Envoy of a node or gateway, such as `virtualNode/front_shop`, and waits until it is ready.
    pub(crate) async fn proxy(&self, host: &LabHost, name: &str) -> Envoy {
        let xds = self.control_plane().xds();
        let bootstrap = bootstrap(&format!("mesh/shop/{name}"), xds, false).unwrap();
        let options = EnvoyOptions::new(self.version, bootstrap);
        let mut envoy = Envoy::start_on(host, &options).unwrap();
        envoy.ready().await.unwrap();
        envoy
    }

    /// Starts the Envoy of a node and redirects the host's traffic to it; `app_ports` are the ports of the node.
    pub(crate) async fn sidecar(&self, host: &LabHost, name: &str, app_ports: &[u16]) -> Envoy {
        let envoy = self.proxy(host, &format!("virtualNode/{name}_shop")).await;
        let interception = Interception {
            app_ports: app_ports.to_vec(),
            ..Interception::default()
        };
        interception.install(host).unwrap();
        envoy
    }

    /// Fails if an Envoy rejected a resource or the manifests have a problem.
    pub(crate) async fn has_no_problem(&self) {
        let nacks = self.control_plane().metric("evermesh_xds_nacks_total");
        assert_eq!(nacks.await.unwrap(), 0);
        let problems = self.control_plane().admin().get("/debug/problems").await;
        assert_eq!(problems.unwrap().trim(), "[]");
    }
}

/// The address of a host beside its IPv4 address; the last numbers of both are equal.
pub(crate) fn ipv6(host: &LabHost) -> Ipv6Addr {
    let [.., last] = host.ip().octets();
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, last.into())
}

fn add_ipv6(host: &LabHost) {
    let address = ipv6(host);
    // Interception happens after routing, so an application needs a route to every address that it calls.
    host.shell(&format!(
        "ip -6 address add {address}/64 dev eth0 nodad && ip -6 route add default dev eth0"
    ))
    .unwrap();
}

/// Sends a request with this `Host` from an application on a host.
pub(crate) async fn call(from: &LabHost, to: impl Into<SocketAddr>, name: &str) -> HttpResponse {
    try_call(from, to, name).await.unwrap()
}

/// Like [`call`]; an error if the connection is closed without a response.
pub(crate) async fn try_call(
    from: &LabHost,
    to: impl Into<SocketAddr>,
    name: &str,
) -> anyhow::Result<HttpResponse> {
    let request = Request::get("/").header("host", name);
    let request = request.body(Full::default()).unwrap();
    from.reach(to.into()).send(request).await
}

/// Connects from an application on a host and sends `first`. Returns the greeting of the TCP application that answers, or
/// `None` if the connection is closed.
pub(crate) async fn greeting(
    from: &LabHost,
    to: impl Into<SocketAddr>,
    first: &[u8],
) -> Option<String> {
    let mut stream = from.reach(to.into()).connect().await.unwrap();
    // An Envoy that closes the connection may do so before the bytes are sent.
    let _ = stream.write_all(first).await;
    let mut greeting = Vec::new();
    let read = async {
        loop {
            match stream.read_u8().await {
                Ok(b'\n') => return Some(String::from_utf8(greeting.clone()).unwrap()),
                Ok(byte) => greeting.push(byte),
                Err(_) => return None,
            }
        }
    };
    tokio::time::timeout(DEADLINE, read).await.unwrap()
}
