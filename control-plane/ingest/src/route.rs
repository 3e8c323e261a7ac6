//! One route of a virtual router, inline or a `Route` object.
//!
//! [`draft`] reads it alone; the router follows its targets with [`resolve`].
//!
//! Must not know the other routes of the router.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_crds::{extension, v1beta2};
use evermesh_model::{
    Kind, ObjectRef, Problem, Protocol, Reason, ResourceName, Route, RouteRule, ServicePort,
    Severity, Timeout, WeightedTarget,
    problem::FieldPath,
    route::{HttpMatch, HttpRule, RetryEvent, RetryPolicy, TcpRule},
};
use k8s_openapi::jiff::Timestamp;

use crate::{
    admission,
    directory::{Face, Found, Reference},
    matches,
    stage::{Checked, Problems},
    values,
};

/// A route whose targets are not followed yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RouteDraft {
    pub(crate) name: Arc<str>,
    pub(crate) object: ObjectRef,
    /// Where its name stands.
    pub(crate) name_field: FieldPath,
    priority: Option<u32>,
    /// When the object was created, if the cluster says so.
    created: Option<Timestamp>,
    /// `match.port`
    port: Option<u16>,
    rule: RuleDraft,
    /// `…Route`
    field: FieldPath,
    targets: Vec<TargetDraft>,
}

#[derive(Debug, Clone, PartialEq)]
enum RuleDraft {
    Http {
        protocol: Protocol,
        matches: HttpMatch,
        retry: Option<RetryPolicy>,
        timeout: Timeout,
    },
    Tcp(Timeout),
}

#[derive(Debug, Clone, PartialEq)]
struct TargetDraft {
    field: FieldPath,
    node: Reference,
    weight: u32,
    port: Option<u16>,
}

impl RouteDraft {
    /// What it speaks.
    fn protocol(&self) -> Protocol {
        match &self.rule {
            RuleDraft::Http { protocol, .. } => *protocol,
            RuleDraft::Tcp(_) => Protocol::Tcp,
        }
    }

    /// The order in which routes are tried: see [`matches::precedence`]; then inline routes before Route objects,
    /// older objects before younger ones (nobody takes over another's traffic with a new object), then by name and
    /// namespace.
    pub(crate) fn precedence(&self) -> impl Ord + use<'_> {
        let matches = match &self.rule {
            RuleDraft::Http { matches, .. } => Some(matches),
            RuleDraft::Tcp(_) => None,
        };
        (
            matches::precedence(self.priority, matches),
            self.seniority(),
        )
    }

    /// Of two routes that want the same, the one that has it.
    pub(crate) fn seniority(&self) -> impl Ord + use<'_> {
        (
            self.object.kind == Kind::Route,
            self.created.is_none(),
            self.created,
            &self.name,
            &self.object.namespace,
        )
    }

    /// `httpRoute`, `http2Route`, `grpcRoute` or `tcpRoute`, wherever it stands.
    pub(crate) const fn field(&self) -> &FieldPath {
        &self.field
    }

    /// The nodes it refers to.
    pub(crate) fn references(&self) -> impl Iterator<Item = &Reference> {
        self.targets.iter().map(|target| &target.node)
    }
}

