//! A gateway: a listener for each of its ports, and one on loopback that it calls itself.
//!
//! As in App Mesh a request passes the proxy twice. The first pass finds the gateway route, rewrites host and path,
//! and names the virtual service in a header; the second finds the service's own route, with its weights, retries
//! and timeouts, and takes the header off.
//!
//! App Mesh looked at the header only where `Host` stayed the client's and named no service: a client could name
//! one there and be led to it past its gateway route. Here every route of the second pass matches on the
//! header, `Host` only narrows the search.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use evermesh_model::{
    ResolvedGateway, ResolvedGatewayRoute, ResolvedMesh, ServicePort, Timeout,
    gateway::{HostnameMatch, PathRewrite},
    route::PathMatch,
};
use evermesh_proto::{
    ProxyView, Resource,
    core::{self, HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction},
    listener::{self, FilterChain},
    matcher::RegexMatchAndSubstitute,
    route::{
        Route, RouteAction, RouteConfiguration, VirtualHost,
        route::Action,
        route_action::{ClusterSpecifier, HostRewriteSpecifier},
        route_match::PathSpecifier,
    },
};

use crate::{
    cluster,
    http::{self, ListenerDirection},
    names, route,
    scope::{self, EncodedResources, ProxyScope},
    service::{self, GatewayServiceRoutes, PortRoutes, ReachableClusters},
    wire,
};

/// Everything of a gateway.
#[derive(Debug, PartialEq)]
pub(crate) struct GatewayResources {
    pub(crate) resources: EncodedResources,
    pub(crate) view: Arc<ProxyView>,
}

/// A virtual service that a gateway leads to.
pub(crate) type GatewayTarget = (Arc<ReachableClusters>, Arc<GatewayServiceRoutes>);

type GatewayPortRoutes = PortRoutes<Vec<Route>>;

/// `targets` are the services of its routes, each once.
pub(crate) fn gateway_resources(
    gateway: &ResolvedGateway,
    mesh: &ResolvedMesh,
    targets: &[GatewayTarget],
) -> GatewayResources {
    let scope = ProxyScope::new(&gateway.name);
    let hosts: BTreeMap<&str, &GatewayServiceRoutes> = targets
        .iter()
        .map(|(_, hosts)| (hosts.hostname.as_ref(), hosts.as_ref()))
        .collect();
    let mut resources = EncodedResources::new();
    for listener in &gateway.listeners {
        resources
            .extend(ingress_resources(gateway, mesh, *listener, &hosts).map(|it| scope.scoped(it)));
    }
    let mut keys = Vec::new();
    if let Some(first) = gateway.listeners.first() {
        let [listener, routes] = egress_resources(gateway, mesh, *first, &hosts);
        let needs = Arc::clone(&routes.needs);
        resources.extend([scope.scoped(listener), scope.scoped(routes)]);
        let reached = targets.iter().flat_map(|(reach, _)| &reach.clusters);
        keys.extend(
            reached
                .filter(|target| needs.binary_search(&target.cluster).is_ok())
                .flat_map(ProxyScope::target_keys),
        );
    }
    let view = Arc::new(scope::view(&resources, &keys));
    GatewayResources { resources, view }
}

/// One port of the gateway: its listener, its routes, and the cluster by which it calls itself. That one has the
/// listener's protocol, so that what comes in as HTTP/2 stays it.
fn ingress_resources(
    gateway: &ResolvedGateway,
    mesh: &ResolvedMesh,
    port: ServicePort,
    hosts: &BTreeMap<&str, &GatewayServiceRoutes>,
) -> [Resource; 3] {
    let own = wire::origin(&gateway.object);
    let itself = ServicePort {
        port: names::EGRESS_PORT,
        protocol: port.protocol,
    };
    let only = gateway.listeners.len() == 1;
    let cluster = names::self_redirect_cluster(&gateway.name, port, only);
    let self_redirect = Resource::encode(
        Arc::clone(&cluster),
        &cluster::local_cluster(&cluster, mesh, itself),
    );

    let name = names::ingress_routes(port);
    let manager = http::connection_manager(ListenerDirection::Ingress(port), &name, None);
    let listener_name = names::ingress_listener(port.port);
    let listener = listener::Listener {
        name: listener_name.to_string(),
        address: Some(wire::any_address(mesh, port.port)),
        filter_chains: vec![FilterChain {
            name: names::filter_chain(port),
            filters: vec![manager],
            ..Default::default()
        }],
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
        virtual_hosts: ingress_hosts(&routes, &cluster, hosts),
        // Clients behind a load balancer name its port, or none.
        ignore_port_in_host_matching: true,
        ..Default::default()
    };
    let needs: Vec<Arc<str>> = routes
        .iter()
        .take(1)
        .map(|_| Arc::clone(&cluster))
        .collect();
    let origins = routes.iter().map(|route| wire::origin(&route.object));
    let origins = wire::sorted(origins.chain([Arc::clone(&own)]).collect());
    [
        self_redirect.with_origins([Arc::clone(&own)]),
        Resource::encode(listener_name, &listener).with_origins([own]),
        Resource::encode(name, &configuration)
            .with_needs(needs)
            .with_origins(origins),
    ]
}

