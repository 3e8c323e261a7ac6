//! The scenarios of the public conformance suite for xDS servers, over real gRPC streams.
//!
//! Each test is one scenario. It runs for both variants of the protocol, on aggregated and on separate streams, and for
//! each type to which it applies. The store contains `A`, `B` and `C` of that type.
//!
//! A scenario shows that a change is not sent by the next response, which is about a later change, or by the end of the
//! stream ([`GrpcClient::assert_no_more_responses`]).

mod support;

use std::panic::AssertUnwindSafe;

use evermesh_proto::resource::ResourceType::{self, Cluster, Endpoint, Listener, Route};
use evermesh_xds::XdsVariant;
use futures::{FutureExt as _, future::join_all};
use support::{
    client::{Response, VARIANTS},
    grpc::{GrpcClient, TestServer},
};

const WILDCARD_TYPES: [ResourceType; 2] = [Cluster, Listener];
const ALL_TYPES: [ResourceType; 5] = ResourceType::ALL;

/// Runs a scenario in every combination of variant, stream and type, concurrently.
async fn for_each_variant(
    kinds: &[ResourceType],
    scenario: impl AsyncFn(TestServer, GrpcClient, ResourceType),
) {
    let mut combinations = Vec::new();
    for variant in VARIANTS {
        for aggregated in [true, false] {
            combinations.extend(kinds.iter().map(|kind| (variant, aggregated, *kind)));
        }
    }
    let runs = combinations
        .into_iter()
        .map(async |(variant, aggregated, kind)| {
            let run = async {
                let server = TestServer::start().await;
                server.replace_all(&["A", "B", "C"].map(|name| (kind, name, "1")));
                let client = GrpcClient::new(&server, variant, aggregated).await;
                scenario(server, client, kind).await;
            };
            let has_passed = AssertUnwindSafe(run).catch_unwind().await.is_ok();
            (!has_passed).then(|| format!("{variant:?}, aggregated: {aggregated}, {kind}"))
        });
    let failures: Vec<_> = join_all(runs).await.into_iter().flatten().collect();
    assert!(failures.is_empty(), "failed: {failures:#?}");
}

/// Checks the names in a response: all of those that the client has, or the changed ones, depending on the variant.
#[track_caller]
fn assert_names(client: &GrpcClient, response: &Response, all: &[&str], changed: &[&str]) {
    let expected = if client.has_complete_sets(response.kind) {
        all
    } else {
        changed
    };
    assert_eq!(response.names(), expected);
}

/// Checks the removed names. State of the world expresses a removal by leaving the resource out of a complete set.
#[track_caller]
fn assert_removed(client: &GrpcClient, response: &Response, removed: &[&str]) {
    match client.variant() {
        XdsVariant::Delta => assert_eq!(response.removed, removed),
        XdsVariant::Sotw => assert!(!response.names().iter().any(|name| removed.contains(name))),
    }
}

fn can_express_removal(client: &GrpcClient, kind: ResourceType) -> bool {
    client.variant() == XdsVariant::Delta || client.has_complete_sets(kind)
}

#[tokio::test]
async fn wildcard_gets_everything_in_one_response() {
    for_each_variant(&WILDCARD_TYPES, async |_server, mut client, kind| {
        client.subscribe_to(kind, &[]).await;
        let response = client.receive_and_ack(kind).await;
        assert_eq!(response.names(), ["A", "B", "C"]);
        client.assert_no_more_responses().await;
    })
    .await;
}

#[tokio::test]
async fn wildcard_gets_a_changed_resource() {
    for_each_variant(&WILDCARD_TYPES, async |server, mut client, kind| {
        client.subscribe_to(kind, &[]).await;
        let first = client.receive_and_ack(kind).await;
        server.update(kind, "B", "2");
        let second = client.receive_and_ack(kind).await;
        assert_names(&client, &second, &["A", "B", "C"], &["B"]);
        assert_eq!(second.resources["B"], "2");
        assert_ne!(first.version, second.version);
        client.assert_no_more_responses().await;
    })
    .await;
}

#[tokio::test]
async fn wildcard_gets_a_new_resource() {
    for_each_variant(&WILDCARD_TYPES, async |server, mut client, kind| {
        client.subscribe_to(kind, &[]).await;
        client.receive_and_ack(kind).await;
        server.add(kind, "D", "1");
        let response = client.receive_and_ack(kind).await;
        assert_names(&client, &response, &["A", "B", "C", "D"], &["D"]);
        client.assert_no_more_responses().await;
    })
    .await;
}

#[tokio::test]
async fn wildcard_loses_a_removed_resource() {
    for_each_variant(&WILDCARD_TYPES, async |server, mut client, kind| {
        client.subscribe_to(kind, &[]).await;
        client.receive_and_ack(kind).await;
        server.remove(kind, "B");
        let response = client.receive_and_ack(kind).await;
        assert_names(&client, &response, &["A", "C"], &[]);
        assert_removed(&client, &response, &["B"]);
        client.assert_no_more_responses().await;
    })
    .await;
}

