//! Routes: a rule of a router as an Envoy route, with its match, weighted clusters, timeouts and retry policy.
//!
//! A route does not depend on the virtual host or proxy that will contain it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use evermesh_model::{
    RouteTarget, ServicePort, Timeout,
    route::{
        HttpMatch, HttpRule, PathMatch, QueryMatch, RequestHeaderMatch, RetryEvent, RetryPolicy,
        ValueMatch,
    },
};
use evermesh_proto::{
    matcher::{RegexMatcher, StringMatcher, string_matcher::MatchPattern},
    pack,
    pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate,
    route::{
        self, DirectResponseAction, HeaderMatcher, QueryParameterMatcher, Route, RouteAction,
        RouteMatch, WeightedCluster,
        header_matcher::HeaderMatchSpecifier,
        query_parameter_matcher::QueryParameterMatchSpecifier,
        retry_policy::{RetryHostPredicate, retry_host_predicate},
        route::Action,
        route_action::ClusterSpecifier,
        route_match::PathSpecifier,
        weighted_cluster::ClusterWeight,
    },
    types::Int64Range,
};

use crate::{http::filter, names, tls::ClusterNames, wire};

/// The route for an HTTP rule. `name` appears in access logs as `%ROUTE_NAME%`.
pub(crate) fn http_route(name: &str, rule: &HttpRule, names: ClusterNames<'_>) -> Route {
    let HttpRule {
        protocol: _,
        matches,
        targets,
        retry,
        timeout,
    } = rule;
    let action = match cluster_specifier(targets, names) {
        Some(clusters) => Action::Route(RouteAction {
            retry_policy: match retry {
                None => Some(default_retry_policy()),
                Some(policy) => retry_policy(policy),
            },
            ..route_action(clusters, *timeout)
        }),
        None => Action::DirectResponse(DirectResponseAction {
            status: 503,
            ..Default::default()
        }),
    };
    Route {
        name: name.to_owned(),
        r#match: Some(route_match(matches)),
        action: Some(action),
        typed_per_filter_config: filter::on_route(rule),
        ..Default::default()
    }
}

/// A route action with the timeouts of App Mesh: by default 15 seconds for each request. An idle timeout replaces the
/// `stream_idle_timeout` of the connection manager.
pub(crate) fn route_action(clusters: ClusterSpecifier, timeout: Timeout) -> RouteAction {
    let Timeout { per_request, idle } = timeout;
    let per_request = per_request.unwrap_or(Timeout::DEFAULT_PER_REQUEST);
    RouteAction {
        timeout: Some(wire::duration(per_request)),
        idle_timeout: idle.map(wire::duration),
        cluster_specifier: Some(clusters),
        ..Default::default()
    }
}

/// The name of the shared cluster of a target.
pub(crate) fn target_cluster(target: &RouteTarget) -> Arc<str> {
    let RouteTarget {
        node,
        port,
        protocol,
        weight: _,
    } = target;
    let port = ServicePort {
        port: *port,
        protocol: *protocol,
    };
    names::node_cluster(node, port)
}

/// The targets that the route names: all of them, or none if every weight is 0, because Envoy refuses weighted clusters
/// whose weights sum to 0.
pub(crate) fn served_targets(targets: &[RouteTarget]) -> &[RouteTarget] {
    if targets.iter().all(|target| target.weight == 0) {
        &[]
    } else {
        targets
    }
}

/// The cluster or weighted clusters of a route; `None` if it names no target.
///
/// Targets of weight 0 stay in the route, so that their clusters are warm before they get traffic. A single target
/// becomes a plain cluster, which means the same.
fn cluster_specifier(targets: &[RouteTarget], names: ClusterNames<'_>) -> Option<ClusterSpecifier> {
    let targets = served_targets(targets);
    if targets.is_empty() {
        return None;
    }
    if let [target] = targets {
        let cluster = names.of(target).to_string();
        return Some(ClusterSpecifier::Cluster(cluster));
    }
    let clusters = targets
        .iter()
        .map(|target| ClusterWeight {
            name: names.of(target).to_string(),
            weight: Some(wire::uint32(target.weight)),
            ..Default::default()
        })
        .collect();
    Some(ClusterSpecifier::WeightedClusters(WeightedCluster {
        clusters,
        ..Default::default()
    }))
}

/// The match of a router's rule or of a gateway route.
pub(crate) fn route_match(matches: &HttpMatch) -> RouteMatch {
    let HttpMatch {
        path,
        method,
        scheme,
        headers,
        query,
    } = matches;
    let pseudo = [
        method.map(|method| exact_header(":method", method.as_str())),
        scheme.map(|scheme| exact_header(":scheme", scheme.as_str())),
    ];
    RouteMatch {
        headers: pseudo
            .into_iter()
            .flatten()
            .chain(headers.iter().map(header_matcher))
            .collect(),
        query_parameters: query.iter().map(query_matcher).collect(),
        path_specifier: Some(match path {
            PathMatch::Exact(path) => PathSpecifier::Path(path.to_string()),
            PathMatch::Prefix(prefix) => PathSpecifier::Prefix(prefix.to_string()),
            PathMatch::Regex(regex) => PathSpecifier::SafeRegex(regex_matcher(regex)),
        }),
        ..Default::default()
    }
}

/// Matches requests in which the header has exactly this value.
pub(crate) fn exact_header(name: &str, value: &str) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(string_matcher(
            MatchPattern::Exact(value.to_owned()),
        ))),
        ..Default::default()
    }
}

