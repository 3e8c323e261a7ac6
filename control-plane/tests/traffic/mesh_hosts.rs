//! A mesh on hosts, for tests of routing: a caller, a gateway, and the host of all targets.
//!
//! ```text
//! front ──▶ 15001 of its Envoy ──┬──▶ back:9001 … back:9009    t1 … t9: one application, no proxy
//! client ─▶ gate ────────────────┴──▶ back:8080 … (side) ──▶ 15000 of its Envoy ──▶ the same application
//! ```
//!
//! Each target is a node: `t1` to `t9` expect `http`, `g1` to `g9` `grpc`, at the same ports. A response says which port
//! received the request. The names of services are `NAME.shop`.

use std::{fs, net::SocketAddr};

use evermesh_testkit::{
    app::{scripted, switched},
    control_plane::{ControlPlane, bootstrap},
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
    hosts::{Lab, LabHost},
    http::{Address, HttpResponse},
    interception::Interception,
    process::Process,
    tools,
};
use tempfile::TempDir;

use crate::{call::Call, common::DEADLINE, manifests::Manifests};

/// An address that no host has, so that only interception answers there.
const UNUSED: [u8; 4] = [10, 77, 200, 1];

/// The port of `t1` and `g1` is the next one.
pub(crate) const TARGETS: u16 = 9000;

/// The number of targets of each protocol.
pub(crate) const TARGET_COUNT: u16 = 9;

/// The ports of `back` on which applications listen behind its Envoy.
pub(crate) const SIDE_PORTS: [u16; 3] = [8080, 8081, 8082];

/// The ports of TCP applications; their greeting is `tcp-PORT`.
pub(crate) const TCP_PORTS: [u16; 2] = [6001, 6002];

/// The port of a TCP application on `back` behind its Envoy.
pub(crate) const SIDE_TCP_PORT: u16 = 6003;

/// Two applications on `back` with addresses of their own, which answer with these names.
pub(crate) const PAIR: [(&str, &str); 2] = [("one", "10.77.1.1"), ("two", "10.77.1.2")];

/// The port of both applications of [`PAIR`].
pub(crate) const PAIR_PORT: u16 = 9100;

/// The Envoys that a test needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Proxy {
    /// The Envoy of the node `front`.
    Front,
    /// The Envoy of the gateway `gate`.
    Gate,
    /// The Envoy of the node `side` on `back`.
    Side,
}

/// The hosts with their processes.
pub(crate) struct MeshHosts {
    pub(crate) control_plane: ControlPlane,
    pub(crate) front: LabHost,
    pub(crate) gate: LabHost,
    pub(crate) back: LabHost,
    envoys: Vec<(Proxy, Envoy)>,
    _config: TempDir,
    _processes: Vec<Process>,
    _lab: Lab,
}

impl MeshHosts {
    /// Starts the hosts and waits until the Envoys have their configuration.
    pub(crate) async fn start(
        version: EnvoyVersion,
        manifests: Manifests,
        proxies: &[Proxy],
    ) -> Self {
        let mut lab = Lab::start().await.unwrap();
        let control = lab.host("control").await.unwrap();
        let front = lab.host("front").await.unwrap();
        let gate = lab.host("gate").await.unwrap();
        let back = lab.host("back").await.unwrap();

        let config = tools::scratch("config").unwrap();
        let file = config.path().join("mesh.yaml");
        fs::write(file, manifests.complete(&back, &gate)).unwrap();
        let mut control_plane = ControlPlane::start_on(&control, config.path(), &[]).unwrap();
        let processes = applications(&back).await;
        control_plane.ready().await.unwrap();

        let mut envoys = Vec::new();
        for proxy in proxies {
            let (host, resource) = match proxy {
                Proxy::Front => (&front, "mesh/shop/virtualNode/front_shop"),
                Proxy::Gate => (&gate, "mesh/shop/virtualGateway/gate_shop"),
                Proxy::Side => (&back, "mesh/shop/virtualNode/side_shop"),
            };
            let bootstrap = bootstrap(resource, control_plane.xds(), false).unwrap();
            let mut options = EnvoyOptions::new(version, bootstrap);
            // Lines of access logs, which otherwise appear after 10 seconds.
            options.arguments = vec!["--file-flush-interval-msec".to_owned(), "50".to_owned()];
            let envoy = Envoy::start_on(host, &options).unwrap();
            envoys.push((*proxy, envoy));
        }
        for (_, envoy) in &mut envoys {
            envoy.ready().await.unwrap();
        }
        Interception::default().install(&front).unwrap();
        if proxies.contains(&Proxy::Side) {
            let interception = Interception {
                app_ports: [SIDE_PORTS.as_slice(), &[SIDE_TCP_PORT]].concat(),
                ..Interception::default()
            };
            interception.install(&back).unwrap();
        }
        Self {
            control_plane,
            front,
            gate,
            back,
            envoys,
            _config: config,
            _processes: processes,
            _lab: lab,
        }
    }

