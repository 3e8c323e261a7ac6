//! What an API server does to a document before it keeps it: recognise, prune, validate.
//!
//! A document comes in as JSON; out come a typed object, or the reasons why there is none. Files go
//! through here, and so do objects from a cluster, whose API server may have had older definitions.
//!
//! Must not know how objects belong together.

use std::sync::Arc;

use evermesh_crds::{extension, v1beta2};
use evermesh_model::{FieldPath, Kind, ObjectRef, Problem, Reason};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::schema::{self, SchemaViolation};

/// An object of one of the kinds that a mesh is made of.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // `Kind` says what they are
pub enum Object {
    Mesh(Arc<v1beta2::Mesh>),
    VirtualNode(Arc<v1beta2::VirtualNode>),
    VirtualService(Arc<v1beta2::VirtualService>),
    VirtualRouter(Arc<v1beta2::VirtualRouter>),
    VirtualGateway(Arc<v1beta2::VirtualGateway>),
    GatewayRoute(Arc<v1beta2::GatewayRoute>),
    BackendGroup(Arc<v1beta2::BackendGroup>),
    Route(Arc<extension::Route>),
    Namespace(Arc<Namespace>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    Pod(Arc<Pod>),
    Node(Arc<Node>),
}

impl Object {
    fn read(kind: Kind, value: Value) -> serde_json::Result<Self> {
        fn read<T: DeserializeOwned>(value: Value) -> serde_json::Result<Arc<T>> {
            serde_json::from_value(value).map(Arc::new)
        }
        Ok(match kind {
            Kind::Mesh => Self::Mesh(read(value)?),
            Kind::VirtualNode => Self::VirtualNode(read(value)?),
            Kind::VirtualService => Self::VirtualService(read(value)?),
            Kind::VirtualRouter => Self::VirtualRouter(read(value)?),
            Kind::VirtualGateway => Self::VirtualGateway(read(value)?),
            Kind::GatewayRoute => Self::GatewayRoute(read(value)?),
            Kind::BackendGroup => Self::BackendGroup(read(value)?),
            Kind::Route => Self::Route(read(value)?),
            Kind::Namespace => Self::Namespace(read(value)?),
            Kind::Service => Self::Service(read(value)?),
            Kind::EndpointSlice => Self::EndpointSlice(read(value)?),
            Kind::Pod => Self::Pod(read(value)?),
            Kind::Node => Self::Node(read(value)?),
        })
    }
}

/// What became of a document.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ParsedDocument {
    /// The object, unless something about it is invalid.
    pub object: Option<(ObjectRef, Object)>,
    /// Which object it is, known even if it is invalid, so that the last good one can be kept.
    pub id: Option<ObjectRef>,
    /// What is wrong with it. Warnings do not keep it from being an object.
    pub problems: Vec<Problem>,
}

impl ParsedDocument {
    /// A document without an object that one could name.
    fn nameless(field: FieldPath, reason: Reason, message: String) -> Self {
        Self {
            problems: vec![Problem {
                object: None,
                origin: None,
                field,
                reason,
                severity: reason.severity(),
                message,
            }],
            ..Self::default()
        }
    }
}

/// Recognises, prunes and validates a document. A list is not taken apart.
pub fn parse(value: Value) -> ParsedDocument {
    let is_too_deep = is_too_deep(&value);
    let Value::Object(mut fields) = value else {
        return no_object();
    };
    let (Some(Value::String(api_version)), Some(Value::String(word))) =
        (fields.remove("apiVersion"), fields.remove("kind"))
    else {
        return no_object();
    };
    let Some(kind) = Kind::find(&api_version, &word) else {
        return unknown_kind(&api_version, &word, &fields);
    };
    let mut metadata = fields.remove("metadata").unwrap_or_default();
    let id = match identify(kind, &mut metadata) {
        Ok(id) => id,
        Err((field, message)) => {
            return ParsedDocument::nameless(
                field,
                Reason::InvalidValue,
                format!("{kind}: {message}"),
            );
        }
    };

    if is_too_deep {
        let message = format!("nested more than {MAX_DEPTH} levels deep");
        return ParsedDocument {
            problems: vec![Problem::new(
                &id,
                FieldPath::root(),
                Reason::TooLarge,
                message,
            )],
            object: None,
            id: Some(id),
        };
    }

    let mut value = Value::Object(fields);
    let mut violations = check_metadata(&mut metadata);
    violations.extend(check_body(kind, &mut value));
    value["metadata"] = metadata;
    value["apiVersion"] = api_version.into();
    value["kind"] = word.into();

    let is_valid = |violations: &[SchemaViolation]| !violations.iter().any(is_invalid);
    if is_valid(&violations) {
        violations.extend(schema::check_rules(kind, &value));
    }
    let mut object = None;
    if is_valid(&violations) {
        match Object::read(kind, value) {
            Ok(read) => object = Some((id.clone(), read)),
            Err(error) => violations.push(SchemaViolation {
                field: FieldPath::root(),
                reason: Reason::InvalidValue,
                message: format!("cannot be read as a {kind}: {error}"),
            }),
        }
    }
    let problems = violations
        .into_iter()
        .map(|violation| Problem::new(&id, violation.field, violation.reason, violation.message))
        .collect();
    ParsedDocument {
        object,
        id: Some(id),
        problems,
    }
}

