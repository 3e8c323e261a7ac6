//! Parses and answers `AdmissionReview` (`admission.k8s.io/v1`).
//!
//! In: the body of an HTTP request and the kind that its path is for. Out: an [`AdmissionRequest`], and the JSON of its
//! answer. The objects stay untyped JSON, so that unknown fields are not lost. Everything else of the review is skipped,
//! and the objects are parsed once their size is known: a parsed value can take fifty times the room of its text.

use std::borrow::Cow;

use evermesh_ingest::admission::{ObjectWrite, Operation};
use evermesh_model::{Kind, ObjectRef};
use evermesh_xds::PeerText;
use json_patch::Patch;
use k8s_openapi::ByteString;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::in_flight::{RequestRoom, UnreadBody};

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// Bytes of a message in an answer. A message quotes the object, which can be as large as the request.
const MESSAGE_BYTES: usize = 4 << 10;

/// Bytes of a request's UID in the answer. A UID of the API server has 36.
const UID_BYTES: usize = 128;

/// The webhooks of a kind of App Mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Webhook {
    /// Sets defaults.
    Mutate,
    /// Accepts or rejects.
    Validate,
}

impl Webhook {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Mutate => "mutate",
            Self::Validate => "validate",
        }
    }
}

/// Path of a webhook, as in the controller of App Mesh, or `None` if the kind has no such webhook.
pub fn path(webhook: Webhook, kind: Kind) -> Option<String> {
    let (group, version) = kind.api_version().split_once('/')?;
    let is_ours = match group {
        "appmesh.k8s.aws" => true,
        "evermesh.dev" => webhook == Webhook::Validate,
        _ => false,
    };
    is_ours.then(|| {
        format!(
            "/{}-{}-{version}-{}",
            webhook.as_str(),
            group.replace('.', "-"),
            kind.as_str().to_lowercase()
        )
    })
}

/// Path of the webhook for pods, as in the controller of App Mesh.
pub const POD_PATH: &str = "/mutate-v1-pod";

/// JSON values that the objects of a request may consist of. The largest object of Kubernetes with short values has about
/// half as many.
const VALUE_LIMIT: usize = 200_000;

/// Bytes that a parsed JSON value takes at most, on average over the values of a document.
const VALUE_BYTES: usize = 256;

/// The fields of a review that are used.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AdmissionReview<'a> {
    api_version: String,
    kind: String,
    #[serde(borrow)]
    request: UnparsedRequest<'a>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct UnparsedRequest<'a> {
    uid: String,
    kind: GroupVersionKind,
    #[serde(default)]
    sub_resource: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    operation: String,
    #[serde(default)]
    dry_run: bool,
    #[serde(default, borrow)]
    object: Option<&'a RawValue>,
    #[serde(default, borrow)]
    old_object: Option<&'a RawValue>,
}

#[derive(Debug)]
pub(super) struct AdmissionRequest {
    uid: String,
    sub_resource: Option<String>,
    name: Option<String>,
    namespace: Option<String>,
    operation: String,
    dry_run: bool,
    object: Value,
    old_object: Value,
}

#[derive(Debug, Deserialize)]
struct GroupVersionKind {
    group: String,
    version: String,
    kind: String,
}

/// Reason why a body is not an admission request for its path.
#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidReview {
    #[error("the body is not an AdmissionReview: {}", PeerText(&.0.to_string()))]
    Json(#[from] serde_json::Error),
    #[error(
        "`{} {}` is not supported; send {API_VERSION} {KIND}",
        PeerText(.api_version),
        PeerText(.kind)
    )]
    Version { api_version: String, kind: String },
    #[error(
        "the object is a `{}`, but this path is for {expected}",
        PeerText(.found)
    )]
    Kind { found: String, expected: Kind },
    #[error("the request to {0} an object does not contain the object")]
    NoObject(&'static str),
    #[error(
        "the object consists of {values} JSON values, with its old version, and Evermesh reads at most {VALUE_LIMIT}; split it into several objects"
    )]
    TooLarge { uid: String, values: usize },
    #[error("there is no room for the request")]
    NoRoom(UnreadBody),
}

