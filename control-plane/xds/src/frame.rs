//! gRPC framing of messages in an HTTP body (gRPC over HTTP2, "Length-Prefixed-Message").
//!
//! A frame consists of one byte that tells whether the message is compressed, four bytes of length, and the message.
//! [`encode`] allocates each frame at its exact size, and [`MessageReader`] keeps no buffer between messages, because
//! thousands of streams are idle most of the time.

use std::mem;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use tonic::Status;

/// Length in bytes of the compression flag and the message length.
const PREFIX: usize = 5;

/// Encodes a message as one uncompressed frame.
pub(crate) fn encode(message: &impl Message) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    let prefix_length = u32::try_from(length).map_err(|_error| {
        Status::internal("the response exceeds the gRPC message size limit of 4 GiB")
    })?;
    let mut frame = BytesMut::with_capacity(PREFIX + length);
    frame.put_u8(0);
    frame.put_u32(prefix_length);
    message
        .encode(&mut frame)
        .map_err(|error| Status::internal(error.to_string()))?;
    Ok(frame.freeze())
}

/// Cuts the chunks of a body into messages.
///
/// A message that lies within one chunk is returned without a copy. A message that spans chunks is collected in a buffer
/// that is freed with the message.
#[derive(Debug)]
pub(crate) struct MessageReader {
    limit: usize,
    chunk: Bytes,
    /// The beginning of a message that continues in the next chunk.
    partial: BytesMut,
}

impl MessageReader {
    /// Creates a reader that refuses messages over `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            chunk: Bytes::new(),
            partial: BytesMut::new(),
        }
    }

    /// Adds the next chunk. [`MessageReader::message`] must have returned `None` before.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty());
        self.chunk = chunk;
    }

    /// The next complete message, or `None` if another chunk is needed.
    pub(crate) fn message(&mut self) -> Result<Option<Bytes>, Status> {
        if self.partial.is_empty()
            && let Some(length) = self.length(&self.chunk)?
            && self.chunk.len() >= length
        {
            return Ok(Some(self.chunk.split_to(length).slice(PREFIX..)));
        }
        loop {
            let wanted = self.length(&self.partial)?.unwrap_or(PREFIX);
            let missing = wanted - self.partial.len();
            if missing == 0 {
                let whole = mem::take(&mut self.partial).freeze();
                return Ok(Some(whole.slice(PREFIX..)));
            }
            if self.chunk.is_empty() {
                return Ok(None);
            }
            let part = self.chunk.split_to(missing.min(self.chunk.len()));
            self.partial.extend_from_slice(&part);
        }
    }

    /// The bytes of an incomplete message that have arrived.
    pub(crate) fn partial(&self) -> &[u8] {
        self.partial.get(PREFIX..).unwrap_or_default()
    }

    /// The bytes that the incomplete message takes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.partial.capacity()
    }

    /// Makes room for all of the incomplete message. Growing step by step takes up to twice as much.
    pub(crate) fn reserve(&mut self) {
        let length = self.length(&self.partial).ok().flatten();
        let missing = length.map(|length| length.saturating_sub(self.partial.len()));
        self.partial.reserve(missing.unwrap_or_default());
    }

    /// The length of the incomplete message.
    pub(crate) fn partial_length(&self) -> usize {
        let length = self.length(&self.partial).ok().flatten();
        length.map_or(0, |length| length - PREFIX)
    }

    /// Whether the body ends inside a message if no further chunk follows.
    pub(crate) fn is_incomplete(&self) -> bool {
        !self.partial.is_empty()
    }

    /// The length of the frame at the start of `bytes`, once the prefix is complete.
    fn length(&self, bytes: &[u8]) -> Result<Option<usize>, Status> {
        let Some(&[compressed, a, b, c, d]) = bytes.first_chunk() else {
            return Ok(None);
        };
        if compressed != 0 {
            return Err(Status::unimplemented(
                "compressed messages are not supported; send messages without compression",
            ));
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > self.limit {
            return Err(Status::resource_exhausted(format!(
                "the request has {length} bytes, which exceeds the limit of {} bytes: subscribe to fewer names",
                self.limit
            )));
        }
        Ok(Some(PREFIX + length))
    }
}

#[cfg(test)]
mod tests {
    use evermesh_proto::core::Locality;
    use proptest::prelude::*;
    use tonic::Code;

    use super::*;

    fn locality(zone: &str) -> Locality {
        Locality {
            zone: zone.into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_message_within_one_chunk_is_not_copied() {
        let frame = encode(&locality("a")).unwrap();
        let mut reader = MessageReader::new(100);
        reader.push(frame.clone());
        let message = reader.message().unwrap().unwrap();
        assert_eq!(message.as_ptr(), frame[PREFIX..].as_ptr());
        assert_eq!(Locality::decode(message).unwrap(), locality("a"));
        assert_eq!(reader.message().unwrap(), None);
    }

    #[test]
    fn a_compressed_message_is_refused() {
        let mut reader = MessageReader::new(100);
        reader.push(Bytes::from_static(&[1, 0, 0, 0, 0]));
        assert_eq!(reader.message().unwrap_err().code(), Code::Unimplemented);
    }

    #[test]
    fn a_message_over_the_limit_is_refused_once_its_prefix_is_read() {
        let mut reader = MessageReader::new(100);
        reader.push(Bytes::from_static(&[0, 0, 0, 0, 101]));
        assert_eq!(
            reader.message().unwrap_err().code(),
            Code::ResourceExhausted
        );
    }

    proptest! {
        #[test]
        fn messages_survive_any_split_into_chunks(
            zones in prop::collection::vec("[a-z]{0,40}", 0..6),
            cuts in prop::collection::vec(1_usize..12, 1..8),
        ) {
            let mut bytes = BytesMut::new();
            for zone in &zones {
                bytes.extend_from_slice(&encode(&locality(zone)).unwrap());
            }
            let mut bytes = bytes.freeze();
            let mut reader = MessageReader::new(100);
            let mut read = Vec::new();
            let mut cuts = cuts.iter().cycle();
            while !bytes.is_empty() {
                let cut = cuts.next().unwrap().min(&bytes.len()).to_owned();
                reader.push(bytes.split_to(cut));
                while let Some(message) = reader.message().unwrap() {
                    read.push(Locality::decode(message).unwrap().zone);
                }
            }
            prop_assert_eq!(read, zones);
            prop_assert!(!reader.is_incomplete());
        }
    }
}
