//! The fields of an encoded protobuf message, read without decoding it.
//!
//! A decoded message can be many times larger than its bytes, so large requests are inspected first.

use prost::{
    bytes::Buf,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};

/// A field of the outermost message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WireField<'a> {
    pub(crate) number: u32,
    /// The bytes of a string or message; empty for numbers.
    pub(crate) value: &'a [u8],
    /// Length in bytes of the encoded field, with its number.
    pub(crate) size: usize,
}

/// The fields at the start of `bytes`. Ends before a field that is incomplete or malformed, which decoding reports.
pub(crate) fn fields(mut bytes: &[u8]) -> impl Iterator<Item = WireField<'_>> {
    std::iter::from_fn(move || {
        let before = bytes.len();
        if before == 0 {
            return None;
        }
        let (number, wire_type) = decode_key(&mut bytes).ok()?;
        let mut value: &[u8] = &[];
        if wire_type == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
            value = bytes.get(..length)?;
            bytes.advance(length);
        } else {
            skip_field(wire_type, number, &mut bytes, DecodeContext::default()).ok()?;
        }
        let size = before - bytes.len();
        Some(WireField {
            number,
            value,
            size,
        })
    })
}

#[cfg(test)]
mod tests {
    use evermesh_proto::{core, discovery::DeltaDiscoveryRequest};
    use prost::Message;

    use super::*;

    #[test]
    fn fields_are_read_up_to_the_first_incomplete_one() {
        let request = DeltaDiscoveryRequest {
            node: Some(core::Node {
                id: "a".into(),
                ..Default::default()
            }),
            type_url: "t".into(),
            resource_names_subscribe: vec!["n".into(), "m".into()],
            ..Default::default()
        };
        let bytes = request.encode_to_vec();
        let numbers = |bytes: &[u8]| fields(bytes).map(|it| it.number).collect::<Vec<_>>();
        assert_eq!(numbers(&bytes), [1, 2, 3, 3]);
        assert_eq!(numbers(&bytes[..bytes.len() - 1]), [1, 2, 3]);
        let node = fields(&bytes).next().unwrap().value;
        assert_eq!(core::Node::decode(node).unwrap().id, "a");
        assert_eq!(numbers(&[8, 1, 0xff, 0xff]), [1]);
    }
}
