//! A mesh on hosts, for tests of routing: a caller, a gateway, and the host of all targets.
//!
//! ```text
//! front ──▶ 15001 of its Envoy ──┬──▶ back:9001 … back:9009    t1 … t9: one application, no proxy
//! client ─▶ gate ────────────────┴──▶ back:8080 … (side) ──▶ 15000 of its Envoy ──▶ the same application
//! ```
//!
//! Each target is a node: `t1` to `t9` expect `http`, `g1` to `g9` `grpc`, at the same ports. A response says which port
//! received the request. The names of services are `NAME.shop`.

use std::{
    fmt::{self, Write as _},
    fs,
    net::SocketAddr,
};

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
use http::{Method, Request};
use http_body_util::Full;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::common::DEADLINE;

/// An address that no host has, so that only interception answers there.
const UNUSED: [u8; 4] = [10, 77, 200, 1];

/// The port of `t1` and `g1` is the next one.
const TARGETS: u16 = 9000;

/// The number of targets of each protocol.
const TARGET_COUNT: u16 = 9;

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

/// Manifests of a mesh. `front` may call every service.
pub(crate) struct Manifests {
    documents: String,
    services: Vec<String>,
    /// `logging` of the node `front`.
    logging: String,
}

impl Manifests {
    /// The namespace, the mesh and the targets.
    pub(crate) fn new() -> Self {
        let mut manifests = Self {
            documents: String::new(),
            services: Vec::new(),
            logging: "{}".to_owned(),
        };
        manifests
            .add("{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {mesh: shop}}}");
        manifests.add(
            "apiVersion: appmesh.k8s.aws/v1beta2\nkind: Mesh\nmetadata: {name: shop}\n\
             spec: {namespaceSelector: {matchLabels: {mesh: shop}}}",
        );
        for index in 1..=TARGET_COUNT {
            for (prefix, protocol) in [("t", "http"), ("g", "grpc")] {
                let port = TARGETS + index;
                let listener = format!("{{portMapping: {{port: {port}, protocol: {protocol}}}}}");
                manifests.node(&format!("{prefix}{index}"), &listener);
            }
        }
        manifests
    }

    /// Adds a document.
    pub(crate) fn add(&mut self, document: &str) {
        writeln!(self.documents, "---\n{document}").unwrap();
    }

    /// Adds an object in the namespace `shop`.
    pub(crate) fn object(&mut self, kind: &str, name: &str, spec: &str) {
        self.add(&format!(
            "apiVersion: appmesh.k8s.aws/v1beta2\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}"
        ));
    }

    /// Adds a node on `back` with these listeners, in YAML's flow style.
    pub(crate) fn node(&mut self, name: &str, listeners: &str) {
        self.object(
            "VirtualNode",
            name,
            &format!(
                "{{listeners: [{listeners}], serviceDiscovery: {{dns: {{hostname: BACK, responseType: ENDPOINTS}}}}}}"
            ),
        );
    }

    /// Adds a node whose endpoints are [`PAIR`], and a service of the same name. `listener` contains the settings of the
    /// listener beside its port.
    pub(crate) fn pair(&mut self, name: &str, protocol: &str, listener: &str) {
        self.endpoint_slice(name, PAIR_PORT, &PAIR.map(|(_, address)| address));
        let mapping = format!("portMapping: {{port: {PAIR_PORT}, protocol: {protocol}}}");
        let hostname = format!("{name}.shop.svc.cluster.local");
        self.object(
            "VirtualNode",
            name,
            &format!("{{listeners: [{{{mapping}, {listener}}}], serviceDiscovery: {{dns: {{hostname: {hostname}}}}}}}"),
        );
        self.node_service(name, name);
    }

    /// Sets `logging` of the node `front`.
    pub(crate) fn log_front(&mut self, logging: &str) {
        logging.clone_into(&mut self.logging);
    }

