//! `GatewayRoute` → [`GatewayRoute`], attached to a gateway.
//!
//! [`draft`] reads the object and finds its gateway, [`resolve`] follows its target.
//!
//! Must not know the other routes of the gateway.

use std::sync::Arc;

use evermesh_crds::v1beta2::{self, DefaultRewrite};
use evermesh_model::{
    GatewayRoute, Kind, ObjectRef, Protocol, Reason, ResourceName, ServiceName, ServicePort,
    Severity,
    gateway::{HostnameMatch, PathRewrite},
    problem::FieldPath,
    route::{HttpMatch, PathMatch},
};

use crate::{
    admission,
    directory::{Directory, Reference},
    gateway::{GatewayDraft, Gateways},
    gateway_admission, matches,
    membership::{Labels, Membership, list},
    route::ports,
    stage::{Checked, Problems, Reported},
    values,
};

/// A gateway route whose target is not followed yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GatewayRouteDraft {
    name: Arc<str>,
    object: ObjectRef,
    gateway: ResourceName,
    priority: Option<u32>,
    rule: Rule,
}

/// What is common to the three kinds of gateway route.
#[derive(Debug, Clone, PartialEq)]
struct Rule {
    protocol: Protocol,
    port: Option<u16>,
    hostname: Option<HostnameMatch>,
    matches: HttpMatch,
    target: Reference,
    target_port: Option<u16>,
    /// `…Route.action.target`
    target_field: FieldPath,
    rewrite_hostname: bool,
    rewrite_path: PathRewrite,
}

/// A gateway route that is complete, and where it belongs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AttachedRoute {
    pub(crate) gateway: ResourceName,
    priority: Option<u32>,
    pub(crate) route: Arc<GatewayRoute>,
}

impl AttachedRoute {
    /// Where it stands among the routes of its gateway.
    pub(crate) fn precedence(&self) -> impl Ord + use<'_> {
        (
            matches::precedence(self.priority, Some(&self.route.matches)),
            &self.route.name,
            &self.route.object,
        )
    }
}

/// Reads the object. `namespace` are the labels of its namespace.
pub(crate) fn draft(
    object: &ObjectRef,
    route: &v1beta2::GatewayRoute,
    membership: &Membership,
    namespace: &Labels,
    gateways: &Gateways,
) -> Checked<GatewayRouteDraft> {
    let mut problems = Problems::of(object);
    let value = try_draft(route, membership, namespace, gateways, &mut problems);
    Checked::new(value, problems)
}

fn try_draft(
    route: &v1beta2::GatewayRoute,
    membership: &Membership,
    namespace: &Labels,
    gateways: &Gateways,
    problems: &mut Problems<'_>,
) -> Option<GatewayRouteDraft> {
    let object = problems.object();
    let v1beta2::GatewayRouteSpec {
        aws_name,
        priority,
        http_route,
        http2_route,
        grpc_route,
        virtual_gateway_ref,
        mesh_ref,
    } = &route.spec;
    let refusals = gateway_admission::validate(object, &route.spec);
    let is_refused = !refusals.is_empty();
    problems.extend(refusals);
    let reference = mesh_ref.as_ref().map(|mesh| mesh.name.as_str());
    let mesh = membership.mesh(reference, problems)?;
    let name = values::name(admission::aws_name(object, aws_name.as_deref()), problems)?;
    if is_refused {
        return None;
    }
    let empty = Labels::new();
    let labels = route.metadata.labels.as_ref().unwrap_or(&empty);
    let gateway = match virtual_gateway_ref {
        Some(reference) => named_gateway(reference, &mesh.name, gateways, problems),
        None => selecting_gateway(labels, namespace, &mesh.name, gateways, problems),
    }?;
    let rule = match (http_route, http2_route, grpc_route) {
        (Some(route), _, _) => read_http(Protocol::Http, route, problems),
        (None, Some(route), _) => read_http(Protocol::Http2, route, problems),
        (None, None, Some(route)) => read_grpc(route, problems),
        // Refused above.
        (None, None, None) => None,
    }?;
    port_is_served(&rule, gateway, problems).then(|| GatewayRouteDraft {
        name,
        object: object.clone(),
        gateway: gateway.name.clone(),
        priority: *priority,
        rule,
    })
}