/// A virtual host for every host name that some route asks for, and one for all others. Envoy looks into one virtual
/// host only, the most specific: so each holds, in order, every route that takes its requests, those without a
/// host name among them.
fn ingress_hosts(
    routes: &[&ResolvedGatewayRoute],
    cluster: &str,
    hosts: &BTreeMap<&str, &GatewayServiceRoutes>,
) -> Vec<VirtualHost> {
    let asked = routes.iter().filter_map(|route| route.hostname.as_ref());
    let domains: BTreeSet<String> = std::iter::once("*".to_owned())
        .chain(asked.flat_map(domains))
        .collect();
    domains
        .into_iter()
        .map(|domain| VirtualHost {
            name: names::gateway_host(&domain),
            routes: routes
                .iter()
                .filter(|route| accepts(route.hostname.as_ref(), &domain))
                .flat_map(|route| gateway_routes(route, cluster, hosts))
                .collect(),
            domains: vec![domain],
            ..Default::default()
        })
        .collect()
}

/// The domains of a match, in lower case as Envoy compares them. A wildcard never stands for nothing, so a suffix
/// that is a name by itself is a domain too.
fn domains(hostname: &HostnameMatch) -> Vec<String> {
    match hostname {
        HostnameMatch::Exact(name) => vec![name.to_lowercase()],
        HostnameMatch::Suffix(suffix) => {
            let suffix = suffix.to_lowercase();
            let wildcard = format!("*{suffix}");
            if suffix.starts_with('.') || suffix.is_empty() {
                vec![wildcard]
            } else {
                vec![suffix, wildcard]
            }
        }
    }
}

/// Whether a match takes every request that Envoy finds this domain for.
fn accepts(hostname: Option<&HostnameMatch>, domain: &str) -> bool {
    match hostname {
        None => true,
        Some(HostnameMatch::Exact(name)) => domain == name.to_lowercase(),
        Some(HostnameMatch::Suffix(suffix)) => domain.ends_with(&suffix.to_lowercase()),
    }
}

/// The first pass of a gateway route: usually one Envoy route, two where the prefix is cut off at a slash.
///
/// App Mesh replaced `/x/` before `/x`, so that `/x/1` becomes `/1` and not `//1`; as `/x` ends anywhere, `/x1`
/// becomes `/1` too.
fn gateway_routes(
    route: &ResolvedGatewayRoute,
    cluster: &str,
    hosts: &BTreeMap<&str, &GatewayServiceRoutes>,
) -> Vec<Route> {
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
    let host =
        target_port.and_then(|port| hosts.get(target.hostname.as_ref())?.ports.get(&port.port));
    let action = RouteAction {
        host_rewrite_specifier: rewrite_hostname
            .then(|| HostRewriteSpecifier::HostRewriteLiteral(target.hostname.to_string())),
        ..redirect_action(cluster, host)
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
                    // A backslash would refer to a group.
                    substitution: value.replace('\\', r"\\"),
                }),
                ..action
            };
            vec![with_action(first, action)]
        }
        // Exact paths and expressions have no prefix that could be replaced.
        (PathRewrite::Keep | PathRewrite::Prefix(_), _) => vec![with_action(first, action)],
    }
}

