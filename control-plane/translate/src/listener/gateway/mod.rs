//! Gateways: a listener for each port, and one on loopback by which the gateway calls itself.
//!
//! As in App Mesh, a request passes the proxy twice:
//!
//! ```text
//! client ─▶ lds_ingress_0.0.0.0_8080     selects the gateway route, rewrites host and path,
//!                │                       adds x-app-mesh-virtual-service: color.ns:8080
//!                │ …_self_redirect_http_15001
//!                ▼
//!           lds_egress_0.0.0.0_15001     selects the route of the service (weights, retries, timeouts),
//!                │                       removes the header
//!                ▼
//!           cds_egress_shop_blue_ns_http_8080
//! ```
//!
//! Every route of the second pass matches the header; `Host` selects the virtual host only. App Mesh matched the header
//! only if the gateway route kept the client's `Host` and that named no service. So a client could bypass the gateway
//! route by sending the name of another service as `Host`.

mod hosts;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evermesh_model::{
    GatewayListener, ResolvedGateway, ResolvedGatewayRoute, ResolvedMesh, ServicePort, Timeout,
    gateway::PathRewrite, route::PathMatch,
};
use evermesh_proto::{
    ProxyView, Resource, ResourceType,
    core::{self, HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction},
    listener::{self, FilterChain},
    matcher::RegexMatchAndSubstitute,
    route::{
        Route, RouteAction, RouteConfiguration,
        route::Action,
        route_action::{ClusterSpecifier, HostRewriteSpecifier},
        route_match::PathSpecifier,
    },
};

use self::hosts::{egress_hosts, ingress_hosts};
use crate::{
    cluster,
    http::{self, ListenerContext, ListenerDirection},
    names, route,
    scope::{self, EncodedResources, ProxyScope},
    service::{GatewayServiceRoutes, PortRoutes, ReachableClusters, TargetCluster},
    tls::{self, CallerClusters, ProxySecrets, SecretDirection},
    wire,
};

/// All resources of a gateway, and its view.
#[derive(Debug, PartialEq)]
pub(crate) struct GatewayResources {
    pub(crate) resources: EncodedResources,
    pub(crate) view: Arc<ProxyView>,
}

/// The derived forms of a service that a gateway route targets.
pub(crate) type GatewayTarget = (Arc<ReachableClusters>, Arc<GatewayServiceRoutes>);

type GatewayPortRoutes = PortRoutes<Vec<Route>>;

/// `targets` are the target services of the gateway's routes, each once. `own` are the gateway's own clusters.
pub(crate) fn gateway_resources(
    gateway: &ResolvedGateway,
    mesh: &ResolvedMesh,
    targets: &[GatewayTarget],
    own: Option<&CallerClusters>,
) -> GatewayResources {
    let scope = ProxyScope::new(&gateway.name);
    let services: BTreeMap<&str, &GatewayServiceRoutes> = targets
        .iter()
        .map(|(_, routes)| (routes.hostname.as_ref(), routes.as_ref()))
        .collect();
    let mut resources = EncodedResources::new();
    let mut secrets = ProxySecrets::new(SecretDirection::Ingress, scope.clone());
    for listener in &gateway.listeners {
        resources.extend(
            ingress_resources(gateway, mesh, listener, &services, &mut secrets)
                .map(|it| scope.scoped(it)),
        );
    }
    let mut keys: Vec<_> = secrets.take_keys().into_iter().collect();
    resources.extend(secrets.into_files(&[wire::origin(&gateway.object)]));
    if let Some(first) = gateway.listeners.first() {
        let [listener, routes] = egress_resources(gateway, mesh, first.service_port(), &services);
        let needs = Arc::clone(&routes.needs);
        resources.extend([scope.scoped(listener), scope.scoped(routes)]);
        let is_needed = |it: &&TargetCluster| needs.binary_search(&it.cluster).is_ok();
        keys.extend(targets.iter().flat_map(|(reachable, _)| {
            let targets = reachable.clusters.iter().filter(is_needed);
            targets.flat_map(|it| CallerClusters::target_keys(own, &scope, &reachable.hostname, it))
        }));
    }
    let view = Arc::new(scope::view(&resources, &keys));
    GatewayResources { resources, view }
}