    /// Adds a Kubernetes Service with one `EndpointSlice`.
    pub(crate) fn endpoint_slice(&mut self, service: &str, port: u16, addresses: &[&str]) {
        self.add(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {service}, namespace: shop}}\n\
             spec: {{ports: [{{name: http, port: {port}}}]}}"
        ));
        let endpoints: Vec<String> = addresses
            .iter()
            .map(|address| format!("{{addresses: [{address}], conditions: {{ready: true}}}}"))
            .collect();
        self.add(&format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {service}, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}}\n\
             addressType: IPv4\nports: [{{name: http, port: {port}, protocol: TCP}}]\nendpoints: [{}]",
            endpoints.join(", ")
        ));
    }

    /// Adds a service that a node answers for.
    pub(crate) fn node_service(&mut self, name: &str, node: &str) {
        let spec = format!("{{provider: {{virtualNode: {{virtualNodeRef: {{name: {node}}}}}}}}}");
        self.service(name, &spec);
    }

    /// Adds a service with a router; each listener is a port and a protocol, each route an inline route in YAML's flow
    /// style.
    pub(crate) fn routed_service(
        &mut self,
        name: &str,
        listeners: &[(u16, &str)],
        routes: &[RouteText],
    ) {
        let listeners = port_mappings(listeners);
        let routes: Vec<String> = routes.iter().map(RouteText::to_string).collect();
        let routes = routes.join(",\n  ");
        let spec = format!("{{listeners: [{listeners}], routes: [\n  {routes}]}}");
        self.object("VirtualRouter", name, &spec);
        let spec =
            format!("{{provider: {{virtualRouter: {{virtualRouterRef: {{name: {name}}}}}}}}}");
        self.service(name, &spec);
    }

    /// Adds the gateway `gate`; each listener is a port and a protocol.
    pub(crate) fn gateway(&mut self, listeners: &[(u16, &str)]) {
        let listeners = port_mappings(listeners);
        let spec = format!(
            "{{namespaceSelector: {{matchLabels: {{mesh: shop}}}}, listeners: [{listeners}]}}"
        );
        self.object("VirtualGateway", "gate", &spec);
    }

    /// Adds gateway routes.
    pub(crate) fn gateway_routes(&mut self, routes: &[GatewayRouteText]) {
        for route in routes {
            self.object("GatewayRoute", &route.name, &route.to_string());
        }
    }

    /// Adds a service that `front` may call.
    pub(crate) fn service(&mut self, name: &str, spec: &str) {
        self.object("VirtualService", name, spec);
        self.services.push(name.to_owned());
    }

    fn complete(mut self, back: &LabHost, gate: &LabHost) -> String {
        let backends: Vec<String> = std::mem::take(&mut self.services)
            .iter()
            .map(|name| format!("{{virtualService: {{virtualServiceRef: {{name: {name}}}}}}}"))
            .collect();
        let (backends, logging) = (backends.join(",\n  "), &self.logging);
        let spec = format!("{{backends: [{backends}], logging: {logging}}}");
        self.object("VirtualNode", "front", &spec);
        self.documents
            .replace("BACK", &back.ip().to_string())
            .replace("GATE", &gate.ip().to_string())
    }
}

fn port_mappings(listeners: &[(u16, &str)]) -> String {
    let listeners: Vec<String> = listeners
        .iter()
        .map(|(port, protocol)| format!("{{portMapping: {{port: {port}, protocol: {protocol}}}}}"))
        .collect();
    listeners.join(", ")
}

/// The spec of a gateway route.
#[derive(Clone)]
pub(crate) struct GatewayRouteText {
    name: String,
    kind: &'static str,
    priority: Option<u32>,
    matches: String,
    service: String,
    port: Option<u16>,
    rewrite: Option<String>,
}

/// A gateway route of this kind (`httpRoute`) that sends what matches to a service.
pub(crate) fn gateway_route(
    name: &str,
    kind: &'static str,
    matches: &str,
    service: &str,
) -> GatewayRouteText {
    GatewayRouteText {
        name: name.to_owned(),
        kind,
        priority: None,
        matches: matches.to_owned(),
        service: service.to_owned(),
        port: None,
        rewrite: None,
    }
}

impl GatewayRouteText {
    pub(crate) fn priority(self, priority: u32) -> Self {
        Self {
            priority: Some(priority),
            ..self
        }
    }

    /// Sets `target.port`.
    pub(crate) fn port(self, port: u16) -> Self {
        Self {
            port: Some(port),
            ..self
        }
    }

    /// Sets `action.rewrite`.
    pub(crate) fn rewrite(self, rewrite: &str) -> Self {
        Self {
            rewrite: Some(rewrite.to_owned()),
            ..self
        }
    }
}

impl fmt::Display for GatewayRouteText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name: _,
            kind,
            priority,
            matches,
            service,
            port,
            rewrite,
        } = self;
        write!(f, "{{")?;
        if let Some(priority) = priority {
            write!(f, "priority: {priority}, ")?;
        }
        write!(f, "{kind}: {{match: {matches}, action: {{")?;
        if let Some(rewrite) = rewrite {
            write!(f, "rewrite: {rewrite}, ")?;
        }
        write!(f, "target: {{")?;
        if let Some(port) = port {
            write!(f, "port: {port}, ")?;
        }
        write!(
            f,
            "virtualService: {{virtualServiceRef: {{name: {service}}}}}}}}}}}}}"
        )
    }
}

/// An inline route of a router.
#[derive(Clone)]
pub(crate) struct RouteText {
    name: String,
    kind: &'static str,
    priority: Option<u32>,
    matches: String,
    more: String,
    targets: String,
}

/// A route of this kind (`httpRoute`) that sends what matches to one target. The match is in YAML's flow style.
pub(crate) fn route(name: &str, kind: &'static str, matches: &str, target: &str) -> RouteText {
    let route = RouteText {
        name: name.to_owned(),
        kind,
        priority: None,
        matches: matches.to_owned(),
        more: String::new(),
        targets: String::new(),
    };
    route.targets(&[(target, 1)])
}

