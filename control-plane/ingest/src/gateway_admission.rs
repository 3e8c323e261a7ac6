//! The rules of App Mesh's admission webhook for gateway routes.
//!
//! The rules deliberately have the gaps of the webhook, because otherwise manifests that App Mesh accepted would be
//! rejected: the query parameters of a route with headers are not checked, and no header after the first one with a
//! range is. Errors that only the AWS API reported become problems during conversion, in [`crate::gateway_route`].

use evermesh_crds::v1beta2;
use evermesh_model::{ObjectRef, Problem, Reason, problem::FieldPath};

use crate::{
    admission::{exact_or_regex, into_errors},
    stage::Problems,
};

pub(crate) fn validate(object: &ObjectRef, spec: &v1beta2::GatewayRouteSpec) -> Vec<Problem> {
    let mut problems = Problems::of(object);
    let field = FieldPath::spec();
    let v1beta2::GatewayRouteSpec {
        aws_name: _,
        priority: _,
        http_route,
        http2_route,
        grpc_route,
        virtual_gateway_ref: _,
        mesh_ref: _,
    } = spec;
    match (http_route, http2_route, grpc_route) {
        (Some(route), None, None) => http(route, &field.field("httpRoute"), &mut problems),
        (None, Some(route), None) => http(route, &field.field("http2Route"), &mut problems),
        (None, None, Some(route)) => grpc(route, &field.field("grpcRoute"), &mut problems),
        _ => problems.add(
            field,
            Reason::InvalidUnion,
            "set exactly one of httpRoute, http2Route and grpcRoute",
        ),
    }
    into_errors(problems)
}

fn http(route: &v1beta2::HttpGatewayRoute, field: &FieldPath, problems: &mut Problems<'_>) {
    let v1beta2::HttpGatewayRoute { r#match, action } = route;
    let v1beta2::HttpGatewayRouteMatch {
        prefix,
        path,
        hostname,
        method: _,
        headers,
        query_parameters,
        port: _,
    } = r#match;
    let match_field = field.field("match");
    match (prefix, path, hostname) {
        (None, None, None) => problems.add(
            match_field.clone(),
            Reason::InvalidUnion,
            "set at least one of prefix, path and hostname; the prefix `/` matches everything",
        ),
        (Some(_), Some(_), _) => problems.add(
            match_field.clone(),
            Reason::InvalidUnion,
            "both prefix and path are set; keep one",
        ),
        _ => {}
    }
    if let Some(path) = path {
        exact_or_regex(path, match_field.field("path"), problems);
    }
    if let Some(hostname) = hostname {
        exact_or_suffix(hostname, match_field.field("hostname"), problems);
    }
    match (headers, query_parameters) {
        (Some(list), _) => {
            headers_have_one_matcher(list, &match_field.field("headers"), problems);
        }
        (None, Some(list)) => {
            query_parameters_are_exact(list, &match_field.field("queryParameters"), problems);
        }
        (None, None) => {}
    }
    if let Some(rewrite) = &action.rewrite {
        let prefix = prefix.as_deref();
        http_rewrite(rewrite, prefix, field, problems);
    }
}

fn exact_or_suffix(
    hostname: &v1beta2::GatewayRouteHostnameMatch,
    field: FieldPath,
    problems: &mut Problems<'_>,
) {
    let v1beta2::GatewayRouteHostnameMatch { exact, suffix } = hostname;
    if exact.is_some() == suffix.is_some() {
        problems.add(
            field,
            Reason::InvalidUnion,
            "set exactly one of exact and suffix",
        );
    }
}

const fn matchers(method: &v1beta2::HeaderMatchMethod) -> usize {
    let v1beta2::HeaderMatchMethod {
        exact,
        prefix,
        range,
        regex,
        suffix,
    } = method;
    exact.is_some() as usize
        + prefix.is_some() as usize
        + range.is_some() as usize
        + regex.is_some() as usize
        + suffix.is_some() as usize
}

fn headers_have_one_matcher(
    headers: &[v1beta2::HeaderMatch],
    field: &FieldPath,
    problems: &mut Problems<'_>,
) {
    for (index, header) in headers.iter().enumerate() {
        let Some(method) = &header.r#match else {
            continue;
        };
        let field = field.index(index).field("match");
        if matchers(method) != 1 {
            problems.add(
                field.clone(),
                Reason::InvalidUnion,
                "set exactly one of exact, prefix, range, regex and suffix, or remove match",
            );
        }
        if let Some(v1beta2::MatchRange { start, end }) = method.range {
            if start >= end {
                problems.add(
                    field.field("range"),
                    Reason::InvalidValue,
                    format!(
                        "the range from {start} to {end} is empty; start must be less than end"
                    ),
                );
            }
            return;
        }
    }
}

