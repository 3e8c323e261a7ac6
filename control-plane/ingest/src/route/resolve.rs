//! A route's targets, followed.
//!
//! Must not read what is written.

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

/// What references of a router's routes lead to.
pub(crate) type TargetLookups = BTreeMap<UnresolvedRef, Lookup<ResourceName>>;

/// The route with its targets, as far as they are there. `listeners` are the router's.
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
                per_request: _, // TCP has no requests
                idle,
            }) => RouteRule::Tcp(TcpRule {
                targets,
                idle: *idle,
            }),
        },
    })
}

/// The listeners of the router that the route serves. `None` if it can serve none of those there are.
///
/// Between HTTP-like protocols a mismatch is only a warning: Flagger writes `httpRoute` under a `grpc`
/// listener.
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
                "the router has no listener on port {}, so the route is left out; its ports are {}",
                route.port.unwrap_or_default(),
                ports(listeners)
            ),
        );
        return None;
    };
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
        (Severity::Warning, "it is served all the same")
    };
    problems.add_with_severity(
        route.field.clone(),
        Reason::ProtocolMismatch,
        severity,
        format!(
            "a route for {protocol} under a listener for {}; {consequence}: make it {}Route",
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
        Err(miss) => {
            let consequence = "the target is left out";
            let field = target.field.clone();
            miss.report(
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
    Some(RouteTarget {
        node: node.name.clone(),
        port,
        protocol,
        weight: target.weight,
    })
}

/// Which listener of the node is meant: the port that is given; else its only one; else the one with the
/// port and protocol of a listener of the router; else the one with the protocol of the route.
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
                    "{} has no listener on port {wanted}, so the target is left out; its ports are {}",
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
                "{} has no listener that is served, so the target is left out: give it one",
                node.object
            ),
        );
        return None;
    }
    let found = only(&|_| true)
        .or_else(|| only(&|port| served_on.contains(port)))
        .or_else(|| only(&|port| port.protocol == route.protocol()));
    if found.is_none() {
        problems.add(
            target.field.field("port"),
            Reason::PortRequired,
            format!(
                "{} has several listeners and the target is left out until one is chosen: set port to one of {}",
                node.object,
                ports(&node.ports)
            ),
        );
    }
    found
}
