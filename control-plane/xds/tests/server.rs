//! The server around the machine: who may connect, what is malformed, how streams end, what is seen.

mod support;

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use evermesh_proto::{
    core,
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    },
    resource::ResourceType::{self, Cluster, Endpoint, Listener, Route},
};
use evermesh_xds::{DeliveryOutcome, XdsVariant};
use prost::Message;
use support::{
    DeltaClient, SotwClient, TestServer, Wire, node, path,
    world::{Change, key},
};
use tokio::time::timeout;
use tonic::Code;

type Delta = Wire<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;
type Sotw = Wire<DiscoveryRequest, DiscoveryResponse>;

fn first(kind: ResourceType) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(node()),
        type_url: kind.type_url().into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_stream_ends_with_unavailable_and_then_the_server() {
    let server = TestServer::start().await;
    server.set(&[(Cluster, "a", "1")]);
    let channel = server.channel().await;
    let mut busy = Delta::open(&channel, path("delta", None)).await;
    busy.send(first(Cluster));
    busy.receive().await;
    let mut idle = Sotw::open(&channel, path("sotw", None)).await;
    server.shutdown.cancel();
    assert_eq!(busy.end().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(idle.end().await.unwrap_err().code(), Code::Unavailable);
    let ended = timeout(Duration::from_secs(3), server.task).await;
    ended.expect("the server ends").unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_stops_asking_gets_its_answer_and_ok() {
    let server = TestServer::start().await;
    server.set(&[(Cluster, "a", "1")]);
    let channel = server.channel().await;
    let mut wire = Delta::open(&channel, path("delta", None)).await;
    wire.send(first(Cluster));
    let Wire { requests, .. } = &mut wire;
    let (closed, _) = tokio::sync::mpsc::unbounded_channel();
    drop(std::mem::replace(requests, closed));
    assert_eq!(wire.receive().await.resources.len(), 1);
    wire.end().await.unwrap();
}

#[tokio::test]
async fn a_client_that_is_refused_hears_why() {
    let server = TestServer::start().await;
    let channel = server.channel().await;
    let mut wire = Delta::open(&channel, path("delta", None)).await;
    let node = core::Node {
        id: "forbidden".into(),
        ..Default::default()
    };
    wire.send(DeltaDiscoveryRequest {
        node: Some(node),
        ..first(Cluster)
    });
    let status = wire.end().await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "not you")
    );
    assert!(server.registry.is_empty());
}

fn of(node: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(core::Node {
            id: node.into(),
            ..Default::default()
        }),
        ..first(Cluster)
    }
}

#[tokio::test]
async fn a_client_is_served_when_it_is_known_who_it_is() {
    let server = TestServer::start().await;
    server.set(&[(Cluster, "a", "1")]);
    let channel = server.channel().await;
    let mut wire = Delta::open(&channel, path("delta", None)).await;
    wire.send(of("asked"));
    // One that does not wait for it.
    wire.send(DeltaDiscoveryRequest {
        node: None,
        ..first(Listener)
    });
    let answer = wire.receive().await;
    assert_eq!(answer.resources.len(), 1);
    assert_eq!(server.registry.len(), 1);

    let mut wire = Delta::open(&channel, path("delta", None)).await;
    wire.send(of("asked-in-vain"));
    let status = wire.end().await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(server.registry.len(), 1);
}

#[tokio::test]
async fn a_stream_of_somebody_who_is_not_known_yet_ends_with_the_server() {
    let server = TestServer::start().await;
    let channel = server.channel().await;
    let mut wire = Delta::open(&channel, path("delta", None)).await;
    wire.send(of("asked-for-ever"));
    wire.assert_silent().await;
    server.shutdown.cancel();
    let status = wire.end().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn a_type_that_is_not_served_is_ignored_on_an_aggregated_stream() {
    let server = TestServer::start().await;
    server.set(&[(Cluster, "a", "1")]);
    let channel = server.channel().await;
    let mut wire = Delta::open(&channel, path("delta", None)).await;
    wire.send(DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/envoy.service.runtime.v3.Runtime".into(),
        ..first(Cluster)
    });
    wire.assert_silent().await;
    wire.send(first(Cluster));
    assert_eq!(wire.receive().await.resources.len(), 1);
}