impl AdmissionRequest {
    /// Parses a request to the path of `kind`. `room` grows by what the parsed objects take.
    pub(super) fn read(
        body: &[u8],
        kind: Kind,
        room: &mut RequestRoom,
    ) -> Result<Self, InvalidReview> {
        let AdmissionReview {
            api_version,
            kind: kind_name,
            request,
        } = serde_json::from_slice(body)?;
        if api_version != API_VERSION || kind_name != KIND {
            return Err(InvalidReview::Version {
                api_version,
                kind: kind_name,
            });
        }
        let GroupVersionKind {
            group,
            version,
            kind: kind_name,
        } = &request.kind;
        let api_version = match group.as_str() {
            "" => version.clone(),
            group => format!("{group}/{version}"),
        };
        if Kind::find(&api_version, kind_name) != Some(kind) {
            return Err(InvalidReview::Kind {
                found: format!("{api_version} {kind_name}"),
                expected: kind,
            });
        }
        let objects = [request.object, request.old_object];
        let values: usize = objects
            .into_iter()
            .flatten()
            .map(|it| values(it.get()))
            .sum();
        if values > VALUE_LIMIT {
            let uid = request.uid;
            return Err(InvalidReview::TooLarge { uid, values });
        }
        room.grow(values * VALUE_BYTES)
            .map_err(InvalidReview::NoRoom)?;
        let [object, old_object] =
            objects.map(|it| it.map_or(Ok(Value::Null), |it| serde_json::from_str(it.get())));
        let request = Self {
            uid: request.uid,
            sub_resource: request.sub_resource,
            name: request.name,
            namespace: request.namespace,
            operation: request.operation,
            dry_run: request.dry_run,
            object: object?,
            old_object: old_object?,
        };
        let object = match request.operation.as_str() {
            "CREATE" if !request.object.is_object() => Err(InvalidReview::NoObject("create")),
            "UPDATE" if !request.object.is_object() || !request.old_object.is_object() => {
                Err(InvalidReview::NoObject("update"))
            }
            _ => Ok(()),
        };
        object.map(|()| request)
    }

