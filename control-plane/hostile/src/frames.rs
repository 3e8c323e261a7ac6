//! HTTP/2 frames that no client library sends (RFC 9113, section 4).

use std::{io, net::Ipv4Addr};

use bytes::{BufMut as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{client, target::Ports};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// A complete header block of a request to the aggregated discovery service, without Huffman codes and without an index
/// (RFC 7541, section 6.2.2).
pub(crate) fn request_headers() -> Vec<u8> {
    let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "xds"),
        (":path", path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            // The texts are shorter than 127 bytes, so their length is one byte.
            block.push(u8::try_from(text.len()).unwrap_or_default());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// Adds a frame to bytes that are sent together.
pub(crate) fn put(bytes: &mut BytesMut, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    bytes.put_slice(&length.to_be_bytes()[1..]);
    bytes.put_u8(kind);
    bytes.put_u8(flags);
    bytes.put_u32(stream);
    bytes.put_slice(payload);
}

/// Connects to the xDS port and sends these bytes after the preface and an empty SETTINGS frame, then reads until the
/// server closes the connection.
pub(crate) async fn send_until_closed(
    ports: &Ports,
    from: Ipv4Addr,
    bytes: &[u8],
) -> io::Result<()> {
    let stream = client::connect(ports.xds, from).await?;
    let (mut reader, mut writer) = stream.into_split();
    let mut start = BytesMut::from(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..]);
    put(&mut start, SETTINGS, 0, 0, &[]);
    let writing = async {
        writer.write_all(&start).await?;
        writer.write_all(bytes).await
    };
    let reading = async {
        let mut buffer = vec![0; 64 << 10];
        while reader.read(&mut buffer).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    // A server that closes the connection while it still receives resets it.
    let (_written, _read) = tokio::join!(writing, reading);
    Ok(())
}
