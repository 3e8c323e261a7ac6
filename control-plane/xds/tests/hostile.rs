//! A client that sends as much as it can: each limit of [`XdsLimits`] ends the stream or the connection, with a status
//! that names the limit, and nothing beyond it is kept.

#![allow(clippy::unwrap_used)] // a test may panic, and so may its helpers

mod support;

use std::{sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use evermesh_proto::{
    core,
    discovery::DeltaDiscoveryRequest,
    resource::ResourceType::{Cluster, Endpoint, Listener},
};
use evermesh_xds::{
    AuthDecision, ConnectionLimit, Delta, DiscoveryProtocol, ProxyRegistry, XdsLimits,
    XdsServerOptions, XdsVariant, routes, without_credentials,
};
use http_body_util::BodyExt;
use prost::Message;
use support::{
    grpc::{DEADLINE, DeltaStream, GrpcClient, TestServer, node, path},
    local::LocalClient,
    store::TestStore,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc::{self, Sender},
    time::{Instant, timeout},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{
    Code, Status,
    body::Body,
    transport::{self, Channel},
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Chunks of the largest request that a test sends, and more.
const QUEUED_CHUNKS: usize = 2 << 10;

/// A stream whose request body the test writes byte by byte, without a connection.
struct RawStream {
    requests: Sender<Bytes>,
    response: http::Response<Body>,
}

impl RawStream {
    async fn open(store: &TestStore, options: XdsServerOptions) -> Self {
        let mut routes = routes(Arc::clone(&store.store), ProxyRegistry::new(None), options);
        let (requests, receiver) = mpsc::channel(QUEUED_CHUNKS);
        let frames = ReceiverStream::new(receiver)
            .map(|bytes| Ok::<_, Status>(http_body::Frame::data(bytes)));
        let request = http::Request::post(path(XdsVariant::Delta, None))
            .body(Body::new(http_body_util::StreamBody::new(frames)))
            .unwrap();
        let response = tower::Service::call(&mut routes, request).await.unwrap();
        Self { requests, response }
    }

    /// Sends the start of a message that has `length` bytes, in chunks as large as HTTP/2 frames.
    fn send_start(&self, length: usize, start: &[u8]) {
        let mut prefix = BytesMut::new();
        prefix.put_u8(0);
        prefix.put_u32(u32::try_from(length).unwrap());
        self.requests.try_send(prefix.freeze()).unwrap();
        for chunk in start.chunks(16 * KIB) {
            self.requests
                .try_send(Bytes::copy_from_slice(chunk))
                .unwrap();
        }
    }

    /// The status with which the stream ends, without another message.
    async fn status(self) -> Status {
        if let Some(status) = Status::from_header_map(self.response.headers()) {
            return status;
        }
        let body = timeout(DEADLINE, self.response.into_body().collect()).await;
        let body = body.expect("the end of the stream").unwrap();
        let trailers = body.trailers().cloned().unwrap();
        assert!(body.to_bytes().is_empty());
        Status::from_header_map(&trailers).unwrap()
    }
}

/// Every client gets the view that its node names, unless that is `forbidden`.
fn options() -> XdsServerOptions {
    XdsServerOptions::new(without_credentials(|node| match node.id.as_str() {
        "forbidden" => Err(Status::permission_denied("forbidden node")).into(),
        id => Ok(id.into()).into(),
    }))
}

fn first_of(node_id: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(core::Node {
            id: node_id.into(),
            ..core::Node::default()
        }),
        type_url: Cluster.type_url().into(),
        ..DeltaDiscoveryRequest::default()
    }
}

/// A request whose resource names have about this many bytes.
fn with_names(request: DeltaDiscoveryRequest, bytes: usize) -> DeltaDiscoveryRequest {
    let names = (0..bytes / KIB).map(|number| format!("{number:0>1020}"));
    DeltaDiscoveryRequest {
        resource_names_subscribe: names.collect(),
        ..request
    }
}

#[tokio::test]
async fn refused_credentials_end_the_stream_before_a_message_is_read() {
    let refused = || Err(Status::unauthenticated("unknown token"));
    for is_immediate in [true, false] {
        let options = XdsServerOptions::new(Arc::new(move |_| {
            if is_immediate {
                AuthDecision::Now(refused())
            } else {
                AuthDecision::Later(Box::pin(async move { refused() }))
            }
        }));
        let stream = RawStream::open(&TestStore::new(), options).await;
        let requests = stream.requests.clone();
        let status = stream.status().await;
        assert_eq!(status.code(), Code::Unauthenticated);
        // The server has dropped the body.
        assert!(requests.is_closed(), "{is_immediate}");
    }
}

#[tokio::test(start_paused = true)]
async fn first_request_is_due_within_ten_seconds() {
    let begin = Instant::now();
    let stream = RawStream::open(&TestStore::new(), options()).await;
    stream.send_start(100, &[0; 50]);
    assert_eq!(stream.status().await.code(), Code::DeadlineExceeded);
    assert_eq!(begin.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn first_request_without_a_node_at_its_start_is_refused_once_256_kib_arrived() {
    let stream = RawStream::open(&TestStore::new(), options()).await;
    let mut request = with_names(first_of("a"), 10 * MIB);
    request.node = None;
    let bytes = request.encode_to_vec();
    stream.send_start(bytes.len(), &bytes[..300 * KIB]);
    let status = stream.status().await;
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("`node`"), "{status}");
}

#[tokio::test]
async fn node_at_the_start_of_a_large_request_authorizes_the_client_before_the_rest_is_read() {
    let stream = RawStream::open(&TestStore::new(), options()).await;
    let bytes = with_names(first_of("forbidden"), 10 * MIB).encode_to_vec();
    stream.send_start(bytes.len(), &bytes[..300 * KIB]);
    let status = stream.status().await;
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "forbidden node")
    );
}

#[tokio::test(start_paused = true)]
async fn large_request_must_be_complete_within_ten_seconds() {
    let begin = Instant::now();
    let stream = RawStream::open(&TestStore::new(), options()).await;
    let bytes = with_names(first_of("a"), 3 * MIB).encode_to_vec();
    stream.send_start(bytes.len(), &bytes[..300 * KIB]);
    assert_eq!(stream.status().await.code(), Code::DeadlineExceeded);
    assert_eq!(begin.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn request_that_is_too_large_for_the_view_is_refused_before_it_is_read() {
    let begin = Instant::now();
    let stream = RawStream::open(&TestStore::new(), options()).await;
    let bytes = with_names(first_of("a"), 10 * MIB).encode_to_vec();
    stream.send_start(bytes.len(), &bytes[..300 * KIB]);
    assert_eq!(stream.status().await.code(), Code::ResourceExhausted);
    assert_eq!(begin.elapsed().as_secs(), 0);
}

#[tokio::test]
async fn large_requests_share_a_limit_and_a_complete_one_is_served() {
    let server = TestServer::start_with(XdsLimits {
        large_request_bytes: 2 * MIB,
        ..XdsLimits::default()
    })
    .await;
    server.replace_all(&[(Cluster, "a", "1")]);
    let channel = server.channel().await;
    let request = DeltaDiscoveryRequest {
        node: Some(node()),
        ..with_names(first_of("node"), MIB)
    };
    let mut stream = DeltaStream::open(&channel, path(XdsVariant::Delta, None)).await;
    stream.send(request.clone());
    assert_eq!(stream.receive().await.removed_resources.len(), 1024);
    let mut refused = DeltaStream::open(&channel, path(XdsVariant::Delta, None)).await;
    refused.send(with_names(request, 3 * MIB));
    let status = refused.end().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("large requests"), "{status}");
}

#[test]
fn names_are_limited_by_the_size_of_the_view() {
    let subscribe_long = |store: &TestStore, count: usize, length: usize| {
        let mut client = LocalClient::new(store, XdsVariant::Delta);
        let names = (0..count).map(|number| format!("{number:0>length$}"));
        let request = DeltaDiscoveryRequest {
            resource_names_subscribe: names.collect(),
            ..DeltaDiscoveryRequest::default()
        };
        let subscribed = Delta::on_request(&mut client.connection, Endpoint, request);
        subscribed.map_err(|status| (status.code(), client.connection.resources().len()))
    };
    let subscribe = |store: &TestStore, count| subscribe_long(store, count, 1);
    let store = TestStore::with(&[(Cluster, "a", "1"), (Listener, "l", "1")]);
    assert_eq!(subscribe_long(&store, 625, 2_048), Ok(()));
    assert_eq!(
        subscribe_long(&store, 626, 2_048),
        Err((Code::ResourceExhausted, 0))
    );
    assert_eq!(subscribe(&store, 5_006), Ok(()));
    assert_eq!(subscribe(&store, 5_007), Err((Code::ResourceExhausted, 0)));
    // The view of the client is not known.
    assert_eq!(subscribe(&TestStore::new(), 5_000), Ok(()));
    assert_eq!(
        subscribe(&TestStore::new(), 5_001),
        Err((Code::ResourceExhausted, 0))
    );
}

#[test]
fn claimed_names_of_a_wildcard_and_long_names_are_limited() {
    let request = |versions: usize, length: usize| {
        let store = TestStore::with(&[(Cluster, "a", "1")]);
        let mut client = LocalClient::new(&store, XdsVariant::Delta);
        let names = (0..versions).map(|number| (format!("{number:0>length$}"), String::new()));
        let request = DeltaDiscoveryRequest {
            initial_resource_versions: names.collect(),
            ..DeltaDiscoveryRequest::default()
        };
        let subscribed = Delta::on_request(&mut client.connection, Cluster, request);
        subscribed.map_err(|status| status.code())
    };
    assert_eq!(request(5_000, 4), Ok(()));
    assert_eq!(request(5_004, 4), Err(Code::ResourceExhausted));
    assert_eq!(request(1, 2 * KIB), Ok(()));
    assert_eq!(request(1, 2 * KIB + 1), Err(Code::ResourceExhausted));
}

#[tokio::test]
async fn words_of_a_nack_and_fields_of_the_node_are_cut() {
    let mut server = TestServer::start().await;
    server.replace_all(&[(Cluster, "a", "1")]);
    let mut client = GrpcClient::new(&server, XdsVariant::Sotw, true).await;
    client.subscribe_to(Cluster, &[]).await;
    client
        .receive_and_nack(Cluster, &"ü".repeat(100 * KIB))
        .await;
    server.next_delivery().await;
    let [proxy] = server.registry.proxies().try_into().unwrap();
    let rejection = proxy.resources[0].rejection.as_ref().unwrap();
    assert_eq!(rejection.message, "ü".repeat(512));

    let channel = server.channel().await;
    let mut stream = DeltaStream::open(&channel, path(XdsVariant::Delta, None)).await;
    stream.send(DeltaDiscoveryRequest {
        node: Some(core::Node {
            cluster: "c".repeat(100 * KIB),
            user_agent_name: "u".repeat(100 * KIB),
            ..node()
        }),
        ..first_of("node")
    });
    stream.receive().await;
    let proxies = server.registry.proxies();
    assert_eq!(proxies[1].node_cluster.len(), 256);
    assert_eq!(proxies[1].user_agent.len(), 256);
}

#[tokio::test]
async fn status_quotes_the_start_of_a_type_url() {
    let server = TestServer::start().await;
    let channel = server.channel().await;
    let mut stream = DeltaStream::open(&channel, path(XdsVariant::Delta, Some(Listener))).await;
    stream.send(DeltaDiscoveryRequest {
        type_url: "x\n".repeat(50 * KIB),
        ..first_of("node")
    });
    let status = stream.end().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().len() < 500, "{status}");
    assert!(!status.message().contains('\n'), "{status}");
}

#[tokio::test]
async fn node_id_is_limited() {
    let server = TestServer::start().await;
    let channel = server.channel().await;
    let mut stream = DeltaStream::open(&channel, path(XdsVariant::Delta, None)).await;
    stream.send(first_of(&"x".repeat(KIB + 1)));
    let status = stream.end().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("node.id"), "{status}");
}

