//! The scenarios of the public conformance suite for xDS servers, in our own words, over real gRPC
//! streams: state of the world and delta, aggregated and separate.
//!
//! Each test is one scenario and runs for every type and variant it applies to.

mod support;

use evermesh_proto::resource::ResourceType::{self, Cluster, Endpoint, Listener, Route, Secret};
use futures::future::join_all;
use support::{DeltaClient, SotwClient, TestServer};

const WHOLE: [ResourceType; 2] = [Cluster, Listener];
const CHANGED: [ResourceType; 3] = [Route, Endpoint, Secret];
const ALL: [ResourceType; 5] = [Cluster, Listener, Route, Endpoint, Secret];

/// Runs a scenario for every type and both ways to open streams, all at once: a server with `A`, `B` and
/// `C` of the type, and a state-of-the-world client.
async fn sotw_variants<const N: usize>(
    kinds: [ResourceType; N],
    scenario: impl AsyncFn(TestServer, SotwClient, ResourceType),
) {
    let variants = kinds.map(|kind| [(kind, true), (kind, false)]);
    let runs = variants
        .as_flattened()
        .iter()
        .map(async |&(kind, aggregated)| {
            let server = TestServer::start().await;
            server.set(&["A", "B", "C"].map(|name| (kind, name, "1")));
            let client = SotwClient::sotw(&server, aggregated).await;
            scenario(server, client, kind).await;
        });
    join_all(runs).await;
}

/// The same with a delta client.
async fn delta_variants<const N: usize>(
    kinds: [ResourceType; N],
    scenario: impl AsyncFn(TestServer, DeltaClient, ResourceType),
) {
    let variants = kinds.map(|kind| [(kind, true), (kind, false)]);
    let runs = variants
        .as_flattened()
        .iter()
        .map(async |&(kind, aggregated)| {
            let server = TestServer::start().await;
            server.set(&["A", "B", "C"].map(|name| (kind, name, "1")));
            let client = DeltaClient::delta(&server, aggregated).await;
            scenario(server, client, kind).await;
        });
    join_all(runs).await;
}

#[tokio::test]
async fn sotw_wildcard_gets_everything_in_one_response() {
    sotw_variants(WHOLE, async |_server, mut client, kind| {
        client.names(kind, &[]).await;
        assert_eq!(client.next(kind).await.names(), ["A", "B", "C"]);
        client.assert_silent().await;
    })
    .await;
}

#[tokio::test]
async fn sotw_wildcard_gets_the_full_set_again_when_one_changes() {
    sotw_variants(WHOLE, async |server, mut client, kind| {
        client.names(kind, &[]).await;
        let first = client.next(kind).await;
        server.update(kind, "B", "2");
        let second = client.next(kind).await;
        assert_eq!(second.names(), ["A", "B", "C"]);
        assert_eq!(second.resources["B"], "2");
        assert_ne!(first.version, second.version);
        client.assert_silent().await;
    })
    .await;
}

#[tokio::test]
async fn sotw_wildcard_gets_a_new_resource() {
    sotw_variants(WHOLE, async |server, mut client, kind| {
        client.names(kind, &[]).await;
        client.next(kind).await;
        server.add(kind, "D", "1");
        assert_eq!(client.next(kind).await.names(), ["A", "B", "C", "D"]);
        client.assert_silent().await;
    })
    .await;
}

#[tokio::test]
async fn sotw_wildcard_loses_a_removed_resource() {
    sotw_variants(WHOLE, async |server, mut client, kind| {
        client.names(kind, &[]).await;
        client.next(kind).await;
        server.remove(kind, "B");
        assert_eq!(client.next(kind).await.names(), ["A", "C"]);
        client.assert_silent().await;
    })
    .await;
}

#[tokio::test]
async fn sotw_names_get_just_those() {
    sotw_variants(ALL, async |server, mut client, kind| {
        client.names(kind, &["A", "C"]).await;
        assert_eq!(client.next(kind).await.names(), ["A", "C"]);
        server.update(kind, "B", "2");
        client.assert_silent().await;
    })
    .await;
}

