//! Detection of routes that receive no requests, because a route with precedence matches the same requests.
//!
//! [`crate::route::UnresolvedRoute::precedence`] and [`crate::gateway_route::AttachedRoute::precedence`] define the order
//! of routes.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_model::{
    Kind, ObjectRef, Problem, Reason, ResolvedGatewayRoute, ResolvedRoute, RouteRule, Severity,
    gateway::HostnameMatch,
    problem::FieldPath,
    route::{HttpMatch, PathMatch},
};

use crate::{gateway_route, stage::Problems};

/// Returns a problem for each route that a preceding route shadows. `routes` are in descending precedence.
///
/// The problem is an error for a `Route` object and a warning for an inline route, which App Mesh accepted.
pub(crate) fn unreached<'a>(
    routes: impl Iterator<Item = (&'a Arc<ResolvedRoute>, &'a FieldPath)>,
) -> Vec<Problem> {
    // Only a route with the same path can shadow another one. A router may have thousands of paths.
    let mut preceding = BTreeMap::<Option<&PathMatch>, Vec<&ResolvedRoute>>::new();
    let mut problems = Vec::new();
    for (route, field) in routes {
        let path = match &route.rule {
            RouteRule::Http(rule) => Some(&rule.matches.path),
            RouteRule::Tcp(_) => None,
        };
        let group = preceding.entry(path).or_default();
        let Some(winner) = group.iter().find(|first| shadows(first, route)) else {
            group.push(route);
            continue;
        };
        let severity = match route.object.kind {
            Kind::Route => Severity::Error,
            _ => Severity::Warning,
        };
        let owner = if winner.object == route.object {
            String::new()
        } else {
            format!(" of `{}`", winner.object)
        };
        let winner = format!("route `{}`{owner}", winner.name);
        problems.extend(problem(&route.object, field, severity, &winner));
    }
    problems
}

/// Like [`unreached`], for the routes of a gateway. The problem is a warning, because App Mesh accepted the routes.
///
/// The order of precedence implies that only a route with the same host name can shadow another one.
pub(crate) fn unreached_on_gateway<'a>(
    routes: impl Iterator<Item = &'a ResolvedGatewayRoute>,
) -> Vec<Problem> {
    let mut preceding = BTreeMap::<_, Vec<&ResolvedGatewayRoute>>::new();
    let mut problems = Vec::new();
    for route in routes {
        let hostname = route.hostname.as_ref().map(HostnameMatch::to_lowercase);
        let group = preceding
            .entry((hostname, &route.matches.path))
            .or_default();
        let shadows = |first: &ResolvedGatewayRoute| {
            first.port.is_none_or(|port| route.port == Some(port))
                && are_equal(&first.matches, &route.matches)
        };
        let Some(winner) = group.iter().find(|first| shadows(first)) else {
            group.push(route);
            continue;
        };
        let field = FieldPath::spec().field(gateway_route::field_name(route.protocol));
        let winner = format!("`{}`", winner.object);
        problems.extend(problem(&route.object, &field, Severity::Warning, &winner));
    }
    problems
}

/// The problem of a route that a preceding one shadows. `field` contains the route.
fn problem(route: &ObjectRef, field: &FieldPath, severity: Severity, winner: &str) -> Vec<Problem> {
    let mut problems = Problems::of(route);
    problems.add_with_severity(
        field.field("match"),
        Reason::DuplicateMatch,
        severity,
        format!(
            "{winner} matches the same requests and takes precedence, so this route receives none; change its match or give it a smaller priority"
        ),
    );
    problems.into_list()
}

fn shadows(first: &ResolvedRoute, route: &ResolvedRoute) -> bool {
    if first.port.is_some() && first.port != route.port {
        return false;
    }
    match (&first.rule, &route.rule) {
        (RouteRule::Http(first), RouteRule::Http(route)) => {
            are_equal(&first.matches, &route.matches)
        }
        (RouteRule::Tcp(_), RouteRule::Tcp(_)) => true,
        _ => false,
    }
}

fn are_equal(one: &HttpMatch, other: &HttpMatch) -> bool {
    fn have_same_items<T: PartialEq>(one: &[T], other: &[T]) -> bool {
        one.len() == other.len() && one.iter().all(|item| other.contains(item))
    }
    one.path == other.path
        && one.method == other.method
        && one.scheme == other.scheme
        && have_same_items(&one.headers, &other.headers)
        && have_same_items(&one.query, &other.query)
}
