//! The ends of streams that their clients do not cause: age, and a lost right.
//!
//! Time is virtual. Except for the test of connections, streams have no connection.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod support;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use evermesh_proto::{
    core,
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    resource::ResourceType::{Cluster, Listener},
};
use evermesh_xds::{
    IdentifiedClient, ProxyRegistry, XdsServerOptions, XdsVariant, routes, without_credentials,
};
use futures::future::join_all;
use http_body_util::BodyExt;
use prost::Message;
use support::{
    grpc::{DEADLINE, DeltaStream, TestServer, node, path},
    store::TestStore,
};
use tokio::{sync::oneshot, time::Instant};
use tonic::{Code, Status, body::Body};

const AGE: Duration = Duration::from_mins(30);
/// Smallest and largest age at which a stream ends.
const FIRST: Duration = Duration::from_mins(27);
const LAST: Duration = Duration::from_mins(33);
/// Resolution of the timers.
const TICK: Duration = Duration::from_millis(1);

fn options() -> XdsServerOptions {
    let mut options = XdsServerOptions::new(without_credentials(|node: &core::Node| {
        Ok(node.id.as_str().into()).into()
    }));
    options.max_stream_age = Some(AGE);
    options
}

fn subscription(versions: &[(&str, String)]) -> DeltaDiscoveryRequest {
    let versions = versions.iter().cloned();
    DeltaDiscoveryRequest {
        node: Some(node()),
        type_url: Cluster.type_url().into(),
        initial_resource_versions: versions.map(|(name, it)| (name.to_owned(), it)).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

/// The responses of a stream that a client opens with one request and never ends, and the status at the end.
async fn run(
    store: &TestStore,
    options: XdsServerOptions,
    request: DeltaDiscoveryRequest,
) -> (Vec<DeltaDiscoveryResponse>, Status) {
    let registry = ProxyRegistry::new(None);
    let mut routes = routes(Arc::clone(&store.store), Arc::clone(&registry), options);
    let body = request.encode_to_vec();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[0], &length[..], &body].concat();
    let frames = futures::stream::iter([Ok::<_, Status>(http_body::Frame::data(message.into()))]);
    let frames = futures::StreamExt::chain(frames, futures::stream::pending());
    let request = http::Request::post(path(XdsVariant::Delta, None))
        .body(Body::new(http_body_util::StreamBody::new(frames)))
        .unwrap();
    let response = tower::Service::call(&mut routes, request).await.unwrap();
    let body = response.into_body().collect().await.unwrap();
    let status = Status::from_header_map(body.trailers().unwrap()).unwrap();
    assert!(registry.is_empty());
    let mut bytes = &body.to_bytes()[..];
    let mut responses = Vec::new();
    while let Some((prefix, rest)) = bytes.split_at_checked(5) {
        let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
        responses.push(DeltaDiscoveryResponse::decode(&rest[..length]).unwrap());
        bytes = &rest[length..];
    }
    (responses, status)
}

fn version_of(store: &TestStore, name: &str) -> String {
    let resources = store.resources();
    let (_, found) = resources
        .iter()
        .find(|(key, _)| &*key.name == name)
        .unwrap();
    found.version.to_string()
}

#[tokio::test(start_paused = true)]
async fn streams_that_began_together_end_with_ok_spread_around_the_mean_age() {
    let store = TestStore::with(&[(Cluster, "c", "1")]);
    let began = Instant::now();
    let streams = (0..30).map(async |_| {
        let (responses, status) = run(&store, options(), subscription(&[])).await;
        assert_eq!(status.code(), Code::Ok);
        assert_eq!(responses.len(), 1);
        began.elapsed()
    });
    let ages: BTreeSet<Duration> = join_all(streams).await.into_iter().collect();
    assert!(ages.iter().all(|age| (FIRST..=LAST + TICK).contains(age)));
    assert!(ages.len() > 20, "{ages:?}");
}

#[tokio::test(start_paused = true)]
async fn resumed_stream_without_changes_ends_with_an_empty_response() {
    let store = TestStore::with(&[(Cluster, "c", "1")]);
    let versions = [("c", version_of(&store, "c"))];
    let (responses, status) = run(&store, options(), subscription(&versions)).await;
    assert_eq!(status.code(), Code::Ok);
    let [response] = &responses[..] else {
        panic!("{responses:?}")
    };
    assert_eq!(response.type_url, Cluster.type_url());
    assert!(!response.nonce.is_empty());
    assert!(response.resources.is_empty() && response.removed_resources.is_empty());
}

#[tokio::test(start_paused = true)]
async fn client_that_may_lack_resources_gets_no_empty_response() {
    // Not ready: nothing was committed.
    let store = TestStore::new();
    let (responses, status) = run(&store, options(), subscription(&[])).await;
    assert_eq!((responses.len(), status.code()), (0, Code::Ok));
    // The client has no view, and what it has may be gone.
    let store = TestStore::with(&[(Listener, "l", "1")]);
    let request = DeltaDiscoveryRequest {
        node: Some(core::Node {
            id: "unknown".into(),
            ..core::Node::default()
        }),
        ..subscription(&[("c", "1".to_owned())])
    };
    let (responses, status) = run(&store, options(), request).await;
    assert_eq!((responses.len(), status.code()), (0, Code::Ok));
}

#[tokio::test(start_paused = true)]
async fn stream_ends_when_its_client_loses_the_right_to_the_view() {
    let store = TestStore::with(&[(Cluster, "c", "1")]);
    let (revoke, revoked) = oneshot::channel::<Status>();
    let revoked = Mutex::new(Some(revoked));
    let mut options = XdsServerOptions::new(without_credentials(move |node: &core::Node| {
        let revoked = revoked.lock().unwrap().take().unwrap();
        Ok(IdentifiedClient {
            view: node.id.as_str().into(),
            is_proven: false,
            revocation: Some(Box::pin(async { revoked.await.unwrap() })),
        })
        .into()
    }));
    options.max_stream_age = Some(AGE);
    let stream = run(&store, options, subscription(&[]));
    let revocation = async {
        tokio::task::yield_now().await;
        revoke.send(Status::permission_denied("gone")).unwrap();
    };
    let ((responses, status), ()) = tokio::join!(stream, revocation);
    assert_eq!(responses.len(), 1);
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "gone")
    );
}

#[tokio::test(start_paused = true)]
async fn next_stream_after_the_age_uses_a_new_connection() {
    let server = TestServer::start_with_stream_age(DEADLINE / 2).await;
    server.replace_all(&[(Cluster, "c", "1")]);
    let channel = server.channel().await;
    let mut addresses = BTreeSet::new();
    for _ in 0..3 {
        let mut stream = DeltaStream::open(&channel, path(XdsVariant::Delta, None)).await;
        stream.send(subscription(&[]));
        stream.receive().await;
        let proxies = server.registry.proxies();
        addresses.extend(proxies.iter().map(|proxy| proxy.peer.unwrap()));
        stream.end().await.unwrap();
    }
    assert_eq!(addresses.len(), 3);
}
