//! The server around the protocol state machine: authentication, malformed requests, the end of streams, the registry
//! and the metrics.

mod support;

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use evermesh_proto::{
    core,
    discovery::{DeltaDiscoveryRequest, DiscoveryRequest, DiscoveryResponse},
    resource::{
        ResourceKey,
        ResourceType::{self, Cluster, Endpoint, Listener, Route},
    },
};
use evermesh_xds::{
    DeliveryOutcome,
    XdsVariant::{Delta, Sotw},
};
use prost::Message;
use support::{
    grpc::{
        CHECKED, CHECKED_AND_DENIED, DEADLINE, DeltaStream, FORBIDDEN, GrpcClient, GrpcStream,
        SotwStream, TestServer, node, path,
    },
    store::{Change, key},
};
use tokio::time::timeout;
use tonic::Code;

/// The first request of an incremental stream: a wildcard subscription to a type.
fn first(kind: ResourceType) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(node()),
        type_url: kind.type_url().into(),
        ..Default::default()
    }
}

/// The first request of an incremental stream of a client with this node ID.
fn first_of_node(node_id: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(core::Node {
            id: node_id.into(),
            ..Default::default()
        }),
        ..first(Cluster)
    }
}

#[tokio::test]
async fn unanswered_resource_is_found_by_a_shared_key_and_by_one_of_its_view() {
    let server = TestServer::start().await;
    server.replace_all(&[(Cluster, "a", "1"), (Cluster, "b", "1")]);
    let mut client = GrpcClient::new(&server, Delta, true).await;
    client.subscribe_to(Cluster, &["a"]).await;
    client.receive_and_ack(Cluster).await;
    let mut silent = DeltaStream::open(&server.channel().await, path(Delta, None)).await;
    silent.send(first(Cluster));
    silent.receive().await;
    let of_view = |name: &str, view: &str| ResourceKey {
        scope: Some(view.into()),
        ..key(Cluster, name)
    };
    let unanswered = [key(Cluster, "a"), of_view("b", "node")];
    let others = [key(Cluster, "c"), key(Endpoint, "a"), of_view("a", "other")];
    let found = server.registry.unanswered(unanswered.iter().chain(&others));
    assert_eq!(found, unanswered.iter().collect());
}

#[tokio::test]
async fn a_shutdown_ends_streams_with_unavailable_and_then_the_server() {
    let server = TestServer::start().await;
    server.replace_all(&[(Cluster, "a", "1")]);
    let channel = server.channel().await;
    let mut subscribed = DeltaStream::open(&channel, path(Delta, None)).await;
    subscribed.send(first(Cluster));
    subscribed.receive().await;
    let mut idle = SotwStream::open(&channel, path(Sotw, None)).await;
    server.shutdown.cancel();
    let status = subscribed.end().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(idle.end().await.unwrap_err().code(), Code::Unavailable);
    // The server does not wait for the grace period, which is longer than the deadline.
    let ended = timeout(DEADLINE, server.task).await;
    ended.expect("the end of the server").unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_ends_its_requests_gets_the_response_and_ok() {
    let server = TestServer::start().await;
    server.replace_all(&[(Cluster, "a", "1")]);
    let channel = server.channel().await;
    let mut stream = DeltaStream::open(&channel, path(Delta, None)).await;
    stream.send(first(Cluster));
    stream.close();
    assert_eq!(stream.receive().await.resources.len(), 1);
    stream.end().await.unwrap();
}

#[tokio::test]
async fn a_denied_client_gets_the_reason() {
    let server = TestServer::start().await;
    let channel = server.channel().await;
    let mut stream = DeltaStream::open(&channel, path(Delta, None)).await;
    stream.send(first_of_node(FORBIDDEN));
    let status = stream.end().await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "forbidden node")
    );
    assert!(server.registry.is_empty());
}

#[tokio::test]
async fn a_client_is_served_after_its_identity_check() {
    let server = TestServer::start().await;
    server.replace_all(&[(Cluster, "a", "1")]);
    let channel = server.channel().await;
    let mut stream = DeltaStream::open(&channel, path(Delta, None)).await;
    stream.send(first_of_node(CHECKED));
    // The client does not wait for the check.
    stream.send(DeltaDiscoveryRequest {
        node: None,
        ..first(Listener)
    });
    server.identity_check.begins().await;
    assert!(server.registry.is_empty());
    server.identity_check.finish();
    assert_eq!(stream.receive().await.resources.len(), 1);
    assert_eq!(server.registry.len(), 1);

    let mut stream = DeltaStream::open(&channel, path(Delta, None)).await;
    stream.send(first_of_node(CHECKED_AND_DENIED));
    server.identity_check.finish();
    let status = stream.end().await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(server.registry.len(), 1);
}

