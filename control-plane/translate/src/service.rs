//! What a virtual service means to its callers, in two parts that change at different times: [`ReachableClusters`] makes
//! their listeners and views and changes seldom; [`ServiceRoutes`] makes their routes and changes with every weight.
//!
//! Must not know which proxy calls.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use evermesh_model::{
    Discovery, ResolvedNode, ResolvedRouter, ResolvedService, ResourceName, RouteRule, RouteTarget,
    ServicePort, ServiceProvider, Timeout,
    route::{HttpMatch, HttpRule, PathMatch, TcpRule},
};
use evermesh_proto::route::{self as envoy, RouteConfiguration, VirtualHost};
use prost::Message;

use crate::{names, route, wire};

/// `stream_idle_timeout` of Envoy's connection manager.
const STREAM_IDLE_TIMEOUT: Duration = Duration::from_mins(5);

/// Where calls of a service can lead.
#[derive(Debug, PartialEq)]
pub(crate) struct ReachableClusters {
    /// Ascending by port.
    pub(crate) ports: Vec<(ServicePort, PortTraffic)>,
    /// Every cluster that its routes and connections name, ascending.
    pub(crate) clusters: Vec<TargetCluster>,
    /// The user's objects it was made from.
    pub(crate) origins: Vec<Arc<str>>,
}

/// What a port carries.
#[derive(Debug, PartialEq)]
pub(crate) enum PortTraffic {
    /// Requests; their routes are in [`ServiceRoutes`].
    Http,
    /// Connections. Without a rule they are closed.
    Tcp(Option<TcpRule>),
}

/// A cluster of a node.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TargetCluster {
    pub(crate) cluster: Arc<str>,
    /// Whether it needs a load assignment.
    pub(crate) eds: bool,
}

/// The routes of a service, in the form its callers need: [`NodeServiceRoutes`] or [`GatewayServiceRoutes`].
#[derive(Debug, PartialEq)]
pub(crate) struct ServiceRoutes<T> {
    /// The name that clients put into `Host`.
    pub(crate) hostname: Arc<str>,
    /// By port; those that carry requests.
    pub(crate) ports: BTreeMap<u16, PortRoutes<T>>,
    /// Whether nobody provides it: its name then is known on every port and leads nowhere.
    pub(crate) reserved: bool,
    /// The user's objects it was made from.
    pub(crate) origins: Vec<Arc<str>>,
}

/// A service on one port.
#[derive(Debug, PartialEq)]
pub(crate) struct PortRoutes<T> {
    /// Its routes, in the order in which they are tried.
    pub(crate) routes: T,
    /// The clusters its routes name, ascending.
    pub(crate) needs: Vec<Arc<str>>,
    /// The longest any of its routes allows: whoever stands before it must not give up earlier.
    pub(crate) longest_timeout: Timeout,
}

/// For nodes: an encoded `RouteConfiguration` with nothing but one virtual host. Encoded messages concatenate, so
/// the routes of a node are put together from these without encoding them again.
pub(crate) type NodeServiceRoutes = ServiceRoutes<Bytes>;
/// For gateways: routes that match on the header by which a gateway names service and port.
pub(crate) type GatewayServiceRoutes = ServiceRoutes<Vec<envoy::Route>>;

/// The nodes that a service may lead to, each once, ascending.
pub(crate) fn nodes<'a>(
    service: &'a ResolvedService,
    router: Option<&'a ResolvedRouter>,
) -> Vec<&'a ResourceName> {
    let mut nodes: Vec<&ResourceName> = match &service.provider {
        ServiceProvider::None => Vec::new(),
        ServiceProvider::Node(node) => vec![node],
        ServiceProvider::Router(_) => router
            .into_iter()
            .flat_map(|router| &router.routes)
            .flat_map(|route| targets(&route.rule))
            .map(|target| &target.node)
            .collect(),
    };
    nodes.sort();
    nodes.dedup();
    nodes
}