const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const GOAWAY: u8 = 7;

/// An HTTP/2 connection of which the test writes and reads frames (RFC 9113, section 4).
struct RawConnection(TcpStream);

impl RawConnection {
    async fn open(server: &TestServer) -> Self {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        // The server may have closed the connection, which the test notices when it reads.
        let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        let mut connection = Self(stream);
        let _ = connection.write(SETTINGS, 0, 0, &[]).await;
        connection
    }

    async fn write(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> std::io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        frame.extend(payload);
        self.0.write_all(&frame).await
    }

    /// Reads frames up to the first of this kind.
    async fn read(&mut self, kind: u8) -> Vec<u8> {
        let read = async {
            loop {
                let mut header = [0; 9];
                self.0.read_exact(&mut header).await.unwrap();
                let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
                let mut payload = vec![0; length as usize];
                self.0.read_exact(&mut payload).await.unwrap();
                if header[3] == kind {
                    return payload;
                }
            }
        };
        timeout(DEADLINE, read).await.expect("a frame")
    }
}

#[tokio::test]
async fn settings_limit_streams_and_headers_of_a_connection() {
    let server = TestServer::start().await;
    let settings = RawConnection::open(&server).await.read(SETTINGS).await;
    let value = |id: u16| {
        let mut settings = settings.chunks_exact(6);
        let setting = settings.find(|it| it[..2] == id.to_be_bytes())?;
        Some(u32::from_be_bytes(setting[2..].try_into().unwrap()))
    };
    // SETTINGS_MAX_CONCURRENT_STREAMS and SETTINGS_MAX_HEADER_LIST_SIZE (RFC 9113, section 6.5.2).
    assert_eq!(value(3), Some(64));
    assert_eq!(value(6), Some(16 << 10));
}

