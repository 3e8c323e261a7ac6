//! Parsers of the four variants of a route, without resolving references.

use std::sync::Arc;

use evermesh_crds::v1beta2;
use evermesh_model::{
    Kind, Protocol, Reason, Severity,
    problem::FieldPath,
    route::{HttpMatch, RetryEvent, RetryPolicy},
};

use super::{RouteVariant, UnresolvedRoute, UnresolvedRule, UnresolvedTarget};
use crate::{matches, seniority::ObjectAge, stage::Problems, values};

/// The limits of the AWS API. Envoy has none.
const MAX_NAME_CHARS: usize = 255;
const MAX_WEIGHTS: u64 = 100;

pub(super) fn read(
    name: Arc<str>,
    name_field: FieldPath,
    priority: Option<u32>,
    variants: [Option<RouteVariant<'_>>; 4],
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Option<UnresolvedRoute> {
    let mut variants = variants.into_iter().flatten();
    let (Some(variant), None) = (variants.next(), variants.next()) else {
        problems.add(
            field.clone(),
            Reason::InvalidUnion,
            format!("route `{name}` is left out; set exactly one of httpRoute, http2Route, grpcRoute and tcpRoute"),
        );
        return None;
    };
    if !(1..=MAX_NAME_CHARS).contains(&name.chars().count()) {
        problems.add_with_severity(
            name_field.clone(),
            Reason::InvalidValue,
            Severity::Warning,
            format!("App Mesh accepts names of 1 to {MAX_NAME_CHARS} characters only; the route is served nevertheless; rename it to stay compatible"),
        );
    }
    let (variant_field, action) = match &variant {
        RouteVariant::Http(Protocol::Http2, route) => ("http2Route", &route.action),
        RouteVariant::Http(_, route) => ("httpRoute", &route.action),
        RouteVariant::Grpc(route) => ("grpcRoute", &route.action),
        RouteVariant::Tcp(route) => ("tcpRoute", &route.action),
    };
    let field = field.field(variant_field);
    let targets = read_targets(action, &field, problems);
    let (rule, port) = match variant {
        RouteVariant::Http(protocol, route) => read_http(protocol, route, &field, problems),
        RouteVariant::Grpc(route) => read_grpc(route, &field, problems),
        RouteVariant::Tcp(route) => {
            let v1beta2::TcpRoute {
                r#match,
                action: _,
                timeout,
            } = route;
            let port = r#match.and_then(|v1beta2::TcpRouteMatch { port }| port);
            let timeout = timeout.map(values::tcp_timeout).unwrap_or_default();
            let port = values::port(port, &field.field("match"), problems);
            port.ok().map(|port| (UnresolvedRule::Tcp(timeout), port))
        }
    }?;
    Some(UnresolvedRoute {
        name,
        object: problems.object().clone(),
        name_field,
        priority,
        age: ObjectAge::default(),
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
) -> Option<(UnresolvedRule, Option<u16>)> {
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
    let route_field = field;
    let field = field.field("match");
    let path = matches::path(prefix.as_ref(), path.as_ref(), &field, problems);
    let headers = matches::headers(headers.as_ref(), &field.field("headers"), problems);
    let method = method.map(|method| matches::method(method, &field, problems));
    let query = query_parameters.as_ref();
    let query = matches::query(query, &field.field("queryParameters"), problems);
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
        retry(
            events,
            *max_retries,
            *per_retry_timeout,
            route_field,
            problems,
        )
    });
    let matches = HttpMatch {
        path: path?,
        method,
        scheme: scheme.map(matches::scheme),
        headers: headers?,
        query: query?,
    };
    let rule = UnresolvedRule::Http {
        protocol,
        requests: matches::requests(&matches, &field, problems),
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
) -> Option<(UnresolvedRule, Option<u16>)> {
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
    let route_field = field;
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
        retry(
            events,
            *max_retries,
            *per_retry_timeout,
            route_field,
            problems,
        )
    });
    let matches = HttpMatch {
        path: path?,
        method: None,
        scheme: None,
        headers: headers?,
        query: Vec::new(),
    };
    let rule = UnresolvedRule::Http {
        protocol: Protocol::Grpc,
        requests: matches::requests(&matches, &field, problems),
        matches,
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
    route: &FieldPath,
    problems: &mut Problems<'_>,
) -> RetryPolicy {
    let policy = RetryPolicy {
        max_retries: u32::try_from(max_retries).unwrap_or(u32::MAX),
        per_try_timeout: values::duration(per_retry_timeout),
        on: on.collect(),
    };
    // A policy that forbids retries needs no event.
    if policy.on.is_empty() && policy.max_retries > 0 {
        problems.add_with_severity(
            route.field("retryPolicy"),
            Reason::InvalidUnion,
            Severity::Warning,
            "no retry event is set, so nothing is retried; add an event such as server-error, or remove retryPolicy for App Mesh's default policy",
        );
    }
    policy
}

fn read_targets(
    action: &v1beta2::RouteAction,
    route: &FieldPath,
    problems: &mut Problems<'_>,
) -> Vec<UnresolvedTarget> {
    let v1beta2::RouteAction { weighted_targets } = action;
    let field = route.field("action.weightedTargets");
    if weighted_targets.iter().all(|target| target.weight == 0) {
        problems.add(
            field.clone(),
            Reason::AllWeightsZero,
            "all weights are 0, so requests are answered with 503; give at least one target a weight above 0",
        );
    }
    let sum: u64 = weighted_targets
        .iter()
        .map(|target| u64::from(target.weight))
        .sum();
    if sum > MAX_WEIGHTS {
        problems.add_with_severity(
            field.clone(),
            Reason::InvalidValue,
            Severity::Warning,
            format!("the sum of the weights is {sum}; each target gets its share nevertheless; App Mesh accepts a sum of at most {MAX_WEIGHTS}, so divide the weights to stay compatible"),
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
            let node = values::ref_or_arn(
                Kind::VirtualNode,
                virtual_node_ref.as_ref(),
                virtual_node_arn.as_ref(),
            )
            .read(&field, problems);
            let port = values::port(*port, &field, problems);
            Some(UnresolvedTarget {
                node: node?,
                port: port.ok()?,
                weight: *weight,
                field,
            })
        })
        .collect()
}
