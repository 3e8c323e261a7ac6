//! The egress side of a node with local ports: a listener on loopback for each port of a backend that the node calls.
//!
//! The local port selects the service, so `Host` is not matched. Only processes in the same pod or host can connect.

use std::sync::Arc;

use evermesh_model::{
    LocalPorts, Protocol, ResolvedMesh, ResolvedNode, ResolvedRouter, ResolvedService, ServiceName,
    ServicePort,
};
use evermesh_proto::{
    Resource, ResourceType, core,
    listener::{self, Filter, FilterChain},
    route::{RouteConfiguration, VirtualHost},
};

use super::egress::{NodeEgress, egress_context};
use crate::{
    http, names, network,
    scope::{EncodedResources, ProxyScope},
    service::{self, PortTraffic, ReachableClusters},
    tls::CallerClusters,
    wire,
};

/// A local port of a backend, with a derived form of the service.
pub(crate) struct LocalPort<T> {
    /// The port on loopback that the application calls.
    local: u16,
    /// The port of the service.
    port: u16,
    service: T,
}

/// A service, with its router if that is its provider.
pub(crate) type RoutedService = (Arc<ResolvedService>, Option<Arc<ResolvedRouter>>);

/// The local ports of a node, with the result of `find` for each service. Services for which it is `None` are left out.
pub(crate) fn local_ports<T>(
    node: &ResolvedNode,
    ports: &LocalPorts,
    mut find: impl FnMut(&ServiceName) -> Option<T>,
) -> Vec<LocalPort<T>> {
    let ports = ports.backends.iter().filter_map(|(local, backend)| {
        let name = ServiceName {
            mesh: Arc::clone(&node.name.mesh),
            hostname: Arc::clone(&backend.service),
        };
        Some(LocalPort {
            local: *local,
            port: backend.port,
            service: find(&name)?,
        })
    });
    ports.collect()
}

impl<T> LocalPort<T> {
    /// The port in names of listeners and routes: the local one, because it is unique in the node.
    const fn in_names(&self, protocol: Protocol) -> ServicePort {
        ServicePort {
            port: self.local,
            protocol,
        }
    }
}

/// The egress side of a node with local ports, without its route configurations.
pub(crate) fn local_egress(
    node: &ResolvedNode,
    mesh: &ResolvedMesh,
    ports: &[LocalPort<Arc<ReachableClusters>>],
    own: Option<&CallerClusters>,
) -> NodeEgress {
    let scope = ProxyScope::new(&node.name);
    let context = egress_context(node);
    let own_origins = [wire::origin(&node.object), wire::origin(&mesh.object)];
    let mut egress = NodeEgress::default();
    for local in ports {
        let reachable = &local.service;
        let mut ports = reachable.ports.iter();
        let Some((port, traffic)) = ports.find(|(port, _)| port.port == local.port) else {
            continue;
        };
        let port = local.in_names(port.protocol);
        let (filters, needs) = match traffic {
            PortTraffic::Http => {
                let name = names::egress_routes(port);
                let manager = http::connection_manager(context, &name, None);
                let key = scope.key(ResourceType::Route, name);
                egress.keys.push(key);
                (vec![manager], Vec::new())
            }
            PortTraffic::Tcp(None) => (Vec::new(), Vec::new()),
            PortTraffic::Tcp(Some(rule)) => {
                let names = CallerClusters::names(own, &reachable.hostname);
                network::proxy_by_rule(context, rule, names)
            }
        };
        let origins = own_origins
            .iter()
            .chain(&reachable.origins)
            .cloned()
            .collect();
        let listener = local_listener(mesh, port, filters)
            .with_needs(wire::sorted(needs))
            .with_origins(wire::sorted(origins));
        let (key, listener) = scope.scoped(listener);
        let targets = reachable.clusters.iter();
        let clusters = targets
            .flat_map(|it| CallerClusters::target_keys(own, &scope, &reachable.hostname, it));
        egress.keys.extend(clusters.chain([key.clone()]));
        egress.resources.push((key, listener));
    }
    egress
}

fn local_listener(mesh: &ResolvedMesh, port: ServicePort, filters: Vec<Filter>) -> Resource {
    let name = names::local_listener(port.port);
    let address = wire::loopback(mesh).to_string();
    let listener = listener::Listener {
        name: name.to_string(),
        address: Some(wire::address(address, port.port)),
        filter_chains: vec![FilterChain {
            name: names::filter_chain(port),
            filters,
            ..Default::default()
        }],
        traffic_direction: core::TrafficDirection::Outbound.into(),
        ..Default::default()
    };
    Resource::encode(name, &listener)
}

/// The route configuration for each local port of an HTTP service.
pub(crate) fn local_egress_routes(
    node: &ResolvedNode,
    ports: &[LocalPort<RoutedService>],
    own: Option<&CallerClusters>,
) -> EncodedResources {
    let scope = ProxyScope::new(&node.name);
    let node_origin = wire::origin(&node.object);
    let resources = ports.iter().filter_map(|local| {
        let (service, router) = &local.service;
        let router = router.as_deref();
        let mut ports = service.ports.iter();
        let port = ports.find(|it| it.port == local.port && it.protocol.is_http())?;
        let names = CallerClusters::names(own, &service.name.hostname);
        let port_routes = service::routes_for_port(service, router, *port, names);
        let name = names::egress_routes(local.in_names(port.protocol));
        let configuration = RouteConfiguration {
            name: name.to_string(),
            virtual_hosts: vec![VirtualHost {
                name: service.name.hostname.to_string(),
                domains: vec!["*".to_owned()],
                routes: port_routes.routes,
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut origins = service::origins(service, router);
        origins.push(Arc::clone(&node_origin));
        let resource = Resource::encode(name, &configuration)
            .with_needs(port_routes.needs)
            .with_origins(wire::sorted(origins));
        Some(scope.scoped(resource))
    });
    resources.collect()
}
