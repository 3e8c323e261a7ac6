//! What leaves a node that nobody intercepts: a listener on loopback for each port of a backend that it calls.
//!
//! The port says which service is meant, so `Host` says nothing. Nobody but the node itself can call there.

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

use super::egress::Outbound;
use crate::{
    http::{self, Side},
    names, network,
    scope::{Part, Scope},
    service::{self, Carried, Reach},
    wire,
};

/// A local port, and what is known of the service behind it.
pub(crate) struct LocalPort<T> {
    /// Where the application calls.
    local: u16,
    /// The service's own port.
    port: u16,
    service: T,
}

/// A service with the router behind it.
pub(crate) type Routed = (Arc<ResolvedService>, Option<Arc<ResolvedRouter>>);

/// The local ports of a node, with what `find` knows of each service.
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
    /// The port in names: the local one, of which there is one, with what is spoken there.
    const fn speaking(&self, protocol: Protocol) -> ServicePort {
        ServicePort {
            port: self.local,
            protocol,
        }
    }
}

/// The outbound side of a node but for the routes.
pub(crate) fn local_outbound(
    node: &ResolvedNode,
    mesh: &ResolvedMesh,
    ports: &[LocalPort<Arc<Reach>>],
) -> Outbound {
    let scope = Scope::new(&node.name);
    let own = [wire::origin(&node.object), wire::origin(&mesh.object)];
    let mut outbound = Outbound::default();
    for local in ports {
        let reach = &local.service;
        let mut served = reach.ports.iter();
        let Some((port, carried)) = served.find(|(port, _)| port.port == local.port) else {
            continue;
        };
        let port = local.speaking(port.protocol);
        let (filters, needs) = match carried {
            Carried::Requests => {
                let name = names::egress_routes(port);
                let manager = http::connection_manager(Side::Egress, &name, None);
                let key = scope.key(ResourceType::Route, name);
                outbound.keys.push(key);
                (vec![manager], Vec::new())
            }
            Carried::Connections(None) => (Vec::new(), Vec::new()),
            Carried::Connections(Some(rule)) => network::by_rule(Side::Egress, rule),
        };
        let origins = own.iter().chain(&reach.origins).cloned().collect();
        let listener = local_listener(mesh, port, filters)
            .with_needs(wire::sorted(needs))
            .with_origins(wire::sorted(origins));
        let (key, listener) = scope.own(listener);
        let clusters = reach.clusters.iter().flat_map(Scope::target_keys);
        outbound.keys.extend(clusters.chain([key.clone()]));
        outbound.part.push((key, listener));
    }
    outbound
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

/// The routes of every local port that carries requests.
pub(crate) fn local_routes(node: &ResolvedNode, ports: &[LocalPort<Routed>]) -> Part {
    let scope = Scope::new(&node.name);
    let own = wire::origin(&node.object);
    let routes = ports.iter().filter_map(|local| {
        let (service, router) = &local.service;
        let router = router.as_deref();
        let mut served = service.ports.iter();
        let port = served.find(|it| it.port == local.port && it.protocol.is_http())?;
        let host = service::host_on(service, router, *port);
        let name = names::egress_routes(local.speaking(port.protocol));
        let configuration = RouteConfiguration {
            name: name.to_string(),
            virtual_hosts: vec![VirtualHost {
                name: service.name.hostname.to_string(),
                domains: vec!["*".to_owned()],
                routes: host.routes,
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut origins = service::origins(service, router);
        origins.push(Arc::clone(&own));
        let resource = Resource::encode(name, &configuration)
            .with_needs(host.needs)
            .with_origins(wire::sorted(origins));
        Some(scope.own(resource))
    });
    routes.collect()
}
