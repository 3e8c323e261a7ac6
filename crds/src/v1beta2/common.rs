//! Types that several kinds share: durations, references, ports, matches, access logs.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A duration. Zero disables a timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Duration {
    /// Unit of `value`: `s` (seconds) or `ms` (milliseconds).
    pub unit: DurationUnit,
    /// Number of units; at least 0.
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
    /// Seconds (`s`).
    #[serde(rename = "s")]
    Seconds,
    /// Milliseconds (`ms`).
    #[serde(rename = "ms")]
    Milliseconds,
}

/// A reference to an object. The field determines its kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reference {
    /// `metadata.name` of the object.
    pub name: String,
    /// Namespace of the object. Default: the namespace of the object that contains the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// A reference to the mesh of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshReference {
    /// `metadata.name` of the mesh.
    pub name: String,
    /// `metadata.uid` of the mesh. A mesh that was deleted and created again under the same name is another mesh.
    pub uid: String,
}

/// A reference to the virtual gateway of a gateway route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualGatewayReference {
    /// `metadata.name` of the virtual gateway.
    pub name: String,
    /// Namespace of the virtual gateway. Default: the namespace of the gateway route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `metadata.uid` of the virtual gateway.
    pub uid: String,
}

/// The protocol of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PortProtocol {
    /// gRPC over HTTP/2.
    Grpc,
    /// HTTP/1.1.
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// TCP connections with any protocol.
    Tcp,
}

/// A port and its protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// Port number, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Protocol of the port: `http` (HTTP/1.1), `http2`, `grpc` or `tcp`.
    pub protocol: PortProtocol,
}

/// A match of one header or of one entry of gRPC metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMatch {
    /// Name of the header, case-insensitive; 1 to 50 characters.
    #[schemars(length(min = 1, max = 50))]
    pub name: String,
    /// Match of the value. Default: the header exists, with any value, also an empty one. Envoy 1.36 compares the values
    /// of a header that occurs several times as one, joined by commas; Envoy 1.40 accepts any of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#match: Option<HeaderMatchMethod>,
    /// Whether to invert the match. With a `match`, an inverted match still needs the header, with another value. Without
    /// a `match`, `true` accepts requests without the header. Default: `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invert: Option<bool>,
}

/// A match of a header value, which is case-sensitive. Exactly one field is required.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMatchMethod {
    /// The value; 1 to 255 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub exact: Option<String>,
    /// Prefix of the value; 1 to 255 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub prefix: Option<String>,
    /// Range for a value that is a decimal integer, with or without a sign. No other value matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<MatchRange>,
    /// Regular expression in RE2 syntax that has to match the whole value; 1 to 255 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub regex: Option<String>,
    /// Suffix of the value; 1 to 255 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub suffix: Option<String>,
}

/// A half-open range of integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MatchRange {
    /// Start of the range, inclusive.
    pub start: i64,
    /// End of the range, exclusive; above `start`.
    pub end: i64,
}

/// A match of one query parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueryParameter {
    /// Name of the query parameter, case-sensitive.
    pub name: String,
    /// Match of the value. Default: the parameter exists, with any value, also an empty one. Of a parameter that occurs
    /// several times, the first value counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#match: Option<QueryMatchMethod>,
}

/// A match of the value of a query parameter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueryMatchMethod {
    /// The value, in the same case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<String>,
}

/// A match of the whole path, without the query string. Exactly one field is required.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpPathMatch {
    /// The path, in the same case; 1 to 255 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub exact: Option<String>,
    /// Regular expression in RE2 syntax that has to match the whole path; 1 to 255 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub regex: Option<String>,
}

/// An HTTP request method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(description = "")] // else it replaces the description of an optional field
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)] // defined by RFC 9110 and RFC 5789
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

/// Logging of a proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Logging {
    /// Access log of inbound and outbound traffic. Default: no access log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
}

/// The destination of the access log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessLog {
    /// A file in the container of the proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileAccessLog>,
}

/// An access log that is written to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileAccessLog {
    /// Absolute path of the file in the container of the proxy, such as `/dev/stdout`; 1 to 255 characters. The folder
    /// must exist and Envoy must be able to write to it, otherwise Envoy refuses all listeners.
    #[schemars(length(min = 1, max = 255))]
    pub path: String,
    /// Format of a line. Default: the default format of Envoy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<LoggingFormat>,
}

/// The format of a line of the access log. Exactly one field is required. Both may contain command operators of Envoy
/// 1.36, such as `%RESPONSE_CODE%`; `%%` stands for a percent sign.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoggingFormat {
    /// Fields of a JSON object. A field whose value Envoy would refuse is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<Vec<JsonField>>,
    /// Text of the line, including the line break at its end; at least 1 character. Envoy's default format replaces a
    /// text that Envoy would refuse.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// A field of a JSON access log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JsonField {
    /// Name of the field, unique in the object; at least 1 character.
    #[schemars(length(min = 1))]
    pub key: String,
    /// Value of the field, usually a command operator; at least 1 character.
    #[schemars(length(min = 1))]
    pub value: String,
}

/// The schema of a label selector. The type of k8s-openapi does not implement `JsonSchema` of this schemars version.
pub(crate) fn label_selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchExpressions": {
                "description": "Requirements on labels. All of them must be met.",
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {
                            "description": "Name of the label.",
                            "type": "string"
                        },
                        "operator": {
                            "description": "Relation of the label to `values`: `In`, `NotIn`, `Exists` or `DoesNotExist`.",
                            "type": "string"
                        },
                        "values": {
                            "description": "Values for `In` and `NotIn`. Must be empty for `Exists` and `DoesNotExist`.",
                            "type": "array",
                            "items": { "type": "string" }
                        }
                    }
                }
            },
            "matchLabels": {
                "description": "Labels with their values. All of them must be present.",
                "type": "object",
                "additionalProperties": { "type": "string" }
            }
        }
    })
}