#[tokio::test]
async fn a_separate_stream_has_one_type_and_need_not_name_it() {
    let server = TestServer::start().await;
    server.set(&[(Listener, "a", "1")]);
    let channel = server.channel().await;
    let mut wire = Delta::open(&channel, path("delta", Some(Listener))).await;
    wire.send(DeltaDiscoveryRequest {
        type_url: String::new(),
        ..first(Listener)
    });
    assert_eq!(wire.receive().await.type_url, Listener.type_url());
    wire.send(first(Cluster));
    let status = wire.end().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_request_without_a_type_is_an_error_on_an_aggregated_stream() {
    let server = TestServer::start().await;
    let channel = server.channel().await;
    let mut wire = Delta::open(&channel, path("delta", None)).await;
    wire.send(DeltaDiscoveryRequest::default());
    let status = wire.end().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

/// Any bytes as a message.
#[derive(Clone, PartialEq, prost::Message)]
struct Garbage {
    #[prost(bytes = "bytes", tag = "2")]
    node: Bytes,
}

#[tokio::test]
async fn bytes_that_are_no_request_are_an_error() {
    let server = TestServer::start().await;
    let channel = server.channel().await;
    let mut wire = Wire::<Garbage, DiscoveryResponse>::open(&channel, path("sotw", None)).await;
    wire.send(Garbage {
        node: Bytes::from_static(&[0xff; 8]),
    });
    let status = wire.end().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_request_over_the_limit_is_an_error_and_a_large_one_is_not() {
    let server = TestServer::start().await;
    server.set(&[(Cluster, "a", "1")]);
    let channel = server.channel().await;
    for (bytes, code) in [(900_000, None), (1_100_000, Some(Code::ResourceExhausted))] {
        let mut wire = Delta::open(&channel, path("delta", None)).await;
        let mut request = first(Cluster);
        request.initial_resource_versions = [("x".repeat(bytes), "1".to_owned())].into();
        wire.send(request);
        match code {
            None => assert_eq!(wire.receive().await.resources.len(), 1),
            Some(code) => assert_eq!(wire.end().await.unwrap_err().code(), code),
        }
    }
}

#[tokio::test]
async fn a_method_that_is_no_stream_is_unimplemented() {
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
async fn a_slow_reader_gets_the_newest_and_holds_nobody_up() {
    let server = TestServer::start().await;
    let content = "x".repeat(200_000);
    server.set(&[(Endpoint, "a", &content), (Route, "r", "1")]);
    let mut slow = DeltaClient::delta(&server, true).await;
    slow.subscribe(Endpoint, &["a"]).await;
    let mut quick = DeltaClient::delta(&server, true).await;
    quick.subscribe(Endpoint, &["a"]).await;
    quick.next(Endpoint).await;
    for round in 0..20 {
        server.update(Endpoint, "a", &format!("{round} {content}"));
        quick.next(Endpoint).await;
    }
    slow.next(Endpoint).await;
    let newest = slow.next(Endpoint).await;
    assert!(newest.resources["a"].starts_with("19 "));
    slow.assert_silent().await;
}

#[tokio::test]
async fn the_registry_and_the_verdicts_say_what_a_proxy_made_of_it() {
    let mut server = TestServer::start().await;
    server.set(&[(Cluster, "a", "1"), (Route, "r", "1")]);
    let mut client = SotwClient::sotw(&server, true).await;
    client.names(Cluster, &[]).await;
    client.next(Cluster).await;
    client.names(Route, &["r"]).await;
    client.refuse(Route, "no such cluster").await;
    client.assert_silent().await;

    let [proxy] = server.registry.proxies().try_into().unwrap();
    assert_eq!(proxy.node_id, "node");
    assert_eq!(proxy.user_agent, "test");
    assert_eq!(proxy.view.as_ref(), "node");
    assert_eq!((proxy.variant, proxy.aggregated), (XdsVariant::Sotw, true));
    assert!(proxy.peer.is_some());
    let [cluster, route] = proxy.resources.as_slice() else {
        panic!("{:?}", proxy.resources)
    };
    let stored = server.store.get(&key(Cluster, "a")).unwrap();
    assert_eq!(cluster.acked, Some(stored.version));
    assert_eq!(route.acked, None);
    let rejection = route.rejection.as_ref().unwrap();
    assert_eq!(rejection.message, "no such cluster");

    let verdict = server.verdicts.recv().await.unwrap();
    assert_eq!(verdict.proxy, proxy.id);
    assert_eq!(
        (verdict.resource.kind, verdict.outcome),
        (Cluster, DeliveryOutcome::Acked)
    );
    let verdict = server.verdicts.recv().await.unwrap();
    assert_eq!(verdict.resource.version, rejection.version);
    assert_eq!(
        verdict.outcome,
        DeliveryOutcome::Rejected("no such cluster".into())
    );

    let metrics = server.metrics();
    assert_eq!((metrics.acks.get(), metrics.nacks.get()), (1, 1));
    assert_eq!((metrics.responses.get(), metrics.resources.get()), (2, 2));
    assert_eq!(metrics.streams_open.get(), 1);
    drop(client);
    timeout(Duration::from_secs(3), async {
        while !server.registry.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it leaves");
    assert_eq!(server.metrics().streams_open.get(), 0);
}

#[tokio::test]
async fn many_changes_at_once_are_few_responses() {
    let server = TestServer::start().await;
    let names: Vec<String> = (0..50).map(|number| format!("e{number:02}")).collect();
    let put = |content: &str| {
        let changes = names.iter();
        changes.fold(Change::default(), |change, name| {
            change.put(Endpoint, name, content)
        })
    };
    server.commit(put("1"));
    let mut client = DeltaClient::delta(&server, true).await;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    client.subscribe(Endpoint, &names).await;
    assert_eq!(client.next(Endpoint).await.names(), names);
    for content in ["2", "3", "4"] {
        server.commit(put(content));
    }
    let changed = client.next(Endpoint).await;
    assert_eq!(changed.names(), names);
    assert_eq!(changed.resources["e00"], "4");
    client.assert_silent().await;
}

/// A request of raw bytes over HTTP/2, for what a gRPC library does not send.
#[tokio::test]
async fn a_compressed_request_is_refused() {
    let server = TestServer::start().await;
    let mut frame = BytesMut::new();
    let message = first(Cluster).encode_to_vec();
    frame.put_u8(1);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.extend_from_slice(&message);
    let request = http::Request::post(path("delta", None))
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