/// The first pass on one port: the cluster by which the gateway calls itself, the listener, and its route configuration.
///
/// The cluster has the protocol of the listener, so an HTTP/2 request stays an HTTP/2 request.
fn ingress_resources(
    gateway: &ResolvedGateway,
    mesh: &ResolvedMesh,
    gateway_listener: &GatewayListener,
    services: &BTreeMap<&str, &GatewayServiceRoutes>,
    secrets: &mut ProxySecrets,
) -> [Resource; 3] {
    let port = gateway_listener.service_port();
    let context = ListenerContext {
        direction: ListenerDirection::Ingress(port),
        access_log: gateway.access_log.as_ref(),
        forwards_client_address: gateway.forwards_client_address,
    };
    let gateway_origin = wire::origin(&gateway.object);
    let itself = ServicePort {
        port: names::EGRESS_PORT,
        protocol: port.protocol,
    };
    let only = gateway.listeners.len() == 1;
    let cluster = names::self_redirect_cluster(&gateway.name, port, only);
    let self_redirect = Resource::encode(
        Arc::clone(&cluster),
        &cluster::local_cluster(&cluster, mesh, itself, gateway_listener.limits),
    );

    let name = names::ingress_routes(port);
    let manager = http::connection_manager(context, &name, None);
    let chain = FilterChain {
        name: names::filter_chain(port),
        filters: vec![manager],
        ..Default::default()
    };
    let tls = gateway_listener.tls.as_ref();
    let inspected: &[u16] = match tls {
        Some(tls) if tls.allows_plaintext => &[port.port],
        Some(_) | None => &[],
    };
    let listener_name = names::ingress_listener(port.port);
    let listener = listener::Listener {
        name: listener_name.to_string(),
        address: Some(wire::any_address(mesh, port.port)),
        listener_filters: super::tls_inspector(inspected).into_iter().collect(),
        filter_chains: tls::filter_chains(chain, tls, port.protocol, secrets),
        traffic_direction: core::TrafficDirection::Inbound.into(),
        ..Default::default()
    };

    let routes: Vec<&ResolvedGatewayRoute> = gateway
        .routes
        .iter()
        .filter(|route| route.port.is_none_or(|only| only == port.port))
        .map(AsRef::as_ref)
        .collect();
    let configuration = RouteConfiguration {
        name: name.to_string(),
        // Behind a load balancer, `Host` contains the port of the load balancer or no port.
        ignore_port_in_host_matching: true,
        ..Default::default()
    };
    let base = super::base_part(&configuration, None, [Arc::clone(&gateway_origin)].into());
    let hosts = ingress_hosts(&routes, &cluster, services);
    [
        self_redirect.with_origins([Arc::clone(&gateway_origin)]),
        Resource::encode(listener_name, &listener).with_origins([gateway_origin]),
        Resource::from_parts(ResourceType::Route, name, base, hosts),
    ]
}

