//! Parsers of the variants of a gateway route into one [`GatewayRule`], without resolving references.

use std::sync::Arc;

use evermesh_crds::v1beta2::{self, DefaultRewrite};
use evermesh_model::{
    Kind, Protocol, Reason, Severity,
    gateway::{HostnameMatch, PathRewrite},
    problem::FieldPath,
    route::{HttpMatch, PathMatch},
};

use super::{GatewayRule, field_name};
use crate::{
    matches,
    name_index::UnresolvedRef,
    stage::{ProblemReported, Problems},
    values,
};

pub(super) fn read_http(
    protocol: Protocol,
    route: &v1beta2::HttpGatewayRoute,
    problems: &mut Problems<'_>,
) -> Option<GatewayRule> {
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
    let route = FieldPath::spec().field(field_name(protocol));
    let field = route.field("match");
    warn_if_reserved(
        prefix.as_ref(),
        &RESERVED_PREFIXES,
        || field.field("prefix"),
        problems,
    );
    let path = matches::path(prefix.as_ref(), path.as_ref(), &field, problems);
    let headers = matches::headers(headers.as_ref(), &field.field("headers"), problems);
    let method = method.map(|method| matches::method(method, &field, problems));
    let query = query_parameters.as_ref();
    let query = matches::query(query, &field.field("queryParameters"), problems);
    let port = values::port(*port, &field, problems);
    let hostname = read_hostname(hostname.as_ref(), &field.field("hostname"), problems);
    let target = read_target(target, &route, problems);
    let path = path?;
    let (rewrite_hostname, rewrite_path) = match rewrite {
        Some(v1beta2::HttpGatewayRouteRewrite {
            hostname,
            prefix,
            path: full_path,
        }) => (
            rewrites_hostname(*hostname),
            read_path_rewrite(
                &path,
                prefix.as_ref(),
                full_path.as_ref(),
                &route.field("action.rewrite"),
                problems,
            ),
        ),
        None => (true, Some(default_path_rewrite(&path))),
    };
    let (target, target_port) = target?;
    let matches = HttpMatch {
        path,
        method,
        scheme: None,
        headers: headers?,
        query: query?,
    };
    Some(GatewayRule {
        protocol,
        port: port.ok()?,
        hostname: hostname.ok()?,
        requests: matches::requests(&matches, &field, problems),
        matches,
        target,
        target_port,
        target_field: route.field("action.target"),
        rewrite_hostname,
        rewrite_path: rewrite_path?,
    })
}

pub(super) fn read_grpc(
    route: &v1beta2::GrpcGatewayRoute,
    problems: &mut Problems<'_>,
) -> Option<GatewayRule> {
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
    let route = FieldPath::spec().field(field_name(Protocol::Grpc));
    let field = route.field("match");
    warn_if_reserved(
        service_name.as_ref(),
        &RESERVED_SERVICES,
        || field.field("serviceName"),
        problems,
    );
    let path = matches::grpc_path(service_name.as_ref(), None, &field, problems);
    let headers = matches::headers(metadata.as_ref(), &field.field("metadata"), problems);
    let port = values::port(*port, &field, problems);
    let hostname = read_hostname(hostname.as_ref(), &field.field("hostname"), problems);
    let (target, target_port) = read_target(target, &route, problems)?;
    let matches = HttpMatch {
        path: path?,
        method: None,
        scheme: None,
        headers: headers?,
        query: Vec::new(),
    };
    Some(GatewayRule {
        protocol: Protocol::Grpc,
        port: port.ok()?,
        hostname: hostname.ok()?,
        requests: matches::requests(&matches, &field, problems),
        matches,
        target,
        target_port,
        target_field: route.field("action.target"),
        rewrite_hostname: rewrite.is_none_or(|v1beta2::GrpcGatewayRouteRewrite { hostname }| {
            rewrites_hostname(hostname)
        }),
        rewrite_path: PathRewrite::Keep,
    })
}

/// Prefixes of paths and of gRPC services that App Mesh reserved for itself on gateways.
const RESERVED_PREFIXES: [&str; 2] = ["/aws-appmesh", "/aws-app-mesh"];
const RESERVED_SERVICES: [&str; 2] = ["aws.appmesh", "aws.app-mesh"];

fn warn_if_reserved(
    text: Option<&String>,
    reserved: &[&str],
    field: impl FnOnce() -> FieldPath,
    problems: &mut Problems<'_>,
) {
    let Some(text) = text else {
        return;
    };
    if let Some(prefix) = reserved.iter().find(|prefix| text.starts_with(**prefix)) {
        problems.add_with_severity(
            field(),
            Reason::InvalidValue,
            Severity::Warning,
            format!("App Mesh reserves what begins with `{prefix}`; the route is served nevertheless; choose another text to stay compatible"),
        );
    }
}

