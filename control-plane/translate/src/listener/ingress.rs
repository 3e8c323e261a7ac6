//! What reaches a node: the listener on 15000, the application's clusters, and the routes between them.

use std::sync::Arc;

use evermesh_model::{Listener, Mesh, Protocol, VirtualNode};
use evermesh_proto::{
    Resource, core,
    listener::{self, FilterChain},
    route::{
        Route, RouteConfiguration, VirtualHost, route::Action, route_action::ClusterSpecifier,
    },
};

use crate::{
    cluster, endpoint,
    http::{self, Side},
    names, network, route,
    scope::{Part, Scope},
    wire,
};

/// A node's inbound side.
#[derive(Debug, PartialEq)]
pub(crate) struct Inbound {
    pub(crate) part: Part,
}

/// Nothing at all for a node without listeners.
pub(crate) fn inbound(node: &VirtualNode, mesh: &Mesh) -> Inbound {
    let scope = Scope::new(&node.name);
    let origins = [wire::origin(&node.object)];
    let mut part = Part::new();
    let mut needs = Vec::new();
    let mut chains = Vec::new();
    for listener in &node.listeners {
        let name = names::local_cluster(&node.name, endpoint::port(listener));
        let local = cluster::local_cluster(&name, mesh, endpoint::port(listener));
        part.push(
            scope.own(Resource::encode(Arc::clone(&name), &local).with_origins(origins.clone())),
        );
        chains.push(chain(listener, &name));
        if listener.protocol == Protocol::Tcp {
            needs.push(name);
        } else {
            let routes = routes(listener, &name);
            let resource = Resource::encode(routes.name.as_str().into(), &routes)
                .with_needs([name])
                .with_origins(origins.clone());
            part.push(scope.own(resource));
        }
    }
    if !chains.is_empty() {
        let name = names::ingress_listener(names::INGRESS_PORT);
        let listener = listener::Listener {
            name: name.to_string(),
            address: Some(wire::any_address(mesh, names::INGRESS_PORT)),
            listener_filters: vec![super::original_dst()],
            filter_chains: chains,
            traffic_direction: core::TrafficDirection::Inbound.into(),
            ..Default::default()
        };
        let resource = Resource::encode(name, &listener)
            .with_needs(wire::sorted(needs))
            .with_origins(origins);
        part.push(scope.own(resource));
    }
    Inbound { part }
}

fn chain(listener: &Listener, cluster: &str) -> FilterChain {
    let port = endpoint::port(listener);
    let idle = listener.timeout.idle;
    let filter = match listener.protocol {
        Protocol::Tcp => network::to_cluster(Side::Ingress(port), cluster, idle),
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => http::connection_manager(
            Side::Ingress(port),
            &names::ingress_routes(port),
            idle.map(wire::duration),
        ),
    };
    super::chain_for_port(names::filter_chain(port), port.port, vec![filter])
}

/// Every request to the application, within the bounds of the listener.
fn routes(listener: &Listener, cluster: &str) -> RouteConfiguration {
    let action = route::bounded(
        ClusterSpecifier::Cluster(cluster.to_owned()),
        listener.timeout,
    );
    RouteConfiguration {
        name: names::ingress_routes(endpoint::port(listener)).to_string(),
        virtual_hosts: vec![VirtualHost {
            name: "ingress".to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![Route {
                r#match: Some(wire::any_path()),
                action: Some(Action::Route(action)),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}