fn named_gateway<'a>(
    reference: &v1beta2::VirtualGatewayReference,
    mesh: &Arc<str>,
    gateways: &'a Gateways,
    problems: &mut Problems<'_>,
) -> Option<&'a GatewayDraft> {
    let v1beta2::VirtualGatewayReference {
        name,
        namespace,
        uid: _, // another one of the name is as good
    } = reference;
    let own = &problems.object().namespace;
    let wanted = ObjectRef::new(
        Kind::VirtualGateway,
        namespace.as_deref().unwrap_or(own),
        name.as_str(),
    );
    let found = gateways
        .values
        .values()
        .find(|gateway| gateway.object == wanted);
    let (reason, message) = match found {
        Some(gateway) if gateway.name.mesh == *mesh => return Some(gateway),
        Some(gateway) => (
            Reason::MeshMismatch,
            format!(
                "{wanted} belongs to the mesh `{}`, this route to `{mesh}`: refer to a gateway of the same mesh",
                gateway.name.mesh
            ),
        ),
        None => (
            Reason::GatewayNotFound,
            format!(
                "{wanted} does not exist or is not usable itself; the route is not served until it is"
            ),
        ),
    };
    problems.add(
        FieldPath::spec().field("virtualGatewayRef"),
        reason,
        message,
    );
    None
}

fn selecting_gateway<'a>(
    route: &Labels,
    namespace: &Labels,
    mesh: &Arc<str>,
    gateways: &'a Gateways,
    problems: &mut Problems<'_>,
) -> Option<&'a GatewayDraft> {
    let selecting: Vec<&GatewayDraft> = gateways
        .values
        .values()
        .map(|gateway| &**gateway)
        .filter(|gateway| gateway.name.mesh == *mesh && gateway.selects(namespace, route))
        .collect();
    let (reason, message) = match selecting.as_slice() {
        [gateway] => return Some(gateway),
        [] => (
            Reason::GatewayNotFound,
            format!(
                "no virtual gateway of the mesh `{mesh}` selects this route and its namespace; label them as a gateway's gatewayRouteSelector and namespaceSelector want, or set spec.virtualGatewayRef"
            ),
        ),
        several => {
            let names: Vec<&ObjectRef> = several.iter().map(|gateway| &gateway.object).collect();
            (
                Reason::GatewayAmbiguous,
                format!(
                    "{} all select this route; narrow their selectors to one, or set spec.virtualGatewayRef",
                    list(&names)
                ),
            )
        }
    };
    problems.add(
        FieldPath::spec().field("virtualGatewayRef"),
        reason,
        message,
    );
    None
}

/// Whether the gateway has the port that is matched.
fn port_is_served(rule: &Rule, gateway: &GatewayDraft, problems: &mut Problems<'_>) -> bool {
    let field = FieldPath::spec().field(word(rule.protocol));
    let listeners = &gateway.listeners;
    if let Some(port) = rule.port
        && listeners.iter().all(|listener| listener.port != port)
    {
        problems.add(
            field.field("match.port"),
            Reason::PortNotFound,
            format!(
                "{} has no listener on port {port}, so the route is left out; its ports are {}",
                gateway.object,
                ports(listeners)
            ),
        );
        return false;
    }
    let mut served = listeners
        .iter()
        .filter(|listener| rule.port.is_none_or(|port| listener.port == port))
        .peekable();
    if let Some(first) = served.peek().copied()
        && served.all(|listener| listener.protocol != rule.protocol)
    {
        problems.add(
            field,
            Reason::ProtocolMismatch,
            format!(
                "a route for {} at a listener for {}; it is served all the same: make it {}Route",
                rule.protocol, first.protocol, first.protocol
            ),
        );
    }
    true
}

const fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http | Protocol::Tcp => "httpRoute",
        Protocol::Http2 => "http2Route",
        Protocol::Grpc => "grpcRoute",
    }
}

