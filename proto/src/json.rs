//! Converts messages to and from protobuf JSON, for debug pages, bootstraps and golden files.
//!
//! Fields have their proto names (`connect_timeout`), and the contents of an `Any` are written out beside its `@type`.
//! The conversion knows every generated message by name, so it also works on encoded bytes.

use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

/// The `FileDescriptorSet` of all generated messages.
pub(crate) static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/envoy.fds"));

/// Descriptors of all generated messages.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(DESCRIPTORS).expect("build.rs writes a valid descriptor set")
});

/// A message could not be converted to JSON, or JSON to a message.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// No generated message has this full name.
    #[error("unknown message type `{0}`")]
    UnknownType(String),
    /// The bytes are not an encoding of the message.
    #[error("the message does not decode")]
    Decode(#[from] prost::DecodeError),
    /// The JSON does not fit the message, or an `Any` in the message holds a type that is not generated.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// Converts a message to protobuf JSON.
pub fn to_json<M: Message + Name>(message: &M) -> Result<Value, JsonError> {
    encoded_to_json(&M::full_name(), &message.encode_to_vec())
}

/// Converts an encoded message to protobuf JSON. `full_name` is, for instance, `envoy.config.cluster.v3.Cluster`.
pub fn encoded_to_json(full_name: &str, bytes: &[u8]) -> Result<Value, JsonError> {
    let message = decode(full_name, bytes)?;
    let options = SerializeOptions::new().use_proto_field_name(true);
    Ok(message.serialize_with_options(serde_json::value::Serializer, &options)?)
}

/// Decodes a message together with the descriptors of its fields.
pub fn decode(full_name: &str, bytes: &[u8]) -> Result<DynamicMessage, JsonError> {
    let descriptor = POOL
        .get_message_by_name(full_name)
        .ok_or_else(|| JsonError::UnknownType(full_name.to_owned()))?;
    Ok(DynamicMessage::decode(descriptor, bytes)?)
}

/// Converts protobuf JSON to a message. An unknown field is an error.
pub fn from_json<M: Message + Name + Default>(json: Value) -> Result<M, JsonError> {
    let name = M::full_name();
    let descriptor = POOL
        .get_message_by_name(&name)
        .ok_or(JsonError::UnknownType(name))?;
    let message = DynamicMessage::deserialize(descriptor, json)?;
    Ok(M::decode(message.encode_to_vec().as_slice())?)
}