fn rewrites_hostname(rewrite: Option<v1beta2::GatewayRouteHostnameRewrite>) -> bool {
    let setting = rewrite.and_then(
        |v1beta2::GatewayRouteHostnameRewrite {
             default_target_hostname,
         }| default_target_hostname,
    );
    setting.is_none_or(|setting| setting == DefaultRewrite::Enabled)
}

/// App Mesh's default: a matched prefix is replaced by `/`; an exact path or regular expression does not change the path.
fn default_path_rewrite(path: &PathMatch) -> PathRewrite {
    match path {
        PathMatch::Prefix(_) => PathRewrite::Prefix("/".into()),
        PathMatch::Exact(_) | PathMatch::Regex(_) => PathRewrite::Keep,
    }
}

fn read_path_rewrite(
    path: &PathMatch,
    prefix: Option<&v1beta2::HttpGatewayRoutePrefixRewrite>,
    full_path: Option<&v1beta2::HttpGatewayRoutePathRewrite>,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Option<PathRewrite> {
    if let Some(v1beta2::HttpGatewayRoutePathRewrite { exact: Some(exact) }) = full_path {
        return new_path(exact, field.field("path.exact"), problems).map(PathRewrite::Full);
    }
    let Some(v1beta2::HttpGatewayRoutePrefixRewrite {
        default_prefix,
        value,
    }) = prefix
    else {
        return Some(default_path_rewrite(path));
    };
    if !matches!(path, PathMatch::Prefix(_)) {
        problems.add_with_severity(
            field.field("prefix"),
            Reason::InvalidValue,
            Severity::Warning,
            "the route matches complete paths, so there is no prefix to replace and the path is not rewritten; use rewrite.path",
        );
        return Some(PathRewrite::Keep);
    }
    match (default_prefix, value) {
        (_, Some(value)) => {
            new_path(value, field.field("prefix.value"), problems).map(PathRewrite::Prefix)
        }
        (Some(DefaultRewrite::Disabled), None) => Some(PathRewrite::Keep),
        (Some(DefaultRewrite::Enabled) | None, None) => Some(default_path_rewrite(path)),
    }
}

/// A path that replaces that of the request. Envoy refuses a whole route configuration that contains a line break here.
fn new_path(text: &str, field: FieldPath, problems: &mut Problems<'_>) -> Option<Arc<str>> {
    if text.starts_with('/') && !text.contains(char::is_control) {
        return Some(text.into());
    }
    problems.add(
        field,
        Reason::InvalidValue,
        format!(
            "`{}` is not a valid path, so the route is left out; begin it with `/` and use no control characters",
            text.escape_debug()
        ),
    );
    None
}

/// Parses the match of a host name.
fn read_hostname(
    hostname: Option<&v1beta2::GatewayRouteHostnameMatch>,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Result<Option<HostnameMatch>, ProblemReported> {
    let Some(v1beta2::GatewayRouteHostnameMatch { exact, suffix }) = hostname else {
        return Ok(None);
    };
    let (variant, text) = match (exact, suffix) {
        (Some(exact), None) => ("exact", exact),
        (None, Some(suffix)) => ("suffix", suffix),
        (Some(_), Some(_)) | (None, None) => {
            problems.add(
                field.clone(),
                Reason::InvalidUnion,
                "the route is left out; set exactly one of exact and suffix",
            );
            return Err(ProblemReported);
        }
    };
    if !values::is_name(text) {
        problems.add(
            field.field(variant),
            Reason::InvalidValue,
            format!("`{text}` is not a valid host name, so the route is left out; use a name such as `shop.example.com`, or a suffix such as `.example.com`"),
        );
        return Err(ProblemReported);
    }
    Ok(Some(match variant {
        "exact" => HostnameMatch::Exact(text.as_str().into()),
        _ => HostnameMatch::Suffix(text.as_str().into()),
    }))
}

fn read_target(
    target: &v1beta2::GatewayRouteTarget,
    route: &FieldPath,
    problems: &mut Problems<'_>,
) -> Option<(UnresolvedRef, Option<u16>)> {
    let v1beta2::GatewayRouteTarget {
        virtual_service:
            v1beta2::GatewayRouteVirtualService {
                virtual_service_ref,
                virtual_service_arn,
            },
        port,
    } = target;
    let field = route.field("action.target");
    let service = values::ref_or_arn(
        Kind::VirtualService,
        virtual_service_ref.as_ref(),
        virtual_service_arn.as_ref(),
    )
    .read(&field.field("virtualService"), problems);
    let port = values::port(*port, &field, problems);
    Some((service?, port.ok()?))
}
