//! Attacks on the xDS port, by clients that are let in without a token.

use std::time::Duration;

use anyhow::Result;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::{Bytes, BytesMut};
use evermesh_proto::{
    core::Node,
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    pb::google::rpc,
    resource::ResourceType,
};
use prost::Message as _;
use tokio::time::timeout;

use super::{Crowd, Visitor, all_connections};
use crate::{
    Form,
    client::{self, XdsConnection, XdsStream, framed, start_of},
    frames::{
        self, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS,
        WINDOW_UPDATE,
    },
    target::NODE,
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Streams that the server allows on a connection.
const STREAMS: usize = 64;

/// Streams of a connection that send much on each.
const LARGE_STREAMS: usize = 8;

/// Rejections of each stream: some more than it has resources, which are sent one by one.
const REJECTIONS: usize = 60;

/// Time after which nothing more is expected.
const QUIET: Duration = Duration::from_secs(2);

async fn connect(visitor: &Visitor) -> Result<XdsConnection> {
    let stream = client::connect(visitor.ports.xds, visitor.address()).await?;
    XdsConnection::open(stream).await
}

fn first(kind: ResourceType) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(Node {
            id: NODE.to_owned(),
            ..Node::default()
        }),
        type_url: kind.type_url().to_owned(),
        ..DeltaDiscoveryRequest::default()
    }
}

/// Streams of each connection.
fn streams_of(form: Form) -> usize {
    match form {
        Form::Short => 2,
        Form::Full => STREAMS,
    }
}

/// Opens streams of a connection and sends the same on each.
async fn send_everywhere(
    connection: &XdsConnection,
    count: usize,
    bytes: &Bytes,
) -> Result<Vec<XdsStream>> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = connection.stream(None).await?;
        // A stream that has ended is one that was refused.
        let _ = stream.send_bytes(bytes.clone()).await;
        streams.push(stream);
    }
    Ok(streams)
}

/// Sends one of these on as many streams of each connection, in turn, and holds the streams.
fn held<const N: usize>(connections: usize, streams: usize, requests: [Bytes; N]) -> Crowd {
    Crowd::new(connections, move |visitor| {
        let bytes = requests[visitor.number % N].clone();
        async move {
            let mut connection = connect(&visitor).await?;
            let _streams = send_everywhere(&connection, streams, &bytes).await?;
            visitor.done();
            connection.closed().await;
            Ok(())
        }
    })
}

pub(super) fn half_messages(form: Form) -> Crowd {
    // The limit of what is read before the node, and a message of which much more is announced.
    let mut start = first(ResourceType::Cluster).encode_to_vec();
    start.resize(255 * KIB, 0);
    let bytes = start_of(16 * MIB, &start);
    let streams = match form {
        Form::Short => 3,
        Form::Full => LARGE_STREAMS,
    };
    held(all_connections(form), streams, [bytes])
}

pub(super) fn streams(form: Form) -> Crowd {
    let bytes = framed(&first(ResourceType::Cluster));
    held(all_connections(form), streams_of(form), [bytes])
}

pub(super) fn names(form: Form) -> Crowd {
    let request = |names: Vec<String>| {
        framed(&DeltaDiscoveryRequest {
            resource_names_subscribe: names,
            ..first(ResourceType::Endpoint)
        })
    };
    let numbers = |count: usize| (0..count).map(|number| number.to_string()).collect();
    let longest = |count: usize| {
        let names = (0..count).map(|number| format!("{number:0>2048}"));
        names.collect()
    };
    let requests = [
        // As many of this length as are allowed, and too many.
        request(longest(625)),
        request(longest(5_000)),
        request(numbers(5_000)),
        request(numbers(100_000)),
        request(numbers(1_800_000)),
    ];
    let connections = match form {
        Form::Short => 5,
        Form::Full => 320,
    };
    held(connections, LARGE_STREAMS.min(streams_of(form)), requests)
}

pub(super) fn words(form: Form) -> Crowd {
    let (connections, streams) = match form {
        Form::Short => (16, 2),
        Form::Full => (256, 16),
    };
    Crowd::new(connections, move |visitor| async move {
        let mut connection = connect(&visitor).await?;
        let mut all = Vec::new();
        for _ in 0..streams {
            let mut stream = connection.stream(None).await?;
            let mut request = first(ResourceType::Cluster);
            let node = request.node.get_or_insert_default();
            node.cluster = "c".repeat(100 * KIB);
            node.user_agent_name = "u".repeat(100 * KIB);
            stream.send_bytes(framed(&request)).await?;
            all.push(stream);
        }
        for stream in &mut all {
            for _ in 0..REJECTIONS {
                let Ok(response) = timeout(QUIET, stream.receive()).await else {
                    break;
                };
                let response: DeltaDiscoveryResponse = response?;
                let request = DeltaDiscoveryRequest {
                    type_url: response.type_url,
                    response_nonce: response.nonce,
                    error_detail: Some(rpc::Status {
                        code: 13,
                        message: "w".repeat(4 * KIB),
                        ..rpc::Status::default()
                    }),
                    ..DeltaDiscoveryRequest::default()
                };
                stream.send_bytes(framed(&request)).await?;
            }
        }
        visitor.done();
        connection.closed().await;
        Ok(())
    })
}

