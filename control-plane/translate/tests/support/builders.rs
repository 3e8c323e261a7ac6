//! Builders of small graphs. All objects are in the mesh `m` and the namespace `ns`.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_model::{
    Discovery, DnsResponse, EgressPolicy, Endpoint, EndpointPorts, GatewayListener, Graph, Health,
    KeyPair, Kind, LocalBackend, LocalPorts, Locality, NodeBackend, NodeListener, ObjectRef, Pem,
    Protocol, ProxyKind, ResolvedGateway, ResolvedGatewayRoute, ResolvedMesh, ResolvedNode,
    ResolvedRoute, ResolvedRouter, ResolvedSecret, ResolvedService, ResourceName, RouteRule,
    RouteTarget, SecretName, ServiceName, ServicePort, ServiceProvider, Timeout,
    gateway::PathRewrite,
    route::{HttpMatch, HttpRule, PathMatch, TcpRule},
};

pub fn mesh(egress: EgressPolicy) -> ResolvedMesh {
    ResolvedMesh {
        name: "m".into(),
        object: ObjectRef::new(Kind::Mesh, "", "m"),
        egress,
        ip_preference: None,
        endpoint_slices: None,
        acm_certificates: BTreeMap::new(),
        acm_authorities: BTreeMap::new(),
        cloud_map_registration: None,
    }
}

pub fn secret_name(name: &str) -> SecretName {
    SecretName {
        namespace: "ns".into(),
        name: name.into(),
    }
}

/// A Secret of the namespace `ns` with these parts, whose texts are not PEM.
pub fn secret(name: &str, certificate: bool, authorities: bool) -> ResolvedSecret {
    ResolvedSecret {
        name: secret_name(name),
        meshes: vec![ObjectRef::new(Kind::Mesh, "", "m")],
        certificate: certificate.then(|| KeyPair {
            chain: Pem::new(format!("certificate of {name}\n")),
            private_key: Pem::new(format!("key of {name}\n")),
        }),
        authorities: authorities.then(|| Pem::new(format!("authorities of {name}\n"))),
    }
}

/// A graph with the mesh and nothing else.
pub fn graph() -> Graph {
    let mut graph = Graph::default();
    let mesh = mesh(EgressPolicy::DropAll);
    Arc::make_mut(&mut graph.meshes).insert(mesh.name.clone(), Arc::new(mesh));
    graph
}

pub fn node_name(name: &str) -> ResourceName {
    ResourceName::new("m", ProxyKind::VirtualNode, name)
}

/// A node that is discovered by DNS under its name.
pub fn node(name: &str, ports: &[(u16, Protocol)], backends: &[&str]) -> ResolvedNode {
    let mut backends: Vec<NodeBackend> = backends
        .iter()
        .map(|service| NodeBackend {
            service: (*service).into(),
            tls: None,
        })
        .collect();
    backends.sort_by(|one, other| one.service.cmp(&other.service));
    backends.dedup();
    ResolvedNode {
        name: node_name(name),
        object: ObjectRef::new(Kind::VirtualNode, "ns", name),
        listeners: ports
            .iter()
            .map(|&(port, protocol)| NodeListener::new(port, protocol))
            .collect(),
        discovery: Some(Discovery::Dns {
            hostname: format!("{name}.ns.svc.cluster.local").into(),
            response: DnsResponse::LoadBalancer,
        }),
        backends,
        local_ports: None,
        access_log: None,
        forwards_client_address: false,
    }
}

/// Local ports: for each of these listeners the application listens 10,000 ports above; the backends get the ports from
/// 9001 on.
pub fn local_ports<'a>(
    listeners: &[(u16, Protocol)],
    backends: impl Iterator<Item = (&'a str, u16)>,
) -> LocalPorts {
    let backends = (9001..).zip(backends).map(|(local, (service, port))| {
        let service = service.into();
        (local, LocalBackend { service, port })
    });
    LocalPorts {
        backends: backends.collect(),
        application: listeners
            .iter()
            .map(|(port, _)| (*port, port + 10_000))
            .collect(),
    }
}

/// The node with endpoints that Evermesh serves.
pub fn eds(node: ResolvedNode) -> ResolvedNode {
    ResolvedNode {
        discovery: Some(Discovery::Slices {
            namespace: "ns".into(),
            service: node.object.name.clone(),
            hostname: format!("{}.ns", node.object.name).into(),
        }),
        ..node
    }
}

pub fn endpoint(zone: &str, address: [u8; 4], health: Health) -> Endpoint {
    Endpoint {
        locality: Locality {
            region: "eu-west-1".into(),
            zone: zone.into(),
        },
        address: address.into(),
        ports: EndpointPorts::Same,
        health,
    }
}

pub fn service(
    hostname: &str,
    provider: ServiceProvider,
    ports: &[(u16, Protocol)],
) -> ResolvedService {
    ResolvedService {
        name: ServiceName {
            mesh: "m".into(),
            hostname: hostname.into(),
        },
        object: ObjectRef::new(Kind::VirtualService, "ns", hostname),
        provider,
        ports: ports
            .iter()
            .map(|&(port, protocol)| ServicePort { port, protocol })
            .collect(),
        virtual_ips: Vec::new(),
    }
}

pub fn router_name(name: &str) -> ResourceName {
    ResourceName::new("m", ProxyKind::VirtualRouter, name)
}

pub fn router(name: &str, routes: Vec<ResolvedRoute>) -> ResolvedRouter {
    ResolvedRouter {
        name: router_name(name),
        object: ObjectRef::new(Kind::VirtualRouter, "ns", name),
        listeners: Vec::new(),
        routes: routes.into_iter().map(Arc::new).collect(),
    }
}

