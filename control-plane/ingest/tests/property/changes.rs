//! Strategies for valid and invalid objects of every kind. The names come from a small set, so that objects refer to each
//! other.

mod cluster;
mod proxies;
mod routing;

use evermesh_model::{CloudMapService, CloudMapState, Kind, ObjectRef};
use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};

use self::{
    cluster::{cloud_map, kubernetes, mesh, secret},
    proxies::{backend_group, gateway, node},
    routing::{gateway_route, route, router, service},
};

/// One change of the inputs.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Put(Value),
    Remove(ObjectRef),
    CloudMap(CloudMapService, Option<CloudMapState>),
    EndpointSlices(bool),
}

fn name() -> impl Strategy<Value = &'static str> + Clone {
    select(&["one", "two"][..])
}

fn namespace() -> impl Strategy<Value = &'static str> + Clone {
    select(&["red", "blue"][..])
}

/// A value or null, which [`without_nulls`] removes.
fn maybe(value: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Value> {
    prop_oneof![1 => Just(Value::Null), 3 => value].boxed()
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, without_nulls(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

fn reference() -> impl Strategy<Value = Value> + Clone {
    (name(), maybe(namespace().prop_map(Value::from)))
        .prop_map(|(name, namespace)| json!({ "name": name, "namespace": namespace }))
}

/// An object with the fields of `more` and `…Ref`, `…ARN`, both or neither.
fn target(field: &'static str, more: BoxedStrategy<Value>) -> impl Strategy<Value = Value> {
    let arn =
        (select(&["m", "other"][..]), name(), namespace()).prop_map(move |(mesh, name, ns)| {
            let dot = if field == "virtualService" { '.' } else { '_' };
            json!(format!(
                "arn:aws:appmesh:r:1:mesh/{mesh}/{field}/{name}{dot}{ns}"
            ))
        });
    let references = prop_oneof![
        8 => (reference(), Just(Value::Null)),
        2 => (Just(Value::Null), arn.clone()),
        1 => (reference(), arn),
        1 => (Just(Value::Null), Just(Value::Null)),
    ];
    (references, more).prop_map(move |((reference, arn), mut more)| {
        more[format!("{field}Ref")] = reference;
        more[format!("{field}ARN")] = arn;
        more
    })
}

fn port() -> impl Strategy<Value = u16> {
    select(&[80, 81][..])
}

fn protocol() -> impl Strategy<Value = &'static str> {
    select(&["http", "http2", "grpc", "tcp"][..])
}

fn mesh_reference() -> BoxedStrategy<Value> {
    let reference =
        select(&["m", "other", "missing"][..]).prop_map(|name| json!({ "name": name, "uid": "" }));
    prop_oneof![12 => Just(Value::Null), 1 => reference].boxed()
}

fn member(
    kind: &'static str,
    spec: impl Strategy<Value = Value> + 'static,
) -> BoxedStrategy<Value> {
    let api_version = if kind == "Route" {
        "evermesh.dev/v1alpha1"
    } else {
        "appmesh.k8s.aws/v1beta2"
    };
    let aws_name = prop_oneof![
        20 => Just(Value::Null),
        1 => Just(json!("same")),
        1 => Just(json!("Same")),
        1 => Just(json!("bad/name")),
    ];
    (name(), namespace(), aws_name, mesh_reference(), spec)
        .prop_map(move |(name, namespace, aws_name, mesh, mut spec)| {
            if kind != "Route" {
                spec["meshRef"] = mesh;
            }
            if !["Route", "BackendGroup"].contains(&kind) {
                spec["awsName"] = aws_name;
            }
            json!({
                "apiVersion": api_version, "kind": kind,
                "metadata": { "name": name, "namespace": namespace, "labels": { "gate": name } },
                "spec": spec,
            })
        })
        .boxed()
}

/// A mesh that selects all namespaces.
pub(crate) fn common_mesh() -> Value {
    json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "Mesh",
        "metadata": { "name": "m" },
        "spec": { "namespaceSelector": {} },
    })
}

pub(crate) fn object() -> impl Strategy<Value = Value> {
    prop_oneof![
        6 => node(),
        4 => service(),
        3 => router(),
        2 => route(),
        1 => gateway(),
        2 => gateway_route(),
        2 => backend_group(),
        3 => kubernetes(),
    ]
    .prop_map(without_nulls)
}

pub(crate) fn change() -> impl Strategy<Value = Change> {
    let kinds = select(&Kind::ALL[..]);
    let removed = (kinds, namespace(), name()).prop_map(|(kind, namespace, name)| {
        let namespace = if kind.is_namespaced() { namespace } else { "" };
        Change::Remove(ObjectRef::new(kind, namespace, name))
    });
    prop_oneof![
        12 => object().prop_map(Change::Put),
        2 => secret().prop_map(without_nulls).prop_map(Change::Put),
        2 => mesh().prop_map(without_nulls).prop_map(Change::Put),
        4 => removed,
        2 => cloud_map().prop_map(|(service, state)| Change::CloudMap(service, state)),
        1 => any::<bool>().prop_map(Change::EndpointSlices),
    ]
}
