//! Detection of routes that receive no requests, because a route with precedence matches the same requests.
//!
//! [`crate::route::UnresolvedRoute::precedence`] defines the order of routes.

use std::sync::Arc;

use evermesh_model::{
    Kind, Problem, Reason, ResolvedRoute, RouteRule, Severity, problem::FieldPath, route::HttpMatch,
};

use crate::stage::Problems;

/// Returns a problem for each route that a preceding route shadows. `routes` are in descending precedence.
///
/// The problem is an error for a `Route` object and a warning for an inline route, which App Mesh accepted.
pub(crate) fn unreached<'a>(
    routes: impl Iterator<Item = (&'a Arc<ResolvedRoute>, &'a FieldPath)>,
) -> Vec<Problem> {
    let mut preceding: Vec<&ResolvedRoute> = Vec::new();
    let mut problems = Vec::new();
    for (route, field) in routes {
        let Some(winner) = preceding.iter().find(|first| shadows(first, route)) else {
            preceding.push(route);
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
        let message = format!(
            "route `{}`{owner} matches the same requests and takes precedence, so this route receives none; change its match or give it a smaller priority",
            winner.name
        );
        let mut of_route = Problems::of(&route.object);
        of_route.add_with_severity(
            field.field("match"),
            Reason::DuplicateMatch,
            severity,
            message,
        );
        problems.extend(of_route.into_list());
    }
    problems
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
