//! Connections on a Unix socket, with a repair of the `:authority` header that gRPC's C library sends.
//!
//! Envoy's `google_grpc` uses that library. For a Unix socket it sends the percent-encoded socket path as `:authority`,
//! such as `run%2Fxds.sock` (<https://github.com/grpc/grpc/issues/38142>). `h2` resets such a stream as malformed
//! (<https://github.com/hyperium/h2/pull/487>). [`UnixConnection`] replaces each `%` of the header by `-` while it reads.
//! The length does not change, so HPACK references to the header on the same connection stay valid. The library sends
//! the header as a plain literal, without Huffman coding. All other bytes pass unchanged.
//!
//! The module can go once `h2` accepts these authorities.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};
use tonic::transport::server::{Connected, UdsConnectInfo};

use crate::turns::TurnStream;

/// Length in bytes of the connection preface (RFC 9113, section 3.4).
const PREFACE: usize = 24;
/// Length in bytes of a frame header: payload length, type, flags and stream ID (RFC 9113, section 4.1).
const FRAME_HEADER: usize = 9;
/// Type of the frame that begins a request (RFC 9113, section 6.2).
const HEADERS: u8 = 1;
/// Largest payload in bytes that the server accepts, the default of `SETTINGS_MAX_FRAME_SIZE` (RFC 9113, section 6.5.2).
const MAX_FRAME: usize = 16384;
/// The header name as a literal with its length in front (RFC 7541, section 6.2).
const AUTHORITY: &[u8] = b"\x0a:authority";

/// A connection that repairs `:authority` while it is read.
#[derive(Debug)]
pub(crate) struct UnixConnection {
    stream: TurnStream<UnixStream>,
    frames: Frames,
}

/// Splits the bytes of a client into HTTP/2 frames.
#[derive(Debug)]
struct Frames {
    /// Bytes that were read from the socket and not passed on yet.
    unread: BytesMut,
    /// Number of bytes at the start of `unread`, or still to be read, that need no further inspection.
    inspected: usize,
}

impl UnixConnection {
    pub(crate) fn new(stream: TurnStream<UnixStream>) -> Self {
        let frames = Frames {
            unread: BytesMut::new(),
            inspected: PREFACE,
        };
        Self { stream, frames }
    }
}

impl Frames {
    /// Takes at most `limit` bytes that may be passed on. Returns `None` if more bytes must be read first.
    fn next(&mut self, limit: usize) -> Option<Bytes> {
        if self.inspected == 0 {
            self.inspected = self.frame()?;
        }
        let length = self.inspected.min(self.unread.len()).min(limit);
        self.inspected -= length;
        (length > 0).then(|| self.unread.split_to(length).freeze())
    }

    /// The length of the next frame with its header. Repairs a HEADERS frame, for which it must be complete.
    fn frame(&mut self) -> Option<usize> {
        let &[high, middle, low, kind, ..] = self.unread.get(..FRAME_HEADER)? else {
            return None;
        };
        let length = FRAME_HEADER + u32::from_be_bytes([0, high, middle, low]) as usize;
        // The HTTP/2 server refuses larger frames.
        if kind == HEADERS && length <= FRAME_HEADER + MAX_FRAME {
            repair_authority(self.unread.get_mut(FRAME_HEADER..length)?);
        }
        Some(length)
    }
}

/// Replaces each `%` of a literal `:authority` by `-`.
fn repair_authority(headers: &mut [u8]) {
    let found = headers
        .windows(AUTHORITY.len())
        .position(|window| window == AUTHORITY);
    let Some([length, rest @ ..]) = found.map(|at| &mut headers[at + AUTHORITY.len()..]) else {
        return;
    };
    // A length from 0x7f marks Huffman coding or a longer integer (RFC 7541, section 5), neither of which that library
    // uses here.
    if let Some(value) = rest
        .get_mut(..usize::from(*length))
        .filter(|_| *length < 0x7f)
    {
        for byte in value.iter_mut().filter(|byte| **byte == b'%') {
            *byte = b'-';
        }
    }
}

impl AsyncRead for UnixConnection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if let Some(bytes) = this.frames.next(buffer.remaining()) {
                buffer.put_slice(&bytes);
                return Poll::Ready(Ok(()));
            }
            let mut chunk = [0; 4096];
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.frames.unread.extend_from_slice(chunk.filled());
        }
    }
}

impl AsyncWrite for UnixConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connected for UnixConnection {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = [&length[1..], &[kind, 4, 0, 0, 0, 1]].concat();
        frame.extend(payload);
        frame
    }

    #[test]
    fn only_the_authority_is_repaired_for_any_split_into_chunks() {
        let request = |name: &[u8]| {
            let length = u8::try_from(name.len()).unwrap();
            let name = [b"@", AUTHORITY, &[length], name, b"@\x01a\x03%2F"].concat();
            frame(HEADERS, &name)
        };
        let data = [AUTHORITY, b"\x05a%2Fb"].concat();
        let sent = |name: &[u8]| {
            let large = frame(0, &[b'%'; 10_000]);
            [
                vec![b'p'; PREFACE],
                request(name),
                frame(0, &data),
                frame(HEADERS, b"\x83%2F"),
                frame(HEADERS, b"@\x0a:authority"),
                frame(HEADERS, b"@\x0a:authority\x7f%"),
                large,
                request(name),
            ]
            .concat()
        };
        let expected = sent(b"run-2Fxds.sock");
        for step in [1, 7, 100, 100_000] {
            let mut frames = Frames {
                unread: BytesMut::new(),
                inspected: PREFACE,
            };
            let mut passed = Vec::new();
            for chunk in sent(b"run%2Fxds.sock").chunks(step) {
                frames.unread.extend_from_slice(chunk);
                while let Some(bytes) = frames.next(64) {
                    passed.extend(bytes);
                }
            }
            assert!(passed == expected, "{step}");
        }
    }
}