impl RouteText {
    pub(crate) fn priority(self, priority: u32) -> Self {
        Self {
            priority: Some(priority),
            ..self
        }
    }

    /// Replaces the match.
    pub(crate) fn matching(self, matches: &str) -> Self {
        Self {
            matches: matches.to_owned(),
            ..self
        }
    }

    /// Replaces the targets by these nodes with their weights.
    pub(crate) fn targets(self, targets: &[(&str, u32)]) -> Self {
        let targets: Vec<String> = targets
            .iter()
            .map(|(node, weight)| format!("{{virtualNodeRef: {{name: {node}}}, weight: {weight}}}"))
            .collect();
        self.raw_targets(&targets.join(", "))
    }

    /// Replaces the targets by these, in YAML's flow style.
    pub(crate) fn raw_targets(self, targets: &str) -> Self {
        Self {
            targets: targets.to_owned(),
            ..self
        }
    }

    /// Adds a field of the route, such as `timeout: {…}`.
    pub(crate) fn with(mut self, field: &str) -> Self {
        write!(self.more, "{field}, ").unwrap();
        self
    }
}

impl fmt::Display for RouteText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            kind,
            priority,
            matches,
            more,
            targets,
        } = self;
        write!(f, "{{name: {name}, ")?;
        if let Some(priority) = priority {
            write!(f, "priority: {priority}, ")?;
        }
        write!(
            f,
            "{kind}: {{match: {matches}, {more}action: {{weightedTargets: [{targets}]}}}}}}"
        )
    }
}

/// A request; the sender adds the host name.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    method: Method,
    /// A host name that replaces the one that the sender gives.
    host: Option<String>,
    path: String,
    headers: Vec<(String, String)>,
    /// The scheme, if the request is sent with HTTP/2.
    http2: Option<&'static str>,
}

pub(crate) fn get(path: &str) -> Call {
    Call {
        method: Method::GET,
        host: None,
        path: path.to_owned(),
        headers: Vec::new(),
        http2: None,
    }
}

/// A gRPC call of a method such as `/shop.Cart/Add`.
pub(crate) fn grpc(path: &str) -> Call {
    get(path)
        .method(Method::POST)
        .http2()
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

impl Call {
    pub(crate) fn method(self, method: Method) -> Self {
        Self { method, ..self }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn host(self, host: &str) -> Self {
        Self {
            host: Some(host.to_owned()),
            ..self
        }
    }

    pub(crate) fn http2(self) -> Self {
        self.scheme("http")
    }

    /// Sends the request with HTTP/2 and this scheme.
    pub(crate) fn scheme(self, scheme: &'static str) -> Self {
        Self {
            http2: Some(scheme),
            ..self
        }
    }

    /// Adds a script for the attempts, see [`scripted`].
    pub(crate) fn script(self, script: &str, key: &str) -> Self {
        self.header(scripted::SCRIPT, script)
            .header(scripted::KEY, key)
    }

    /// Sends the request with the host name `host`, which may contain a port.
    pub(crate) async fn send(&self, address: &Address, host: &str) -> HttpResponse {
        self.try_send(address, host).await.unwrap()
    }

    pub(crate) async fn try_send(
        &self,
        address: &Address,
        host: &str,
    ) -> anyhow::Result<HttpResponse> {
        let host = self.host.as_deref().unwrap_or(host);
        let mut request = Request::builder().method(self.method.clone());
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some(scheme) = self.http2 {
            let request = request.uri(format!("{scheme}://{host}{}", self.path));
            return address.send_http2(request.body(Full::default())?).await;
        }
        let request = request.uri(&self.path).header("host", host);
        address.send(request.body(Full::default())?).await
    }
}

/// Upgrades a connection to WebSocket, checks that it echoes, and returns the head of the response.
pub(crate) async fn websocket(address: &Address, host: &str, path: &str) -> String {
    let mut stream = address.connect().await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream.write_all(b"echo").await.unwrap();
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"echo");
    head
}

/// The number of the target that received the request: 3 for `t3` and `g3`; `None` if no target did.
pub(crate) fn target(response: &HttpResponse) -> Option<u16> {
    let port: u16 = response
        .headers
        .get("x-seen-port")?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    port.checked_sub(TARGETS)
}

/// A header of the response as text, empty if absent.
pub(crate) fn header<'a>(response: &'a HttpResponse, name: &str) -> &'a str {
    let value = response.headers.get(name);
    value
        .map(|value| value.to_str().unwrap())
        .unwrap_or_default()
}

/// The value of a header as the application received it.
pub(crate) fn seen_header<'a>(response: &'a HttpResponse, name: &str) -> Option<&'a str> {
    let mut headers = header(response, "x-seen-headers").split(';');
    headers.find_map(|it| it.strip_prefix(name)?.strip_prefix('='))
}

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
