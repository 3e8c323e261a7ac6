//! Values that several kinds share: durations, references, ports, matchers, access logs.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A length of time. Zero switches a timeout off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Duration {
    /// The unit of `value`: `s` for seconds, `ms` for milliseconds.
    pub unit: DurationUnit,
    /// How many of the unit.
    #[schemars(range(min = 0))]
    pub value: u64,
}

impl From<Duration> for std::time::Duration {
    fn from(Duration { unit, value }: Duration) -> Self {
        match unit {
            DurationUnit::Seconds => Self::from_secs(value),
            DurationUnit::Milliseconds => Self::from_millis(value),
        }
    }
}

/// The unit of a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DurationUnit {
    /// Seconds
    #[serde(rename = "s")]
    Seconds,
    /// Milliseconds
    #[serde(rename = "ms")]
    Milliseconds,
}

/// The name of an object of a kind that the field tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reference {
    /// The object's `metadata.name`.
    pub name: String,
    /// The object's namespace. Default: the namespace of the object that refers to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// The mesh that an object belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshReference {
    /// The mesh's `metadata.name`.
    pub name: String,
    /// The mesh's `metadata.uid`: a mesh deleted and made again under its name is another mesh.
    pub uid: String,
}

/// The virtual gateway that a gateway route is attached to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualGatewayReference {
    /// The virtual gateway's `metadata.name`.
    pub name: String,
    /// The virtual gateway's namespace. Default: the namespace of the gateway route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The virtual gateway's `metadata.uid`.
    pub uid: String,
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PortProtocol {
    /// gRPC over HTTP/2
    Grpc,
    /// HTTP/1.1
    Http,
    /// HTTP/2 with prior knowledge
    Http2,
    /// Bytes over TCP
    Tcp,
}

/// A port and what is spoken on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The port, from 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// What is spoken on it.
    pub protocol: PortProtocol,
}

/// A match of one header, or of one entry of gRPC metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMatch {
    /// The header's name, compared without case; 1 to 50 characters.
    #[schemars(length(min = 1, max = 50))]
    pub name: String,
    /// What the value must be. Default: any value, as long as the header is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#match: Option<HeaderMatchMethod>,
    /// Turns the match round: with `true`, a request without such a header fits. Default: `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invert: Option<bool>,
}

/// What a header's value must be: exactly one of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMatchMethod {
    /// The whole value; 1 to 255 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub exact: Option<String>,
    /// The beginning of the value; 1 to 255 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub prefix: Option<String>,
    /// An integer within a range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<MatchRange>,
    /// An RE2 expression that the whole value fits; 1 to 255 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub regex: Option<String>,
    /// The end of the value; 1 to 255 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub suffix: Option<String>,
}

/// A range of integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MatchRange {
    /// The first integer that fits.
    pub start: i64,
    /// The first integer after `start` that does not fit any more.
    pub end: i64,
}

/// A match of one query parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueryParameter {
    /// The parameter's name.
    pub name: String,
    /// What the value must be. Default: any value, as long as the parameter is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#match: Option<QueryMatchMethod>,
}

/// What a query parameter's value must be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueryMatchMethod {
    /// The whole value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<String>,
}

/// A match of the whole path, without the query string: exactly one of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpPathMatch {
    /// The path itself; 1 to 255 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub exact: Option<String>,
    /// An RE2 expression that the whole path fits; 1 to 255 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub regex: Option<String>,
}

/// An HTTP method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")] // it would replace that of an optional field
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)] // RFC 9110 says what they are
pub enum HttpMethod {
    Connect,
    Delete,
    Get,
    Head,
    Options,
    Patch,
    Post,
    Put,
    Trace,
}

/// What an Envoy writes down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Logging {
    /// The access log, of what comes in and of what goes out. Default: none is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
}

/// Where the access log goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessLog {
    /// To a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileAccessLog>,
}

/// An access log in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileAccessLog {
    /// The file in Envoy's container, such as `/dev/stdout`; its directory must exist. 1 to 255 characters.
    #[schemars(length(min = 1, max = 255))]
    pub path: String,
    /// What a line looks like. Default: Envoy's own format.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<LoggingFormat>,
}

/// What a line of an access log looks like: exactly one of the fields. Envoy's command operators, such
/// as `%RESPONSE_CODE%`, work in both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoggingFormat {
    /// A JSON object with these fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<Vec<JsonField>>,
    /// Plain text; give it a line break at its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// A field of a line in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JsonField {
    /// The field's name; not empty.
    #[schemars(length(min = 1))]
    pub key: String,
    /// The field's value; not empty.
    #[schemars(length(min = 1))]
    pub value: String,
}

/// The schema of a label selector. The type is Kubernetes' own and brings no schema to this version of
/// schemars.
pub(crate) fn label_selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchExpressions": {
                "description": "Conditions on labels; all of them must hold.",
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {
                            "description": "The label's name.",
                            "type": "string"
                        },
                        "operator": {
                            "description": "`In`, `NotIn`, `Exists` or `DoesNotExist`.",
                            "type": "string"
                        },
                        "values": {
                            "description": "The values for `In` and `NotIn`; empty for the other two.",
                            "type": "array",
                            "items": { "type": "string" }
                        }
                    }
                }
            },
            "matchLabels": {
                "description": "Labels and their values; all of them must be there.",
                "type": "object",
                "additionalProperties": { "type": "string" }
            }
        }
    })
}
