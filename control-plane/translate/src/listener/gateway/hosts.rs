//! The virtual hosts of a gateway's route configurations, in both passes.
//!
//! A virtual host contains every route that its requests can match. So that a gateway with many host names and many routes
//! does not grow by their product, the routes of a domain are looked up by host name ([`RouteIndex`]), and those that an
//! earlier route of the same virtual host takes over are left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evermesh_model::{
    ResolvedGateway, ResolvedGatewayRoute,
    gateway::HostnameMatch,
    route::{HttpMatch, PathMatch},
};
use evermesh_proto::{EncodedPart, route::VirtualHost};

use super::{GatewayPortRoutes, gateway_routes};
use crate::{
    listener::host_part,
    names,
    service::{self, GatewayServiceRoutes},
    wire,
};

/// The domain of requests whose host name no other domain matches.
const ANY_DOMAIN: &str = "*";

/// Ascending positions of routes in the list of a gateway's routes.
#[derive(Debug, Default)]
struct Positions {
    all: Vec<usize>,
    /// Positions of routes whose path is a regular expression.
    expressions: Vec<usize>,
}

/// The routes of a gateway, by the host name that they match.
#[derive(Debug, Default)]
struct RouteIndex {
    exact: BTreeMap<String, Positions>,
    suffix: BTreeMap<String, Positions>,
    any: Positions,
}

impl RouteIndex {
    fn new(routes: &[&ResolvedGatewayRoute]) -> Self {
        let mut index = Self::default();
        for (position, route) in routes.iter().enumerate() {
            let positions = match &route.hostname {
                None => &mut index.any,
                Some(HostnameMatch::Exact(name)) => {
                    index.exact.entry(name.to_lowercase()).or_default()
                }
                Some(HostnameMatch::Suffix(suffix)) => {
                    index.suffix.entry(suffix.to_lowercase()).or_default()
                }
            };
            positions.all.push(position);
            if let PathMatch::Regex(_) = route.matches.path {
                positions.expressions.push(position);
            }
        }
        index
    }

    /// The domains of the host names, and `*`, in lower case as Envoy compares them.
    ///
    /// In Envoy, `*` matches at least one character. So the suffix `example.com` becomes two domains, `example.com` and
    /// `*example.com`.
    fn domains(&self) -> BTreeSet<String> {
        let suffixes = self.suffix.keys().flat_map(|suffix| {
            let is_domain = !suffix.starts_with('.') && !suffix.is_empty();
            let domain = is_domain.then(|| suffix.clone());
            domain.into_iter().chain([format!("*{suffix}")])
        });
        let exact = self.exact.keys().cloned();
        exact
            .chain(suffixes)
            .chain([ANY_DOMAIN.to_owned()])
            .collect()
    }

    /// The routes that accept all requests for which Envoy selects this domain, by host name, and whether the domain is
    /// one of those of the host name.
    fn accepting(&self, domain: &str) -> impl Iterator<Item = (&Positions, bool)> {
        let starts = domain.char_indices().map(|(start, _)| start);
        let suffixes = starts.chain([domain.len()]).filter_map(move |start| {
            let is_named = start == 0 || (start == 1 && domain.starts_with('*'));
            Some((self.suffix.get(&domain[start..])?, is_named))
        });
        let exact = self.exact.get(domain).map(|positions| (positions, true));
        let any = (&self.any, domain == ANY_DOMAIN);
        exact.into_iter().chain(suffixes).chain([any])
    }

    /// The routes that accept all requests for which Envoy selects this domain, and that these can reach, in order:
    /// without those that come after a route for every request.
    ///
    /// Two kinds of routes stay all the same. A regular expression may match the path `*`, which has no slash. Routes that
    /// name the domain stay so that every route is a part of a virtual host, whose ACK its object's status counts.
    fn reachable<'a>(
        &self,
        domain: &str,
        routes: &[&'a ResolvedGatewayRoute],
    ) -> Vec<&'a ResolvedGatewayRoute> {
        let accepting: Vec<_> = self.accepting(domain).collect();
        let mut left: Vec<&[usize]> = accepting.iter().map(|(it, _)| &*it.all).collect();
        let mut reachable: Vec<usize> = Vec::new();
        while let Some(list) = left
            .iter_mut()
            .filter(|it| !it.is_empty())
            .min_by_key(|it| it[0])
        {
            let first = list[0];
            *list = &list[1..];
            reachable.push(first);
            if is_for_every_request(&routes[first].matches) {
                for (positions, is_named) in accepting {
                    let stay = if is_named {
                        &positions.all
                    } else {
                        &positions.expressions
                    };
                    reachable.extend(&stay[stay.partition_point(|it| *it <= first)..]);
                }
                break;
            }
        }
        reachable.sort_unstable();
        reachable.into_iter().map(|it| routes[it]).collect()
    }
}

fn is_for_every_request(matches: &HttpMatch) -> bool {
    let HttpMatch {
        path,
        method,
        scheme,
        headers,
        query,
    } = matches;
    matches!(path, PathMatch::Prefix(prefix) if &**prefix == "/")
        && method.is_none()
        && scheme.is_none()
        && headers.is_empty()
        && query.is_empty()
}

