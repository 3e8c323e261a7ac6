//! Resolution of a route's targets.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_model::{
    Kind, Reason, ResolvedRoute, ResourceName, RouteRule, RouteTarget, ServicePort, Severity,
    Timeout,
    route::{HttpRule, TcpRule},
};

use super::{UnresolvedRoute, UnresolvedRule, UnresolvedTarget, ports};
use crate::{
    name_index::{IndexEntry, Lookup, UnresolvedRef},
    stage::Problems,
};

/// The results of looking up the targets of a router's routes.
pub(crate) type TargetLookups = BTreeMap<UnresolvedRef, Lookup<ResourceName>>;

/// Completes a route with its valid targets. `listeners` belong to the router.
pub(crate) fn resolve(
    route: &UnresolvedRoute,
    listeners: &[ServicePort],
    nodes: &TargetLookups,
    problems: &mut Problems<'_>,
) -> Option<ResolvedRoute> {
    let served_on = served_on(route, listeners, problems)?;
    let targets = route
        .targets
        .iter()
        .filter_map(|target| resolve_target(target, route, &served_on, nodes, problems))
        .collect();
    Some(ResolvedRoute {
        name: Arc::clone(&route.name),
        object: route.object.clone(),
        port: route.port,
        rule: match &route.rule {
            UnresolvedRule::Http {
                protocol,
                matches,
                requests: _, // compares routes
                retry,
                timeout,
            } => RouteRule::Http(HttpRule {
                protocol: *protocol,
                matches: matches.clone(),
                targets,
                retry: retry.clone(),
                timeout: *timeout,
            }),
            UnresolvedRule::Tcp(Timeout {
                per_request: _, // does not exist for TCP
                idle,
            }) => RouteRule::Tcp(TcpRule {
                targets,
                idle: *idle,
            }),
        },
    })
}

/// Returns the router's listeners to which the route applies, or `None` if the route does not fit any of them.
///
/// A mismatch between HTTP, HTTP/2 and gRPC is only a warning, because Flagger writes `httpRoute` for a `grpc` listener.
fn served_on(
    route: &UnresolvedRoute,
    listeners: &[ServicePort],
    problems: &mut Problems<'_>,
) -> Option<Vec<ServicePort>> {
    let protocol = route.protocol();
    let on_port: Vec<ServicePort> = listeners
        .iter()
        .filter(|listener| route.port.is_none_or(|port| listener.port == port))
        .copied()
        .collect();
    if listeners.is_empty() {
        return Some(on_port);
    }
    let Some(first) = on_port.first() else {
        problems.add(
            route.field.field("match.port"),
            Reason::PortNotFound,
            format!(
                "the router has no listener on port {}, so the route is left out; the router's ports are {}",
                route.port.unwrap_or_default(),
                ports(listeners)
            ),
        );
        return None;
    };
    if route.port.is_none() && listeners.len() > 1 {
        problems.add_with_severity(
            route.field.field("match.port"),
            Reason::PortRequired,
            Severity::Warning,
            format!(
                "the router has several listeners, so the route is served on each that fits its protocol; App Mesh requires a port, so set port to one of {} to stay compatible",
                ports(listeners)
            ),
        );
    }
    if on_port.iter().any(|listener| listener.protocol == protocol) {
        return Some(on_port);
    }
    let fitting: Vec<ServicePort> = on_port
        .iter()
        .filter(|listener| listener.protocol.is_http() == protocol.is_http())
        .copied()
        .collect();
    let (severity, consequence) = if fitting.is_empty() {
        (Severity::Error, "the route is left out")
    } else {
        (Severity::Warning, "the route is served nevertheless")
    };
    problems.add_with_severity(
        route.field.clone(),
        Reason::ProtocolMismatch,
        severity,
        format!(
            "the route's protocol is {protocol}, the listener's is {}; {consequence}; use {}Route",
            first.protocol, first.protocol
        ),
    );
    (!fitting.is_empty()).then_some(fitting)
}

fn resolve_target(
    target: &UnresolvedTarget,
    route: &UnresolvedRoute,
    served_on: &[ServicePort],
    nodes: &TargetLookups,
    problems: &mut Problems<'_>,
) -> Option<RouteTarget> {
    let node = match nodes.get(&target.node)? {
        Ok(node) => node,
        Err(error) => {
            let consequence = "the target is left out";
            let field = target.field.clone();
            error.report(
                &target.node,
                Kind::VirtualNode,
                field,
                consequence,
                problems,
            );
            return None;
        }
    };
    let ServicePort { port, protocol } = target_port(target, route, served_on, node, problems)?;
    let expected = served_on
        .iter()
        .find(|listener| listener.protocol == protocol)
        .or(served_on.first())
        .map_or(route.protocol(), |listener| listener.protocol);
    if protocol != expected {
        problems.add(
            target.field.clone(),
            Reason::ProtocolMismatch,
            format!(
                "`{}` uses {protocol} on port {port}, the router uses {expected}; the target is served nevertheless; use the same protocol for both",
                node.object
            ),
        );
    }
    Some(RouteTarget {
        node: node.name.clone(),
        port,
        protocol,
        weight: target.weight,
    })
}

/// Selects the node's listener: the one with the target's port; without a port, the only listener; otherwise the one
/// whose port and protocol a listener of the router has; otherwise the one with the route's protocol.
fn target_port(
    target: &UnresolvedTarget,
    route: &UnresolvedRoute,
    served_on: &[ServicePort],
    node: &IndexEntry<ResourceName>,
    problems: &mut Problems<'_>,
) -> Option<ServicePort> {
    if let Some(wanted) = target.port {
        let found = node.ports.iter().find(|port| port.port == wanted);
        if found.is_none() {
            problems.add(
                target.field.field("port"),
                Reason::PortNotFound,
                format!(
                    "`{}` has no listener on port {wanted}, so the target is left out; its ports are {}",
                    node.object,
                    ports(&node.ports)
                ),
            );
        }
        return found.copied();
    }
    let only = |fits: &dyn Fn(&ServicePort) -> bool| {
        let mut fitting = node.ports.iter().copied().filter(|port| fits(port));
        fitting.next().filter(|_| fitting.next().is_none())
    };
    if node.ports.is_empty() {
        problems.add(
            target.field.clone(),
            Reason::PortNotFound,
            format!(
                "`{}` has no valid listener, so the target is left out; add a listener",
                node.object
            ),
        );
        return None;
    }
    let found = only(&|_| true)
        .or_else(|| only(&|port| served_on.contains(port)))
        .or_else(|| only(&|port| port.protocol == route.protocol()));
    let (severity, consequence) = match found {
        None => (Severity::Error, "the target is left out".to_owned()),
        Some(ServicePort { port, protocol }) => {
            let why = format!("port {port} ({protocol}) is used");
            (Severity::Warning, why)
        }
    };
    if node.ports.len() > 1 {
        problems.add_with_severity(
            target.field.field("port"),
            Reason::PortRequired,
            severity,
            format!(
                "`{}` has several listeners, so {consequence}; set port to one of {}",
                node.object,
                ports(&node.ports)
            ),
        );
    }
    found
}
