//! Parsing of a document into a typed object, with the checks that an API server makes: identify, prune and validate.
//!
//! Input is JSON; output is an [`Object`], problems or both. All sources use this module: files, which no API server has
//! checked, and the Kubernetes API, whose custom resource definitions may be older than this version of Evermesh.

use std::sync::Arc;

use evermesh_crds::{extension, v1beta2};
use evermesh_model::{FieldPath, Kind, ObjectRef, Problem, Reason};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::{
    schema::{self, SchemaViolation},
    secrets::SecretObject,
};

/// An object of one of the kinds that a mesh is made of.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // each variant is documented at `Kind`
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
    Secret(Arc<SecretObject>),
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
            Kind::Secret => Self::Secret(Arc::new(SecretObject::read(&value))),
        })
    }
}

/// The result of parsing a document.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ParsedDocument {
    /// The object; absent if the document is invalid.
    pub object: Option<(ObjectRef, Object)>,
    /// The identity of the object, which is also known for many invalid documents, so that the last good version of the
    /// object can stay in force.
    pub id: Option<ObjectRef>,
    /// The problems of the document. Warnings do not make the document invalid.
    pub problems: Vec<Problem>,
}

impl ParsedDocument {
    /// The result for a document whose object cannot be identified.
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

/// Identifies, prunes and validates a document. Lists must be split into their items before.
pub fn parse(value: Value) -> ParsedDocument {
    let is_too_deep = is_too_deep(&value);
    let Value::Object(mut fields) = value else {
        return not_an_object();
    };
    let (Some(Value::String(api_version)), Some(Value::String(word))) =
        (fields.remove("apiVersion"), fields.remove("kind"))
    else {
        return not_an_object();
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
        let message =
            format!("the document is nested more than {MAX_DEPTH} levels deep; reduce the nesting");
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
                message: format!("cannot be parsed as {kind}: {error}"),
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

/// Maximum nesting of a document. Deserialisation is recursive, so unlimited nesting would overflow the stack.
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

fn not_an_object() -> ParsedDocument {
    ParsedDocument::nameless(
        FieldPath::root(),
        Reason::InvalidYaml,
        "the document is not a Kubernetes object; set apiVersion and kind to strings".to_owned(),
    )
}

fn unknown_kind(api_version: &str, kind: &str, fields: &Map<String, Value>) -> ParsedDocument {
    let name = fields
        .get("metadata")
        .and_then(|metadata| metadata["name"].as_str())
        .map_or_else(|| "the document".to_owned(), schema::quote);
    let group = api_version.split('/').next();
    let hint = Kind::ALL
        .into_iter()
        .find(|known| known.as_str() == kind && known.api_version().split('/').next() == group)
        .map_or_else(String::new, |known| {
            format!("; use apiVersion {}", known.api_version())
        });
    ParsedDocument::nameless(
        FieldPath::root(),
        Reason::UnknownKind,
        format!(
            "Evermesh does not use kind {} of {}, so {name} is ignored{hint}",
            schema::quote(kind),
            schema::quote(api_version)
        ),
    )
}

/// Returns the identity of the object. Sets the namespace to `default` if it is missing, and removes it from
/// cluster-scoped objects.
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
        Some(_) => Err((at.field(field), "must be a string".to_owned())),
        None => Err((at.field(field), "is required".to_owned())),
    };
    let name = text("name")?;
    if !is_subdomain(name) {
        let message = "must be a DNS subdomain (RFC 1123): at most 253 lower-case letters, digits, `-` and `.`, with a letter or digit at both ends and around each `.`";
        return Err((at.field("name"), message.to_owned()));
    }
    if !kind.is_namespaced() {
        return Ok(ObjectRef::new(kind, "", name));
    }
    let namespace = text("namespace")?;
    if !is_label(namespace) {
        let message = "must be a DNS label (RFC 1123): at most 63 lower-case letters, digits and `-`, with a letter or digit at both ends";
        return Err((at.field("namespace"), message.to_owned()));
    }
    Ok(ObjectRef::new(kind, namespace, name))
}

/// Returns whether the text is a DNS subdomain (RFC 1123), as names of objects are.
pub fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label_of_any_length)
}

/// Returns whether the text is a DNS label (RFC 1123), as names of namespaces are.
pub fn is_label(name: &str) -> bool {
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

/// Validates labels and annotations, in which mistakes are frequent. Deserialisation checks the other fields.
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
    // The control plane writes the status, and an API server ignores the status in a manifest.
    let (of_status, violations): (Vec<_>, Vec<_>) = violations.into_iter().partition(|violation| {
        let field = violation.field.as_str();
        field == "status" || field.starts_with("status.")
    });
    if of_status.iter().any(is_invalid)
        && let Value::Object(fields) = value
    {
        fields.remove("status");
    }
    if value.get("spec").is_none() {
        value["spec"] = json!({});
    }
    violations
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