    /// The address at which the application on `front` calls a service, whatever its name.
    pub(crate) fn egress(&self, port: u16) -> Address {
        self.front.reach((UNUSED, port).into())
    }

    /// Sends a request from the application on `front` to port 8080 of the service `NAME.shop`.
    pub(crate) async fn call(&self, service: &str, call: &Call) -> HttpResponse {
        call.send(&self.egress(8080), &format!("{service}.shop"))
            .await
    }

    pub(crate) fn envoy(&self, proxy: Proxy) -> &Envoy {
        let found = self.envoys.iter().find(|(it, _)| *it == proxy);
        &found.unwrap().1
    }

    /// A counter or gauge of an Envoy.
    pub(crate) async fn stat(&self, proxy: Proxy, name: &str) -> u64 {
        self.envoy(proxy).stat(name).await.unwrap()
    }

    /// The lines that an Envoy has written so far: its access log to `/dev/stdout`, and its own messages.
    pub(crate) fn log(&self, proxy: Proxy) -> Vec<String> {
        let log = fs::read_to_string(self.envoy(proxy).log_file()).unwrap();
        log.lines().map(ToOwned::to_owned).collect()
    }

    /// Sets the status with which an application of [`PAIR`] answers requests for a path from now on.
    pub(crate) async fn switch(&self, (_, address): (&str, &str), path: &str, status: u16) {
        let application = SocketAddr::new(address.parse().unwrap(), PAIR_PORT);
        let uri = format!("{}?path={path}&status={status}", switched::SWITCH);
        self.back.reach(application).get(&uri).await.unwrap();
    }

    /// The number of attempts that reached a target with this key, see [`scripted`].
    pub(crate) async fn attempts(&self, key: &str) -> usize {
        let path = format!("{}?key={key}", scripted::ATTEMPTS);
        let application = self.back.loopback(TARGETS + 1);
        application.get(&path).await.unwrap().parse().unwrap()
    }

    /// Ends the held responses with this key.
    pub(crate) async fn release(&self, key: &str) {
        let path = format!("{}?key={key}", scripted::RELEASE);
        self.back.loopback(TARGETS + 1).get(&path).await.unwrap();
    }

    /// Fails if the control plane reported an error or an Envoy rejected a resource.
    pub(crate) async fn has_no_error(&self) {
        let problems = self.problems().await;
        assert!(!problems.contains("\"severity\":\"error\""), "{problems}");
        let nacks = self.control_plane.metric("evermesh_xds_nacks_total").await;
        assert_eq!(nacks.unwrap(), 0);
    }

    /// The problems of the manifests as JSON.
    pub(crate) async fn problems(&self) -> String {
        let problems = self.control_plane.admin().get("/debug/problems").await;
        problems.unwrap().trim().to_owned()
    }
}

/// Starts the applications of all targets: one process for HTTP, so that attempts are counted in one place, and one for
/// each TCP port.
async fn applications(back: &LabHost) -> Vec<Process> {
    let anywhere = |port| SocketAddr::from(([0, 0, 0, 0], port));
    let mut command = back.command(tools::built("evermesh-test-app").unwrap());
    command.args(["http", "--name", "target"]);
    for port in (1..=TARGET_COUNT)
        .map(|index| TARGETS + index)
        .chain(SIDE_PORTS)
    {
        command.args(["--listen", &anywhere(port).to_string()]);
    }
    let mut http = back.spawn("targets", command).unwrap();
    let first = back.loopback(TARGETS + 1);
    http.wait_until("answering", DEADLINE, async || first.get("/").await.is_ok())
        .await
        .unwrap();
    let mut processes = vec![http];
    for (name, address) in PAIR {
        back.shell(&format!("ip address add {address}/16 dev eth0"))
            .unwrap();
        let address = SocketAddr::new(address.parse().unwrap(), PAIR_PORT);
        let mut command = back.command(tools::built("evermesh-test-app").unwrap());
        command.args(["http", "--name", name, "--listen", &address.to_string()]);
        let mut application = back.spawn(name, command).unwrap();
        let client = back.reach(address);
        application
            .wait_until("answering", DEADLINE, async || {
                client.get("/").await.is_ok()
            })
            .await
            .unwrap();
        processes.push(application);
    }
    for port in TCP_PORTS.into_iter().chain([SIDE_TCP_PORT]) {
        let name = format!("tcp-{port}");
        processes.push(back.tcp_app(&name, anywhere(port)).await.unwrap());
    }
    processes
}