pub(super) fn repetitions(form: Form) -> Crowd {
    let connections = match form {
        Form::Short => 8,
        Form::Full => 64,
    };
    Crowd::new(connections, move |visitor| async move {
        let connection = connect(&visitor).await?;
        let mut stream = connection.stream(None).await?;
        stream
            .send_bytes(framed(&first(ResourceType::Cluster)))
            .await?;
        let again = DeltaDiscoveryRequest {
            resource_names_subscribe: vec!["*".to_owned()],
            type_url: ResourceType::Cluster.type_url().to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        loop {
            let response: DeltaDiscoveryResponse = stream.receive().await?;
            visitor.done();
            let ack = DeltaDiscoveryRequest {
                response_nonce: response.nonce,
                ..again.clone()
            };
            stream.send_bytes(framed(&ack)).await?;
        }
    })
}

pub(super) fn slow_readers(form: Form) -> Crowd {
    let streams = streams_of(form);
    Crowd::new(all_connections(form), move |visitor| async move {
        let stream = client::connect(visitor.ports.xds, visitor.address()).await?;
        // One byte of each response is received, so that each is made.
        let mut connection = XdsConnection::with_window(stream, 1).await?;
        let bytes = framed(&first(ResourceType::Cluster));
        let _streams = send_everywhere(&connection, streams, &bytes).await?;
        visitor.done();
        connection.closed().await;
        Ok(())
    })
}

pub(super) fn resets(form: Form) -> Crowd {
    let connections = match form {
        Form::Short => 8,
        Form::Full => 64,
    };
    Crowd::new(connections, |visitor| async move {
        let headers = frames::request_headers();
        let mut bytes = BytesMut::new();
        for number in 0..20_000 {
            let stream = 2 * number + 1;
            match visitor.number % 5 {
                // A request without headers.
                0 => frames::put(&mut bytes, HEADERS, END_HEADERS | END_STREAM, stream, &[]),
                // "Rapid Reset".
                1 => {
                    frames::put(&mut bytes, HEADERS, END_HEADERS, stream, &headers);
                    frames::put(&mut bytes, RST_STREAM, 0, stream, &8_u32.to_be_bytes());
                }
                // A window that overflows.
                2 => {
                    frames::put(&mut bytes, HEADERS, END_HEADERS, stream, &headers);
                    let increment = 0x7fff_ffff_u32.to_be_bytes();
                    frames::put(&mut bytes, WINDOW_UPDATE, 0, stream, &increment);
                }
                // Data after the end.
                3 => {
                    let flags = END_HEADERS | END_STREAM;
                    frames::put(&mut bytes, HEADERS, flags, stream, &headers);
                    frames::put(&mut bytes, DATA, 0, stream, &[0; 10]);
                }
                // Streams beyond the limit.
                _ => frames::put(&mut bytes, HEADERS, END_HEADERS, stream, &headers),
            }
        }
        frames::send_until_closed(&visitor.ports, visitor.address(), &bytes).await?;
        Ok(())
    })
}

pub(super) fn floods(form: Form) -> Crowd {
    let connections = match form {
        Form::Short => 6,
        Form::Full => 48,
    };
    Crowd::new(connections, |visitor| async move {
        let mut bytes = BytesMut::new();
        if visitor.number % 3 == 2 {
            frames::put(&mut bytes, HEADERS, 0, 1, &[]);
        }
        for _ in 0..100_000 {
            match visitor.number % 3 {
                0 => frames::put(&mut bytes, PING, 0, 0, &[0; 8]),
                1 => frames::put(&mut bytes, SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]),
                _ => frames::put(&mut bytes, CONTINUATION, 0, 1, &[0, 1, b'x', 1, b'x']),
            }
        }
        let sending = frames::send_until_closed(&visitor.ports, visitor.address(), &bytes);
        // A client that only sends PING is not closed.
        let _ = timeout(QUIET, sending).await;
        Ok(())
    })
}

pub(super) fn fake_tokens(form: Form) -> Crowd {
    let connections = match form {
        Form::Short => 40,
        Form::Full => 400,
    };
    Crowd::new(connections, |visitor| async move {
        let connection = connect(&visitor).await?;
        let mut streams = Vec::new();
        for number in 0..STREAMS {
            let claims = format!(
                r#"{{"aud":["evermesh"],"jti":"{}-{number}-{:?}"}}"#,
                visitor.number,
                std::time::Instant::now()
            );
            let token = format!("e30.{}.eA", BASE64_URL_SAFE_NO_PAD.encode(claims));
            streams.push(connection.stream(Some(&token)).await?);
        }
        visitor.done();
        for mut stream in streams {
            // The status of a rejection.
            let _ = stream.receive::<DeltaDiscoveryResponse>().await;
        }
        Ok(())
    })
}