/// Deserialisation recurses, so what is deeper than any real object must not get there.
const MAX_DEPTH: usize = 128;

fn is_too_deep(value: &Value) -> bool {
    let mut open = vec![(value, 0)];
    while let Some((value, depth)) = open.pop() {
        match value {
            _ if depth > MAX_DEPTH => return true,
            Value::Array(items) => open.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(fields) => open.extend(fields.values().map(|field| (field, depth + 1))),
            _ => {}
        }
    }
    false
}

fn is_invalid(violation: &SchemaViolation) -> bool {
    violation.reason == Reason::InvalidValue
}

fn no_object() -> ParsedDocument {
    ParsedDocument::nameless(
        FieldPath::root(),
        Reason::InvalidYaml,
        "not a Kubernetes object: apiVersion and kind are needed, both as text".to_owned(),
    )
}

fn unknown_kind(api_version: &str, kind: &str, fields: &Map<String, Value>) -> ParsedDocument {
    let name = fields
        .get("metadata")
        .and_then(|metadata| metadata["name"].as_str())
        .unwrap_or("without a name");
    let group = api_version.split('/').next();
    let hint = Kind::ALL
        .into_iter()
        .find(|known| known.as_str() == kind && known.api_version().split('/').next() == group)
        .map_or_else(String::new, |known| {
            format!("; the version known here is {}", known.api_version())
        });
    ParsedDocument::nameless(
        FieldPath::root(),
        Reason::UnknownKind,
        format!("{api_version} {kind} {name}: no kind that a mesh is made of{hint}"),
    )
}

/// Who the object is. Fills in the default namespace, and takes out one where there can be none.
fn identify(kind: Kind, metadata: &mut Value) -> Result<ObjectRef, (FieldPath, String)> {
    let at = FieldPath::root().field("metadata");
    let Value::Object(fields) = metadata else {
        return Err((at, "must be an object with a name".to_owned()));
    };
    fields.retain(|_, value| !value.is_null());
    if kind.is_namespaced() {
        fields
            .entry("namespace")
            .or_insert_with(|| json!("default"));
    } else {
        fields.remove("namespace");
    }
    let text = |field| match fields.get(field) {
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err((at.field(field), "must be a text".to_owned())),
        None => Err((at.field(field), "is required, but missing".to_owned())),
    };
    let name = text("name")?;
    if !is_subdomain(name) {
        let message = "must be at most 253 small letters, digits, dashes and dots, with a letter or digit at both ends and around each dot";
        return Err((at.field("name"), message.to_owned()));
    }
    if !kind.is_namespaced() {
        return Ok(ObjectRef::new(kind, "", name));
    }
    let namespace = text("namespace")?;
    if !is_label(namespace) {
        let message = "must be at most 63 small letters, digits and dashes, with a letter or digit at both ends";
        return Err((at.field("namespace"), message.to_owned()));
    }
    Ok(ObjectRef::new(kind, namespace, name))
}

/// The names of objects, RFC 1123.
fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label_of_any_length)
}

/// The names of namespaces, RFC 1123.
fn is_label(name: &str) -> bool {
    name.len() <= 63 && is_label_of_any_length(name)
}

fn is_label_of_any_length(label: &str) -> bool {
    let is_dash = |end: Option<u8>| end.is_none_or(|end| end == b'-');
    !is_dash(label.bytes().next())
        && !is_dash(label.bytes().last())
        && label
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// Labels and annotations are what people get wrong; the rest is left to deserialisation.
fn check_metadata(metadata: &mut Value) -> Vec<SchemaViolation> {
    let at = FieldPath::root().field("metadata");
    ["annotations", "labels"]
        .into_iter()
        .filter_map(|field| {
            let value = metadata.get_mut(field)?;
            Some(schema::check(&schema::TEXTS, value, &at.field(field)))
        })
        .flatten()
        .collect()
}

fn check_body(kind: Kind, value: &mut Value) -> Vec<SchemaViolation> {
    let Some(schema) = schema::of(kind) else {
        return Vec::new();
    };
    let violations = schema::check(schema, value, &FieldPath::root());
    // The status is ours to write, and an API server would not take it from a manifest either.
    let (of_status, violations): (Vec<_>, Vec<_>) = violations.into_iter().partition(|violation| {
        let field = violation.field.as_str();
        field == "status" || field.starts_with("status.")
    });
    if of_status.iter().any(is_invalid)
        && let Value::Object(fields) = value
    {
        fields.remove("status");
    }
    let is_required = schema
        .required
        .iter()
        .flatten()
        .any(|field| field == "spec");
    if !is_required && value.get("spec").is_none() {
        value["spec"] = json!({});
    }
    violations
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
