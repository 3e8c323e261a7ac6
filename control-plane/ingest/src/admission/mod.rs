//! What the admission webhooks of App Mesh filled in and what they refused: no more, no less.
//!
//! A cluster's objects come in as a [`ObjectWrite`]: [`fill`] gives the patch, [`check`] lets the write pass or
//! not, and a [`AdmissionDenial`] says why not. What they look at beside the object is in [`ClusterSnapshot`].
//!
//! From a folder of files objects come in as they are written. The defaults of names are functions of the
//! object alone; those of `meshRef` and `virtualGatewayRef` are in [`crate::membership`] and in the
//! gateway's selectors, because they need the other objects. [`validate`] says what a webhook would have
//! refused at creation.
//!
//! Must not refuse what only the AWS API refused: that becomes a problem while it is converted.

mod check;
mod fill;
mod snapshot;
mod write;

use std::collections::BTreeSet;

use evermesh_crds::{extension, v1beta2};
use evermesh_model::{Kind, ObjectRef, Problem, Reason, Severity, problem::FieldPath};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{gateway_admission, object::Object, stage::Problems};

pub use check::check;
pub use fill::{IpFamily, fill};
pub use snapshot::ClusterSnapshot;
pub use write::{AdmissionDenial, ObjectWrite, Operation};

/// The `awsName` of an object: as written, else as the webhooks made it from its name and namespace.
/// Empty counts as absent.
pub fn aws_name(object: &ObjectRef, written: Option<&str>) -> String {
    let ObjectRef {
        kind,
        namespace,
        name,
    } = object;
    match (written.filter(|written| !written.is_empty()), kind) {
        (Some(written), _) => written.to_owned(),
        (None, Kind::Mesh) => name.to_string(),
        (None, Kind::VirtualService) => format!("{name}.{namespace}"),
        (None, _) => format!("{name}_{namespace}"),
    }
}

/// What the old webhooks refused when an object was created. An object with any of these problems is left
/// out of the graph as a whole.
pub fn validate(object: &Object) -> Vec<Problem> {
    let of = |kind, metadata: &ObjectMeta| {
        ObjectRef::new(
            kind,
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.name.as_deref().unwrap_or_default(),
        )
    };
    match object {
        Object::VirtualNode(node) => {
            virtual_node(&of(Kind::VirtualNode, &node.metadata), &node.spec)
        }
        Object::VirtualRouter(router) => {
            virtual_router(&of(Kind::VirtualRouter, &router.metadata), &router.spec)
        }
        Object::VirtualGateway(gateway) => {
            virtual_gateway(&of(Kind::VirtualGateway, &gateway.metadata), &gateway.spec)
        }
        Object::GatewayRoute(route) => {
            gateway_admission::validate(&of(Kind::GatewayRoute, &route.metadata), &route.spec)
        }
        Object::Route(route) => self::route(&of(Kind::Route, &route.metadata), &route.spec),
        Object::Mesh(_)
        | Object::VirtualService(_)
        | Object::BackendGroup(_)
        | Object::Namespace(_)
        | Object::Service(_)
        | Object::EndpointSlice(_)
        | Object::Pod(_)
        | Object::Node(_) => Vec::new(),
    }
}

/// What a webhook refused is never served, whatever the reason says of other places.
pub(crate) fn rejections(problems: Problems<'_>) -> Vec<Problem> {
    let mut problems = problems.into_list();
    for problem in &mut problems {
        problem.severity = Severity::Error;
    }
    problems
}

pub(crate) fn virtual_node(object: &ObjectRef, spec: &v1beta2::VirtualNodeSpec) -> Vec<Problem> {
    let mut problems = Problems::of(object);
    let listeners = spec.listeners.as_deref().unwrap_or_default();
    if !listeners.is_empty() && spec.service_discovery.is_none() {
        problems.add(
            FieldPath::spec().field("serviceDiscovery"),
            Reason::DiscoveryMissing,
            "a node with listeners needs a serviceDiscovery, or nobody finds it: set dns or awsCloudMap",
        );
    }
    for (index, listener) in listeners.iter().enumerate() {
        let Some(pool) = &listener.connection_pool else {
            continue;
        };
        let v1beta2::VirtualNodeConnectionPool {
            tcp,
            http,
            http2,
            grpc,
        } = pool;
        let variants = [
            tcp.is_some(),
            http.is_some(),
            http2.is_some(),
            grpc.is_some(),
        ];
        one_connection_pool(&variants, index, &mut problems);
    }
    let mut references = BTreeSet::new();
    let mut arns = BTreeSet::new();
    for (index, backend) in spec.backends.iter().flatten().enumerate() {
        let v1beta2::VirtualServiceBackend {
            virtual_service_ref,
            virtual_service_arn,
            client_policy: _,
        } = &backend.virtual_service;
        let is_new_reference = virtual_service_ref.as_ref().is_none_or(|reference| {
            let namespace = reference.namespace.as_deref().unwrap_or(&object.namespace);
            references.insert((namespace, reference.name.as_str()))
        });
        let is_new_arn = virtual_service_arn
            .as_ref()
            .is_none_or(|arn| arns.insert(arn.as_str()));
        if !is_new_reference || !is_new_arn {
            problems.add(
                FieldPath::spec().field("backends").index(index),
                Reason::DuplicateBackend,
                "the virtual service is listed before: remove one of the two",
            );
        }
    }
    rejections(problems)
}

