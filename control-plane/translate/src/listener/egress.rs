//! The egress side of a node: the listener on port 15001, and one route configuration for each HTTP port.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use evermesh_model::{
    EgressPolicy, Protocol, ResolvedMesh, ResolvedNode, ServicePort, Timeout, route::TcpRule,
};
use evermesh_proto::{
    Resource, ResourceKey, ResourceType, core,
    listener::{self, Filter, FilterChain, FilterChainMatch},
    route::{
        Route, RouteConfiguration, VirtualHost, route::Action, route_action::ClusterSpecifier,
    },
};
use prost::Message;

use super::TLS_PORT;
use crate::{
    cluster,
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
    /// The encoded virtual host for names that belong to no backend, and its cluster; `None` if the mesh drops them.
    fallback: Option<(Bytes, Arc<str>)>,
    /// The origins that all route configurations share.
    origins: Vec<Arc<str>>,
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
    let amazonaws = names::amazonaws_cluster(&mesh.name);
    let allow_all =
        (mesh.egress == EgressPolicy::AllowAll).then(|| names::allow_all_cluster(&mesh.name));

    let ports = egress_ports(backends);
    let mut chains = Vec::new();
    let mut needs = vec![Arc::clone(&amazonaws)];
    let mut routes = Vec::new();
    for (&number, port) in &ports {
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
            let names = CallerClusters::names(own, service);
            let (filters, clusters) = rule
                .map(|rule| network::proxy_by_rule(context, rule, names))
                .unwrap_or_default();
            needs.extend(clusters);
            chains.push(tcp_chain(number, backend, filters));
        }
    }
    chains.push(amazonaws_chain(context, &amazonaws));
    let own_port = ports.get(&names::EGRESS_PORT);
    if !own_port.is_some_and(EgressPort::takes_any_address) {
        chains.push(not_redirected_chain());
    }
    needs.extend(allow_all.clone());

    let name = names::egress_listener();
    let listener = listener::Listener {
        name: name.to_string(),
        address: Some(wire::any_address(mesh, names::EGRESS_PORT)),
        listener_filters: std::iter::once(super::original_dst())
            .chain(super::tls_inspector(&[TLS_PORT]))
            .collect(),
        filter_chains: chains,
        default_filter_chain: allow_all
            .as_deref()
            .map(|cluster| allow_all_chain(context, cluster)),
        traffic_direction: core::TrafficDirection::Outbound.into(),
        ..Default::default()
    };
    let origins = backends
        .iter()
        .flat_map(|reachable| reachable.origins.clone());
    let own_origins = [wire::origin(&node.object), wire::origin(&mesh.object)];
    let resource = Resource::encode(name, &listener)
        .with_needs(wire::sorted(needs))
        .with_origins(wire::sorted(origins.chain(own_origins.clone()).collect()));
    let resources = vec![scope.scoped(resource)];

    let targets = backends.iter().flat_map(|reachable| {
        let targets = reachable.clusters.iter();
        targets.flat_map(|it| CallerClusters::target_keys(own, &scope, &reachable.hostname, it))
    });
    let original_destinations = [Some(amazonaws), allow_all.clone()];
    let keys = targets
        .chain(
            original_destinations
                .into_iter()
                .flatten()
                .map(cluster::shared_key),
        )
        .chain(routes.iter().map(|(_, key)| key.clone()))
        .chain(resources.iter().map(|(key, _)| key.clone()))
        .collect();
    NodeEgress {
        resources,
        keys,
        routes,
        fallback: allow_all.map(|cluster| {
            (
                service::encode_virtual_host(pass_through_host(&cluster)),
                cluster,
            )
        }),
        origins: own_origins.into(),
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
/// The virtual hosts are encoded already, so only the name of the configuration is encoded here.
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
    let mut body = RouteConfiguration {
        name: key.name.to_string(),
        ..Default::default()
    }
    .encode_to_vec();
    let mut needs = Vec::new();
    let mut origins = egress.origins.clone();
    for service in backends {
        if let Some(routes) = service.ports.get(&port) {
            body.extend_from_slice(&routes.routes);
            needs.extend(routes.needs.iter().cloned());
        } else if service.reserved {
            body.extend_from_slice(&service::encode_virtual_host(service::virtual_host(
                &service.hostname,
                port,
            )));
        } else {
            continue;
        }
        origins.extend(service.origins.iter().cloned());
    }
    if let Some((host, cluster)) = &egress.fallback {
        body.extend_from_slice(host);
        needs.push(Arc::clone(cluster));
    }
    Resource::from_encoded(ResourceType::Route, Arc::clone(&key.name), body.into())
        .with_needs(wire::sorted(needs))
        .with_origins(wire::sorted(origins))
}

/// A port of backends.
#[derive(Default)]
struct EgressPort<'a> {
    /// The protocol of the first HTTP backend by host name. All HTTP backends share a filter chain for connections to
    /// any address, because `Host` distinguishes them.
    http: Option<Protocol>,
    /// The TCP backends with their host names and rules.
    tcp: Vec<(&'a str, TcpBackend<'a>, Option<&'a TcpRule>)>,
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
        for (backend, rule) in of_port {
            let service = backend.hostname.as_ref();
            let virtual_ips = backend.virtual_ips.iter().copied();
            let addresses: Vec<IpAddr> = virtual_ips.filter(|it| taken.insert(*it)).collect();
            let backend = if is_shared && !backend.virtual_ips.is_empty() {
                TcpBackend::VirtualIps {
                    hostname: &backend.hostname,
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

/// Lets TLS connections to AWS APIs pass, also if the egress filter of the mesh is `DROP_ALL`.
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
