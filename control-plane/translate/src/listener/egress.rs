//! The egress side of a node: the listener on port 15001, and one route configuration for each HTTP port.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use evermesh_model::{EgressPolicy, ResolvedMesh, ResolvedNode, ServicePort, Timeout};
use evermesh_proto::{
    Resource, ResourceKey, ResourceType, core,
    listener::{self, FilterChain, FilterChainMatch},
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
/// A port has one filter chain, which takes HTTP/1.1, HTTP/2 and gRPC alike. If several backends share a port, the
/// protocol in its names is that of the first backend by host name.
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
    for (&port, (service, protocol, traffic)) in &ports {
        let port = ServicePort {
            port,
            protocol: *protocol,
        };
        let filters = match traffic {
            PortTraffic::Http => {
                let name = names::egress_routes(port);
                let manager = http::connection_manager(context, &name, None);
                routes.push((port.port, scope.key(ResourceType::Route, name)));
                vec![manager]
            }
            PortTraffic::Tcp(None) => Vec::new(),
            PortTraffic::Tcp(Some(rule)) => {
                let (filters, clusters) =
                    network::proxy_by_rule(context, rule, CallerClusters::names(own, service));
                needs.extend(clusters);
                filters
            }
        };
        chains.push(super::chain_for_port(
            names::filter_chain(port),
            port.port,
            filters,
        ));
    }
    chains.push(amazonaws_chain(context, &amazonaws));
    if !ports.contains_key(&names::EGRESS_PORT) {
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

/// The ports of all backends.
///
/// Only its port tells which service a connection is for. So a port is either HTTP or TCP, and two TCP services cannot
/// share one. The first backend by host name takes precedence.
fn egress_ports(
    backends: &[Arc<ReachableClusters>],
) -> BTreeMap<u16, (&str, evermesh_model::Protocol, &PortTraffic)> {
    let mut ports = BTreeMap::new();
    for reachable in backends {
        for (port, traffic) in &reachable.ports {
            if let Entry::Vacant(entry) = ports.entry(port.port) {
                entry.insert((reachable.hostname.as_ref(), port.protocol, traffic));
            }
        }
    }
    ports
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