fn read_http(
    protocol: Protocol,
    route: &v1beta2::HttpGatewayRoute,
    problems: &mut Problems<'_>,
) -> Option<Rule> {
    let v1beta2::HttpGatewayRoute {
        r#match:
            v1beta2::HttpGatewayRouteMatch {
                prefix,
                path,
                hostname,
                method,
                headers,
                query_parameters,
                port,
            },
        action: v1beta2::HttpGatewayRouteAction { target, rewrite },
    } = route;
    let route = FieldPath::spec().field(word(protocol));
    let field = route.field("match");
    let path = matches::path(prefix.as_ref(), path.as_ref(), &field, problems);
    let headers = matches::headers(headers.as_ref(), &field.field("headers"), problems);
    let port = values::port(*port, &field, problems);
    let hostname = read_hostname(hostname.as_ref(), &field.field("hostname"), problems);
    let target = read_target(target, &route, problems);
    let path = path?;
    let (rewrite_hostname, rewrite_path) = match rewrite {
        Some(v1beta2::HttpGatewayRouteRewrite {
            hostname,
            prefix,
            path: whole,
        }) => (
            rewrites_hostname(*hostname),
            read_path_rewrite(
                &path,
                prefix.as_ref(),
                whole.as_ref(),
                &route.field("action.rewrite"),
                problems,
            ),
        ),
        None => (true, default_path_rewrite(&path)),
    };
    let (target, target_port) = target?;
    Some(Rule {
        protocol,
        port: port.ok()?,
        hostname: hostname.ok()?,
        matches: HttpMatch {
            path,
            method: method.map(matches::method),
            scheme: None,
            headers: headers?,
            query: matches::query(query_parameters.as_ref()),
        },
        target,
        target_port,
        target_field: route.field("action.target"),
        rewrite_hostname,
        rewrite_path,
    })
}

fn read_grpc(route: &v1beta2::GrpcGatewayRoute, problems: &mut Problems<'_>) -> Option<Rule> {
    let v1beta2::GrpcGatewayRoute {
        r#match:
            v1beta2::GrpcGatewayRouteMatch {
                service_name,
                hostname,
                metadata,
                port,
            },
        action: v1beta2::GrpcGatewayRouteAction { target, rewrite },
    } = route;
    let route = FieldPath::spec().field(word(Protocol::Grpc));
    let field = route.field("match");
    let path = matches::grpc_path(service_name.as_ref(), None, &field, problems);
    let headers = matches::headers(metadata.as_ref(), &field.field("metadata"), problems);
    let port = values::port(*port, &field, problems);
    let hostname = read_hostname(hostname.as_ref(), &field.field("hostname"), problems);
    let (target, target_port) = read_target(target, &route, problems)?;
    Some(Rule {
        protocol: Protocol::Grpc,
        port: port.ok()?,
        hostname: hostname.ok()?,
        matches: HttpMatch {
            path: path?,
            method: None,
            scheme: None,
            headers: headers?,
            query: Vec::new(),
        },
        target,
        target_port,
        target_field: route.field("action.target"),
        rewrite_hostname: rewrite.is_none_or(|v1beta2::GrpcGatewayRouteRewrite { hostname }| {
            rewrites_hostname(hostname)
        }),
        rewrite_path: PathRewrite::Keep,
    })
}

fn rewrites_hostname(rewrite: Option<v1beta2::GatewayRouteHostnameRewrite>) -> bool {
    let written = rewrite.and_then(
        |v1beta2::GatewayRouteHostnameRewrite {
             default_target_hostname,
         }| default_target_hostname,
    );
    written.is_none_or(|written| written == DefaultRewrite::Enabled)
}

/// App Mesh's default: the matched prefix becomes `/`, a whole path stays.
fn default_path_rewrite(path: &PathMatch) -> PathRewrite {
    match path {
        PathMatch::Prefix(_) => PathRewrite::Prefix("/".into()),
        PathMatch::Exact(_) | PathMatch::Regex(_) => PathRewrite::Keep,
    }
}

