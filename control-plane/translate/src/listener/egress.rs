//! What leaves a node: the listener on 15001 and its routes, one `RouteConfiguration` for each port.

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
    http::{self, ListenerDirection},
    names, network, route,
    scope::{EncodedResources, ProxyScope},
    service::{self, NodeServiceRoutes, PortTraffic, ReachableClusters},
    wire,
};

/// A node's egress side but for the routes.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct NodeEgress {
    /// The listeners.
    pub(crate) resources: EncodedResources,
    /// Every key that the egress side adds to the node's view.
    pub(crate) keys: Vec<ResourceKey>,
    /// The ports that carry requests, ascending; with the key of their routes.
    routes: Vec<(u16, ResourceKey)>,
    /// The virtual host for names that no backend has, if they may pass, and its cluster.
    fallback: Option<(Bytes, Arc<str>)>,
    /// The user's objects that all routes are made from.
    origins: Vec<Arc<str>>,
}

/// `backends` are what the node's backends reach, in their order. The protocol in the names of a port that several
/// backends share is that of the first by host name: a port has one filter chain, and requests of every
/// protocol fit it.
pub(crate) fn node_egress(
    node: &ResolvedNode,
    mesh: &ResolvedMesh,
    backends: &[Arc<ReachableClusters>],
) -> NodeEgress {
    let scope = ProxyScope::new(&node.name);
    let amazonaws = names::amazonaws_cluster(&mesh.name);
    let allow_all =
        (mesh.egress == EgressPolicy::AllowAll).then(|| names::allow_all_cluster(&mesh.name));

    let ports = egress_ports(backends);
    let mut chains = Vec::new();
    let mut needs = vec![Arc::clone(&amazonaws)];
    let mut routes = Vec::new();
    for (&port, (protocol, carried)) in &ports {
        let port = ServicePort {
            port,
            protocol: *protocol,
        };
        let filters = match carried {
            PortTraffic::Http => {
                let name = names::egress_routes(port);
                let manager = http::connection_manager(ListenerDirection::Egress, &name, None);
                routes.push((port.port, scope.key(ResourceType::Route, name)));
                vec![manager]
            }
            PortTraffic::Tcp(None) => Vec::new(),
            PortTraffic::Tcp(Some(rule)) => {
                let (filters, clusters) = network::proxy_by_rule(ListenerDirection::Egress, rule);
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
    chains.push(amazonaws_chain(&amazonaws));
    if !ports.contains_key(&names::EGRESS_PORT) {
        chains.push(not_redirected_chain());
    }
    needs.extend(allow_all.clone());

    let name = names::egress_listener();
    let listener = listener::Listener {
        name: name.to_string(),
        address: Some(wire::any_address(mesh, names::EGRESS_PORT)),
        listener_filters: vec![super::original_dst(), super::tls_inspector()],
        filter_chains: chains,
        default_filter_chain: allow_all.as_deref().map(allow_all_chain),
        traffic_direction: core::TrafficDirection::Outbound.into(),
        ..Default::default()
    };
    let origins = backends.iter().flat_map(|reach| reach.origins.clone());
    let own = [wire::origin(&node.object), wire::origin(&mesh.object)];
    let resource = Resource::encode(name, &listener)
        .with_needs(wire::sorted(needs))
        .with_origins(wire::sorted(origins.chain(own.clone()).collect()));
    let resources = vec![scope.scoped(resource)];

    let clusters = backends.iter().flat_map(|reach| &reach.clusters);
    let special = [Some(amazonaws), allow_all.clone()];
    let keys = clusters
        .flat_map(ProxyScope::target_keys)
        .chain(special.into_iter().flatten().map(cluster::shared_key))
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
        origins: own.into(),
    }
}

/// The routes of every port of `egress`; `backends` as there. Nothing is encoded here but a name: virtual hosts
/// come encoded.
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
    for hosts in backends {
        if let Some(host) = hosts.ports.get(&port) {
            body.extend_from_slice(&host.routes);
            needs.extend(host.needs.iter().cloned());
        } else if hosts.reserved {
            body.extend_from_slice(&service::encode_virtual_host(service::virtual_host(
                &hosts.hostname,
                port,
            )));
        } else {
            continue;
        }
        origins.extend(hosts.origins.iter().cloned());
    }
    if let Some((host, cluster)) = &egress.fallback {
        body.extend_from_slice(host);
        needs.push(Arc::clone(cluster));
    }
    Resource::from_encoded(ResourceType::Route, Arc::clone(&key.name), body.into())
        .with_needs(wire::sorted(needs))
        .with_origins(wire::sorted(origins))
}

/// The modelled ports. Nothing but the port tells connections apart, so requests and connections cannot share
/// one, nor can two services that carry connections: the first backend by host name counts.
fn egress_ports(
    backends: &[Arc<ReachableClusters>],
) -> BTreeMap<u16, (evermesh_model::Protocol, &PortTraffic)> {
    let mut ports = BTreeMap::new();
    for (port, carried) in backends.iter().flat_map(|reach| &reach.ports) {
        if let Entry::Vacant(entry) = ports.entry(port.port) {
            entry.insert((port.protocol, carried));
        }
    }
    ports
}

/// TLS to AWS APIs passes whatever the mesh's egress filter says.
fn amazonaws_chain(cluster: &str) -> FilterChain {
    FilterChain {
        name: "amazonaws".to_owned(),
        filter_chain_match: Some(FilterChainMatch {
            destination_port: Some(wire::uint32(TLS_PORT.into())),
            server_names: vec!["*.amazonaws.com".to_owned()],
            ..Default::default()
        }),
        filters: vec![network::proxy_to_cluster(
            ListenerDirection::Egress,
            cluster,
            None,
        )],
        ..Default::default()
    }
}

/// A connection that nobody redirected was made to the listener itself. It is closed: passed on to its original
/// destination it would come back for ever.
fn not_redirected_chain() -> FilterChain {
    super::chain_for_port("not_redirected".to_owned(), names::EGRESS_PORT, Vec::new())
}

/// Connections that no other chain takes, TLS to port 443 with another server name among them.
fn allow_all_chain(cluster: &str) -> FilterChain {
    FilterChain {
        name: "mesh-allow-all".to_owned(),
        filters: vec![network::proxy_to_cluster(
            ListenerDirection::Egress,
            cluster,
            None,
        )],
        ..Default::default()
    }
}

/// Requests for names that no backend has, on a port that one has. The mesh does not know them, so it sets them no
/// time limit.
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
