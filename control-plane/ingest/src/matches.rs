//! Matches of routes: paths, headers, query parameters. [`crate::requests`] compares them.
//!
//! Routes of routers and of gateways share this module. An invalid match is a problem, and its route is left out, because
//! ignoring a part of a match would attract requests of other routes.

use std::sync::Arc;

use evermesh_crds::v1beta2;
use evermesh_model::{
    Reason, Severity,
    problem::FieldPath,
    route::{HttpMatch, Method, PathMatch, QueryMatch, RequestHeaderMatch, Scheme, ValueMatch},
};

use crate::{expression, requests::RequestSet, stage::Problems};

/// Parses the path of an HTTP match: a prefix, an exact path or a regular expression; every path if none is set.
pub(crate) fn path(
    prefix: Option<&String>,
    path: Option<&v1beta2::HttpPathMatch>,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Option<PathMatch> {
    if let Some(prefix) = prefix {
        return absolute(prefix, || field.field("prefix"), problems).map(PathMatch::Prefix);
    }
    let Some(v1beta2::HttpPathMatch { exact, regex }) = path else {
        return Some(PathMatch::Prefix("/".into()));
    };
    let field = field.field("path");
    match (exact, regex) {
        (Some(exact), None) => {
            absolute(exact, || field.field("exact"), problems).map(PathMatch::Exact)
        }
        (None, Some(regex)) => {
            regular_expression(regex, &field.field("regex"), problems).map(PathMatch::Regex)
        }
        // Admission or the schema has rejected the object.
        (Some(_), Some(_)) | (None, None) => None,
    }
}

fn absolute(
    path: &str,
    field: impl FnOnce() -> FieldPath,
    problems: &mut Problems<'_>,
) -> Option<Arc<str>> {
    if path.starts_with('/') {
        return Some(path.into());
    }
    problems.add(
        field(),
        Reason::InvalidValue,
        format!("`{path}` does not match any path; begin it with `/`"),
    );
    None
}

/// Converts a gRPC match to a match of the path: every path, a service or a method.
pub(crate) fn grpc_path(
    service: Option<&String>,
    method: Option<&String>,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Option<PathMatch> {
    match (service.filter(|service| !service.is_empty()), method) {
        (Some(service), None) => Some(PathMatch::Prefix(format!("/{service}/").into())),
        (Some(service), Some(method)) => {
            Some(PathMatch::Exact(format!("/{service}/{method}").into()))
        }
        (None, None) => Some(PathMatch::Prefix("/".into())),
        (None, Some(method)) => {
            problems.add(
                field.field("methodName"),
                Reason::InvalidUnion,
                format!("methodName `{method}` requires serviceName; set both"),
            );
            None
        }
    }
}

/// Parses matches of headers or gRPC metadata. Returns `None` if one of them is invalid.
pub(crate) fn headers(
    headers: Option<&Vec<v1beta2::HeaderMatch>>,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Option<Vec<RequestHeaderMatch>> {
    headers
        .into_iter()
        .flatten()
        .enumerate()
        .map(|(index, header)| {
            let v1beta2::HeaderMatch {
                name,
                r#match,
                invert,
            } = header;
            let field = field.index(index);
            if !is_header_name(name) {
                problems.add(
                    field.field("name"),
                    Reason::InvalidValue,
                    format!(
                        "`{}` is not a valid header name, so the route is left out; use a name such as `x-team`, without spaces",
                        name.escape_debug()
                    ),
                );
                return None;
            }
            Some(RequestHeaderMatch {
                name: name.as_str().into(),
                value: match r#match {
                    Some(method) => value(method, &field.field("match"), problems)?,
                    None => ValueMatch::Present,
                },
                invert: invert.unwrap_or(false),
            })
        })
        .collect()
}

/// Returns whether a request can have a header or pseudo-header of this name. App Mesh accepted no pseudo-headers.
fn is_header_name(name: &str) -> bool {
    let is_visible = |byte: u8| byte.is_ascii_graphic() && byte != b':';
    matches!(name, ":authority" | ":method" | ":path" | ":scheme")
        || (!name.is_empty() && name.bytes().all(is_visible))
}

fn value(
    method: &v1beta2::HeaderMatchMethod,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Option<ValueMatch> {
    let v1beta2::HeaderMatchMethod {
        exact,
        prefix,
        range,
        regex,
        suffix,
    } = method;
    match (exact, prefix, range, regex, suffix) {
        (None, None, None, None, None) => {
            problems.add_with_severity(
                field.clone(),
                Reason::InvalidUnion,
                Severity::Warning,
                "match is empty, so any value matches; set exact, prefix, range, regex or suffix, or remove match",
            );
            Some(ValueMatch::Present)
        }
        (Some(text), None, None, None, None) => Some(ValueMatch::Exact(text.as_str().into())),
        (None, Some(text), None, None, None) => Some(ValueMatch::Prefix(text.as_str().into())),
        (None, None, Some(range), None, None) => {
            let v1beta2::MatchRange { start, end } = *range;
            if start >= end {
                problems.add_with_severity(
                    field.field("range"),
                    Reason::InvalidValue,
                    Severity::Warning,
                    format!("the range from {start} to {end} contains no number, so no value matches; set end to more than start"),
                );
            }
            Some(ValueMatch::Range { start, end })
        }
        (None, None, None, Some(text), None) => {
            regular_expression(text, &field.field("regex"), problems).map(ValueMatch::Regex)
        }
        (None, None, None, None, Some(text)) => Some(ValueMatch::Suffix(text.as_str().into())),
        _ => {
            problems.add(
                field.clone(),
                Reason::InvalidUnion,
                "set only one of exact, prefix, range, regex and suffix",
            );
            None
        }
    }
}

fn regular_expression(
    regex: &str,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Option<Arc<str>> {
    let Some(why) = expression::re2_error(regex) else {
        return Some(regex.into());
    };
    problems.add(
        field.clone(),
        Reason::InvalidValue,
        format!(
            "Envoy may refuse the regular expression `{regex}`, so the route is left out: {why}"
        ),
    );
    None
}

/// Envoy's limit for the name of a query parameter, in bytes.
const MAX_PARAMETER_NAME: usize = 1024;

/// Parses matches of query parameters. Returns `None` if one of them is invalid.
pub(crate) fn query(
    parameters: Option<&Vec<v1beta2::QueryParameter>>,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Option<Vec<QueryMatch>> {
    parameters
        .into_iter()
        .flatten()
        .enumerate()
        .map(|(index, parameter)| {
            let v1beta2::QueryParameter { name, r#match } = parameter;
            if !(1..=MAX_PARAMETER_NAME).contains(&name.len()) {
                problems.add(
                    field.index(index).field("name"),
                    Reason::InvalidValue,
                    format!("the name has {} bytes, so the route is left out; use a name of 1 to {MAX_PARAMETER_NAME} bytes", name.len()),
                );
                return None;
            }
            Some(QueryMatch {
                name: name.as_str().into(),
                exact: r#match
                    .as_ref()
                    .and_then(|v1beta2::QueryMatchMethod { exact }| exact.as_deref())
                    .map(Arc::from),
            })
        })
        .collect()
}

/// Converts a method. Envoy matches CONNECT requests by other rules than paths, so a route for them is never reached.
pub(crate) fn method(
    method: v1beta2::HttpMethod,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Method {
    match method {
        v1beta2::HttpMethod::Connect => {
            problems.add_with_severity(
                field.field("method"),
                Reason::InvalidValue,
                Severity::Warning,
                "CONNECT requests have no path, so the route receives none and they are answered with 404; remove the route or match another method",
            );
            Method::Connect
        }
        v1beta2::HttpMethod::Delete => Method::Delete,
        v1beta2::HttpMethod::Get => Method::Get,
        v1beta2::HttpMethod::Head => Method::Head,
        v1beta2::HttpMethod::Options => Method::Options,
        v1beta2::HttpMethod::Patch => Method::Patch,
        v1beta2::HttpMethod::Post => Method::Post,
        v1beta2::HttpMethod::Put => Method::Put,
        v1beta2::HttpMethod::Trace => Method::Trace,
    }
}

pub(crate) const fn scheme(scheme: v1beta2::HttpScheme) -> Scheme {
    match scheme {
        v1beta2::HttpScheme::Http => Scheme::Http,
        v1beta2::HttpScheme::Https => Scheme::Https,
    }
}

/// The requests that a match accepts. Reports conditions that contradict each other; the route is served nevertheless.
pub(crate) fn requests(
    matches: &HttpMatch,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Arc<RequestSet> {
    let requests = RequestSet::of(matches);
    if requests.is_contradictory {
        problems.add_with_severity(
            field.clone(),
            Reason::InvalidValue,
            Severity::Warning,
            "no request with one value of each header meets all conditions of this match, so the route receives none; remove the condition that contradicts the others",
        );
    }
    requests.into()
}