fn read_path_rewrite(
    path: &PathMatch,
    prefix: Option<&v1beta2::HttpGatewayRoutePrefixRewrite>,
    whole: Option<&v1beta2::HttpGatewayRoutePathRewrite>,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> PathRewrite {
    if let Some(v1beta2::HttpGatewayRoutePathRewrite { exact: Some(exact) }) = whole {
        return PathRewrite::Full(exact.as_str().into());
    }
    let Some(v1beta2::HttpGatewayRoutePrefixRewrite {
        default_prefix,
        value,
    }) = prefix
    else {
        return default_path_rewrite(path);
    };
    if !matches!(path, PathMatch::Prefix(_)) {
        problems.add_with_severity(
            field.field("prefix"),
            Reason::InvalidValue,
            Severity::Warning,
            "the route matches whole paths, which have no prefix to replace; the path stays: write rewrite.path",
        );
        return PathRewrite::Keep;
    }
    match (default_prefix, value) {
        (_, Some(value)) => PathRewrite::Prefix(value.as_str().into()),
        (Some(DefaultRewrite::Disabled), None) => PathRewrite::Keep,
        (Some(DefaultRewrite::Enabled) | None, None) => default_path_rewrite(path),
    }
}

/// The match of a host name, if there is one.
fn read_hostname(
    hostname: Option<&v1beta2::GatewayRouteHostnameMatch>,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Result<Option<HostnameMatch>, Reported> {
    let Some(v1beta2::GatewayRouteHostnameMatch { exact, suffix }) = hostname else {
        return Ok(None);
    };
    let (word, text) = match (exact, suffix) {
        (Some(exact), None) => ("exact", exact),
        (None, Some(suffix)) => ("suffix", suffix),
        (Some(_), Some(_)) | (None, None) => {
            problems.add(
                field.clone(),
                Reason::InvalidUnion,
                "the route is left out: set exactly one of exact and suffix",
            );
            return Err(Reported);
        }
    };
    if !values::is_name(text) {
        problems.add(
            field.field(word),
            Reason::InvalidValue,
            format!("`{text}` is no host name, so the route is left out: write `shop.example.com`, or the suffix `.example.com`"),
        );
        return Err(Reported);
    }
    Ok(Some(match word {
        "exact" => HostnameMatch::Exact(text.as_str().into()),
        _ => HostnameMatch::Suffix(text.as_str().into()),
    }))
}

fn read_target(
    target: &v1beta2::GatewayRouteTarget,
    route: &FieldPath,
    problems: &mut Problems<'_>,
) -> Option<(Reference, Option<u16>)> {
    let v1beta2::GatewayRouteTarget {
        virtual_service:
            v1beta2::GatewayRouteVirtualService {
                virtual_service_ref,
                virtual_service_arn,
            },
        port,
    } = target;
    let field = route.field("action.target");
    let service = values::written(
        Kind::VirtualService,
        virtual_service_ref.as_ref(),
        virtual_service_arn.as_ref(),
    )
    .read(&field.field("virtualService"), problems);
    let port = values::port(*port, &field, problems);
    Some((service?, port.ok()?))
}

/// Follows the target.
pub(crate) fn resolve(
    draft: &GatewayRouteDraft,
    services: &Directory<ServiceName>,
) -> Checked<AttachedRoute> {
    let mut problems = Problems::of(&draft.object);
    let value = try_resolve(draft, services, &mut problems);
    Checked::new(value, problems)
}

fn try_resolve(
    draft: &GatewayRouteDraft,
    services: &Directory<ServiceName>,
    problems: &mut Problems<'_>,
) -> Option<AttachedRoute> {
    let GatewayRouteDraft {
        name,
        object,
        gateway,
        priority,
        rule,
    } = draft;
    let service = match services.find(&rule.target, &gateway.mesh) {
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
        route: Arc::new(GatewayRoute {
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
    rule: &Rule,
    service: &ObjectRef,
    service_ports: &[ServicePort],
    problems: &mut Problems<'_>,
) -> Result<Option<ServicePort>, Reported> {
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
        return found.map(|port| Some(*port)).ok_or(Reported);
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
    Err(Reported)
}