#[tokio::test]
async fn a_shutdown_ends_a_stream_during_its_identity_check() {
    let server = TestServer::start().await;
    let channel = server.channel().await;
    let mut stream = DeltaStream::open(&channel, path(Delta, None)).await;
    stream.send(first_of_node(CHECKED));
    server.identity_check.begins().await;
    server.shutdown.cancel();
    let status = stream.end().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn an_aggregated_stream_ignores_a_type_that_is_not_served() {
    let server = TestServer::start().await;
    server.replace_all(&[(Cluster, "a", "1")]);
    let channel = server.channel().await;
    let mut stream = DeltaStream::open(&channel, path(Delta, None)).await;
    stream.send(DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/envoy.service.runtime.v3.Runtime".into(),
        ..first(Cluster)
    });
    stream.send(first(Cluster));
    let response = stream.receive().await;
    assert_eq!(response.type_url, Cluster.type_url());
    assert_eq!(response.resources.len(), 1);
}

#[tokio::test]
async fn a_separate_stream_serves_one_type_and_does_not_need_its_url() {
    let server = TestServer::start().await;
    server.replace_all(&[(Listener, "a", "1")]);
    let channel = server.channel().await;
    let mut stream = DeltaStream::open(&channel, path(Delta, Some(Listener))).await;
    stream.send(DeltaDiscoveryRequest {
        type_url: String::new(),
        ..first(Listener)
    });
    assert_eq!(stream.receive().await.type_url, Listener.type_url());
    stream.send(first(Cluster));
    let status = stream.end().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let expected = format!(
        "type `{}` is not served here; this service serves `{}`",
        Cluster.type_url(),
        Listener.type_url()
    );
    assert_eq!(status.message(), expected);
}