/// "`MadeYouReset`" (CVE-2025-8671): each malformed request makes the server reset a stream.
#[tokio::test]
async fn connection_that_provokes_resets_ends() {
    let server = TestServer::start().await;
    let mut connection = RawConnection::open(&server).await;
    connection.read(SETTINGS).await;
    for number in 0..1_000 {
        // END_HEADERS and END_STREAM, and no header. The server may have closed the connection.
        if connection
            .write(HEADERS, 5, 2 * number + 1, &[])
            .await
            .is_err()
        {
            break;
        }
    }
    let goaway = connection.read(GOAWAY).await;
    let last_stream = u32::from_be_bytes(goaway[..4].try_into().unwrap());
    assert!(last_stream < 2 * 300, "{last_stream}");
    // ENHANCE_YOUR_CALM (RFC 9113, section 7).
    assert_eq!(goaway[4..8], [0, 0, 0, 11]);
}

/// A bystander is answered while another client sends large requests as fast as it can.
#[tokio::test]
async fn bystander_is_served_while_others_are_refused() {
    let server = TestServer::start().await;
    server.replace_all(&[(Cluster, "a", "1")]);
    let mut bystander = GrpcClient::new(&server, XdsVariant::Delta, true).await;
    bystander.subscribe_to(Cluster, &[]).await;
    bystander.receive_and_ack(Cluster).await;
    let channel = server.channel().await;
    for round in 0..20 {
        let mut hostile = DeltaStream::open(&channel, path(XdsVariant::Delta, None)).await;
        hostile.send(DeltaDiscoveryRequest {
            resource_names_subscribe: (0..100_000).map(|name| name.to_string()).collect(),
            ..first_of("node")
        });
        server.update(Cluster, "a", &format!("{round}"));
        let update = bystander.receive_and_ack(Cluster).await;
        assert_eq!(update.resources["a"], format!("{round}"));
        let status = hostile.end().await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
    }
    tokio::time::timeout(DEADLINE, async {
        while server.registry.len() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the end of the refused streams");
}

#[test]
fn status_of_very_many_unanswered_resources_is_read_quickly() {
    let names: Vec<String> = (0..50_000).map(|number| format!("{number:05}")).collect();
    let resources: Vec<_> = names
        .iter()
        .map(|name| (Endpoint, name.as_str(), "1"))
        .collect();
    let store = TestStore::with(&resources);
    let mut client = LocalClient::new(&store, XdsVariant::Delta);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    client.subscribe_to(Endpoint, &names);
    let sent = client.receive().unwrap();
    assert_eq!(sent.resources.len(), names.len());
    let statuses = client.connection.resources();
    assert!(
        statuses
            .iter()
            .all(|status| status.sent.is_some() && status.acked.is_none())
    );
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_and_places_come_back() {
    let server = TestServer::start_with_connections(ConnectionLimit::new(1)).await;
    let first = RawConnection::open(&server).await;
    let mut second = RawConnection::open(&server).await;
    let end = timeout(DEADLINE, second.0.read(&mut [0])).await;
    assert!(matches!(
        end.expect("the end of the connection"),
        Ok(0) | Err(_)
    ));
    drop(first);
    let connects = async {
        loop {
            let mut next = RawConnection::open(&server).await;
            if matches!(next.0.read(&mut [0]).await, Ok(1)) {
                break;
            }
        }
    };
    timeout(DEADLINE, connects).await.expect("a place");
}

/// A client at another address of the loopback network than all others.
async fn hostile_channel(server: &TestServer) -> Channel {
    let endpoint = transport::Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let endpoint = endpoint.local_address(Some([127, 0, 0, 2].into()));
    endpoint.connect().await.unwrap()
}

#[tokio::test]
async fn client_that_makes_the_server_hold_too_much_loses_its_connection() {
    let limit = ConnectionLimit::with_bytes(usize::MAX, 2 * MIB);
    let server = TestServer::start_with_connections(limit).await;
    server.replace_all(&[(Cluster, "a", "1")]);
    let mut bystander = GrpcClient::new(&server, XdsVariant::Delta, true).await;
    bystander.subscribe_to(Cluster, &[]).await;
    bystander.receive_and_ack(Cluster).await;

    let channel = hostile_channel(&server).await;
    let open = async || DeltaStream::open(&channel, path(XdsVariant::Delta, None)).await;
    let mut first = open().await;
    first.send(with_names(first_of("node"), MIB / 2));
    assert_eq!(first.receive().await.removed_resources.len(), 512);
    let mut second = open().await;
    second.send(with_names(first_of("node"), MIB));
    assert!(second.end().await.is_err());
    assert!(first.end().await.is_err());

    server.update(Cluster, "a", "2");
    let update = bystander.receive_and_ack(Cluster).await;
    assert_eq!(update.resources["a"], "2");
}
