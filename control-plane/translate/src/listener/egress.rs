//! The egress side of a node: the listener on port 15001, and one route configuration for each HTTP port.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use evermesh_model::{
    EgressPolicy, Protocol, ResolvedMesh, ResolvedNode, ServicePort, Timeout, route::TcpRule,
};
use evermesh_proto::{
    EncodedPart, Resource, ResourceKey, ResourceType, core,
    listener::{self, Filter, FilterChain, FilterChainMatch},
    route::{
        Route, RouteConfiguration, VirtualHost, route::Action, route_action::ClusterSpecifier,
    },
};

use super::TLS_PORT;
use crate::{
    http::{self, ListenerContext, ListenerDirection},
    names, network, route,
    scope::{EncodedResources, ProxyScope},
    service::{self, NodeServiceRoutes, PortTraffic, ReachableClusters},
    tls::CallerClusters,
    wire,
};

/// The egress side of a node without its route configurations.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct NodeEgress {
    /// The listener; with local ports, one listener for each.
    pub(crate) resources: EncodedResources,
    /// All keys that the egress side adds to the view of the node.
    pub(crate) keys: Vec<ResourceKey>,
    /// The HTTP ports, ascending, with the keys of their route configurations.
    routes: Vec<(u16, ResourceKey)>,
    /// The host names of the backends to which the node has routes of its own ([`RenamedBackend`]).
    ///
    /// [`RenamedBackend`]: crate::tls::RenamedBackend
    pub(crate) renamed: BTreeSet<Arc<str>>,
    /// The virtual host for names that belong to no backend; `None` if the mesh drops them.
    fallback: Option<EncodedPart>,
    /// The origins that all route configurations share.
    origins: Arc<[Arc<str>]>,
}

/// `backends` belong to the backends of the node, in the same order. `own` are the node's own clusters.
///
/// All HTTP backends on a port have one filter chain, which takes HTTP/1.1, HTTP/2 and gRPC alike. The protocol in its
/// names is that of the first backend by host name.
pub(crate) fn node_egress(
    node: &ResolvedNode,
    mesh: &ResolvedMesh,
    backends: &[Arc<ReachableClusters>],
    own: Option<&CallerClusters>,
) -> NodeEgress {
    let scope = ProxyScope::new(&node.name);
    let context = egress_context(node);
    let amazonaws =
        (mesh.egress != EgressPolicy::BackendsOnly).then(|| names::amazonaws_cluster(&mesh.name));
    let allow_all =
        (mesh.egress == EgressPolicy::AllowAll).then(|| names::allow_all_cluster(&mesh.name));

    let ports = egress_ports(backends);
    let mut chain_parts = Vec::new();
    let mut routes = Vec::new();
    for (&number, port) in &ports {
        let mut chains = Vec::new();
        let mut needs = Vec::new();
        if let Some(protocol) = port.http {
            let port = ServicePort {
                port: number,
                protocol,
            };
            let name = names::egress_routes(port);
            let manager = http::connection_manager(context, &name, None);
            routes.push((number, scope.key(ResourceType::Route, name)));
            let name = names::filter_chain(port);
            chains.push(super::chain_for_port(name, number, vec![manager]));
        }
        for (service, backend, rule) in &port.tcp {
            let names = CallerClusters::names(own, &service.hostname);
            let (filters, clusters) = rule
                .map(|rule| network::proxy_by_rule(context, rule, names))
                .unwrap_or_default();
            chains.push(tcp_chain(number, backend, filters));
            needs.extend(clusters);
        }
        if number == names::EGRESS_PORT && !port.takes_any_address() {
            chains.push(not_redirected_chain());
        }
        let name = number.to_string();
        let origins = port.origins.iter().copied().cloned().collect();
        chain_parts.push(super::chains_part(&name, chains, needs, origins));
    }
    if let Some(cluster) = &amazonaws {
        let chain = amazonaws_chain(context, cluster);
        let (name, needs) = (chain.name.clone(), vec![Arc::clone(cluster)]);
        chain_parts.push(super::chains_part(&name, vec![chain], needs, Vec::new()));
    }
    if !ports.contains_key(&names::EGRESS_PORT) {
        let name = names::EGRESS_PORT.to_string();
        let chains = vec![not_redirected_chain()];
        chain_parts.push(super::chains_part(&name, chains, Vec::new(), Vec::new()));
    }

    let inspected = amazonaws.as_ref().map(|_| TLS_PORT);
    let name = names::egress_listener();
    let listener = listener::Listener {
        name: name.to_string(),
        address: Some(wire::any_address(mesh, names::EGRESS_PORT)),
        listener_filters: std::iter::once(super::original_dst())
            .chain(super::tls_inspector(inspected.as_slice()))
            .collect(),
        default_filter_chain: allow_all
            .as_deref()
            .map(|cluster| allow_all_chain(context, cluster)),
        traffic_direction: core::TrafficDirection::Outbound.into(),
        ..Default::default()
    };
    let own_origins: Arc<[Arc<str>]> =
        wire::sorted(vec![wire::origin(&node.object), wire::origin(&mesh.object)]).into();
    let base = super::base_part(&listener, allow_all.clone(), Arc::clone(&own_origins));
    // A backend without ports is an origin of the listener too.
    let origins = backends.iter().flat_map(|reachable| &reachable.origins);
    let origins = origins.chain(own_origins.iter()).cloned().collect();
    let resource = Resource::from_parts(ResourceType::Listener, name, base, chain_parts)
        .with_origins(wire::sorted(origins));
    let resources = vec![scope.scoped(resource)];

    let targets = backends.iter().flat_map(|reachable| {
        let targets = reachable.clusters.iter();
        targets.flat_map(|it| CallerClusters::target_keys(own, &scope, &reachable.hostname, it))
    });
    let original_destinations = [amazonaws, allow_all.clone()].into_iter().flatten();
    let keys = targets
        .chain(original_destinations.map(|name| scope.shared_key(ResourceType::Cluster, name)))
        .chain(routes.iter().map(|(_, key)| key.clone()))
        .chain(resources.iter().map(|(key, _)| key.clone()))
        .collect();
    let renamed = own.into_iter().flat_map(CallerClusters::renamed);
    NodeEgress {
        resources,
        keys,
        routes,
        renamed: renamed.cloned().collect(),
        fallback: allow_all.map(|cluster| EncodedPart {
            body: service::encode_virtual_host(pass_through_host(&cluster)),
            name: "*".into(),
            needs: [cluster].into(),
            origins: Arc::default(),
        }),
        origins: own_origins,
    }
}