#[tokio::test]
async fn an_aggregated_stream_needs_the_type_url() {
    let server = TestServer::start().await;
    let channel = server.channel().await;
    let mut stream = DeltaStream::open(&channel, path(Delta, None)).await;
    stream.send(DeltaDiscoveryRequest::default());
    let status = stream.end().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

/// A message whose field `node` has arbitrary bytes.
#[derive(Clone, PartialEq, prost::Message)]
struct MalformedRequest {
    #[prost(bytes = "bytes", tag = "2")]
    node: Bytes,
}

#[tokio::test]
async fn bytes_that_are_not_a_request_end_the_stream() {
    let server = TestServer::start().await;
    let channel = server.channel().await;
    let mut stream =
        GrpcStream::<MalformedRequest, DiscoveryResponse>::open(&channel, path(Sotw, None)).await;
    stream.send(MalformedRequest {
        node: Bytes::from_static(&[0xff; 8]),
    });
    let status = stream.end().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn only_a_request_over_the_limit_ends_the_stream() {
    let server = TestServer::start().await;
    server.replace_all(&[(Cluster, "a", "1")]);
    let channel = server.channel().await;
    for (names, code) in [(900, None), (1_100, Some(Code::ResourceExhausted))] {
        let mut stream = DeltaStream::open(&channel, path(Delta, None)).await;
        let mut request = first(Cluster);
        let names = (0..names).map(|number| format!("{number:0>1000}"));
        request.resource_names_subscribe = names.chain(["a".to_owned()]).collect();
        stream.send(request);
        match code {
            None => assert_eq!(stream.receive().await.resources.len(), 1),
            Some(code) => assert_eq!(stream.end().await.unwrap_err().code(), code),
        }
    }
}

#[tokio::test]
async fn a_fetch_method_is_unimplemented() {
    let server = TestServer::start().await;
    let channel = server.channel().await;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = "/envoy.service.cluster.v3.ClusterDiscoveryService/FetchClusters";
    let codec = tonic_prost::ProstCodec::<DiscoveryRequest, DiscoveryResponse>::default();
    let result = grpc
        .unary(
            tonic::Request::new(DiscoveryRequest::default()),
            path.parse().unwrap(),
            codec,
        )
        .await;
    assert_eq!(result.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_slow_client_skips_versions_and_does_not_delay_others() {
    let server = TestServer::start().await;
    let content = "x".repeat(200_000);
    server.replace_all(&[(Endpoint, "a", &content), (Route, "r", "1")]);
    let mut slow = GrpcClient::new(&server, Delta, true).await;
    slow.subscribe_to(Endpoint, &["a"]).await;
    let mut quick = GrpcClient::new(&server, Delta, true).await;
    quick.subscribe_to(Endpoint, &["a"]).await;
    quick.receive_and_ack(Endpoint).await;
    for round in 0..20 {
        server.update(Endpoint, "a", &format!("{round} {content}"));
        quick.receive_and_ack(Endpoint).await;
    }
    slow.receive_and_ack(Endpoint).await;
    let newest = slow.receive_and_ack(Endpoint).await;
    assert!(newest.resources["a"].starts_with("19 "));
    slow.assert_no_more_responses().await;
}

#[tokio::test]
async fn registry_deliveries_and_metrics_agree_on_an_ack_and_a_nack() {
    let mut server = TestServer::start().await;
    server.replace_all(&[(Cluster, "a", "1"), (Route, "r", "1")]);
    let mut client = GrpcClient::new(&server, Sotw, true).await;
    client.subscribe_to(Cluster, &[]).await;
    client.receive_and_ack(Cluster).await;
    client.subscribe_to(Route, &["r"]).await;
    client.receive_and_nack(Route, "unknown cluster").await;
    let acked = server.next_delivery().await;
    let rejected = server.next_delivery().await;

    let [proxy] = server.registry.proxies().try_into().unwrap();
    assert_eq!(proxy.node_id, "node");
    assert_eq!(proxy.user_agent, "test");
    assert_eq!(proxy.view.as_ref(), "node");
    assert_eq!((proxy.variant, proxy.aggregated), (Sotw, true));
    assert!(proxy.peer.is_some());
    let [cluster, route] = proxy.resources.as_slice() else {
        panic!("{:?}", proxy.resources)
    };
    let stored = server.get(&key(Cluster, "a")).unwrap();
    assert_eq!(cluster.acked, Some(stored.version));
    assert_eq!(route.acked, None);
    let rejection = route.rejection.as_ref().unwrap();
    assert_eq!(rejection.message, "unknown cluster");

    assert_eq!(acked.proxy, proxy.id);
    assert_eq!(
        (acked.resource.kind, acked.outcome),
        (Cluster, DeliveryOutcome::Acked)
    );
    assert_eq!(rejected.resource.version, rejection.version);
    assert_eq!(
        rejected.outcome,
        DeliveryOutcome::Rejected("unknown cluster".into())
    );

    let metrics = server.metrics();
    assert_eq!((metrics.acks.get(), metrics.nacks.get()), (1, 1));
    assert_eq!((metrics.responses.get(), metrics.resources.get()), (2, 2));
    assert_eq!(metrics.streams_open.get(), 1);
    drop(client);
    timeout(DEADLINE, async {
        while !server.registry.is_empty() || metrics.streams_open.get() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the end of the stream");
}

#[tokio::test]
async fn several_changes_before_an_ack_share_one_response() {
    let server = TestServer::start().await;
    let names: Vec<String> = (0..50).map(|number| format!("e{number:02}")).collect();
    let put = |content: &str| {
        let changes = names.iter();
        changes.fold(Change::default(), |change, name| {
            change.put(Endpoint, name, content)
        })
    };
    server.commit(put("1"));
    let mut client = GrpcClient::new(&server, Delta, true).await;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    client.subscribe_to(Endpoint, &names).await;
    assert_eq!(client.receive_and_ack(Endpoint).await.names(), names);
    // The server runs on the same thread as the test and sees the changes together.
    for content in ["2", "3", "4"] {
        server.commit(put(content));
    }
    let changed = client.receive_and_ack(Endpoint).await;
    assert_eq!(changed.names(), names);
    assert_eq!(changed.resources["e00"], "4");
    client.assert_no_more_responses().await;
}

/// Sends raw bytes over HTTP/2, because a gRPC library does not send this request.
#[tokio::test]
async fn a_compressed_request_is_unimplemented() {
    let server = TestServer::start().await;
    let mut frame = BytesMut::new();
    let message = first(Cluster).encode_to_vec();
    frame.put_u8(1);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.extend_from_slice(&message);
    let request = http::Request::post(path(Delta, None))
        .header("content-type", "application/grpc")
        .body(tonic::body::Body::new(http_body_util::Full::new(
            frame.freeze(),
        )))
        .unwrap();
    let mut channel = server.channel().await;
    std::future::poll_fn(|context| {
        tower::Service::<http::Request<_>>::poll_ready(&mut channel, context)
    })
    .await
    .unwrap();
    let response = tower::Service::call(&mut channel, request).await.unwrap();
    let body = http_body_util::BodyExt::collect(response.into_body())
        .await
        .unwrap();
    let trailers = body.trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "12");
}
