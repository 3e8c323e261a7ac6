//! The validating webhook: the rules of each kind, and immutable fields.
//!
//! Writes to an object that is being deleted, and writes that do not change the spec, always pass. Otherwise users could
//! not change labels or remove finalizers of an object whose spec has become invalid under newer rules. Annotations by
//! which a router admits `Route` objects are checked whenever annotations change.
//!
//! The check does not depend on other objects, because a missing reference may be created later. [`check_claims`] has the
//! rules that do.
//!
//! [`check_claims`]: super::check_claims

use evermesh_crds::{extension, v1beta2};
use evermesh_model::{Kind, ObjectRef, Problem, Reason, Severity, problem::FieldPath};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::{AdmissionDenial, ObjectWrite, Operation, validate};
use crate::{
    consent::RouterConsent,
    matches,
    object::{self, Object},
    stage::Problems,
};

/// Accepts or denies the write.
pub fn check(write: ObjectWrite<'_>) -> Result<(), AdmissionDenial> {
    if write.is_terminating() {
        return Ok(());
    }
    let mut problems = consent(&write);
    if !write.changes_spec() {
        return AdmissionDenial::from_problems(problems);
    }
    let ObjectWrite {
        object: id,
        operation,
        new,
    } = write;
    if let Operation::Update { old } = operation {
        problems.extend(changes(&id, &old["spec"], &new["spec"]));
    }
    let parsed = object::parse(new.into_owned());
    let violations = parsed.problems.into_iter();
    problems.extend(violations.filter(|problem| problem.severity == Severity::Error));
    if let Some((_, object)) = &parsed.object {
        problems.extend(validate(object));
        if let Object::Route(route) = object {
            problems.extend(self::route(&id, &route.spec));
        }
    }
    AdmissionDenial::from_problems(problems)
}

/// Problems of the annotations by which the owner of a router admits `Route` objects, if the write changes annotations.
fn consent(write: &ObjectWrite<'_>) -> Vec<Problem> {
    let annotations = |object: &Value| object["metadata"]["annotations"].clone();
    let new = annotations(&write.new);
    let is_changed = match &write.operation {
        Operation::Create => true,
        Operation::Update { old } => annotations(old) != new,
    };
    let mut problems = Problems::of(&write.object);
    if write.object.kind == Kind::VirtualRouter && is_changed {
        let metadata = ObjectMeta {
            annotations: serde_json::from_value(new).unwrap_or_default(),
            ..ObjectMeta::default()
        };
        RouterConsent::read(&metadata, &mut problems);
    }
    problems.into_list()
}

/// Problems of changes to immutable fields.
fn changes(object: &ObjectRef, old: &Value, new: &Value) -> Vec<Problem> {
    let fields: &[&str] = match object.kind {
        Kind::Mesh => &["awsName"],
        Kind::GatewayRoute => &["awsName", "meshRef", "virtualGatewayRef"],
        Kind::BackendGroup => &["meshRef"],
        Kind::Route => &["virtualRouterRef"],
        Kind::VirtualNode | Kind::VirtualService | Kind::VirtualRouter | Kind::VirtualGateway => {
            &["awsName", "meshRef"]
        }
        _ => &[],
    };
    let mut problems = Problems::of(object);
    for field in fields {
        let (old, new) = (&old[*field], &new[*field]);
        if old != new {
            immutable(FieldPath::spec().field(field), old, new, &mut problems);
        }
    }
    // `awsCloudMap` may be added later. It cannot be changed after that, because instances are registered under it.
    let cloud_map = |spec: &Value| spec["serviceDiscovery"]["awsCloudMap"].clone();
    let (old, new) = (cloud_map(old), cloud_map(new));
    if object.kind == Kind::VirtualNode && !old.is_null() && old != new {
        let field = FieldPath::spec().field("serviceDiscovery.awsCloudMap");
        immutable(field, &old, &new, &mut problems);
    }
    problems.into_list()
}

fn immutable(field: FieldPath, old: &Value, new: &Value, problems: &mut Problems<'_>) {
    let format = |value: &Value| match value {
        Value::Null => "absent".to_owned(),
        value => format!("`{value}`"),
    };
    let message = format!(
        "cannot be changed from {} to {}; keep the value, or delete and recreate the object",
        format(old),
        format(new)
    );
    problems.add(field, Reason::Immutable, message);
}

/// Checks paths and regular expressions of a `Route`, which the rules in its definition cannot express.
fn route(object: &ObjectRef, spec: &extension::RouteSpec) -> Vec<Problem> {
    let extension::RouteSpec {
        virtual_router_ref: _,
        priority: _,
        http_route,
        http2_route,
        grpc_route,
        tcp_route: _,
    } = spec;
    let mut problems = Problems::of(object);
    for (variant, route) in [("httpRoute", http_route), ("http2Route", http2_route)] {
        let Some(v1beta2::HttpRoute { r#match, .. }) = route else {
            continue;
        };
        let field = FieldPath::spec().field(variant).field("match");
        let path = r#match.path.as_ref();
        matches::path(r#match.prefix.as_ref(), path, &field, &mut problems);
        let headers = r#match.headers.as_ref();
        matches::headers(headers, &field.field("headers"), &mut problems);
        let query = r#match.query_parameters.as_ref();
        matches::query(query, &field.field("queryParameters"), &mut problems);
    }
    if let Some(v1beta2::GrpcRoute { r#match, .. }) = grpc_route {
        let field = FieldPath::spec().field("grpcRoute.match.metadata");
        matches::headers(r#match.metadata.as_ref(), &field, &mut problems);
    }
    problems.into_list()
}