/// The Envoy routes of a gateway route in the first pass: one, or two if a rewritten prefix has to end at a slash.
///
/// With two routes, `/x/` is matched and replaced before `/x`, as in App Mesh: `/x/1` becomes `/1` and not `//1`. A prefix
/// may end anywhere, so `/x1` becomes `/1` too.
fn gateway_routes(route: &ResolvedGatewayRoute, cluster: &str) -> Vec<Route> {
    let ResolvedGatewayRoute {
        name,
        object: _,
        protocol: _,
        port: _,
        hostname: _,
        matches,
        target,
        target_port,
        rewrite_hostname,
        rewrite_path,
    } = route;
    let action = RouteAction {
        host_rewrite_specifier: rewrite_hostname
            .then(|| HostRewriteSpecifier::HostRewriteLiteral(target.hostname.to_string())),
        ..redirect_action(cluster)
    };
    let service = match target_port {
        None => target.hostname.to_string(),
        Some(port) => names::authority(&target.hostname, port.port),
    };
    let first = Route {
        name: name.to_string(),
        r#match: Some(route::route_match(matches)),
        request_headers_to_add: vec![overwrite_header(names::SERVICE_HEADER, service)],
        ..Default::default()
    };
    match (rewrite_path, &matches.path) {
        (PathRewrite::Prefix(value), PathMatch::Prefix(prefix)) => {
            let action = RouteAction {
                prefix_rewrite: value.to_string(),
                ..action
            };
            let slashed = (value.ends_with('/') && !prefix.ends_with('/'))
                .then(|| with_prefix(&first, format!("{prefix}/")));
            let both = slashed.into_iter().chain([first]);
            both.map(|route| with_action(route, action.clone()))
                .collect()
        }
        (PathRewrite::Full(value), _) => {
            let action = RouteAction {
                regex_rewrite: Some(RegexMatchAndSubstitute {
                    pattern: Some(route::regex_matcher("^.+$")),
                    // A backslash begins a reference to a capture group.
                    substitution: value.replace('\\', r"\\"),
                }),
                ..action
            };
            vec![with_action(first, action)]
        }
        // Exact and regular-expression matches have no prefix to replace.
        (PathRewrite::Keep | PathRewrite::Prefix(_), _) => vec![with_action(first, action)],
    }
}

/// The action of the first pass: calls the gateway itself, without a timeout. The second pass has those of the service's
/// route; with equal ones here, the first pass would end requests on the target's behalf, and the target's statistics and
/// outlier detection would miss them.
fn redirect_action(cluster: &str) -> RouteAction {
    let unlimited = Timeout {
        per_request: Some(Duration::ZERO),
        idle: Some(Duration::ZERO),
    };
    route::route_action(ClusterSpecifier::Cluster(cluster.to_owned()), unlimited)
}

fn with_prefix(route: &Route, prefix: String) -> Route {
    let mut route = route.clone();
    if let Some(matches) = &mut route.r#match {
        matches.path_specifier = Some(PathSpecifier::Prefix(prefix));
    }
    route
}

fn with_action(route: Route, action: RouteAction) -> Route {
    Route {
        action: Some(Action::Route(action)),
        ..route
    }
}

fn overwrite_header(key: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: key.to_owned(),
            value,
            ..Default::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    }
}

/// The second pass: the listener on loopback and the route configuration with the routes of all target services.
fn egress_resources(
    gateway: &ResolvedGateway,
    mesh: &ResolvedMesh,
    first: ServicePort,
    services: &BTreeMap<&str, &GatewayServiceRoutes>,
) -> [Resource; 2] {
    let gateway_origin = wire::origin(&gateway.object);
    let port = ServicePort {
        port: names::EGRESS_PORT,
        protocol: first.protocol,
    };
    let context = ListenerContext {
        direction: ListenerDirection::Egress,
        access_log: gateway.access_log.as_ref(),
        forwards_client_address: false,
    };
    let name = names::egress_routes(port);
    let listener_name = names::egress_listener();
    let listener = listener::Listener {
        name: listener_name.to_string(),
        address: Some(wire::address(wire::loopback(mesh).to_string(), port.port)),
        filter_chains: vec![FilterChain {
            name: names::filter_chain(port),
            filters: vec![http::connection_manager(context, &name, None)],
            ..Default::default()
        }],
        traffic_direction: core::TrafficDirection::Outbound.into(),
        ..Default::default()
    };

    let configuration = RouteConfiguration {
        name: name.to_string(),
        request_headers_to_remove: vec![names::SERVICE_HEADER.to_owned()],
        ..Default::default()
    };
    let base = super::base_part(&configuration, None, [Arc::clone(&gateway_origin)].into());
    let hosts = egress_hosts(gateway, services);
    [
        Resource::encode(listener_name, &listener).with_origins([gateway_origin]),
        Resource::from_parts(ResourceType::Route, name, base, hosts),
    ]
}
