//! A gateway route's target, followed.
//!
//! Must not read what is written.

use std::sync::Arc;

use evermesh_model::{
    Kind, ObjectRef, Reason, ResolvedGatewayRoute, ServiceName, ServicePort, Severity,
};

use super::{AttachedRoute, GatewayRule, UnresolvedGatewayRoute};
use crate::{
    name_index::NameIndex,
    route::ports,
    stage::{ProblemReported, Problems, WithProblems},
};

/// Follows the target.
pub(crate) fn resolve(
    draft: &UnresolvedGatewayRoute,
    services: &NameIndex<ServiceName>,
) -> WithProblems<AttachedRoute> {
    let mut problems = Problems::of(&draft.object);
    let value = try_resolve(draft, services, &mut problems);
    WithProblems::new(value, problems)
}

fn try_resolve(
    draft: &UnresolvedGatewayRoute,
    services: &NameIndex<ServiceName>,
    problems: &mut Problems<'_>,
) -> Option<AttachedRoute> {
    let UnresolvedGatewayRoute {
        name,
        object,
        gateway,
        priority,
        rule,
    } = draft;
    let service = match services.look_up(&rule.target, &gateway.mesh) {
        Ok(service) => service,
        Err(miss) => {
            let field = rule.target_field.field("virtualService");
            let consequence = "the route is left out";
            miss.report(
                &rule.target,
                Kind::VirtualService,
                field,
                consequence,
                problems,
            );
            return None;
        }
    };
    let target_port = target_port(rule, &service.object, &service.ports, problems).ok()?;
    if let Some(port) = target_port
        && !port.protocol.is_http()
    {
        problems.add_with_severity(
            rule.target_field.field("virtualService"),
            Reason::ProtocolMismatch,
            Severity::Error,
            format!(
                "{} speaks {} on port {}, which no gateway route leads to; the route is left out",
                service.object, port.protocol, port.port
            ),
        );
        return None;
    }
    Some(AttachedRoute {
        gateway: gateway.clone(),
        priority: *priority,
        route: Arc::new(ResolvedGatewayRoute {
            name: Arc::clone(name),
            object: object.clone(),
            protocol: rule.protocol,
            port: rule.port,
            hostname: rule.hostname.clone(),
            matches: rule.matches.clone(),
            target: service.name.clone(),
            target_port,
            rewrite_hostname: rule.rewrite_hostname,
            rewrite_path: rule.rewrite_path.clone(),
        }),
    })
}

/// Which port of the service is meant: the one that is given; else its only one; else the only one with
/// the protocol of the route. A service without ports, because nobody answers for it, has none to choose.
fn target_port(
    rule: &GatewayRule,
    service: &ObjectRef,
    service_ports: &[ServicePort],
    problems: &mut Problems<'_>,
) -> Result<Option<ServicePort>, ProblemReported> {
    if service_ports.is_empty() {
        return Ok(None);
    }
    let field = rule.target_field.field("port");
    if let Some(wanted) = rule.target_port {
        let found = service_ports.iter().find(|port| port.port == wanted);
        if found.is_none() {
            problems.add(
                field,
                Reason::PortNotFound,
                format!(
                    "{service} is not reached on port {wanted}, so the route is left out; its ports are {}",
                    ports(service_ports)
                ),
            );
        }
        return found.map(|port| Some(*port)).ok_or(ProblemReported);
    }
    if let [port] = service_ports {
        return Ok(Some(*port));
    }
    let mut of_protocol = service_ports
        .iter()
        .filter(|port| port.protocol == rule.protocol);
    if let (Some(port), None) = (of_protocol.next(), of_protocol.next()) {
        return Ok(Some(*port));
    }
    problems.add(
        field,
        Reason::PortRequired,
        format!(
            "{service} is reached on several ports and the route is left out until one is chosen: set port to one of {}",
            ports(service_ports)
        ),
    );
    Err(ProblemReported)
}
