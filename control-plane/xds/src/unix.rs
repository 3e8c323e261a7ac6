//! Connections of a Unix socket, on which gRPC's C library, as in Envoy's `google_grpc`, calls the server by a name that
//! HTTP/2 does not know.
//!
//! It takes the socket's path for the `:authority`, with `%2F` for a slash (`run%2Fxds.sock`), and our HTTP/2 ends such a
//! stream as malformed. So each `%` in that name becomes a `-` on its way in. The length stays, and with it everything
//! that refers to the name later on the connection. The library sends it as it is, without compression.
//!
//! Must not change anything else.

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

/// What a client says before its first frame (RFC 9113, 3.4).
const PREFACE: usize = 24;
/// A frame's length, type, flags and stream (RFC 9113, 4.1).
const FRAME_HEADER: usize = 9;
/// The type of a frame that begins a request (RFC 9113, 6.2).
const HEADERS: u8 = 1;
/// The largest frame that we allow clients to send (RFC 9113, 6.5.2).
const MAX_FRAME: usize = 16384;
/// The header as a literal, with its length before it (RFC 7541, 6.2).
const AUTHORITY: &[u8] = b"\x0a:authority";

/// A connection whose `:authority` is made one.
#[derive(Debug)]
pub(crate) struct UnixConnection {
    stream: UnixStream,
    frames: Frames,
}

/// What was read, frame by frame.
#[derive(Debug)]
struct Frames {
    /// What was read and not looked at yet.
    unread: BytesMut,
    /// How many of the next bytes may pass as they are.
    passing: usize,
}

impl UnixConnection {
    pub(crate) fn new(stream: UnixStream) -> Self {
        let frames = Frames {
            unread: BytesMut::new(),
            passing: PREFACE,
        };
        Self { stream, frames }
    }
}

impl Frames {
    /// What may pass by now, at most so many bytes; none if more has to be read first.
    fn next(&mut self, limit: usize) -> Option<Bytes> {
        if self.passing == 0 {
            self.passing = self.frame()?;
        }
        let length = self.passing.min(self.unread.len()).min(limit);
        self.passing -= length;
        (length > 0).then(|| self.unread.split_to(length).freeze())
    }

    /// The length of the next frame. If it begins a request, all of it must be there, and is looked at.
    fn frame(&mut self) -> Option<usize> {
        let &[high, middle, low, kind, ..] = self.unread.get(..FRAME_HEADER)? else {
            return None;
        };
        let length = FRAME_HEADER + u32::from_be_bytes([0, high, middle, low]) as usize;
        // A larger one is refused by HTTP/2 in any case.
        if kind == HEADERS && length <= FRAME_HEADER + MAX_FRAME {
            correct(self.unread.get_mut(FRAME_HEADER..length)?);
        }
        Some(length)
    }
}

/// Corrects the name, if there is one.
fn correct(headers: &mut [u8]) {
    let found = headers
        .windows(AUTHORITY.len())
        .position(|it| it == AUTHORITY);
    let Some([length, rest @ ..]) = found.map(|at| &mut headers[at + AUTHORITY.len()..]) else {
        return;
    };
    // A name that is compressed, or longer than a byte can say, is none of that library's.
    if let Some(name) = rest
        .get_mut(..usize::from(*length))
        .filter(|_| *length < 0x7f)
    {
        for byte in name.iter_mut().filter(|byte| **byte == b'%') {
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
    fn the_name_is_corrected_and_nothing_else_however_it_is_cut() {
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
                passing: PREFACE,
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