/// `nodes` are those of [`nodes()`].
pub(crate) fn reachable_clusters(
    service: &ResolvedService,
    router: Option<&ResolvedRouter>,
    nodes: &[Arc<ResolvedNode>],
) -> ReachableClusters {
    let is_eds = |name: &ResourceName| {
        nodes
            .iter()
            .find(|node| node.name == *name)
            .and_then(|node| node.discovery.as_ref())
            .is_some_and(Discovery::is_eds)
    };
    let mut clusters = Vec::new();
    let ports = service
        .ports
        .iter()
        .map(|&port| {
            let rules = rules(service, router, port);
            for target in rules.iter().flat_map(|(_, rule)| targets(rule)) {
                clusters.push(TargetCluster {
                    cluster: route::target_cluster(target),
                    eds: is_eds(&target.node),
                });
            }
            let first = rules.into_iter().next().map(|(_, rule)| rule.into_owned());
            let carried = match first {
                _ if port.protocol.is_http() => PortTraffic::Http,
                Some(RouteRule::Tcp(rule)) => PortTraffic::Tcp(Some(rule)),
                Some(RouteRule::Http(_)) | None => PortTraffic::Tcp(None),
            };
            (port, carried)
        })
        .collect();
    clusters.sort();
    clusters.dedup();
    ReachableClusters {
        ports,
        clusters,
        origins: origins(service, router),
    }
}

/// The virtual hosts in the routes of a node: `color.ns` and, for clients that add it, `color.ns:8080`.
pub(crate) fn node_service_routes(
    service: &ResolvedService,
    router: Option<&ResolvedRouter>,
) -> NodeServiceRoutes {
    service_routes(service, router, |port, routes| {
        encode_virtual_host(VirtualHost {
            routes,
            ..virtual_host(&service.name.hostname, port)
        })
    })
}

/// The routes of a service behind a gateway.
pub(crate) fn gateway_service_routes(
    service: &ResolvedService,
    router: Option<&ResolvedRouter>,
) -> GatewayServiceRoutes {
    service_routes(service, router, |port, mut routes| {
        let authority = names::authority(&service.name.hostname, port);
        for matches in routes.iter_mut().filter_map(|route| route.r#match.as_mut()) {
            let named = route::exact_header(names::SERVICE_HEADER, &authority);
            matches.headers.push(named);
        }
        routes
    })
}

/// The routes of a service on one port, for callers that do not say by `Host` whom they mean.
pub(crate) fn routes_for_port(
    service: &ResolvedService,
    router: Option<&ResolvedRouter>,
    port: ServicePort,
) -> PortRoutes<Vec<envoy::Route>> {
    port_routes(&rules(service, router, port), |routes| routes)
}

/// A virtual host without routes: what it gets is answered 404.
pub(crate) fn virtual_host(hostname: &str, port: u16) -> VirtualHost {
    VirtualHost {
        name: hostname.to_owned(),
        domains: vec![hostname.to_owned(), names::authority(hostname, port)],
        ..Default::default()
    }
}

/// A `RouteConfiguration` with nothing but this virtual host.
pub(crate) fn encode_virtual_host(host: VirtualHost) -> Bytes {
    let lone = RouteConfiguration {
        virtual_hosts: vec![host],
        ..Default::default()
    };
    lone.encode_to_vec().into()
}

fn service_routes<T>(
    service: &ResolvedService,
    router: Option<&ResolvedRouter>,
    form: impl Fn(u16, Vec<envoy::Route>) -> T,
) -> ServiceRoutes<T> {
    let ports = service
        .ports
        .iter()
        .filter(|port| port.protocol.is_http())
        .map(|&port| {
            let rules = rules(service, router, port);
            (
                port.port,
                port_routes(&rules, |routes| form(port.port, routes)),
            )
        })
        .collect();
    ServiceRoutes {
        hostname: Arc::clone(&service.name.hostname),
        ports,
        reserved: service.provider == ServiceProvider::None,
        origins: origins(service, router),
    }
}