pub(crate) fn virtual_router(
    object: &ObjectRef,
    spec: &v1beta2::VirtualRouterSpec,
) -> Vec<Problem> {
    let mut problems = Problems::of(object);
    let mut names = BTreeSet::new();
    for (index, route) in spec.routes.iter().flatten().enumerate() {
        let field = FieldPath::spec().field("routes").index(index);
        if !names.insert(route.name.as_str()) {
            problems.add(
                field.field("name"),
                Reason::DuplicateRoute,
                format!(
                    "there is a route `{}` before it: rename one of the two",
                    route.name
                ),
            );
        }
        http_route_match(
            route.http_route.as_ref(),
            route.http2_route.as_ref(),
            &field,
            &mut problems,
        );
    }
    rejections(problems)
}

pub(crate) fn route(object: &ObjectRef, spec: &extension::RouteSpec) -> Vec<Problem> {
    let mut problems = Problems::of(object);
    http_route_match(
        spec.http_route.as_ref(),
        spec.http2_route.as_ref(),
        &FieldPath::spec(),
        &mut problems,
    );
    rejections(problems)
}

/// The one rule for matches of a router's routes. Only the first kind of route that is there was looked at.
fn http_route_match(
    http: Option<&v1beta2::HttpRoute>,
    http2: Option<&v1beta2::HttpRoute>,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) {
    let (route, word) = match (http, http2) {
        (Some(route), _) => (route, "httpRoute"),
        (None, Some(route)) => (route, "http2Route"),
        (None, None) => return,
    };
    let field = field.field(word).field("match");
    match (&route.r#match.prefix, &route.r#match.path) {
        (Some(_), None) => {}
        (None, Some(path)) => exact_or_regex(path, field.field("path"), problems),
        (Some(_), Some(_)) => problems.add(
            field,
            Reason::InvalidUnion,
            "both prefix and path are set: keep one",
        ),
        (None, None) => problems.add(
            field,
            Reason::InvalidUnion,
            "neither prefix nor path is set: set one; the prefix `/` takes everything",
        ),
    }
}

pub(crate) fn exact_or_regex(
    path: &v1beta2::HttpPathMatch,
    field: FieldPath,
    problems: &mut Problems<'_>,
) {
    let v1beta2::HttpPathMatch { exact, regex } = path;
    if exact.is_some() == regex.is_some() {
        problems.add(
            field,
            Reason::InvalidUnion,
            "set exactly one of exact and regex",
        );
    }
}

pub(crate) fn virtual_gateway(
    object: &ObjectRef,
    spec: &v1beta2::VirtualGatewaySpec,
) -> Vec<Problem> {
    let mut problems = Problems::of(object);
    for (index, listener) in spec.listeners.iter().flatten().enumerate() {
        let Some(pool) = &listener.connection_pool else {
            continue;
        };
        let v1beta2::VirtualGatewayConnectionPool { http, http2, grpc } = pool;
        let variants = [http.is_some(), http2.is_some(), grpc.is_some()];
        one_connection_pool(&variants, index, &mut problems);
    }
    rejections(problems)
}

fn one_connection_pool(variants: &[bool], listener: usize, problems: &mut Problems<'_>) {
    if variants.iter().filter(|is_set| **is_set).count() > 1 {
        problems.add(
            FieldPath::spec()
                .field("listeners")
                .index(listener)
                .field("connectionPool"),
            Reason::InvalidUnion,
            "several kinds of connection pool are set: keep the one of the listener's protocol",
        );
    }
}

#[cfg(test)]
mod tests;
