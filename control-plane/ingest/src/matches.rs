//! Which requests a route takes: paths, headers, query parameters, and the order between routes.
//!
//! Routes of routers and of gateways share this. What cannot be matched as written is a problem, and its
//! route is left out: a match that is wrong takes requests that are not its own.
//!
//! Must not know where requests go.

use std::{cmp::Reverse, sync::Arc};

use evermesh_crds::v1beta2;
use evermesh_model::{
    Reason,
    problem::FieldPath,
    route::{HttpMatch, Method, PathMatch, QueryMatch, RequestHeaderMatch, Scheme, ValueMatch},
};

use crate::{expression, stage::Problems};

/// The path of an HTTP match: a prefix, or a whole path or expression, or anything.
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
            checked(regex, &field.field("regex"), problems).map(PathMatch::Regex)
        }
        (Some(_), Some(_)) | (None, None) => {
            problems.add(
                field,
                Reason::InvalidUnion,
                "set exactly one of exact and regex",
            );
            None
        }
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
        format!("`{path}` fits no path: begin it with `/`"),
    );
    None
}

/// The path of a gRPC match: everything, a service, or one of its methods.
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
                format!("the method `{method}` needs the serviceName it belongs to"),
            );
            None
        }
    }
}

/// Headers or metadata; nothing if one of them cannot be matched.
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
            if name.is_empty() || name.bytes().any(|byte| byte.is_ascii_control()) {
                problems.add(
                    field.field("name"),
                    Reason::InvalidValue,
                    format!("{name:?} is not the name of a header"),
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
        (None, None, None, None, None) => Some(ValueMatch::Present),
        (Some(text), None, None, None, None) => Some(ValueMatch::Exact(text.as_str().into())),
        (None, Some(text), None, None, None) => Some(ValueMatch::Prefix(text.as_str().into())),
        (None, None, Some(range), None, None) => {
            let v1beta2::MatchRange { start, end } = *range;
            Some(ValueMatch::Range { start, end })
        }
        (None, None, None, Some(text), None) => {
            checked(text, &field.field("regex"), problems).map(ValueMatch::Regex)
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

fn checked(regex: &str, field: &FieldPath, problems: &mut Problems<'_>) -> Option<Arc<str>> {
    let Some(why) = expression::refusal(regex) else {
        return Some(regex.into());
    };
    problems.add(
        field.clone(),
        Reason::InvalidValue,
        format!("`{regex}` is not a regular expression that Envoy takes (RE2), so the route is left out: {why}"),
    );
    None
}

pub(crate) fn query(parameters: Option<&Vec<v1beta2::QueryParameter>>) -> Vec<QueryMatch> {
    parameters
        .into_iter()
        .flatten()
        .map(|v1beta2::QueryParameter { name, r#match }| QueryMatch {
            name: name.as_str().into(),
            exact: r#match
                .as_ref()
                .and_then(|v1beta2::QueryMatchMethod { exact }| exact.as_deref())
                .map(Arc::from),
        })
        .collect()
}

pub(crate) const fn method(method: v1beta2::HttpMethod) -> Method {
    match method {
        v1beta2::HttpMethod::Connect => Method::Connect,
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

/// Where a route stands among the others of its router or gateway; the smallest is tried first.
///
/// App Mesh documents only that priority 0 comes first and no priority last, and that a longer prefix
/// comes before a shorter one. The rest makes the order complete, so that it never depends on anything
/// but the routes: exact paths, then prefixes, longer ones first, then regular expressions, longer ones
/// first; then the route with more headers, query parameters, method and scheme to fit.
pub(crate) fn precedence(priority: Option<u32>, matches: Option<&HttpMatch>) -> impl Ord + use<> {
    let specificity = matches.map(|matches| {
        let HttpMatch {
            path,
            method,
            scheme,
            headers,
            query,
        } = matches;
        let path = match path {
            PathMatch::Exact(_) => (0, Reverse(0)),
            PathMatch::Prefix(text) => (1, Reverse(text.len())),
            PathMatch::Regex(text) => (2, Reverse(text.len())),
        };
        let conditions = headers.len()
            + query.len()
            + usize::from(method.is_some())
            + usize::from(scheme.is_some());
        (path, Reverse(conditions))
    });
    (priority.unwrap_or(u32::MAX), specificity)
}
