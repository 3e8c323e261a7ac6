//! `google.protobuf.Any`: the only place that writes a type URL.

use prost::{DecodeError, Name};

pub use crate::pb::google::protobuf::Any;

/// Packs a message; the type URL is `type.googleapis.com/` and the message's full name.
pub fn pack<M: Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec().into(),
    }
}

/// Unpacks a message whose type the caller knows.
///
/// # Errors
/// The type URL names another message, or the payload is not one.
pub fn unpack<M: Name + Default>(any: &Any) -> Result<M, UnpackError> {
    if any.type_url != M::type_url() {
        return Err(UnpackError::Type {
            expected: M::type_url(),
            found: any.type_url.clone(),
        });
    }
    Ok(M::decode(any.value.clone())?)
}

/// Why an `Any` did not unpack.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It holds another message.
    #[error("expected {expected}, found {found}")]
    Type {
        /// The type URL the caller asked for.
        expected: String,
        /// The type URL in the `Any`.
        found: String,
    },
    /// Its payload does not decode.
    #[error("the payload does not decode")]
    Decode(#[from] DecodeError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Locality;

    #[test]
    fn packs_and_unpacks() {
        let locality = Locality {
            zone: "eu-west-1a".into(),
            ..Default::default()
        };
        let any = pack(&locality);
        assert_eq!(
            any.type_url,
            "type.googleapis.com/envoy.config.core.v3.Locality"
        );
        assert_eq!(unpack::<Locality>(&any).unwrap(), locality);
    }

    #[test]
    fn refuses_another_type() {
        let any = pack(&Locality::default());
        let error = unpack::<crate::core::Node>(&any).unwrap_err();
        assert!(
            error.to_string().contains("envoy.config.core.v3.Locality"),
            "{error}"
        );
    }
}