fn query_parameters_are_exact(
    parameters: &[v1beta2::QueryParameter],
    field: &FieldPath,
    problems: &mut Problems<'_>,
) {
    for (index, parameter) in parameters.iter().enumerate() {
        if let Some(v1beta2::QueryMatchMethod { exact: None }) = parameter.r#match {
            problems.add(
                field.index(index).field("match"),
                Reason::InvalidUnion,
                "set exact, or remove match to require only that the parameter is present",
            );
        }
    }
}

fn http_rewrite(
    rewrite: &v1beta2::HttpGatewayRouteRewrite,
    matched_prefix: Option<&str>,
    route: &FieldPath,
    problems: &mut Problems<'_>,
) {
    let v1beta2::HttpGatewayRouteRewrite {
        hostname,
        prefix,
        path,
    } = rewrite;
    let field = route.field("action.rewrite");
    if hostname.is_none() && prefix.is_none() && path.is_none() {
        problems.add(
            field.clone(),
            Reason::InvalidUnion,
            "the rewrite is empty; set hostname, prefix or path, or remove rewrite",
        );
    }
    if prefix.is_some() && path.is_some() {
        problems.add(
            field.clone(),
            Reason::InvalidUnion,
            "both prefix and path are rewritten; keep one",
        );
    }
    let Some(v1beta2::HttpGatewayRoutePrefixRewrite {
        default_prefix,
        value,
    }) = prefix
    else {
        return;
    };
    if default_prefix.is_some() == value.is_some() {
        problems.add(
            field.field("prefix"),
            Reason::InvalidUnion,
            "set exactly one of defaultPrefix and value",
        );
    }
    if let Some(value) = value
        && !(value.starts_with('/') && value.ends_with('/'))
    {
        problems.add(
            field.field("prefix.value"),
            Reason::InvalidValue,
            format!("`{value}` must begin and end with `/`"),
        );
    }
    if let Some(matched) = matched_prefix
        && !matched.starts_with('/')
    {
        problems.add(
            route.field("match.prefix"),
            Reason::InvalidValue,
            format!("`{matched}` does not match any path; begin it with `/`"),
        );
    }
}

fn grpc(route: &v1beta2::GrpcGatewayRoute, field: &FieldPath, problems: &mut Problems<'_>) {
    let v1beta2::GrpcGatewayRoute { r#match, action } = route;
    let v1beta2::GrpcGatewayRouteMatch {
        service_name,
        hostname,
        metadata,
        port: _,
    } = r#match;
    let match_field = field.field("match");
    match (service_name, hostname) {
        (None, None) => problems.add(
            match_field.clone(),
            Reason::InvalidUnion,
            "set at least one of serviceName and hostname",
        ),
        (None, Some(hostname)) => {
            exact_or_suffix(hostname, match_field.field("hostname"), problems);
        }
        (Some(_), _) => {}
    }
    for (index, entry) in metadata.iter().flatten().enumerate() {
        if entry
            .r#match
            .as_ref()
            .is_some_and(|method| matchers(method) > 1)
        {
            problems.add(
                match_field.field("metadata").index(index).field("match"),
                Reason::InvalidUnion,
                "set only one of exact, prefix, range, regex and suffix",
            );
        }
    }
    if let Some(v1beta2::GrpcGatewayRouteRewrite { hostname: None }) = action.rewrite {
        problems.add(
            field.field("action.rewrite"),
            Reason::InvalidUnion,
            "the rewrite is empty; set hostname, or remove rewrite",
        );
    }
}
