//! The defaults and rules of App Mesh's admission webhooks.
//!
//! In a Kubernetes cluster, the webhook server passes each write as an [`ObjectWrite`]. [`fill`] returns the patch with
//! the defaults, [`check`] and [`check_claims`] accept or deny the write, and an [`AdmissionDenial`] gives the reason. The other objects
//! on which the answers depend are in a [`ClusterSnapshot`].
//!
//! Objects from files do not pass admission. The stages of the rebuild apply the same defaults: [`aws_name`] for names,
//! [`crate::membership`] for `meshRef` and the selectors of gateways for `virtualGatewayRef`. They leave out the objects
//! that [`validate`] rejects.
//!
//! Errors that only the AWS API reported are not admission errors; they become problems during conversion.

mod check;
mod claims;
mod fill;
mod snapshot;
mod write;

use std::collections::BTreeSet;

use evermesh_crds::v1beta2;
use evermesh_model::{Kind, ObjectRef, Problem, Reason, Severity, problem::FieldPath};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{gateway_admission, object::Object, stage::Problems};

pub use check::check;
pub use claims::check_claims;
pub use fill::{IpFamily, fill};
pub use snapshot::ClusterSnapshot;
pub use write::{AdmissionDenial, ObjectWrite, Operation};

/// The `awsName` of an object: the one that the user set, otherwise the default of App Mesh, which consists of name and
/// namespace. An empty name counts as absent.
pub fn aws_name(object: &ObjectRef, explicit: Option<&str>) -> String {
    let ObjectRef {
        kind,
        namespace,
        name,
    } = object;
    match (explicit.filter(|name| !name.is_empty()), kind) {
        (Some(explicit), _) => explicit.to_owned(),
        (None, Kind::Mesh) => name.to_string(),
        (None, Kind::VirtualService) => format!("{name}.{namespace}"),
        (None, _) => format!("{name}_{namespace}"),
    }
}

/// Returns the errors for which App Mesh's webhooks rejected the creation of an object. An object with one of these
/// problems is left out of the graph as a whole.
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
        Object::Mesh(_)
        | Object::Route(_) // the rules are in its schema
        | Object::VirtualService(_)
        | Object::BackendGroup(_)
        | Object::Namespace(_)
        | Object::Service(_)
        | Object::EndpointSlice(_)
        | Object::Pod(_)
        | Object::Node(_)
        | Object::Secret(_) => Vec::new(),
    }
}

/// Raises all problems to errors, because an object that admission rejects is never served.
pub(crate) fn into_errors(problems: Problems<'_>) -> Vec<Problem> {
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
            "a node with listeners requires serviceDiscovery, because callers could not find it; set dns or awsCloudMap",
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
                "the virtual service is already listed; remove one of the two entries",
            );
        }
    }
    into_errors(problems)
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
                    "route name `{}` is already used in this router; rename one of the two",
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
    into_errors(problems)
}

/// Checks the match of an HTTP route. Like the webhook of App Mesh, checks only the first variant that is set.
fn http_route_match(
    http: Option<&v1beta2::HttpRoute>,
    http2: Option<&v1beta2::HttpRoute>,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) {
    let (route, variant) = match (http, http2) {
        (Some(route), _) => (route, "httpRoute"),
        (None, Some(route)) => (route, "http2Route"),
        (None, None) => return,
    };
    let field = field.field(variant).field("match");
    match (&route.r#match.prefix, &route.r#match.path) {
        (Some(_), None) => {}
        (None, Some(path)) => exact_or_regex(path, field.field("path"), problems),
        (Some(_), Some(_)) => problems.add(
            field,
            Reason::InvalidUnion,
            "both prefix and path are set; keep one",
        ),
        (None, None) => problems.add(
            field,
            Reason::InvalidUnion,
            "neither prefix nor path is set; set one of them (the prefix `/` matches everything)",
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
    into_errors(problems)
}

fn one_connection_pool(variants: &[bool], listener: usize, problems: &mut Problems<'_>) {
    if variants.iter().filter(|is_set| **is_set).count() > 1 {
        problems.add(
            FieldPath::spec()
                .field("listeners")
                .index(listener)
                .field("connectionPool"),
            Reason::InvalidUnion,
            "connection pools for several protocols are set; keep the one for the listener's protocol",
        );
    }
}

#[cfg(test)]
mod tests;