/// The context of all filters of a node's egress side.
pub(super) fn egress_context(node: &ResolvedNode) -> ListenerContext<'_> {
    ListenerContext {
        direction: ListenerDirection::Egress,
        access_log: node.access_log.as_ref(),
        forwards_client_address: false,
    }
}

/// The route configuration for each HTTP port of `egress`. `backends` belong to the backends of the node, in the same
/// order.
///
/// The virtual hosts are encoded already, so only the name of the configuration is encoded here. Each is a part, named
/// after its host name.
pub(crate) fn node_egress_routes(
    egress: &NodeEgress,
    backends: &[Arc<NodeServiceRoutes>],
) -> EncodedResources {
    egress
        .routes
        .iter()
        .map(|(port, key)| {
            (
                key.clone(),
                Arc::new(route_configuration(egress, *port, key, backends)),
            )
        })
        .collect()
}

fn route_configuration(
    egress: &NodeEgress,
    port: u16,
    key: &ResourceKey,
    backends: &[Arc<NodeServiceRoutes>],
) -> Resource {
    let configuration = RouteConfiguration {
        name: key.name.to_string(),
        ..Default::default()
    };
    let base = super::base_part(&configuration, None, Arc::clone(&egress.origins));
    let hosts = backends.iter().filter_map(|service| {
        let (body, needs) = match service.ports.get(&port) {
            Some(routes) => (routes.routes.clone(), Arc::clone(&routes.needs)),
            None if service.reserved => {
                let host = service::virtual_host(&service.hostname, port);
                (service::encode_virtual_host(host), Arc::default())
            }
            None => return None,
        };
        Some(EncodedPart {
            body,
            name: Arc::clone(&service.hostname),
            needs,
            origins: Arc::clone(&service.origins),
        })
    });
    let hosts = hosts.chain(egress.fallback.clone());
    Resource::from_parts(ResourceType::Route, Arc::clone(&key.name), base, hosts)
}

/// A port of backends.
#[derive(Default)]
struct EgressPort<'a> {
    /// The protocol of the first HTTP backend by host name. All HTTP backends share a filter chain for connections to
    /// any address, because `Host` distinguishes them.
    http: Option<Protocol>,
    /// The origins of all backends with the port: each may change a filter chain of another.
    origins: BTreeSet<&'a Arc<str>>,
    /// The TCP backends with their services and rules.
    tcp: Vec<(&'a ReachableClusters, TcpBackend<'a>, Option<&'a TcpRule>)>,
}

/// The connections that a TCP backend receives.
enum TcpBackend<'a> {
    /// Connections to any address, except the virtual IPs of other backends.
    AnyAddress,
    /// Connections to these addresses, on a port that other backends use as well.
    VirtualIps {
        hostname: &'a str,
        addresses: Vec<IpAddr>,
    },
}