fn header_matcher(header: &RequestHeaderMatch) -> HeaderMatcher {
    let RequestHeaderMatch {
        name,
        value,
        invert,
    } = header;
    let pattern = match value {
        ValueMatch::Present => Err(HeaderMatchSpecifier::PresentMatch(true)),
        ValueMatch::Range { start, end } => Err(HeaderMatchSpecifier::RangeMatch(Int64Range {
            start: *start,
            end: *end,
        })),
        ValueMatch::Exact(exact) => Ok(MatchPattern::Exact(exact.to_string())),
        ValueMatch::Prefix(prefix) => Ok(MatchPattern::Prefix(prefix.to_string())),
        ValueMatch::Suffix(suffix) => Ok(MatchPattern::Suffix(suffix.to_string())),
        ValueMatch::Regex(regex) => Ok(MatchPattern::SafeRegex(regex_matcher(regex))),
    };
    HeaderMatcher {
        name: name.to_string(),
        invert_match: *invert,
        header_match_specifier: Some(pattern.map_or_else(
            |other| other,
            |it| HeaderMatchSpecifier::StringMatch(string_matcher(it)),
        )),
        ..Default::default()
    }
}

fn query_matcher(QueryMatch { name, exact }: &QueryMatch) -> QueryParameterMatcher {
    QueryParameterMatcher {
        name: name.to_string(),
        query_parameter_match_specifier: Some(match exact {
            None => QueryParameterMatchSpecifier::PresentMatch(true),
            Some(value) => QueryParameterMatchSpecifier::StringMatch(string_matcher(
                MatchPattern::Exact(value.to_string()),
            )),
        }),
    }
}

fn string_matcher(pattern: MatchPattern) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(pattern),
        ..Default::default()
    }
}

/// A regular expression in RE2 syntax.
pub(crate) fn regex_matcher(regex: &str) -> RegexMatcher {
    RegexMatcher {
        regex: regex.to_owned(),
        ..Default::default()
    }
}

/// App Mesh's policy for routes without a `retryPolicy`: at most 2 retries, on a host that was not tried yet, after a
/// failed or reset connection, a refused stream, status 503, or gRPC status `unavailable`.
fn default_retry_policy() -> route::RetryPolicy {
    retry_policy_on(
        &[
            "connect-failure",
            "refused-stream",
            "reset",
            "retriable-status-codes",
            "unavailable",
        ],
        vec![503],
        2,
    )
}

/// The user's retry policy; `None` if it allows no retry.
fn retry_policy(policy: &RetryPolicy) -> Option<route::RetryPolicy> {
    let RetryPolicy {
        max_retries,
        per_try_timeout,
        on,
    } = policy;
    if *max_retries == 0 || on.is_empty() {
        return None;
    }
    let codes: BTreeSet<u32> = on
        .iter()
        .flat_map(|it| status_codes(*it))
        .copied()
        .collect();
    let conditions: BTreeSet<&str> = on
        .iter()
        .flat_map(|it| retry_conditions(*it))
        .copied()
        .collect();
    let conditions: Vec<&str> = conditions.into_iter().collect();
    Some(route::RetryPolicy {
        per_try_timeout: (*per_try_timeout != Duration::ZERO)
            .then(|| wire::duration(*per_try_timeout)),
        ..retry_policy_on(&conditions, codes.into_iter().collect(), *max_retries)
    })
}

fn retry_policy_on(on: &[&str], codes: Vec<u32>, num_retries: u32) -> route::RetryPolicy {
    route::RetryPolicy {
        retry_on: on.join(","),
        num_retries: Some(wire::uint32(num_retries)),
        retriable_status_codes: codes,
        retry_host_predicate: vec![RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
            config_type: Some(retry_host_predicate::ConfigType::TypedConfig(pack(
                &PreviousHostsPredicate {},
            ))),
        }],
        host_selection_retry_max_attempts: 5,
        ..Default::default()
    }
}

/// The conditions of Envoy's `retry_on` for an event.
fn retry_conditions(event: RetryEvent) -> &'static [&'static str] {
    match event {
        RetryEvent::ServerError | RetryEvent::GatewayError => &["reset", "retriable-status-codes"],
        RetryEvent::ClientError => &["retriable-status-codes"],
        RetryEvent::StreamError => &["refused-stream"],
        RetryEvent::ConnectionError => &["connect-failure"],
        RetryEvent::GrpcCancelled => &["cancelled"],
        RetryEvent::GrpcDeadlineExceeded => &["deadline-exceeded"],
        RetryEvent::GrpcInternal => &["internal"],
        RetryEvent::GrpcResourceExhausted => &["resource-exhausted"],
        RetryEvent::GrpcUnavailable => &["unavailable"],
    }
}

/// The HTTP status codes for an event.
fn status_codes(event: RetryEvent) -> &'static [u32] {
    match event {
        RetryEvent::ServerError => &[500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511],
        RetryEvent::GatewayError => &[502, 503, 504],
        RetryEvent::ClientError => &[409],
        RetryEvent::StreamError
        | RetryEvent::ConnectionError
        | RetryEvent::GrpcCancelled
        | RetryEvent::GrpcDeadlineExceeded
        | RetryEvent::GrpcInternal
        | RetryEvent::GrpcResourceExhausted
        | RetryEvent::GrpcUnavailable => &[],
    }
}
