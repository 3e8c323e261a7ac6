//! Problems of routes that receive no requests, because a route with precedence accepts all of them.
//!
//! [`UnresolvedRoute::precedence`] and [`AttachedRoute::precedence`] define the order of routes. A route precedes every
//! route that accepts more, so only a priority, or two equal matches, let a route receive none.

use evermesh_model::{
    GatewayListener, Kind, Problem, Reason, ServicePort, Severity, problem::FieldPath,
};

use crate::{
    gateway_route::{self, AttachedRoute},
    requests::{Claim, takers},
    route::UnresolvedRoute,
    seniority::Contender as _,
    stage::Problems,
};

/// Returns a problem for each route of a router that a preceding route leaves without requests. `routes` are in
/// descending precedence.
///
/// An equal match is an error of a `Route` object. For an inline route it is a warning, because App Mesh accepted it.
pub(crate) fn unreached(routes: &[&UnresolvedRoute], listeners: &[ServicePort]) -> Vec<Problem> {
    let claims: Vec<Claim<'_>> = routes.iter().map(|route| route.claim(listeners)).collect();
    let unreached = |(route, taker): (usize, Option<usize>)| {
        let taker = taker?;
        let (winner, loser) = (routes[taker], routes[route]);
        let owner = if winner.object == loser.object {
            String::new()
        } else {
            format!(" of `{}`", winner.object)
        };
        let severity = match loser.object.kind {
            Kind::Route => Severity::Error,
            _ => Severity::Warning,
        };
        let mut problems = Problems::of(&loser.object);
        report(
            loser.field(),
            severity,
            &format!("route `{}`{owner}", winner.name),
            (&claims[taker], &claims[route]),
            &mut problems,
        );
        Some(problems.into_list())
    };
    let takers = takers(&claims).into_iter().enumerate();
    takers.filter_map(unreached).flatten().collect()
}

/// Like [`unreached`], for the routes of a gateway. The problem is a warning, because App Mesh accepted the routes.
pub(crate) fn unreached_on_gateway(
    routes: &[&AttachedRoute],
    listeners: &[GatewayListener],
) -> Vec<Problem> {
    let claims: Vec<Claim<'_>> = routes.iter().map(|route| route.claim(listeners)).collect();
    let unreached = |(route, taker): (usize, Option<usize>)| {
        let taker = taker?;
        let (winner, loser) = (routes[taker], routes[route]);
        let mut problems = Problems::of(loser.object());
        report(
            &FieldPath::spec().field(gateway_route::field_name(loser.route.protocol)),
            Severity::Warning,
            &format!("`{}`", winner.object()),
            (&claims[taker], &claims[route]),
            &mut problems,
        );
        Some(problems.into_list())
    };
    let takers = takers(&claims).into_iter().enumerate();
    takers.filter_map(unreached).flatten().collect()
}

/// Reports a route whose requests the winner takes. `field` contains the route; `severity` is that of an equal match.
fn report(
    field: &FieldPath,
    severity: Severity,
    winner: &str,
    (winning, losing): (&Claim<'_>, &Claim<'_>),
    problems: &mut Problems<'_>,
) {
    let (reason, severity, message) = if losing.contains(winning) {
        (
            Reason::DuplicateMatch,
            severity,
            format!(
                "{winner} matches the same requests and takes precedence, so this route receives none; change its match or give it a smaller priority"
            ),
        )
    } else {
        (
            Reason::UnreachableRoute,
            Severity::Warning,
            format!(
                "{winner} has a smaller priority and matches every request of this route, so this route receives none; give this route a smaller priority than that, or change one of the two matches"
            ),
        )
    };
    problems.add_with_severity(field.field("match"), reason, severity, message);
}