fn port_routes<T>(
    rules: &[(&str, Cow<'_, RouteRule>)],
    form: impl FnOnce(Vec<envoy::Route>) -> T,
) -> PortRoutes<T> {
    let http: Vec<(&str, &HttpRule)> = rules
        .iter()
        .filter_map(|(name, rule)| match rule.as_ref() {
            RouteRule::Http(rule) => Some((*name, rule)),
            RouteRule::Tcp(_) => None,
        })
        .collect();
    let routes: Vec<envoy::Route> = http
        .iter()
        .map(|(name, rule)| route::http_route(name, rule))
        .collect();
    let needs = http
        .iter()
        .flat_map(|(_, rule)| route::served_targets(&rule.targets))
        .map(route::target_cluster)
        .collect();
    PortRoutes {
        routes: form(routes),
        needs: wire::sorted(needs),
        longest_timeout: longest_timeout(http.iter().map(|(_, rule)| rule.timeout)),
    }
}

/// Of each timeout the longest, where zero is the longest of all.
fn longest_timeout(timeouts: impl Iterator<Item = Timeout> + Clone) -> Timeout {
    let per_request = timeouts
        .clone()
        .map(|timeout| timeout.per_request.unwrap_or(Timeout::DEFAULT_PER_REQUEST));
    // Envoy's own idle timeout holds for whoever stands before the routes too: only a longer one says something.
    let idle = timeouts
        .filter_map(|timeout| timeout.idle)
        .filter(|idle| idle.is_zero() || *idle > STREAM_IDLE_TIMEOUT);
    Timeout {
        per_request: per_request.max_by_key(|it| (it.is_zero(), *it)),
        idle: idle.max_by_key(|it| (it.is_zero(), *it)),
    }
}

/// The rules for one port of a service, with their names, in the order in which they are tried: those that carry
/// what the port carries.
fn rules<'a>(
    service: &ResolvedService,
    router: Option<&'a ResolvedRouter>,
    port: ServicePort,
) -> Vec<(&'a str, Cow<'a, RouteRule>)> {
    match &service.provider {
        ServiceProvider::None => Vec::new(),
        ServiceProvider::Node(node) => vec![("", Cow::Owned(node_rule(node, port)))],
        ServiceProvider::Router(_) => router
            .into_iter()
            .flat_map(|router| &router.routes)
            .filter(|route| route.port.is_none_or(|only| only == port.port))
            .filter(|route| matches!(route.rule, RouteRule::Http(_)) == port.protocol.is_http())
            .map(|route| (route.name.as_ref(), Cow::Borrowed(&route.rule)))
            .collect(),
    }
}

/// A node that provides a service gets everything, on the port that was called.
fn node_rule(node: &ResourceName, ServicePort { port, protocol }: ServicePort) -> RouteRule {
    let targets = vec![RouteTarget {
        node: node.clone(),
        port,
        protocol,
        weight: 1,
    }];
    if !protocol.is_http() {
        return RouteRule::Tcp(TcpRule {
            targets,
            idle: None,
        });
    }
    RouteRule::Http(HttpRule {
        protocol,
        matches: HttpMatch {
            path: PathMatch::Prefix("/".into()),
            method: None,
            scheme: None,
            headers: Vec::new(),
            query: Vec::new(),
        },
        targets,
        retry: None,
        timeout: Timeout::default(),
    })
}

fn targets(rule: &RouteRule) -> &[RouteTarget] {
    match rule {
        RouteRule::Http(rule) => &rule.targets,
        RouteRule::Tcp(rule) => &rule.targets,
    }
}

/// The user's objects that a service is made from, ascending.
pub(crate) fn origins(service: &ResolvedService, router: Option<&ResolvedRouter>) -> Vec<Arc<str>> {
    let behind = router.into_iter().flat_map(|router| {
        let inline = std::iter::once(&router.object);
        inline.chain(router.routes.iter().map(|route| &route.object))
    });
    // Inline routes have the router as their object: each object's text is made once.
    let mut objects: Vec<_> = std::iter::once(&service.object).chain(behind).collect();
    objects.sort();
    objects.dedup();
    wire::sorted(objects.into_iter().map(wire::origin).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_timeout_is_the_one_that_never_ends() {
        let timeout = |per_request: Option<u64>, idle: Option<u64>| Timeout {
            per_request: per_request.map(Duration::from_secs),
            idle: idle.map(Duration::from_secs),
        };
        for (timeouts, expected) in [
            (vec![], timeout(None, None)),
            (vec![timeout(None, None)], timeout(Some(15), None)),
            (
                vec![timeout(Some(10), Some(10)), timeout(Some(20), Some(300))],
                timeout(Some(20), None),
            ),
            (
                vec![timeout(Some(20), Some(600)), timeout(None, None)],
                timeout(Some(20), Some(600)),
            ),
            (
                vec![timeout(Some(0), Some(600)), timeout(Some(20), Some(0))],
                timeout(Some(0), Some(0)),
            ),
        ] {
            assert_eq!(
                longest_timeout(timeouts.clone().into_iter()),
                expected,
                "{timeouts:?}"
            );
        }
    }
}
