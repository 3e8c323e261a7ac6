//! gRPC's framing of messages in a body ("gRPC over HTTP2", section "Length-Prefixed-Message"): one byte
//! that says whether the message is compressed, four of length, then the message.
//!
//! Must not know which messages these are.

use std::mem;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use tonic::Status;

const HEADER: usize = 5;

/// Encodes a message with its header.
pub(crate) fn encode(message: &impl Message) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    let announced = u32::try_from(length)
        .map_err(|_error| Status::internal("a response is larger than gRPC can frame"))?;
    let mut frame = BytesMut::with_capacity(HEADER + length);
    frame.put_u8(0);
    frame.put_u32(announced);
    message
        .encode(&mut frame)
        .map_err(|error| Status::internal(error.to_string()))?;
    Ok(frame.freeze())
}

/// Cuts chunks of a body into messages. A message that is whole in one chunk is read in place; one that
/// is split is gathered in a buffer that does not outlive it.
#[derive(Debug)]
pub(crate) struct MessageReader {
    limit: usize,
    chunk: Bytes,
    gathered: BytesMut,
}

impl MessageReader {
    /// A reader that refuses messages over a size.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            chunk: Bytes::new(),
            gathered: BytesMut::new(),
        }
    }

    /// Takes the next chunk. The one before must be used up: [`MessageReader::message`] has returned none.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty());
        self.chunk = chunk;
    }

    /// The next whole message.
    pub(crate) fn message(&mut self) -> Result<Option<Bytes>, Status> {
        if self.gathered.is_empty()
            && let Some(length) = self.length(&self.chunk)?
            && self.chunk.len() >= length
        {
            return Ok(Some(self.chunk.split_to(length).slice(HEADER..)));
        }
        loop {
            let wanted = self.length(&self.gathered)?.unwrap_or(HEADER);
            let missing = wanted - self.gathered.len();
            if missing == 0 {
                let whole = mem::take(&mut self.gathered).freeze();
                return Ok(Some(whole.slice(HEADER..)));
            }
            if self.chunk.is_empty() {
                return Ok(None);
            }
            let part = self.chunk.split_to(missing.min(self.chunk.len()));
            self.gathered.extend_from_slice(&part);
        }
    }

    /// Whether a message has begun and not ended.
    pub(crate) fn is_within(&self) -> bool {
        !self.gathered.is_empty()
    }

    /// The length of the message that these bytes begin, with its header, once the header is there.
    fn length(&self, bytes: &[u8]) -> Result<Option<usize>, Status> {
        let Some(&[compressed, a, b, c, d]) = bytes.first_chunk() else {
            return Ok(None);
        };
        if compressed != 0 {
            return Err(Status::unimplemented("compressed messages are not read"));
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > self.limit {
            return Err(Status::resource_exhausted(format!(
                "a message of {length} bytes is over the limit of {}",
                self.limit
            )));
        }
        Ok(Some(HEADER + length))
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
    fn a_whole_message_is_read_in_place() {
        let frame = encode(&locality("a")).unwrap();
        let mut reader = MessageReader::new(100);
        reader.push(frame.clone());
        let message = reader.message().unwrap().unwrap();
        assert_eq!(message.as_ptr(), frame[HEADER..].as_ptr());
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
    fn a_message_over_the_limit_is_refused_before_it_is_there() {
        let mut reader = MessageReader::new(100);
        reader.push(Bytes::from_static(&[0, 0, 0, 0, 101]));
        assert_eq!(
            reader.message().unwrap_err().code(),
            Code::ResourceExhausted
        );
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in(
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
            prop_assert!(!reader.is_within());
        }
    }
}