/// The virtual hosts of the first pass: one for each domain that a route matches, and `*`.
///
/// Envoy searches only the virtual host with the most specific domain. So each virtual host contains, in order, all
/// routes that match its requests, including routes without a host name. A virtual host also needs the clusters of the
/// second pass: before these work, its requests have to go where they went before.
pub(super) fn ingress_hosts(
    routes: &[&ResolvedGatewayRoute],
    cluster: &Arc<str>,
    services: &BTreeMap<&str, &GatewayServiceRoutes>,
) -> Vec<EncodedPart> {
    let index = RouteIndex::new(routes);
    index
        .domains()
        .into_iter()
        .map(|domain| {
            let accepting = index.reachable(&domain, routes);
            let targets = accepting
                .iter()
                .filter_map(|route| target_routes(route, services))
                .flat_map(|target| target.needs.iter());
            let itself = accepting.first().map(|_| cluster);
            let needs = targets.chain(itself).cloned().collect();
            let origins = accepting.iter().map(|route| wire::origin(&route.object));
            let host = VirtualHost {
                name: names::gateway_host(&domain),
                routes: accepting
                    .iter()
                    .flat_map(|route| gateway_routes(route, cluster))
                    .collect(),
                domains: vec![domain.clone()],
                ..Default::default()
            };
            host_part(&domain, host, needs, origins.collect())
        })
        .collect()
}

/// The routes of a gateway route's target.
fn target_routes<'a>(
    route: &ResolvedGatewayRoute,
    services: &BTreeMap<&str, &'a GatewayServiceRoutes>,
) -> Option<&'a GatewayPortRoutes> {
    let service = services.get(route.target.hostname.as_ref())?;
    service.ports.get(&route.target_port?.port)
}

/// The targets of gateway routes, each with its routes, by host name and port.
type Destinations<'a> = BTreeMap<(&'a str, u16), &'a GatewayPortRoutes>;

/// The targets of these gateway routes.
fn destinations<'a>(
    routes: impl Iterator<Item = &'a ResolvedGatewayRoute>,
    services: &BTreeMap<&'a str, &'a GatewayServiceRoutes>,
) -> Destinations<'a> {
    let targets = routes.filter_map(|route| {
        let port = route.target_port?.port;
        let (hostname, routes) = services.get_key_value(route.target.hostname.as_ref())?;
        Some(((*hostname, port), routes.ports.get(&port)?))
    });
    targets.collect()
}

/// The virtual hosts of the second pass: one for each name to which `Host` is rewritten, and `*` for requests that keep
/// their `Host`.
///
/// A kept `Host` may equal one of these names. So each virtual host also contains the targets of the gateway routes that
/// keep `Host` and accept its name.
pub(super) fn egress_hosts(
    gateway: &ResolvedGateway,
    services: &BTreeMap<&str, &GatewayServiceRoutes>,
) -> Vec<EncodedPart> {
    let (rewriting, keeping): (Vec<_>, Vec<_>) = gateway
        .routes
        .iter()
        .map(AsRef::as_ref)
        .partition(|route| route.rewrite_hostname);
    let keeping_by_host = RouteIndex::new(&keeping);
    let rewritten = destinations(rewriting.into_iter(), services);
    let hostnames: BTreeSet<&str> = rewritten.keys().map(|(hostname, _)| *hostname).collect();
    let named = hostnames.into_iter().map(|hostname| {
        let hostname_in_lower_case = hostname.to_lowercase();
        let accepting = keeping_by_host.accepting(&hostname_in_lower_case);
        let accepting = accepting.flat_map(|(positions, _)| &positions.all);
        let kept = destinations(accepting.map(|it| keeping[*it]), services);
        let others = kept
            .iter()
            .filter(|(to, _)| to.0 != hostname || !rewritten.contains_key(*to));
        let own = rewritten.range((hostname, 0)..=(hostname, u16::MAX));
        let host = service::virtual_host(hostname, names::EGRESS_PORT);
        egress_host(hostname, host, own.chain(others), services)
    });
    let kept = destinations(keeping.iter().copied(), services);
    let default = (!kept.is_empty()).then(|| {
        let host = VirtualHost {
            name: names::DEFAULT_BACKEND.to_owned(),
            domains: vec![ANY_DOMAIN.to_owned()],
            ..Default::default()
        };
        egress_host(ANY_DOMAIN, host, kept.iter(), services)
    });
    named.chain(default).collect()
}

/// A virtual host of the second pass with the routes of these targets.
fn egress_host<'a>(
    name: &str,
    host: VirtualHost,
    targets: impl Iterator<Item = (&'a (&'a str, u16), &'a &'a GatewayPortRoutes)> + Clone,
    services: &BTreeMap<&str, &GatewayServiceRoutes>,
) -> EncodedPart {
    let routes = targets.clone().flat_map(|(_, port)| port.routes.clone());
    let host = VirtualHost {
        routes: routes.collect(),
        ..host
    };
    let needs = targets.clone().flat_map(|(_, port)| port.needs.iter());
    let services = targets.filter_map(|((hostname, _), _)| services.get(hostname));
    let origins = services.flat_map(|service| service.origins.iter());
    host_part(
        name,
        host,
        needs.cloned().collect(),
        origins.cloned().collect(),
    )
}