    /// The label `operation` of `admission_requests`.
    pub(super) fn operation(&self) -> &'static str {
        match self.operation.as_str() {
            "CREATE" => "create",
            "UPDATE" => "update",
            _ => "other",
        }
    }

    /// The write to decide about, or `None` for a deletion or a subresource such as the status.
    pub(super) fn write(&self, kind: Kind) -> Option<ObjectWrite<'_>> {
        let operation = match self.operation.as_str() {
            _ if self.sub_resource.as_ref().is_some_and(|it| !it.is_empty()) => return None,
            "CREATE" => Operation::Create,
            "UPDATE" => Operation::Update {
                old: Cow::Borrowed(&self.old_object),
            },
            _ => return None,
        };
        Some(ObjectWrite {
            object: ObjectRef::new(
                kind,
                self.namespace.as_deref().unwrap_or_default(),
                self.object_name(),
            ),
            operation,
            new: Cow::Borrowed(&self.object),
        })
    }

    /// As [`Self::write`], with the objects themselves, which the request loses.
    pub(super) fn take_write(&mut self, kind: Kind) -> Option<ObjectWrite<'static>> {
        let (object, is_creation) = {
            let write = self.write(kind)?;
            let is_creation = write.operation == Operation::Create;
            (write.object, is_creation)
        };
        let new = Cow::Owned(self.object.take());
        let operation = if is_creation {
            Operation::Create
        } else {
            Operation::Update {
                old: Cow::Owned(self.old_object.take()),
            }
        };
        Some(ObjectWrite {
            object,
            operation,
            new,
        })
    }

    /// The object and its namespace if the request creates an object, not a subresource.
    pub(super) fn creation(&self) -> Option<(&Value, &str)> {
        let is_whole = self.sub_resource.as_ref().is_none_or(String::is_empty);
        let namespace = self.namespace.as_deref().unwrap_or_default();
        (is_whole && self.operation == "CREATE").then_some((&self.object, namespace))
    }

    /// Whether the request must not have side effects such as events.
    pub(super) fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// The name of the object; empty if the API server will generate it (`generateName`).
    fn object_name(&self) -> &str {
        let requested = self.name.as_deref().filter(|name| !name.is_empty());
        let written = || self.object["metadata"]["name"].as_str();
        requested.or_else(written).unwrap_or_default()
    }

    /// The answer that accepts the object with the patch applied and shows the warnings to the user.
    pub(super) fn allow(&self, patch: &Patch, warnings: &[String]) -> Value {
        let uid = PeerText(&self.uid).within(UID_BYTES);
        let mut response = json!({ "uid": uid, "allowed": true });
        if !patch.0.is_empty() {
            let patch = json!(patch).to_string().into_bytes();
            response["patchType"] = "JSONPatch".into();
            response["patch"] = json!(ByteString(patch));
        }
        if !warnings.is_empty() {
            let warnings = warnings.iter().map(|it| PeerText(it).within(MESSAGE_BYTES));
            response["warnings"] = warnings.collect();
        }
        review(&response)
    }

    /// The answer that rejects the object.
    pub(super) fn deny(&self, message: &str) -> Value {
        reject(&self.uid, 403, "Forbidden", message)
    }

    /// The answer that rejects the object for now. The answer is not an HTTP error, because the API server does
    /// not show the body of an HTTP error to the user.
    pub(super) fn reject_for_now(&self, message: &str) -> Value {
        reject(&self.uid, 503, "ServiceUnavailable", message)
    }
}

/// The answer that rejects an object that was not parsed.
pub(super) fn reject_too_large(uid: &str, message: &str) -> Value {
    reject(uid, 413, "RequestEntityTooLarge", message)
}

fn reject(uid: &str, code: u16, reason: &str, message: &str) -> Value {
    review(&json!({
        "uid": PeerText(uid).within(UID_BYTES),
        "allowed": false,
        "status": {
            "status": "Failure",
            "reason": reason,
            "code": code,
            "message": PeerText(message).within(MESSAGE_BYTES),
        },
    }))
}

/// The number of values in a valid JSON text, or more: each follows a comma or opens a list or an object, but for the
/// first.
fn values(json: &str) -> usize {
    let mut count = 1;
    let (mut in_string, mut escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

fn review(response: &Value) -> Value {
    json!({ "apiVersion": API_VERSION, "kind": KIND, "response": response })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_of_strings() {
        for (json, count) in [
            ("1", 1),
            (r#""a,[{\",{""#, 1),
            (r#"{"a": [1, "x,y", {"b": null}], "c": {}}"#, 8),
        ] {
            assert_eq!(values(json), count, "{json}");
        }
    }

    #[test]
    fn webhook_paths_match_app_mesh() {
        assert_eq!(
            path(Webhook::Mutate, Kind::VirtualNode).as_deref(),
            Some("/mutate-appmesh-k8s-aws-v1beta2-virtualnode")
        );
        assert_eq!(
            path(Webhook::Validate, Kind::BackendGroup).as_deref(),
            Some("/validate-appmesh-k8s-aws-v1beta2-backendgroup")
        );
        assert_eq!(
            path(Webhook::Validate, Kind::Route).as_deref(),
            Some("/validate-evermesh-dev-v1alpha1-route")
        );
        assert_eq!(path(Webhook::Mutate, Kind::Route), None);
        assert_eq!(path(Webhook::Validate, Kind::Pod), None);
    }
}