#[tokio::test]
async fn sotw_names_see_a_change_with_the_rest_in_one_response() {
    sotw_variants(WHOLE, async |server, mut client, kind| {
        client.names(kind, &["A", "B"]).await;
        client.next(kind).await;
        server.update(kind, "A", "2");
        let changed = client.next(kind).await;
        assert_eq!(changed.names(), ["A", "B"]);
        assert_eq!(changed.resources["A"], "2");
        client.assert_silent().await;
    })
    .await;
}

#[tokio::test]
async fn sotw_names_see_a_change_alone() {
    sotw_variants(CHANGED, async |server, mut client, kind| {
        client.names(kind, &["A", "B"]).await;
        client.next(kind).await;
        server.update(kind, "A", "2");
        assert_eq!(client.next(kind).await.names(), ["A"]);
        client.assert_silent().await;
    })
    .await;
}

#[tokio::test]
async fn sotw_missing_names_come_when_they_are_created() {
    sotw_variants(ALL, async |server, mut client, kind| {
        client.names(kind, &["A", "B", "missing"]).await;
        assert_eq!(client.next(kind).await.names(), ["A", "B"]);
        client.assert_silent().await;
        server.add(kind, "missing", "1");
        let created = client.next(kind).await;
        if WHOLE.contains(&kind) {
            assert_eq!(created.names(), ["A", "B", "missing"]);
        } else {
            assert_eq!(created.names(), ["missing"]);
        }
        client.assert_silent().await;
    })
    .await;
}

#[tokio::test]
async fn sotw_more_names_on_a_live_stream_bring_what_is_new() {
    sotw_variants(CHANGED, async |_server, mut client, kind| {
        client.names(kind, &["A"]).await;
        client.next(kind).await;
        client.names(kind, &["A", "B"]).await;
        assert_eq!(client.next(kind).await.names(), ["B"]);
        client.assert_silent().await;
    })
    .await;
}

#[tokio::test]
async fn sotw_two_types_on_one_stream_do_not_disturb_each_other() {
    for (one, other) in [(Cluster, Listener), (Route, Endpoint)] {
        for (first, second) in [(one, other), (other, one)] {
            let server = TestServer::start().await;
            server.set(&[(one, "A", "1"), (other, "A", "1"), (other, "B", "1")]);
            let mut client = SotwClient::sotw(&server, true).await;
            client.names(first, &["A"]).await;
            assert_eq!(client.next(first).await.kind, first);
            client.names(second, &["A"]).await;
            assert_eq!(client.next(second).await.kind, second);
            server.update(first, "A", "2");
            let changed = client.next(first).await;
            assert_eq!((changed.kind, changed.names()), (first, vec!["A"]));
            server.update(second, "A", "2");
            let changed = client.next(second).await;
            assert_eq!((changed.kind, changed.names()), (second, vec!["A"]));
            client.assert_silent().await;
        }
    }
}

#[tokio::test]
async fn sotw_fewer_names_see_only_what_remains() {
    sotw_variants(ALL, async |server, mut client, kind| {
        client.names(kind, &["A", "B"]).await;
        client.next(kind).await;
        client.names(kind, &["B"]).await;
        client.assert_silent().await;
        server.update(kind, "A", "2");
        client.assert_silent().await;
        server.update(kind, "B", "2");
        assert_eq!(client.next(kind).await.names(), ["B"]);
        client.assert_silent().await;
    })
    .await;
}

#[tokio::test]
async fn sotw_no_names_are_silence() {
    for nothing in [&[][..], &[""]] {
        sotw_variants(ALL, async |server, mut client, kind| {
            client.names(kind, &["A", "B"]).await;
            client.next(kind).await;
            client.names(kind, nothing).await;
            client.assert_silent().await;
            server.update(kind, "A", "2");
            client.assert_silent().await;
        })
        .await;
    }
}