#[tokio::test]
async fn names_get_only_the_named_resources() {
    for_each_variant(&ALL_TYPES, async |server, mut client, kind| {
        client.subscribe_to(kind, &["A", "C"]).await;
        let response = client.receive_and_ack(kind).await;
        assert_eq!(response.names(), ["A", "C"]);
        assert!(response.removed.is_empty());
        server.update(kind, "B", "2");
        server.update(kind, "C", "2");
        let response = client.receive_and_ack(kind).await;
        assert_names(&client, &response, &["A", "C"], &["C"]);
        client.assert_no_more_responses().await;
    })
    .await;
}

#[tokio::test]
async fn names_get_a_changed_resource() {
    for_each_variant(&ALL_TYPES, async |server, mut client, kind| {
        client.subscribe_to(kind, &["A", "B"]).await;
        client.receive_and_ack(kind).await;
        server.update(kind, "A", "2");
        let response = client.receive_and_ack(kind).await;
        assert_names(&client, &response, &["A", "B"], &["A"]);
        assert_eq!(response.resources["A"], "2");
        assert!(response.removed.is_empty());
        client.assert_no_more_responses().await;
    })
    .await;
}

#[tokio::test]
async fn a_missing_name_arrives_when_it_is_created() {
    for_each_variant(&ALL_TYPES, async |server, mut client, kind| {
        client.subscribe_to(kind, &["A", "B", "missing"]).await;
        let response = client.receive_and_ack(kind).await;
        assert_eq!(response.names(), ["A", "B"]);
        assert_removed(&client, &response, &["missing"]);
        server.add(kind, "missing", "1");
        let response = client.receive_and_ack(kind).await;
        assert_names(&client, &response, &["A", "B", "missing"], &["missing"]);
        client.assert_no_more_responses().await;
    })
    .await;
}

#[tokio::test]
async fn more_names_on_an_open_stream_bring_the_new_resources() {
    for_each_variant(&ALL_TYPES, async |_server, mut client, kind| {
        for names in [&["A"][..], &["A", "B"], &["A", "B", "C"]] {
            client.subscribe_to(kind, names).await;
            let response = client.receive_and_ack(kind).await;
            assert_names(&client, &response, names, &names[names.len() - 1..]);
        }
        client.assert_no_more_responses().await;
    })
    .await;
}

#[tokio::test]
async fn fewer_names_get_only_the_remaining_resources() {
    for_each_variant(&ALL_TYPES, async |server, mut client, kind| {
        client.subscribe_to(kind, &["A", "B"]).await;
        client.receive_and_ack(kind).await;
        client.subscribe_to(kind, &["B"]).await;
        // The subscription to `C` is answered after the request before it was handled.
        client.subscribe_to(kind, &["B", "C"]).await;
        let response = client.receive_and_ack(kind).await;
        assert_names(&client, &response, &["B", "C"], &["C"]);
        server.update(kind, "A", "2");
        server.update(kind, "B", "2");
        let response = client.receive_and_ack(kind).await;
        assert_names(&client, &response, &["B", "C"], &["B"]);
        client.assert_no_more_responses().await;
    })
    .await;
}

#[tokio::test]
async fn no_names_get_nothing() {
    for nothing in [&[][..], &[""]] {
        for_each_variant(&ALL_TYPES, async |server, mut client, kind| {
            if client.variant() == XdsVariant::Delta && !nothing.is_empty() {
                return; // An incremental request has no list that could consist of an empty name.
            }
            client.subscribe_to(kind, &["A", "B"]).await;
            client.receive_and_ack(kind).await;
            client.subscribe_to(kind, nothing).await;
            client.subscribe_to(kind, &["C"]).await;
            let response = client.receive_and_ack(kind).await;
            assert_eq!(response.names(), ["C"]);
            client.subscribe_to(kind, nothing).await;
            server.update(kind, "A", "2");
            client.assert_no_more_responses().await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_removed_resource_can_be_created_again() {
    for_each_variant(&ALL_TYPES, async |server, mut client, kind| {
        client.subscribe_to(kind, &["A", "B"]).await;
        client.receive_and_ack(kind).await;
        server.remove(kind, "A");
        if can_express_removal(&client, kind) {
            let response = client.receive_and_ack(kind).await;
            assert_names(&client, &response, &["B"], &[]);
            assert_removed(&client, &response, &["A"]);
        }
        server.add(kind, "A", "2");
        let response = client.receive_and_ack(kind).await;
        assert_names(&client, &response, &["A", "B"], &["A"]);
        assert_eq!(response.resources["A"], "2");
        client.assert_no_more_responses().await;
    })
    .await;
}

#[tokio::test]
async fn two_types_on_one_stream_do_not_affect_each_other() {
    for variant in VARIANTS {
        for (one, other) in [(Cluster, Listener), (Route, Endpoint)] {
            for (first, second) in [(one, other), (other, one)] {
                let server = TestServer::start().await;
                server.replace_all(&[(one, "A", "1"), (other, "A", "1"), (other, "B", "1")]);
                let mut client = GrpcClient::new(&server, variant, true).await;
                for kind in [first, second] {
                    client.subscribe_to(kind, &["A"]).await;
                    let response = client.receive_and_ack(kind).await;
                    assert_eq!((response.kind, response.names()), (kind, vec!["A"]));
                }
                for kind in [first, second] {
                    server.update(kind, "A", "2");
                    let response = client.receive_and_ack(kind).await;
                    assert_eq!((response.kind, response.names()), (kind, vec!["A"]));
                }
                client.assert_no_more_responses().await;
            }
        }
    }
}