/// To the gateway itself, not giving up before the service's routes do; without a limit where there are none.
fn redirect_action(cluster: &str, host: Option<&GatewayPortRoutes>) -> RouteAction {
    let timeout = host.map_or(
        Timeout {
            per_request: Some(Duration::ZERO),
            idle: None,
        },
        |host| host.longest_timeout,
    );
    route::route_action(ClusterSpecifier::Cluster(cluster.to_owned()), timeout)
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

/// The second pass: a listener that only the gateway itself can reach, and the routes of all services it leads to.
fn egress_resources(
    gateway: &ResolvedGateway,
    mesh: &ResolvedMesh,
    first: ServicePort,
    hosts: &BTreeMap<&str, &GatewayServiceRoutes>,
) -> [Resource; 2] {
    let own = wire::origin(&gateway.object);
    let port = ServicePort {
        port: names::EGRESS_PORT,
        protocol: first.protocol,
    };
    let name = names::egress_routes(port);
    let listener_name = names::egress_listener();
    let listener = listener::Listener {
        name: listener_name.to_string(),
        address: Some(wire::address(wire::loopback(mesh).to_string(), port.port)),
        filter_chains: vec![FilterChain {
            name: names::filter_chain(port),
            filters: vec![http::connection_manager(
                ListenerDirection::Egress,
                &name,
                None,
            )],
            ..Default::default()
        }],
        traffic_direction: core::TrafficDirection::Outbound.into(),
        ..Default::default()
    };

    let rewritten = destinations(gateway, hosts, true);
    let kept = destinations(gateway, hosts, false);
    let configuration = RouteConfiguration {
        name: name.to_string(),
        virtual_hosts: egress_hosts(&rewritten, &kept),
        request_headers_to_remove: vec![names::SERVICE_HEADER.to_owned()],
        ..Default::default()
    };
    let used = rewritten.values().chain(kept.values());
    let needs = used.flat_map(|host| host.needs.iter().cloned());
    let named = rewritten.keys().chain(kept.keys());
    let origins = named
        .filter_map(|(hostname, _)| hosts.get(hostname))
        .flat_map(|hosts| hosts.origins.iter().cloned());
    let needs = wire::sorted(needs.collect());
    let origins = wire::sorted(origins.chain([Arc::clone(&own)]).collect());
    [
        Resource::encode(listener_name, &listener).with_origins([own]),
        Resource::encode(name, &configuration)
            .with_needs(needs)
            .with_origins(origins),
    ]
}

/// Services and ports that routes lead to, by host name and port: of the routes that rewrite `Host`, or of those
/// that do not.
fn destinations<'a>(
    gateway: &ResolvedGateway,
    hosts: &BTreeMap<&'a str, &'a GatewayServiceRoutes>,
    rewrite_hostname: bool,
) -> BTreeMap<(&'a str, u16), &'a GatewayPortRoutes> {
    gateway
        .routes
        .iter()
        .filter(|route| route.rewrite_hostname == rewrite_hostname)
        .filter_map(|route| {
            let port = route.target_port?.port;
            let (hostname, hosts) = hosts.get_key_value(route.target.hostname.as_ref())?;
            Some(((*hostname, port), hosts.ports.get(&port)?))
        })
        .collect()
}

/// A virtual host for each name that `Host` is rewritten to. A client's own `Host` may be any of these too, so each
/// also holds the routes of requests that keep theirs.
fn egress_hosts(
    rewritten: &BTreeMap<(&str, u16), &GatewayPortRoutes>,
    kept: &BTreeMap<(&str, u16), &GatewayPortRoutes>,
) -> Vec<VirtualHost> {
    let own_names: BTreeSet<&str> = rewritten.keys().map(|(hostname, _)| *hostname).collect();
    let named = own_names.into_iter().map(|hostname| {
        let own = rewritten.iter().filter(|((it, _), _)| *it == hostname);
        let others = kept
            .iter()
            .filter(|(to, _)| to.0 != hostname || !rewritten.contains_key(*to));
        VirtualHost {
            routes: own
                .chain(others)
                .flat_map(|(_, host)| host.routes.iter().cloned())
                .collect(),
            ..service::virtual_host(hostname, names::EGRESS_PORT)
        }
    });
    let default = (!kept.is_empty()).then(|| VirtualHost {
        name: names::DEFAULT_BACKEND.to_owned(),
        domains: vec!["*".to_owned()],
        routes: kept
            .values()
            .flat_map(|host| host.routes.iter().cloned())
            .collect(),
        ..Default::default()
    });
    named.chain(default).collect()
}
