//! Packs messages into `google.protobuf.Any` and unpacks them.
//!
//! The type URL is always `type.googleapis.com/` and the full name of the message.

use prost::{DecodeError, Name};

pub use crate::pb::google::protobuf::Any;

/// Encodes a message and adds its type URL.
pub fn pack<M: Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec().into(),
    }
}

/// Unpacks a message whose type the caller knows.
///
/// # Errors
///
/// If the type URL names another message, or if the payload does not decode.
pub fn unpack<M: Name + Default>(any: &Any) -> Result<M, UnpackError> {
    if any.type_url != M::type_url() {
        return Err(UnpackError::Type {
            expected: M::type_url(),
            found: any.type_url.clone(),
        });
    }
    Ok(M::decode(any.value.clone())?)
}

/// An `Any` could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The `Any` holds a message of another type.
    #[error("expected {expected}, found {found}")]
    Type {
        /// The type URL of the requested message.
        expected: String,
        /// The type URL in the `Any`.
        found: String,
    },
    /// The payload is not an encoding of the message.
    #[error("the payload does not decode")]
    Decode(#[from] DecodeError),
}