impl EgressPort<'_> {
    fn takes_any_address(&self) -> bool {
        let is_any =
            |(_, backend, _): &(_, TcpBackend<'_>, _)| matches!(backend, TcpBackend::AnyAddress);
        self.http.is_some() || self.tcp.iter().any(is_any)
    }
}

/// The ports of all backends.
///
/// A TCP backend that shares its port is recognised by its virtual IPs. Envoy refuses two filter chains for the same
/// connections, so a TCP backend whose connections belong to a preceding one is left out. Ingest reports such backends.
fn egress_ports(backends: &[Arc<ReachableClusters>]) -> BTreeMap<u16, EgressPort<'_>> {
    let mut ports: BTreeMap<u16, EgressPort<'_>> = BTreeMap::new();
    let mut tcp: BTreeMap<u16, Vec<(&ReachableClusters, Option<&TcpRule>)>> = BTreeMap::new();
    for (backend, (port, traffic)) in backends
        .iter()
        .flat_map(|backend| backend.ports.iter().map(move |port| (backend, port)))
    {
        let egress = ports.entry(port.port).or_default();
        egress.origins.extend(&backend.origins);
        match traffic {
            PortTraffic::Http => egress.http = egress.http.or(Some(port.protocol)),
            PortTraffic::Tcp(rule) => {
                let of_port = tcp.entry(port.port).or_default();
                of_port.push((backend, rule.as_ref()));
            }
        }
    }
    for (port, of_port) in tcp {
        let egress = ports.entry(port).or_default();
        let is_shared = of_port.len() > 1 || egress.http.is_some();
        let mut taken = BTreeSet::new();
        for (service, rule) in of_port {
            let virtual_ips = service.virtual_ips.iter().copied();
            let addresses: Vec<IpAddr> = virtual_ips.filter(|it| taken.insert(*it)).collect();
            let backend = if is_shared && !service.virtual_ips.is_empty() {
                TcpBackend::VirtualIps {
                    hostname: &service.hostname,
                    addresses,
                }
            } else {
                TcpBackend::AnyAddress
            };
            let is_left_out = match &backend {
                TcpBackend::AnyAddress => egress.takes_any_address(),
                TcpBackend::VirtualIps { addresses, .. } => addresses.is_empty(),
            };
            if !is_left_out {
                egress.tcp.push((service, backend, rule));
            }
        }
    }
    ports
}

fn tcp_chain(port: u16, backend: &TcpBackend<'_>, filters: Vec<Filter>) -> FilterChain {
    let service_port = ServicePort {
        port,
        protocol: Protocol::Tcp,
    };
    let TcpBackend::VirtualIps {
        hostname,
        addresses,
    } = backend
    else {
        return super::chain_for_port(names::filter_chain(service_port), port, filters);
    };
    let name = names::service_filter_chain(service_port, hostname);
    let mut chain = super::chain_for_port(name, port, filters);
    if let Some(matches) = &mut chain.filter_chain_match {
        matches.prefix_ranges = addresses.iter().copied().map(wire::host_range).collect();
    }
    chain
}

/// Lets TLS connections to AWS APIs pass if the egress filter of the mesh is `DROP_ALL`.
fn amazonaws_chain(context: ListenerContext<'_>, cluster: &str) -> FilterChain {
    FilterChain {
        name: "amazonaws".to_owned(),
        filter_chain_match: Some(FilterChainMatch {
            destination_port: Some(wire::uint32(TLS_PORT.into())),
            server_names: vec!["*.amazonaws.com".to_owned()],
            ..Default::default()
        }),
        filters: vec![network::proxy_to_cluster(context, cluster, None)],
        ..Default::default()
    }
}

/// Closes connections that were made to the listener itself instead of being redirected. Forwarded to their original
/// destination, they would return to the listener endlessly.
fn not_redirected_chain() -> FilterChain {
    super::chain_for_port("not_redirected".to_owned(), names::EGRESS_PORT, Vec::new())
}

/// The chain for connections that match no other chain, including TLS to port 443 with other server names.
fn allow_all_chain(context: ListenerContext<'_>, cluster: &str) -> FilterChain {
    FilterChain {
        name: "mesh-allow-all".to_owned(),
        filters: vec![network::proxy_to_cluster(context, cluster, None)],
        ..Default::default()
    }
}

/// The virtual host for requests on the port of a backend that name no backend. They have no timeout, because the mesh
/// does not know the service.
fn pass_through_host(cluster: &str) -> VirtualHost {
    let unlimited = Timeout {
        per_request: Some(Duration::ZERO),
        idle: None,
    };
    let action = route::route_action(ClusterSpecifier::Cluster(cluster.to_owned()), unlimited);
    VirtualHost {
        name: "mesh-allow-all".to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![Route {
            r#match: Some(wire::any_path()),
            action: Some(Action::Route(action)),
            ..Default::default()
        }],
        ..Default::default()
    }
}
