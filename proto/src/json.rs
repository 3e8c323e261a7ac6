//! Protobuf JSON both ways, with proto field names and expanded `Any`s: golden files, debug pages,
//! bootstraps.

use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

/// Descriptors of every generated message.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(include_bytes!(concat!(env!("OUT_DIR"), "/envoy.fds")).as_slice())
        .expect("the descriptor set written by build.rs decodes")
});

/// Why a message and JSON do not convert.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// No generated message has this name.
    #[error("unknown message type {0}")]
    UnknownType(String),
    /// The bytes are not that message.
    #[error("the message does not decode")]
    Decode(#[from] prost::DecodeError),
    /// A field, or an `Any` inside, has no JSON form, or the JSON is not that message.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// A message as protobuf JSON with proto field names.
pub fn to_json<M: Message + Name>(message: &M) -> Result<Value, JsonError> {
    encoded_to_json(&M::full_name(), &message.encode_to_vec())
}

/// The encoded message `full_name` (`envoy.config.cluster.v3.Cluster`) as protobuf JSON.
pub fn encoded_to_json(full_name: &str, bytes: &[u8]) -> Result<Value, JsonError> {
    let descriptor = POOL
        .get_message_by_name(full_name)
        .ok_or_else(|| JsonError::UnknownType(full_name.to_owned()))?;
    let message = DynamicMessage::decode(descriptor, bytes)?;
    let options = SerializeOptions::new().use_proto_field_name(true);
    Ok(message.serialize_with_options(serde_json::value::Serializer, &options)?)
}

/// A message from its protobuf JSON. An unknown field is an error.
pub fn from_json<M: Message + Name + Default>(json: Value) -> Result<M, JsonError> {
    let name = M::full_name();
    let descriptor = POOL
        .get_message_by_name(&name)
        .ok_or(JsonError::UnknownType(name))?;
    let message = DynamicMessage::deserialize(descriptor, json)?;
    Ok(M::decode(message.encode_to_vec().as_slice())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{core, listener, pack};

    #[test]
    fn round_trips_with_a_nested_any() {
        let listener = listener::Listener {
            name: "ingress".into(),
            listener_filters: vec![listener::ListenerFilter {
                name: "envoy.filters.listener.original_dst".into(),
                config_type: Some(listener::listener_filter::ConfigType::TypedConfig(pack(
                    &core::Locality::default(),
                ))),
                ..Default::default()
            }],
            ..Default::default()
        };
        let json = to_json(&listener).unwrap();
        assert_eq!(
            json["listener_filters"][0]["typed_config"]["@type"],
            "type.googleapis.com/envoy.config.core.v3.Locality"
        );
        assert_eq!(from_json::<listener::Listener>(json).unwrap(), listener);
    }

    #[test]
    fn names_an_unknown_field() {
        let error = from_json::<core::Locality>(serde_json::json!({"zoone": "a"})).unwrap_err();
        assert!(error.to_string().contains("zoone"), "{error}");
    }
}
