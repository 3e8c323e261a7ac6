//! The derived forms of a service that its callers contain: the clusters it leads to, and its routes.
//!
//! [`ReachableClusters`] goes into listeners and views and changes seldom. [`ServiceRoutes`] goes into route
//! configurations and changes with every shifted weight. Neither depends on the caller, so all callers share them.

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr, sync::Arc};

use bytes::Bytes;
use evermesh_model::{
    Discovery, ResolvedNode, ResolvedRouter, ResolvedService, ResourceName, RouteRule, RouteTarget,
    ServicePort, ServiceProvider, Timeout,
    route::{HttpMatch, HttpRule, PathMatch, TcpRule},
};
use evermesh_proto::route::{self as envoy, RouteConfiguration, VirtualHost};
use prost::Message;

use crate::{
    names, route,
    tls::{self, ClusterNames},
    wire,
};

/// The ports of a service, and the clusters to which calls of the service can lead.
#[derive(Debug, PartialEq)]
pub(crate) struct ReachableClusters {
    /// The host name of the service.
    pub(crate) hostname: Arc<str>,
    /// See [`ResolvedService::virtual_ips`].
    pub(crate) virtual_ips: Vec<IpAddr>,
    /// Ascending by port number.
    pub(crate) ports: Vec<(ServicePort, PortTraffic)>,
    /// The clusters that routes and TCP proxies of the service name, ascending.
    pub(crate) clusters: Vec<TargetCluster>,
    /// The user's objects that this was derived from.
    pub(crate) origins: Vec<Arc<str>>,
}

impl ReachableClusters {
    pub(crate) fn has_port(&self, number: u16) -> bool {
        self.ports.iter().any(|(port, _)| port.port == number)
    }
}

/// The traffic of a port.
#[derive(Debug, PartialEq)]
pub(crate) enum PortTraffic {
    /// HTTP requests, of any version, and gRPC calls; their routes are in [`ServiceRoutes`].
    Http,
    /// TCP connections, which follow this rule; without a rule they are closed.
    Tcp(Option<TcpRule>),
}

/// A cluster of a node that is a target.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TargetCluster {
    /// The name of the shared cluster.
    pub(crate) cluster: Arc<str>,
    pub(crate) node: ResourceName,
    /// The port of the node's listener.
    pub(crate) port: u16,
    /// Whether Evermesh serves the endpoints of the cluster, so that it needs a load assignment.
    pub(crate) eds: bool,
    /// The name of the stored secret by which the shared cluster validates the server's certificate.
    pub(crate) trust: Option<Arc<str>>,
}

/// The routes of a service in the form that its callers need: [`NodeServiceRoutes`] or [`GatewayServiceRoutes`].
#[derive(Debug, PartialEq)]
pub(crate) struct ServiceRoutes<T> {
    /// The host name by which clients call the service (`Host` or `:authority`).
    pub(crate) hostname: Arc<str>,
    /// The HTTP ports of the service.
    pub(crate) ports: BTreeMap<u16, PortRoutes<T>>,
    /// Whether the service has no provider. Callers then know its name on every port, and requests are answered 404.
    pub(crate) reserved: bool,
    /// The user's objects that this was derived from, ascending.
    pub(crate) origins: Arc<[Arc<str>]>,
}

/// The routes of a service on one port.
#[derive(Debug, PartialEq)]
pub(crate) struct PortRoutes<T> {
    /// The routes, in the order in which Envoy tries them.
    pub(crate) routes: T,
    /// The clusters that the routes name, ascending.
    pub(crate) needs: Arc<[Arc<str>]>,
}

/// The routes of a service for nodes: for each port an encoded `RouteConfiguration` with one virtual host and no other
/// field.
///
/// Concatenating encoded protobuf messages merges them. So the route configuration of a node is concatenated from these,
/// and a shifted weight encodes one virtual host only.
pub(crate) type NodeServiceRoutes = ServiceRoutes<Bytes>;
/// The routes of a service for gateways. Each matches [`names::SERVICE_HEADER`].
pub(crate) type GatewayServiceRoutes = ServiceRoutes<Vec<envoy::Route>>;

/// The nodes that calls of the service can reach, ascending, each once.
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

/// `nodes` are the nodes that [`nodes()`] lists, in the same order.
pub(crate) fn reachable_clusters(
    service: &ResolvedService,
    router: Option<&ResolvedRouter>,
    nodes: &[Arc<ResolvedNode>],
) -> ReachableClusters {
    let mut clusters = Vec::new();
    let ports = service
        .ports
        .iter()
        .map(|&port| {
            let rules = rules(service, router, port);
            for target in rules.iter().flat_map(|(_, rule)| targets(rule)) {
                let node = nodes.binary_search_by(|node| node.name.cmp(&target.node));
                let node = node.ok().map(|index| &*nodes[index]);
                clusters.push(target_cluster(target, node));
            }
            let first = rules.into_iter().next().map(|(_, rule)| rule.into_owned());
            let traffic = match first {
                _ if port.protocol.is_http() => PortTraffic::Http,
                Some(RouteRule::Tcp(rule)) => PortTraffic::Tcp(Some(rule)),
                Some(RouteRule::Http(_)) | None => PortTraffic::Tcp(None),
            };
            (port, traffic)
        })
        .collect();
    clusters.sort();
    clusters.dedup();
    ReachableClusters {
        hostname: Arc::clone(&service.name.hostname),
        virtual_ips: service.virtual_ips.clone(),
        ports,
        clusters,
        origins: origins(service, router),
    }
}

