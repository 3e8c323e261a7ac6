//! Resolution of a gateway route's target.

use std::sync::Arc;

use evermesh_model::{
    Kind, ObjectRef, Reason, ResolvedGatewayRoute, ServiceName, ServicePort, Severity,
    gateway::HostnameMatch,
};

use super::{AttachedRoute, GatewayRule, UnresolvedGatewayRoute};
use crate::{
    name_index::NameIndex,
    route::ports,
    stage::{ProblemReported, Problems, WithProblems},
};

/// Completes a gateway route with its target.
pub(crate) fn resolve(
    unresolved: &UnresolvedGatewayRoute,
    services: &NameIndex<ServiceName>,
) -> WithProblems<AttachedRoute> {
    let mut problems = Problems::of(&unresolved.object);
    let value = try_resolve(unresolved, services, &mut problems);
    WithProblems::new(value, problems)
}

fn try_resolve(
    unresolved: &UnresolvedGatewayRoute,
    services: &NameIndex<ServiceName>,
    problems: &mut Problems<'_>,
) -> Option<AttachedRoute> {
    let UnresolvedGatewayRoute {
        name,
        object,
        age,
        gateway,
        priority,
        rule,
    } = unresolved;
    let service = match services.look_up(&rule.target, &gateway.mesh) {
        Ok(service) => service,
        Err(error) => {
            let field = rule.target_field.field("virtualService");
            let consequence = "the route is left out";
            error.report(
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
                "`{}` uses {} on port {}, which gateway routes do not support, so the route is left out; use a service with an http, http2 or grpc port",
                service.object, port.protocol, port.port
            ),
        );
        return None;
    }
    Some(AttachedRoute {
        gateway: gateway.clone(),
        age: age.clone(),
        priority: *priority,
        requests: Arc::clone(&rule.requests),
        hostname: rule.hostname.as_ref().map(HostnameMatch::to_lowercase),
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

/// Selects the service's port: the one that the route names; otherwise the only port; otherwise the only port with the
/// route's protocol. Returns `Ok(None)` for a service without a provider, which has no ports.
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
                    "`{service}` has no port {wanted}, so the route is left out; its ports are {}",
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
    let found = of_protocol.next().filter(|_| of_protocol.next().is_none());
    let (severity, consequence) = match found {
        None => (Severity::Error, "the route is left out".to_owned()),
        Some(ServicePort { port, protocol }) => {
            let why = format!("port {port} ({protocol}) is used");
            (Severity::Warning, why)
        }
    };
    problems.add_with_severity(
        field,
        Reason::PortRequired,
        severity,
        format!(
            "`{service}` has several ports, so {consequence}; set port to one of {}",
            ports(service_ports)
        ),
    );
    found.map(|port| Some(*port)).ok_or(ProblemReported)
}