/// One of the four kinds of route, with the word for it.
enum Written<'a> {
    Http(Protocol, &'a v1beta2::HttpRoute),
    Grpc(&'a v1beta2::GrpcRoute),
    Tcp(&'a v1beta2::TcpRoute),
}

/// An inline route.
pub(crate) fn inline(
    route: &v1beta2::Route,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Option<RouteDraft> {
    let v1beta2::Route {
        name,
        priority,
        http_route,
        http2_route,
        grpc_route,
        tcp_route,
    } = route;
    let written = [
        http_route
            .as_ref()
            .map(|route| Written::Http(Protocol::Http, route)),
        http2_route
            .as_ref()
            .map(|route| Written::Http(Protocol::Http2, route)),
        grpc_route.as_ref().map(Written::Grpc),
        tcp_route.as_ref().map(Written::Tcp),
    ];
    read(
        name.as_str().into(),
        field.field("name"),
        *priority,
        written,
        field,
        problems,
    )
}

/// A `Route` object.
pub(crate) fn draft(object: &ObjectRef, route: &extension::Route) -> Checked<RouteDraft> {
    let mut problems = Problems::of(object);
    let extension::RouteSpec {
        virtual_router_ref: _, // its router's key
        priority,
        http_route,
        http2_route,
        grpc_route,
        tcp_route,
    } = &route.spec;
    let refusals = admission::route(object, &route.spec);
    if !refusals.is_empty() {
        problems.extend(refusals);
        return Checked::new(None, problems);
    }
    let written = [
        http_route
            .as_ref()
            .map(|route| Written::Http(Protocol::Http, route)),
        http2_route
            .as_ref()
            .map(|route| Written::Http(Protocol::Http2, route)),
        grpc_route.as_ref().map(Written::Grpc),
        tcp_route.as_ref().map(Written::Tcp),
    ];
    let value = read(
        Arc::clone(&object.name),
        FieldPath::root().field("metadata.name"),
        *priority,
        written,
        &FieldPath::spec(),
        &mut problems,
    );
    let created = route.metadata.creation_timestamp.as_ref();
    let value = value.map(|draft| RouteDraft {
        created: created.map(|time| time.0),
        ..draft
    });
    Checked::new(value, problems)
}

/// The router a `Route` object belongs to.
pub(crate) fn router(object: &ObjectRef, route: &extension::Route) -> ObjectRef {
    let v1beta2::Reference { name, namespace } = &route.spec.virtual_router_ref;
    let namespace = namespace.as_deref().unwrap_or(&object.namespace);
    ObjectRef::new(Kind::VirtualRouter, namespace, name.as_str())
}

/// The problem of a `Route` object whose router is not there.
pub(crate) fn without_router(route: &ObjectRef, router: &ObjectRef) -> Problem {
    Problem::new(
        route,
        FieldPath::spec().field("virtualRouterRef"),
        Reason::ReferenceNotFound,
        format!(
            "{router} does not exist or is not usable itself; the route is not served until it is"
        ),
    )
}

fn read(
    name: Arc<str>,
    name_field: FieldPath,
    priority: Option<u32>,
    written: [Option<Written<'_>>; 4],
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Option<RouteDraft> {
    let mut written = written.into_iter().flatten();
    let (Some(written), None) = (written.next(), written.next()) else {
        problems.add(
            field.clone(),
            Reason::InvalidUnion,
            format!("the route `{name}` is left out: set exactly one of httpRoute, http2Route, grpcRoute and tcpRoute"),
        );
        return None;
    };
    let (word, action) = match &written {
        Written::Http(Protocol::Http2, route) => ("http2Route", &route.action),
        Written::Http(_, route) => ("httpRoute", &route.action),
        Written::Grpc(route) => ("grpcRoute", &route.action),
        Written::Tcp(route) => ("tcpRoute", &route.action),
    };
    let field = field.field(word);
    let targets = read_targets(action, &field, problems);
    let (rule, port) = match written {
        Written::Http(protocol, route) => read_http(protocol, route, &field, problems),
        Written::Grpc(route) => read_grpc(route, &field, problems),
        Written::Tcp(route) => {
            let v1beta2::TcpRoute {
                r#match,
                action: _,
                timeout,
            } = route;
            let port = r#match.and_then(|v1beta2::TcpRouteMatch { port }| port);
            let timeout = timeout.map(values::tcp_timeout).unwrap_or_default();
            let port = values::port(port, &field.field("match"), problems);
            port.ok().map(|port| (RuleDraft::Tcp(timeout), port))
        }
    }?;
    Some(RouteDraft {
        name,
        object: problems.object().clone(),
        name_field,
        priority,
        created: None,
        port,
        rule,
        field,
        targets,
    })
}

fn read_http(
    protocol: Protocol,
    route: &v1beta2::HttpRoute,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Option<(RuleDraft, Option<u16>)> {
    let v1beta2::HttpRoute {
        r#match:
            v1beta2::HttpRouteMatch {
                prefix,
                path,
                method,
                scheme,
                headers,
                query_parameters,
                port,
            },
        action: _,
        retry_policy,
        timeout,
    } = route;
    let field = field.field("match");
    let path = matches::path(prefix.as_ref(), path.as_ref(), &field, problems);
    let headers = matches::headers(headers.as_ref(), &field.field("headers"), problems);
    let port = values::port(*port, &field, problems);
    let retry = retry_policy.as_ref().map(|policy| {
        let v1beta2::HttpRetryPolicy {
            http_retry_events,
            tcp_retry_events,
            max_retries,
            per_retry_timeout,
        } = policy;
        let events =
            http_events(http_retry_events.as_ref()).chain(tcp_events(tcp_retry_events.as_ref()));
        retry(events, *max_retries, *per_retry_timeout)
    });
    let matches = HttpMatch {
        path: path?,
        method: method.map(matches::method),
        scheme: scheme.map(matches::scheme),
        headers: headers?,
        query: matches::query(query_parameters.as_ref()),
    };
    let rule = RuleDraft::Http {
        protocol,
        matches,
        retry,
        timeout: timeout.map(values::http_timeout).unwrap_or_default(),
    };
    Some((rule, port.ok()?))
}

fn read_grpc(
    route: &v1beta2::GrpcRoute,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Option<(RuleDraft, Option<u16>)> {
    let v1beta2::GrpcRoute {
        r#match:
            v1beta2::GrpcRouteMatch {
                service_name,
                method_name,
                metadata,
                port,
            },
        action: _,
        retry_policy,
        timeout,
    } = route;
    let field = field.field("match");
    let path = matches::grpc_path(
        service_name.as_ref(),
        method_name.as_ref(),
        &field,
        problems,
    );
    let headers = matches::headers(metadata.as_ref(), &field.field("metadata"), problems);
    let port = values::port(*port, &field, problems);
    let retry = retry_policy.as_ref().map(|policy| {
        let v1beta2::GrpcRetryPolicy {
            grpc_retry_events,
            http_retry_events,
            tcp_retry_events,
            max_retries,
            per_retry_timeout,
        } = policy;
        let events = grpc_events(grpc_retry_events.as_ref())
            .chain(http_events(http_retry_events.as_ref()))
            .chain(tcp_events(tcp_retry_events.as_ref()));
        retry(events, *max_retries, *per_retry_timeout)
    });
    let rule = RuleDraft::Http {
        protocol: Protocol::Grpc,
        matches: HttpMatch {
            path: path?,
            method: None,
            scheme: None,
            headers: headers?,
            query: Vec::new(),
        },
        retry,
        timeout: timeout.map(values::http_timeout).unwrap_or_default(),
    };
    Some((rule, port.ok()?))
}

fn http_events(events: Option<&Vec<v1beta2::HttpRetryEvent>>) -> impl Iterator<Item = RetryEvent> {
    events.into_iter().flatten().map(|event| match event {
        v1beta2::HttpRetryEvent::ServerError => RetryEvent::ServerError,
        v1beta2::HttpRetryEvent::GatewayError => RetryEvent::GatewayError,
        v1beta2::HttpRetryEvent::ClientError => RetryEvent::ClientError,
        v1beta2::HttpRetryEvent::StreamError => RetryEvent::StreamError,
    })
}

fn tcp_events(events: Option<&Vec<v1beta2::TcpRetryEvent>>) -> impl Iterator<Item = RetryEvent> {
    events.into_iter().flatten().map(|event| match event {
        v1beta2::TcpRetryEvent::ConnectionError => RetryEvent::ConnectionError,
    })
}

fn grpc_events(events: Option<&Vec<v1beta2::GrpcRetryEvent>>) -> impl Iterator<Item = RetryEvent> {
    events.into_iter().flatten().map(|event| match event {
        v1beta2::GrpcRetryEvent::Cancelled => RetryEvent::GrpcCancelled,
        v1beta2::GrpcRetryEvent::DeadlineExceeded => RetryEvent::GrpcDeadlineExceeded,
        v1beta2::GrpcRetryEvent::Internal => RetryEvent::GrpcInternal,
        v1beta2::GrpcRetryEvent::ResourceExhausted => RetryEvent::GrpcResourceExhausted,
        v1beta2::GrpcRetryEvent::Unavailable => RetryEvent::GrpcUnavailable,
    })
}

fn retry(
    on: impl Iterator<Item = RetryEvent>,
    max_retries: u64,
    per_retry_timeout: v1beta2::Duration,
) -> RetryPolicy {
    RetryPolicy {
        max_retries: u32::try_from(max_retries).unwrap_or(u32::MAX),
        per_try_timeout: values::duration(per_retry_timeout),
        on: on.collect(),
    }
}

fn read_targets(
    action: &v1beta2::RouteAction,
    route: &FieldPath,
    problems: &mut Problems<'_>,
) -> Vec<TargetDraft> {
    let v1beta2::RouteAction { weighted_targets } = action;
    let field = route.field("action.weightedTargets");
    if weighted_targets.iter().all(|target| target.weight == 0) {
        problems.add(
            field.clone(),
            Reason::AllWeightsZero,
            "no target has a weight, so requests are answered 503: give one of them a weight above 0",
        );
    }
    weighted_targets
        .iter()
        .enumerate()
        .filter_map(|(index, target)| {
            let v1beta2::WeightedTarget {
                virtual_node_ref,
                virtual_node_arn,
                weight,
                port,
            } = target;
            let field = field.index(index);
            let node = values::written(
                Kind::VirtualNode,
                virtual_node_ref.as_ref(),
                virtual_node_arn.as_ref(),
            )
            .read(&field, problems);
            let port = values::port(*port, &field, problems);
            Some(TargetDraft {
                node: node?,
                port: port.ok()?,
                weight: *weight,
                field,
            })
        })
        .collect()
}

/// What references of a router's routes lead to.
pub(crate) type Nodes = BTreeMap<Reference, Found<ResourceName>>;

/// The route with its targets, as far as they are there. `listeners` are the router's.
pub(crate) fn resolve(
    route: &RouteDraft,
    listeners: &[ServicePort],
    nodes: &Nodes,
    problems: &mut Problems<'_>,
) -> Option<Route> {
    let served_on = served_on(route, listeners, problems)?;
    let targets = route
        .targets
        .iter()
        .filter_map(|target| resolve_target(target, route, &served_on, nodes, problems))
        .collect();
    Some(Route {
        name: Arc::clone(&route.name),
        object: route.object.clone(),
        port: route.port,
        rule: match &route.rule {
            RuleDraft::Http {
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
            RuleDraft::Tcp(Timeout {
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
    route: &RouteDraft,
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
    target: &TargetDraft,
    route: &RouteDraft,
    served_on: &[ServicePort],
    nodes: &Nodes,
    problems: &mut Problems<'_>,
) -> Option<WeightedTarget> {
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
    Some(WeightedTarget {
        node: node.name.clone(),
        port,
        protocol,
        weight: target.weight,
    })
}

/// Which listener of the node is meant: the port that is given; else its only one; else the one with the
/// port and protocol of a listener of the router; else the one with the protocol of the route.
fn target_port(
    target: &TargetDraft,
    route: &RouteDraft,
    served_on: &[ServicePort],
    node: &Face<ResourceName>,
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

/// Ports as a list for people.
pub(crate) fn ports(ports: &[ServicePort]) -> String {
    if ports.is_empty() {
        return "none".to_owned();
    }
    let words: Vec<String> = ports
        .iter()
        .map(|ServicePort { port, protocol }| format!("{port} ({protocol})"))
        .collect();
    words.join(", ")
}