pub fn route(router: &str, name: &str, rule: RouteRule) -> ResolvedRoute {
    ResolvedRoute {
        name: name.into(),
        object: ObjectRef::new(Kind::VirtualRouter, "ns", router),
        port: None,
        rule,
    }
}

pub fn target(node: &str, port: (u16, Protocol), weight: u32) -> RouteTarget {
    RouteTarget {
        node: node_name(node),
        port: port.0,
        protocol: port.1,
        weight,
    }
}

pub fn http(prefix: &str, targets: Vec<RouteTarget>) -> RouteRule {
    RouteRule::Http(HttpRule {
        protocol: Protocol::Http,
        matches: matches(PathMatch::Prefix(prefix.into())),
        targets,
        retry: None,
        timeout: Timeout::default(),
    })
}

pub fn tcp(targets: Vec<RouteTarget>) -> RouteRule {
    RouteRule::Tcp(TcpRule {
        targets,
        idle: None,
    })
}

pub fn matches(path: PathMatch) -> HttpMatch {
    HttpMatch {
        path,
        method: None,
        scheme: None,
        headers: Vec::new(),
        query: Vec::new(),
    }
}

/// A gateway with the HTTP port 8080 and, with `second`, the gRPC port 9090.
pub fn gateway(routes: Vec<ResolvedGatewayRoute>, second: bool) -> ResolvedGateway {
    let mut listeners = vec![GatewayListener::new(8080, Protocol::Http)];
    listeners.extend(second.then(|| GatewayListener::new(9090, Protocol::Grpc)));
    ResolvedGateway {
        name: ResourceName::new("m", ProxyKind::VirtualGateway, "gate"),
        object: ObjectRef::new(Kind::VirtualGateway, "ns", "gate"),
        listeners,
        routes: routes.into_iter().map(Arc::new).collect(),
        tls: None,
        access_log: None,
        forwards_client_address: false,
    }
}

/// A route from the prefix `/service` to a port of that service.
pub fn gateway_route(
    service: &str,
    target_port: Option<(u16, Protocol)>,
    rewrite_hostname: bool,
) -> ResolvedGatewayRoute {
    ResolvedGatewayRoute {
        name: service.into(),
        object: ObjectRef::new(Kind::GatewayRoute, "ns", service),
        protocol: Protocol::Http,
        port: None,
        hostname: None,
        matches: matches(PathMatch::Prefix(format!("/{service}").into())),
        target: ServiceName {
            mesh: "m".into(),
            hostname: service.into(),
        },
        target_port: target_port.map(|(port, protocol)| ServicePort { port, protocol }),
        rewrite_hostname,
        rewrite_path: PathRewrite::Prefix("/".into()),
    }
}

pub fn add_gateway(graph: &mut Graph, gateway: ResolvedGateway) {
    Arc::make_mut(&mut graph.gateways).insert(gateway.name.clone(), Arc::new(gateway));
}

pub fn add_node(graph: &mut Graph, node: ResolvedNode) {
    Arc::make_mut(&mut graph.nodes).insert(node.name.clone(), Arc::new(node));
}

pub fn add_service(graph: &mut Graph, service: ResolvedService) {
    Arc::make_mut(&mut graph.services).insert(service.name.clone(), Arc::new(service));
}

pub fn add_router(graph: &mut Graph, router: ResolvedRouter) {
    Arc::make_mut(&mut graph.routers).insert(router.name.clone(), Arc::new(router));
}

/// `n` nodes, each with a service, a router, five backends and two endpoints.
pub fn large(n: usize) -> Graph {
    const HTTP: (u16, Protocol) = (8080, Protocol::Http);
    let mut graph = graph();
    for i in 0..n {
        let name = format!("app-{i:05}_team-{:02}", i % 40);
        let backends: Vec<String> = (1..=5).map(|step| large_host((i + step * 7) % n)).collect();
        let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
        let node = eds(node(&name, &[HTTP], &backends));
        let [_, _, high, low] = u32::try_from(i).unwrap().to_be_bytes();
        let endpoints = vec![
            endpoint("eu-west-1a", [10, 1, high, low], Health::Healthy),
            endpoint("eu-west-1b", [10, 2, high, low], Health::Healthy),
        ];
        Arc::make_mut(&mut graph.endpoints).insert(node.name.clone(), Arc::new(endpoints));
        add_node(&mut graph, node);
        add_router(&mut graph, large_router(i, n, 50));
        let provider = ServiceProvider::Router(router_name(&large_router_name(i)));
        add_service(&mut graph, service(&large_host(i), provider, &[HTTP]));
    }
    graph
}

pub fn large_host(i: usize) -> String {
    format!("app-{i:05}.team-{:02}.svc.cluster.local", i % 40)
}

pub fn large_router_name(i: usize) -> String {
    format!("app-{i:05}-router_team-{:02}", i % 40)
}

/// The router of service `i` of [`large`]: `weight` percent for its own node, the rest for the next node.
pub fn large_router(i: usize, n: usize, weight: u32) -> ResolvedRouter {
    let to = |i: usize, weight| {
        let name = format!("app-{i:05}_team-{:02}", i % 40);
        target(&name, (8080, Protocol::Http), weight)
    };
    let name = large_router_name(i);
    let targets = vec![to(i, weight), to((i + 1) % n, 100 - weight)];
    let main = route(&name, "main", http("/", targets));
    router(&name, vec![main])
}
