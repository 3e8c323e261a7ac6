//! The ingress side of a node: the listener on port 15000 (with local ports, one for each port of the node), the clusters
//! of the application, and the route configurations between them.

use std::{collections::BTreeSet, sync::Arc};

use evermesh_model::{NodeListener, Protocol, ResolvedMesh, ResolvedNode, ServicePort};
use evermesh_proto::{
    Resource, ResourceKey, core,
    listener::{self, FilterChain, ListenerFilter},
    route::{
        Route, RouteConfiguration, VirtualHost, route::Action, route_action::ClusterSpecifier,
    },
};

use crate::{
    cluster,
    http::{self, ListenerContext, ListenerDirection},
    names, network, route,
    scope::{EncodedResources, ProxyScope},
    tls::{self, ProxySecrets, SecretDirection},
    wire,
};

/// The resources of the ingress side of a node.
#[derive(Debug, PartialEq)]
pub(crate) struct NodeIngress {
    pub(crate) resources: EncodedResources,
    /// The keys of the secrets to which the listeners refer.
    pub(crate) secrets: BTreeSet<ResourceKey>,
}

/// A node without listeners has no ingress resources.
pub(crate) fn node_ingress(node: &ResolvedNode, mesh: &ResolvedMesh) -> NodeIngress {
    let scope = ProxyScope::new(&node.name);
    let origins = [wire::origin(&node.object)];
    let mut resources = EncodedResources::new();
    let mut secrets = ProxySecrets::new(SecretDirection::Ingress, scope.clone());
    let mut redirected = IngressChains::default();
    for listener in &node.listeners {
        let port = listener.service_port();
        let Some(application) = application_port(node, port) else {
            continue;
        };
        let name = names::local_cluster(&node.name, port);
        let local = cluster::local_cluster(&name, mesh, application, listener.limits);
        resources.push(
            scope.scoped(Resource::encode(Arc::clone(&name), &local).with_origins(origins.clone())),
        );
        let mut own = IngressChains::default();
        let chains = match node.local_ports {
            Some(_) => &mut own,
            None => &mut redirected,
        };
        chains.add(chain(node, listener, &name), listener, &mut secrets);
        if listener.protocol == Protocol::Tcp {
            chains.needs.push(name);
        } else {
            let routes = routes(listener, &name);
            let resource = Resource::encode(routes.name.as_str().into(), &routes)
                .with_needs([name])
                .with_origins(origins.clone());
            resources.push(scope.scoped(resource));
        }
        if !own.filter_chains.is_empty() {
            let listener = own.into_listener(mesh, port.port, None);
            resources.push(scope.scoped(listener.with_origins(origins.clone())));
        }
    }
    if !redirected.filter_chains.is_empty() {
        let filter = Some(super::original_dst());
        let listener = redirected.into_listener(mesh, names::INGRESS_PORT, filter);
        resources.push(scope.scoped(listener.with_origins(origins.clone())));
    }
    let keys = secrets.take_keys();
    resources.extend(secrets.into_files(&origins));
    NodeIngress {
        resources,
        secrets: keys,
    }
}

/// The port on which the application receives the traffic of a listener.
///
/// `None` if the node has local ports and none is given for this listener.
fn application_port(node: &ResolvedNode, port: ServicePort) -> Option<ServicePort> {
    let Some(local) = &node.local_ports else {
        return Some(port);
    };
    let application = *local.application.get(&port.port)?;
    Some(ServicePort {
        port: application,
        ..port
    })
}

/// The filter chains of a listener, and the clusters that they name.
#[derive(Default)]
struct IngressChains {
    filter_chains: Vec<FilterChain>,
    needs: Vec<Arc<str>>,
    /// The ports that accept TLS and plaintext.
    inspected: Vec<u16>,
}

impl IngressChains {
    fn add(&mut self, plaintext: FilterChain, listener: &NodeListener, secrets: &mut ProxySecrets) {
        let tls = listener.tls.as_ref();
        self.filter_chains.extend(tls::filter_chains(
            plaintext,
            tls,
            listener.protocol,
            secrets,
        ));
        if tls.is_some_and(|tls| tls.allows_plaintext) {
            self.inspected.push(listener.port);
        }
    }

    fn into_listener(
        self,
        mesh: &ResolvedMesh,
        port: u16,
        first: Option<ListenerFilter>,
    ) -> Resource {
        let name = names::ingress_listener(port);
        let listener = listener::Listener {
            name: name.to_string(),
            address: Some(wire::any_address(mesh, port)),
            listener_filters: first
                .into_iter()
                .chain(super::tls_inspector(&self.inspected))
                .collect(),
            filter_chains: self.filter_chains,
            traffic_direction: core::TrafficDirection::Inbound.into(),
            ..Default::default()
        };
        Resource::encode(name, &listener).with_needs(wire::sorted(self.needs))
    }
}

fn chain(node: &ResolvedNode, listener: &NodeListener, cluster: &str) -> FilterChain {
    let port = listener.service_port();
    let context = ListenerContext {
        direction: ListenerDirection::Ingress(port),
        access_log: node.access_log.as_ref(),
        forwards_client_address: node.forwards_client_address,
    };
    let idle = listener.timeout.idle;
    let filter = match listener.protocol {
        Protocol::Tcp => network::proxy_to_cluster(context, cluster, idle),
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => http::connection_manager(
            context,
            &names::ingress_routes(port),
            idle.map(wire::duration),
        ),
    };
    super::chain_for_port(names::filter_chain(port), port.port, vec![filter])
}

/// Sends every request to the application, with the timeouts of the listener.
fn routes(listener: &NodeListener, cluster: &str) -> RouteConfiguration {
    let action = route::route_action(
        ClusterSpecifier::Cluster(cluster.to_owned()),
        listener.timeout,
    );
    RouteConfiguration {
        name: names::ingress_routes(listener.service_port()).to_string(),
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
