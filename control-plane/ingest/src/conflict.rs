//! Routes of one router that claim the same requests: the first counts, the others are never reached and say so.
//!
//! Must not order routes: that is [`crate::route::UnresolvedRoute::precedence`].

use std::sync::Arc;

use evermesh_model::{
    Kind, Problem, Reason, ResolvedRoute, RouteRule, Severity, problem::FieldPath, route::HttpMatch,
};

use crate::stage::Problems;

/// What is wrong with the routes, in the order in which they are tried, that another one leaves nothing for. For an
/// object of its own that is an error; App Mesh took such routes within a router.
pub(crate) fn unreached<'a>(
    routes: impl Iterator<Item = (&'a Arc<ResolvedRoute>, &'a FieldPath)>,
) -> Vec<Problem> {
    let mut before: Vec<&ResolvedRoute> = Vec::new();
    let mut problems = Vec::new();
    for (route, field) in routes {
        let Some(winner) = before.iter().find(|first| takes_all_of(first, route)) else {
            before.push(route);
            continue;
        };
        let severity = match route.object.kind {
            Kind::Route => Severity::Error,
            _ => Severity::Warning,
        };
        let whose = if winner.object == route.object {
            String::new()
        } else {
            format!(" of {}", winner.object)
        };
        let message = format!(
            "the route `{}`{whose} takes the same requests and is tried first, so this one is never reached: match something else, or give it a smaller priority",
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

fn takes_all_of(first: &ResolvedRoute, route: &ResolvedRoute) -> bool {
    if first.port.is_some() && first.port != route.port {
        return false;
    }
    match (&first.rule, &route.rule) {
        (RouteRule::Http(first), RouteRule::Http(route)) => {
            are_same(&first.matches, &route.matches)
        }
        (RouteRule::Tcp(_), RouteRule::Tcp(_)) => true,
        _ => false,
    }
}

fn are_same(one: &HttpMatch, other: &HttpMatch) -> bool {
    fn are_all_in<T: PartialEq>(one: &[T], other: &[T]) -> bool {
        one.len() == other.len() && one.iter().all(|it| other.contains(it))
    }
    one.path == other.path
        && one.method == other.method
        && one.scheme == other.scheme
        && are_all_in(&one.headers, &other.headers)
        && are_all_in(&one.query, &other.query)
}
