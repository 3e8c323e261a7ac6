//! One Envoy that answers for many sets of routes, each in virtual hosts of its own, with the name of the route.
//!
//! The routes and the connection manager are those that translation emits. Only the actions are replaced: each route
//! answers by itself, with its name in a header.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    time::Duration,
};

use evermesh_testkit::{
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
    port::ReservedPort,
};
use serde_json::{Value, json};

/// The ports of every router and gateway.
pub(crate) const PORTS: [u16; 2] = [8080, 9090];

/// The header with the name of the route that answers.
const ROUTE: &str = "x-route";

/// Limit for an answer on a busy machine.
const LIMIT: Duration = Duration::from_mins(1);

/// A running Envoy with a connection to each of [`PORTS`].
pub(crate) struct AnsweringEnvoy {
    _envoy: Envoy,
    connections: [BufReader<TcpStream>; 2],
}

/// A request to one of [`PORTS`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RawRequest {
    pub(crate) port: u16,
    pub(crate) host: String,
    pub(crate) method: &'static str,
    /// With the query.
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl RawRequest {
    fn bytes(&self) -> Vec<u8> {
        let mut text = format!(
            "{} {} HTTP/1.1\r\nhost: {}\r\n",
            self.method, self.path, self.host
        );
        for (name, value) in &self.headers {
            text.extend([name.as_str(), ": ", value, "\r\n"]);
        }
        (text + "\r\n").into_bytes()
    }
}

impl AnsweringEnvoy {
    /// `manager` is a connection manager; `hosts` are the virtual hosts for each of [`PORTS`].
    pub(crate) async fn start(
        version: EnvoyVersion,
        manager: &Value,
        hosts: [Vec<Value>; 2],
    ) -> Self {
        let reserved: [ReservedPort; 2] = std::array::from_fn(|_| ReservedPort::reserve().unwrap());
        let addresses = reserved.each_ref().map(ReservedPort::address);
        let listeners: Vec<Value> = addresses
            .iter()
            .zip(hosts)
            .enumerate()
            .map(|(index, (address, hosts))| {
                let mut manager = manager.clone();
                manager["route_config"] = json!({
                    "name": "routes",
                    "ignore_port_in_host_matching": true,
                    "virtual_hosts": hosts,
                });
                json!({
                    "name": format!("listener-{index}"),
                    "address": {"socket_address": {
                        "address": address.ip().to_string(), "port_value": address.port(),
                    }},
                    "filter_chains": [{"filters": [{
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": manager,
                    }]}],
                })
            })
            .collect();
        let bootstrap = json!({"static_resources": {"listeners": listeners}});
        let options = EnvoyOptions::new(version, bootstrap.to_string());
        let mut envoy = Envoy::start(&options).unwrap();
        envoy.ready().await.unwrap();
        let connections = addresses.map(|address| {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            BufReader::new(stream)
        });
        Self {
            _envoy: envoy,
            connections,
        }
    }

    /// The names of the routes that answer, in the order of the requests; `None` for a request that none matches.
    pub(crate) fn ask(&mut self, requests: &[RawRequest]) -> Vec<Option<String>> {
        let answers = requests.iter().map(|request| {
            let index = PORTS.iter().position(|port| *port == request.port).unwrap();
            let connection = &mut self.connections[index];
            connection.get_mut().write_all(&request.bytes()).unwrap();
            read_answer(connection, request)
        });
        answers.collect()
    }
}

/// Reads the head of a response without a body.
fn read_answer(connection: &mut BufReader<TcpStream>, request: &RawRequest) -> Option<String> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        connection.read_line(&mut line).unwrap();
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let header = |name: &str| {
        let mut pairs = lines.iter().filter_map(|line| line.split_once(": "));
        pairs.find_map(|(it, value)| (it == name).then(|| value.to_owned()))
    };
    let status = lines.first().map_or("", String::as_str);
    let length = header("content-length");
    assert!(
        request.method == "HEAD" || length.as_deref() == Some("0"),
        "an answer has no body: {lines:?} to {request:?}"
    );
    match status.split(' ').nth(1) {
        Some("200") => header(ROUTE),
        Some("404") => None,
        _ => panic!("{lines:?} to {request:?}"),
    }
}

/// Makes each route of a virtual host answer with its name.
pub(crate) fn answering(mut host: Value) -> Value {
    let Some(Value::Array(routes)) = host.get_mut("routes") else {
        return host;
    };
    for route in routes {
        *route = json!({
            "name": route["name"],
            "match": route["match"],
            "direct_response": {"status": 200},
            "response_headers_to_add": [{"header": {"key": ROUTE, "value": route["name"]}}],
        });
    }
    host
}