#[tokio::test]
async fn delta_names_one_after_the_other() {
    delta_variants(ALL, async |_server, mut client, kind| {
        for name in ["A", "B", "C"] {
            client.subscribe(kind, &[name]).await;
            assert_eq!(client.next(kind).await.names(), [name]);
        }
        client.assert_silent().await;
    })
    .await;
}

#[tokio::test]
async fn delta_only_the_changed_resource_is_sent() {
    delta_variants(ALL, async |server, mut client, kind| {
        client.subscribe(kind, &["A", "B", "C"]).await;
        assert_eq!(client.next(kind).await.names(), ["A", "B", "C"]);
        server.update(kind, "B", "2");
        let changed = client.next(kind).await;
        assert_eq!(changed.names(), ["B"]);
        assert_eq!(changed.resources["B"], "2");
        assert!(changed.removed.is_empty());
        client.assert_silent().await;
    })
    .await;
}

#[tokio::test]
async fn delta_a_missing_name_is_told_and_comes_when_it_is_created() {
    delta_variants(ALL, async |server, mut client, kind| {
        client.subscribe(kind, &["A", "missing"]).await;
        let first = client.next(kind).await;
        assert_eq!(first.names(), ["A"]);
        assert_eq!(first.removed, ["missing"]);
        client.assert_silent().await;
        server.add(kind, "missing", "1");
        assert_eq!(client.next(kind).await.names(), ["missing"]);
        client.assert_silent().await;
    })
    .await;
}

#[tokio::test]
async fn delta_a_removal_is_announced_and_a_new_creation_delivered() {
    delta_variants(ALL, async |server, mut client, kind| {
        client.subscribe(kind, &["A", "B"]).await;
        client.next(kind).await;
        server.remove(kind, "A");
        let removed = client.next(kind).await;
        assert!(removed.resources.is_empty());
        assert_eq!(removed.removed, ["A"]);
        server.add(kind, "A", "1");
        assert_eq!(client.next(kind).await.names(), ["A"]);
        client.assert_silent().await;
    })
    .await;
}

#[tokio::test]
async fn delta_an_unsubscribed_name_is_silent() {
    delta_variants(ALL, async |server, mut client, kind| {
        client.subscribe(kind, &["A", "B"]).await;
        client.next(kind).await;
        client.unsubscribe(kind, &["A"]).await;
        client.assert_silent().await;
        server.update(kind, "A", "2");
        client.assert_silent().await;
        server.update(kind, "B", "2");
        assert_eq!(client.next(kind).await.names(), ["B"]);
        client.assert_silent().await;
    })
    .await;
}

#[tokio::test]
async fn delta_wildcard_gets_what_is_there_and_what_comes() {
    delta_variants(WHOLE, async |server, mut client, kind| {
        client.subscribe(kind, &[]).await;
        assert_eq!(client.next(kind).await.names(), ["A", "B", "C"]);
        server.add(kind, "D", "1");
        assert_eq!(client.next(kind).await.names(), ["D"]);
        server.remove(kind, "A");
        assert_eq!(client.next(kind).await.removed, ["A"]);
        client.assert_silent().await;
    })
    .await;
}

#[tokio::test]
async fn delta_two_types_on_one_stream_do_not_disturb_each_other() {
    for (one, other) in [(Cluster, Listener), (Route, Endpoint)] {
        for (first, second) in [(one, other), (other, one)] {
            let server = TestServer::start().await;
            server.set(&[(one, "A", "1"), (other, "A", "1"), (other, "B", "1")]);
            let mut client = DeltaClient::delta(&server, true).await;
            client.subscribe(first, &["A"]).await;
            assert_eq!(client.next(first).await.kind, first);
            client.subscribe(second, &["A"]).await;
            assert_eq!(client.next(second).await.kind, second);
            server.update(first, "A", "2");
            let changed = client.next(first).await;
            assert_eq!((changed.kind, changed.names()), (first, vec!["A"]));
            server.update(second, "A", "2");
            let changed = client.next(second).await;
            assert_eq!((changed.kind, changed.names()), (second, vec!["A"]));
            client.assert_silent().await;
        }
    }
}