fn target_cluster(target: &RouteTarget, node: Option<&ResolvedNode>) -> TargetCluster {
    let discovery = node.and_then(|node| node.discovery.as_ref());
    let mut listeners = node.into_iter().flat_map(|node| &node.listeners);
    let listener = listeners.find(|listener| listener.port == target.port);
    TargetCluster {
        cluster: route::target_cluster(target),
        node: target.node.clone(),
        port: target.port,
        eds: discovery.is_some_and(Discovery::is_eds),
        trust: listener.and_then(tls::shared_trust),
    }
}

/// The virtual host of a service on each port, with the domains `color.ns` and `color.ns:8080`.
pub(crate) fn node_service_routes(
    service: &ResolvedService,
    router: Option<&ResolvedRouter>,
    names: ClusterNames<'_>,
) -> NodeServiceRoutes {
    service_routes(service, router, names, |port, routes| {
        encode_virtual_host(VirtualHost {
            routes,
            ..virtual_host(&service.name.hostname, port)
        })
    })
}

/// The routes of a service in the second pass through a gateway.
pub(crate) fn gateway_service_routes(
    service: &ResolvedService,
    router: Option<&ResolvedRouter>,
) -> GatewayServiceRoutes {
    let names = ClusterNames::default();
    service_routes(service, router, names, |port, mut routes| {
        let authority = names::authority(&service.name.hostname, port);
        for matches in routes.iter_mut().filter_map(|route| route.r#match.as_mut()) {
            let matcher = route::exact_header(names::SERVICE_HEADER, &authority);
            matches.headers.push(matcher);
        }
        routes
    })
}

/// The routes of a service on one port, for local ports: there the port selects the service, not `Host`.
pub(crate) fn routes_for_port(
    service: &ResolvedService,
    router: Option<&ResolvedRouter>,
    port: ServicePort,
    names: ClusterNames<'_>,
) -> PortRoutes<Vec<envoy::Route>> {
    port_routes(&rules(service, router, port), names, |routes| routes)
}

/// A virtual host without routes; requests are answered 404.
pub(crate) fn virtual_host(hostname: &str, port: u16) -> VirtualHost {
    VirtualHost {
        name: hostname.to_owned(),
        domains: vec![hostname.to_owned(), names::authority(hostname, port)],
        ..Default::default()
    }
}

/// Encodes a `RouteConfiguration` that has this virtual host and no other field.
pub(crate) fn encode_virtual_host(host: VirtualHost) -> Bytes {
    let configuration = RouteConfiguration {
        virtual_hosts: vec![host],
        ..Default::default()
    };
    configuration.encode_to_vec().into()
}

fn service_routes<T>(
    service: &ResolvedService,
    router: Option<&ResolvedRouter>,
    names: ClusterNames<'_>,
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
                port_routes(&rules, names, |routes| form(port.port, routes)),
            )
        })
        .collect();
    ServiceRoutes {
        hostname: Arc::clone(&service.name.hostname),
        ports,
        reserved: service.provider == ServiceProvider::None,
        origins: origins(service, router).into(),
    }
}

fn port_routes<T>(
    rules: &[(&str, Cow<'_, RouteRule>)],
    names: ClusterNames<'_>,
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
        .map(|(name, rule)| route::http_route(name, rule, names))
        .collect();
    let needs = http
        .iter()
        .flat_map(|(_, rule)| route::served_targets(&rule.targets))
        .map(|target| names.of(target))
        .collect();
    PortRoutes {
        routes: form(routes),
        needs: wire::sorted(needs).into(),
    }
}

/// The rules that apply to one port of a service, with their names, in the order in which they are tried. HTTP ports
/// have HTTP rules, TCP ports have TCP rules.
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

/// The rule of a service whose provider is a node: all traffic goes to the called port of that node.
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

/// The objects of a service, its router and the routes of the router, ascending.
pub(crate) fn origins(service: &ResolvedService, router: Option<&ResolvedRouter>) -> Vec<Arc<str>> {
    let objects_of_router = router.into_iter().flat_map(|router| {
        let inline = std::iter::once(&router.object);
        inline.chain(router.routes.iter().map(|route| &route.object))
    });
    // The object of an inline route is the router, so many are equal: format each object once.
    let mut objects: Vec<_> = std::iter::once(&service.object)
        .chain(objects_of_router)
        .collect();
    objects.sort();
    objects.dedup();
    wire::sorted(objects.into_iter().map(wire::origin).collect())
}
