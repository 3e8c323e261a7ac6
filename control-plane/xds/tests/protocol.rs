//! The rules of the xDS protocol for one type, on the protocol state machine without I/O.
//!
//! The headings are sections of the protocol text. `order.rs` tests the order between types.

mod support;

use evermesh_proto::{
    discovery::{DeltaDiscoveryRequest, DiscoveryRequest},
    resource::ResourceType::{Cluster, Endpoint, Listener, Route},
};
use evermesh_xds::{DeliveryOutcome, StoreCommit, XdsVariant};
use support::{
    client::VARIANTS,
    local::LocalClient,
    store::{TestStore, upsert},
};

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn no_response_is_sent_before_the_first_commit_or_without_a_view() {
    for variant in VARIANTS {
        let store = TestStore::new();
        assert!(!store.is_ready());
        let mut client = LocalClient::new(&store, variant);
        client.subscribe_to(Cluster, &[]);
        client.subscribe_to(Route, &["r"]);
        client.assert_no_response();
        store.apply(StoreCommit::default());
        assert!(store.is_ready());
        client.assert_no_response();
        store.replace_all(&[(Cluster, "c", "1"), (Route, "r", "1")]);
        assert_eq!(client.receive_and_ack().names(), ["c"]);
        assert_eq!(client.receive_and_ack().names(), ["r"]);
        client.assert_no_response();
    }
}

#[test]
fn a_removed_view_freezes_its_clients_until_it_returns() {
    for variant in VARIANTS {
        let store = TestStore::with(&[(Cluster, "c", "1")]);
        let mut client = LocalClient::new(&store, variant);
        client.subscribe_to(Cluster, &[]);
        client.settle();
        store.apply(StoreCommit {
            views: vec![("node".into(), None)],
            ..StoreCommit::default()
        });
        store.update(Cluster, "c", "2");
        client.assert_no_response();
        store.replace_all(&[(Cluster, "c", "2"), (Cluster, "d", "1")]);
        client.settle();
        assert_eq!(
            client.resources(Cluster).into_values().collect::<Vec<_>>(),
            ["2", "1"]
        );
    }
}

#[test]
fn a_wildcard_without_resources_gets_an_empty_response() {
    for variant in VARIANTS {
        let store = TestStore::with(&[(Route, "r", "1")]);
        let mut client = LocalClient::new(&store, variant);
        client.subscribe_to(Cluster, &[]);
        let response = client.receive_and_ack();
        assert_eq!((response.kind, response.names()), (Cluster, vec![]));
        client.assert_no_response();
    }
}

#[test]
fn one_response_per_type_is_in_flight_and_the_next_has_the_newest_version() {
    for variant in VARIANTS {
        let store = TestStore::with(&[(Endpoint, "e", "1"), (Route, "r", "1")]);
        let mut client = LocalClient::new(&store, variant);
        client.subscribe_to(Endpoint, &["e"]);
        let first = client.receive().unwrap();
        store.update(Endpoint, "e", "2");
        store.update(Endpoint, "e", "3");
        client.assert_no_response();
        client.subscribe_to(Route, &["r"]);
        assert_eq!(client.receive_and_ack().kind, Route);
        client.ack(&first);
        assert_eq!(client.receive_and_ack().resources["e"], "3");
        client.assert_no_response();
    }
}

#[test]
fn an_ack_and_an_unchanged_commit_get_no_response() {
    for variant in VARIANTS {
        let store = TestStore::with(&[(Cluster, "c", "1")]);
        let mut client = LocalClient::new(&store, variant);
        client.subscribe_to(Cluster, &[]);
        let response = client.receive_and_ack();
        client.ack(&response);
        client.assert_no_response();
        store.update(Cluster, "c", "1");
        store.add(Endpoint, "e", "1");
        client.assert_no_response();
    }
}

#[test]
fn a_change_that_was_reverted_before_it_was_sent_is_not_sent() {
    for variant in VARIANTS {
        let store = TestStore::with(&[(Cluster, "c", "1")]);
        let mut client = LocalClient::new(&store, variant);
        client.subscribe_to(Cluster, &[]);
        client.settle();
        store.update(Cluster, "c", "2");
        store.update(Cluster, "c", "1");
        client.assert_no_response();
    }
}

#[test]
fn the_version_of_a_set_is_equal_on_every_replica() {
    for variant in VARIANTS {
        let resources = [(Cluster, "c", "2"), (Cluster, "d", "1")];
        let store = TestStore::with(&[(Cluster, "c", "1"), (Cluster, "d", "1")]);
        let mut client = LocalClient::new(&store, variant);
        client.subscribe_to(Cluster, &[]);
        let first = client.receive_and_ack();
        store.update(Cluster, "c", "2");
        let second = client.receive_and_ack();
        assert_ne!(first.version, second.version);
        let mut other = LocalClient::new(&TestStore::with(&resources), variant);
        other.subscribe_to(Cluster, &[]);
        assert_eq!(other.receive_and_ack().version, second.version);
        // Replicas may be built by different compilers, so the algorithm must not change.
        assert_eq!(second.version, "de9dd92e03d31e9f");
    }
}

#[test]
fn clients_of_two_views_get_their_own_resource_under_one_name() {
    let store = TestStore::new();
    let scoped = |scope: &str, content: &str| {
        let (mut key, resource) = upsert(Route, "r", content);
        key.scope = Some(scope.into());
        (key, resource)
    };
    let upserts = vec![scoped("blue", "blue"), scoped("green", "green")];
    let views = upserts.iter().map(|(key, _)| {
        let view = evermesh_proto::ProxyView::new(vec![key.clone()]);
        (key.scope.clone().unwrap(), Some(view.into()))
    });
    store.apply(StoreCommit {
        views: views.collect(),
        upserts,
        ..StoreCommit::default()
    });
    for view in ["blue", "green"] {
        let mut client = LocalClient::with_view(&store, view, XdsVariant::Delta);
        client.subscribe_to(Route, &["r"]);
        assert_eq!(client.receive_and_ack().resources["r"], view);
    }
}

#[test]
fn a_name_follows_the_view_to_another_key() {
    for variant in VARIANTS {
        let store = TestStore::with(&[(Route, "r", "shared")]);
        let mut client = LocalClient::new(&store, variant);
        client.subscribe_to(Route, &["r"]);
        client.settle();
        let (mut key, resource) = upsert(Route, "r", "own");
        key.scope = Some("node".into());
        store.apply(StoreCommit {
            views: vec![(
                "node".into(),
                Some(evermesh_proto::ProxyView::new(vec![key.clone()]).into()),
            )],
            upserts: vec![(key.clone(), resource)],
            ..StoreCommit::default()
        });
        assert_eq!(client.receive_and_ack().resources["r"], "own");
        store.update(Route, "r", "shared, changed");
        client.assert_no_response();
    }
}

// "How the client specifies what resources to return"

#[test]
fn sotw_wildcard_example_of_the_protocol_text_holds() {
    let store = TestStore::with(&[(Cluster, "A", "1"), (Cluster, "B", "1")]);
    let mut client = LocalClient::new(&store, XdsVariant::Sotw);
    client.subscribe_to(Cluster, &[]);
    assert_eq!(client.receive_and_ack().names(), ["A", "B"]);
    client.subscribe_to(Cluster, &["*", "A"]);
    assert_eq!(
        client.receive_and_ack().names(),
        ["A", "B"],
        "A is a new subscription"
    );
    client.subscribe_to(Cluster, &["A"]);
    client.assert_no_response();
    store.update(Cluster, "B", "2");
    client.assert_no_response();
    client.subscribe_to(Cluster, &[]);
    store.update(Cluster, "A", "2");
    client.assert_no_response();
}

#[test]
fn delta_wildcard_example_of_the_protocol_text_holds() {
    let store = TestStore::with(&[(Cluster, "A", "1"), (Cluster, "B", "1")]);
    let mut client = LocalClient::new(&store, XdsVariant::Delta);
    client.send_delta(Cluster, DeltaDiscoveryRequest::default());
    assert_eq!(client.receive_and_ack().names(), ["A", "B"]);
    client.send_delta(
        Cluster,
        DeltaDiscoveryRequest {
            resource_names_subscribe: names(&["A"]),
            ..Default::default()
        },
    );
    assert_eq!(client.receive_and_ack().names(), ["A"]);
    store.update(Cluster, "B", "2");
    assert_eq!(client.receive_and_ack().names(), ["B"]);
    let unsubscribe = |client: &mut LocalClient, name: &str| {
        let request = DeltaDiscoveryRequest {
            resource_names_unsubscribe: names(&[name]),
            ..Default::default()
        };
        client.send_delta(Cluster, request);
    };
    unsubscribe(&mut client, "*");
    store.update(Cluster, "B", "3");
    client.assert_no_response();
    store.update(Cluster, "A", "3");
    assert_eq!(client.receive_and_ack().names(), ["A"]);
    unsubscribe(&mut client, "A");
    store.update(Cluster, "A", "4");
    client.send_delta(Cluster, DeltaDiscoveryRequest::default());
    client.assert_no_response();
}

#[test]
fn a_star_is_a_wildcard_only_for_clusters_and_listeners() {
    for variant in VARIANTS {
        for (kind, all) in [(Cluster, true), (Listener, true), (Route, false)] {
            let store = TestStore::with(&[(kind, "A", "1")]);
            let mut client = LocalClient::new(&store, variant);
            client.subscribe_to(kind, &["*"]);
            client.settle();
            assert_eq!(
                client.resources(kind).len(),
                usize::from(all),
                "{variant:?} {kind}"
            );
        }
    }
}

#[test]
fn an_empty_list_of_endpoints_is_not_a_wildcard() {
    for variant in VARIANTS {
        let store = TestStore::with(&[(Endpoint, "e", "1")]);
        let mut client = LocalClient::new(&store, variant);
        client.subscribe_to(Endpoint, &[]);
        client.assert_no_response();
    }
}

#[test]
fn an_empty_name_subscribes_to_nothing() {
    let store = TestStore::with(&[(Cluster, "A", "1")]);
    let mut client = LocalClient::new(&store, XdsVariant::Sotw);
    client.subscribe_to(Cluster, &[""]);
    client.assert_no_response();
    client.subscribe_to(Cluster, &[]);
    client.assert_no_response();
}

#[test]
fn a_legacy_wildcard_ends_with_the_first_name() {
    let store = TestStore::with(&[(Cluster, "A", "1"), (Cluster, "B", "1")]);
    let mut client = LocalClient::new(&store, XdsVariant::Sotw);
    client.subscribe_to(Cluster, &[]);
    client.settle();
    client.subscribe_to(Cluster, &["B"]);
    assert_eq!(client.receive_and_ack().names(), ["B"]);
    client.subscribe_to(Cluster, &[]);
    store.update(Cluster, "A", "2");
    client.assert_no_response();
}

#[test]
fn a_repeated_subscription_is_answered() {
    let store = TestStore::with(&[(Endpoint, "e", "1")]);
    let mut client = LocalClient::new(&store, XdsVariant::Delta);
    client.subscribe_to(Endpoint, &["e"]);
    client.settle();
    let again = DeltaDiscoveryRequest {
        resource_names_subscribe: names(&["e"]),
        ..Default::default()
    };
    client.send_delta(Endpoint, again);
    assert_eq!(client.receive_and_ack().names(), ["e"]);
    client.assert_no_response();
    for variant in VARIANTS {
        let mut client = LocalClient::new(&store, variant);
        client.subscribe_to(Endpoint, &["e"]);
        client.settle();
        client.subscribe_to(Endpoint, &["f"]);
        client.settle();
        client.subscribe_to(Endpoint, &["e"]);
        assert_eq!(client.receive_and_ack().names(), ["e"]);
        client.assert_no_response();
    }
}

#[test]
fn a_name_that_is_unsubscribed_under_a_wildcard_is_sent_again() {
    let store = TestStore::with(&[(Cluster, "A", "1")]);
    let mut client = LocalClient::new(&store, XdsVariant::Delta);
    client.subscribe_to(Cluster, &["*", "A", "missing"]);
    let response = client.receive_and_ack();
    assert_eq!(response.names(), ["A"]);
    assert_eq!(response.removed, ["missing"]);
    client.subscribe_to(Cluster, &["*"]);
    let response = client.receive_and_ack();
    assert_eq!(response.names(), ["A"]);
    assert_eq!(response.removed, ["missing"]);
    client.assert_no_response();
}

#[test]
fn a_name_that_is_resubscribed_while_in_flight_is_sent_again() {
    let store = TestStore::with(&[(Endpoint, "e", "1"), (Endpoint, "f", "1")]);
    let mut client = LocalClient::new(&store, XdsVariant::Delta);
    client.subscribe_to(Endpoint, &["e", "f"]);
    let response = client.receive().unwrap();
    client.subscribe_to(Endpoint, &["f"]);
    client.subscribe_to(Endpoint, &["e", "f"]);
    client.nack(&response, "e is bad");
    client.settle();
    assert_eq!(client.resources(Endpoint).len(), 2);
}

// "ACK/NACK and resource type instance version"

#[test]
fn a_stale_nonce_is_ignored() {
    let store = TestStore::with(&[(Endpoint, "e", "1"), (Endpoint, "f", "1")]);
    let mut client = LocalClient::new(&store, XdsVariant::Sotw);
    client.subscribe_to(Endpoint, &["e"]);
    let old = client.receive_and_ack();
    store.update(Endpoint, "e", "2");
    let new = client.receive().unwrap();
    client.ack(&old);
    store.update(Endpoint, "e", "3");
    client.assert_no_response();
    client.ack(&new);
    assert_eq!(client.receive_and_ack().resources["e"], "3");
    assert_eq!(store.metrics().stale_nonces.get(), 1);
}

#[test]
fn names_with_a_stale_nonce_count_only_in_delta() {
    let store = TestStore::with(&[(Endpoint, "e", "1"), (Endpoint, "f", "1")]);
    let mut client = LocalClient::new(&store, XdsVariant::Delta);
    client.subscribe_to(Endpoint, &["e"]);
    client.receive_and_ack();
    let request = DeltaDiscoveryRequest {
        resource_names_subscribe: names(&["f"]),
        response_nonce: "stale".into(),
        ..Default::default()
    };
    client.send_delta(Endpoint, request);
    assert_eq!(client.receive_and_ack().names(), ["f"]);

    let mut client = LocalClient::new(&store, XdsVariant::Sotw);
    client.subscribe_to(Endpoint, &["e"]);
    let response = client.receive_and_ack();
    client.subscribe_to(Endpoint, &["e", "f"]);
    let said_f = client.receive().unwrap();
    let stale = DiscoveryRequest {
        resource_names: names(&["e"]),
        response_nonce: response.nonce,
        ..Default::default()
    };
    client.send_sotw(Endpoint, stale);
    // The ACK of the newest response has both names: the client never unsubscribed from `f`, so `f` is not sent again.
    client.ack(&said_f);
    client.assert_no_response();
}

#[test]
fn a_rejected_version_is_recorded_and_not_sent_again() {
    for variant in VARIANTS {
        let store = TestStore::with(&[(Route, "r", "1")]);
        let mut client = LocalClient::new(&store, variant);
        client.subscribe_to(Route, &["r"]);
        client.settle();
        store.update(Route, "r", "bad");
        let response = client.receive().unwrap();
        client.outcomes();
        client.nack(&response, "r is bad");
        client.assert_no_response();
        let status = client.status(Route, "r");
        let rejection = status.rejection.unwrap();
        assert_eq!(rejection.message, "r is bad");
        assert_eq!(status.sent, Some(rejection.version));
        assert_ne!(status.acked, Some(rejection.version));
        let reports = client.outcomes();
        assert_eq!(reports.len(), 1);
        assert_eq!(reports[0].0.version, rejection.version);
        assert_eq!(reports[0].1, DeliveryOutcome::Rejected("r is bad".into()));
        store.update(Route, "r", "2");
        assert_eq!(client.receive_and_ack().resources["r"], "2");
        assert_eq!(client.status(Route, "r").rejection, None);
        assert_eq!(client.outcomes().last().unwrap().1, DeliveryOutcome::Acked);
    }
}

#[test]
fn a_rejected_change_that_is_reverted_is_not_sent() {
    for variant in VARIANTS {
        let store = TestStore::with(&[(Route, "r", "1")]);
        let mut client = LocalClient::new(&store, variant);
        client.subscribe_to(Route, &["r"]);
        client.settle();
        store.update(Route, "r", "bad");
        let response = client.receive().unwrap();
        client.nack(&response, "no");
        store.update(Route, "r", "1");
        client.assert_no_response();
    }
}

#[test]
fn a_nack_of_a_batch_rejects_only_the_bad_resource() {
    for error in ["c2: weight must be positive", "no name in here"] {
        for variant in VARIANTS {
            for kind in [Cluster, Endpoint] {
                let all = ["c1", "c2", "c3", "c4"];
                let store = TestStore::with(&all.map(|name| (kind, name, "1")));
                let mut client = LocalClient::new(&store, variant);
                client.subscribe_to(kind, &all);
                client.settle();
                store.replace_all(&all.map(|name| (kind, name, "2")));
                client.outcomes();
                let mut rounds = 0;
                while let Some(response) = client.receive() {
                    rounds += 1;
                    if response
                        .resources
                        .get("c2")
                        .is_some_and(|content| content == "2")
                    {
                        client.nack(&response, error);
                    } else {
                        client.ack(&response);
                    }
                }
                assert!(rounds <= 5, "{rounds}");
                let has: Vec<_> = client.resources(kind).into_values().collect();
                assert_eq!(has, ["2", "1", "2", "2"], "{variant:?} {kind} {error}");
                let rejected = client.outcomes().into_iter();
                let rejected = rejected.filter(|(_, outcome)| *outcome != DeliveryOutcome::Acked);
                let rejected: Vec<_> = rejected
                    .map(|(resource, _)| resource.name.clone())
                    .collect();
                assert_eq!(rejected, ["c2".into()]);
            }
        }
    }
}

#[test]
fn a_complete_set_contains_the_last_good_version_of_a_rejected_resource() {
    let store = TestStore::with(&[(Cluster, "a", "1"), (Cluster, "b", "1")]);
    let mut client = LocalClient::new(&store, XdsVariant::Sotw);
    client.subscribe_to(Cluster, &[]);
    client.settle();
    store.update(Cluster, "a", "bad");
    let response = client.receive().unwrap();
    client.nack(&response, "a");
    store.update(Cluster, "b", "2");
    let response = client.receive_and_ack();
    assert_eq!(response.resources["a"], "1");
    assert_eq!(response.resources["b"], "2");
}

#[test]
fn new_names_after_a_rejected_first_set_remove_what_sotw_kept_from_an_earlier_stream() {
    let store = TestStore::with(&[(Listener, "a", "1"), (Listener, "b", "1")]);
    let mut client = LocalClient::new(&store, XdsVariant::Sotw);
    client.subscribe_to(Listener, &["a", "b"]);
    client.settle();
    let store = TestStore::with(&[(Listener, "a", "bad")]);
    client.reconnect(&store);
    client.receive_and_nack("a is bad");
    client.assert_no_response();
    client.subscribe_to(Listener, &["b"]);
    assert!(client.receive_and_ack().resources.is_empty());
    assert!(client.resources(Listener).is_empty());
    client.assert_no_response();
}

#[test]
fn new_names_after_a_rejected_first_set_keep_the_last_good_version_of_an_earlier_stream() {
    let store = TestStore::with(&[(Listener, "a", "1"), (Listener, "b", "1")]);
    let mut client = LocalClient::new(&store, XdsVariant::Sotw);
    client.subscribe_to(Listener, &["a", "b"]);
    client.settle();
    let store = TestStore::with(&[(Listener, "a", "bad")]);
    client.reconnect(&store);
    client.receive_and_nack("a is bad");
    client.subscribe_to(Listener, &["a"]);
    client.assert_no_response();
    assert_eq!(client.resources(Listener)["a"], "1");
}

#[test]
fn a_rejected_resource_is_sent_again_after_a_new_subscription() {
    let store = TestStore::with(&[(Route, "r", "bad")]);
    let mut client = LocalClient::new(&store, XdsVariant::Delta);
    client.subscribe_to(Route, &["r"]);
    let response = client.receive().unwrap();
    client.nack(&response, "no");
    client.assert_no_response();
    client.subscribe_to(Route, &[]);
    client.subscribe_to(Route, &["r"]);
    assert_eq!(client.receive_and_ack().names(), ["r"]);
}

#[test]
fn a_nacked_removal_is_not_repeated() {
    let store = TestStore::with(&[(Endpoint, "e", "1")]);
    let mut client = LocalClient::new(&store, XdsVariant::Delta);
    client.subscribe_to(Endpoint, &["e"]);
    client.settle();
    store.remove(Endpoint, "e");
    let response = client.receive().unwrap();
    client.nack(&response, "e is in use");
    client.assert_no_response();
}

#[test]
fn a_resource_that_is_removed_while_in_flight_is_removed_from_the_client() {
    for variant in VARIANTS {
        let store = TestStore::with(&[(Cluster, "a", "1"), (Cluster, "b", "1")]);
        let mut client = LocalClient::new(&store, variant);
        client.subscribe_to(Cluster, &[]);
        let response = client.receive().unwrap();
        store.remove(Cluster, "a");
        client.ack(&response);
        client.settle();
        assert_eq!(
            client.resources(Cluster).into_keys().collect::<Vec<_>>(),
            ["b"]
        );
    }
}

#[test]
fn a_large_response_is_split_where_the_protocol_allows_it() {
    let content = "x".repeat(900_000);
    let store =
        TestStore::with(&["a", "b", "c", "d"].map(|name| (Endpoint, name, content.as_str())));
    let mut client = LocalClient::new(&store, XdsVariant::Delta);
    client.subscribe_to(Endpoint, &["a", "b", "c", "d"]);
    assert_eq!(client.receive_and_ack().names(), ["a", "b"]);
    assert_eq!(client.receive_and_ack().names(), ["c", "d"]);
    client.assert_no_response();

    let store =
        TestStore::with(&["a", "b", "c", "d"].map(|name| (Cluster, name, content.as_str())));
    let mut client = LocalClient::new(&store, XdsVariant::Sotw);
    client.subscribe_to(Cluster, &[]);
    assert_eq!(client.receive_and_ack().names().len(), 4);
}

// "Incremental xDS": reconnecting clients

#[test]
fn a_reconnecting_client_does_not_get_what_it_has() {
    let resources = [
        (Cluster, "c", "1"),
        (Cluster, "d", "1"),
        (Endpoint, "c", "1"),
    ];
    let store = TestStore::with(&resources);
    let mut client = LocalClient::new(&store, XdsVariant::Delta);
    client.subscribe_to(Cluster, &[]);
    client.settle();
    client.subscribe_to(Endpoint, &["c"]);
    client.settle();
    // Another replica, or the same one after a restart.
    let store = TestStore::with(&resources);
    client.reconnect(&store);
    client.assert_no_response();
    assert_eq!(store.metrics().resumed.get(), 3);
    assert!(
        client
            .outcomes()
            .iter()
            .all(|(_, outcome)| *outcome == DeliveryOutcome::Acked)
    );
    store.update(Cluster, "d", "2");
    assert_eq!(client.receive_and_ack().names(), ["d"]);
    client.assert_no_response();
}

#[test]
fn a_reconnecting_client_gets_what_changed_and_what_was_removed() {
    let store = TestStore::with(&[
        (Cluster, "c", "1"),
        (Cluster, "d", "1"),
        (Cluster, "e", "1"),
    ]);
    let mut client = LocalClient::new(&store, XdsVariant::Delta);
    client.subscribe_to(Cluster, &[]);
    client.settle();
    let store = TestStore::with(&[
        (Cluster, "c", "1"),
        (Cluster, "d", "2"),
        (Cluster, "f", "1"),
    ]);
    client.reconnect(&store);
    let response = client.receive_and_ack();
    assert_eq!(response.names(), ["d", "f"]);
    assert_eq!(response.removed, ["e"]);
    client.assert_no_response();
}

#[test]
fn a_client_that_reconnects_before_the_server_is_ready_does_not_get_what_it_has() {
    let resources = [(Cluster, "c", "1"), (Endpoint, "c", "1")];
    let store = TestStore::with(&resources);
    let mut client = LocalClient::new(&store, XdsVariant::Delta);
    client.subscribe_to(Cluster, &[]);
    client.subscribe_to(Endpoint, &["c"]);
    client.settle();
    let store = TestStore::new();
    client.reconnect(&store);
    client.assert_no_response();
    store.replace_all(&resources);
    client.assert_no_response();
    assert_eq!(store.metrics().resumed.get(), 2);
}

#[test]
fn a_resource_with_an_unknown_initial_version_is_sent() {
    let store = TestStore::with(&[(Endpoint, "e", "1")]);
    let mut client = LocalClient::new(&store, XdsVariant::Delta);
    let request = DeltaDiscoveryRequest {
        resource_names_subscribe: names(&["e", "gone"]),
        initial_resource_versions: [("e", "v1"), ("gone", "v1"), ("other", "v1")]
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .into(),
        ..Default::default()
    };
    client.send_delta(Endpoint, request);
    let response = client.receive_and_ack();
    assert_eq!(response.names(), ["e"]);
    assert_eq!(response.removed, ["gone"]);
    client.assert_no_response();
}

#[test]
fn the_store_reuses_the_slot_of_a_removed_resource_without_watchers() {
    let store = TestStore::with(&[(Endpoint, "e", "1")]);
    let mut client = LocalClient::new(&store, XdsVariant::Delta);
    client.subscribe_to(Endpoint, &["e"]);
    client.settle();
    store.remove(Endpoint, "e");
    client.settle();
    drop(client);
    assert!(store.resources().is_empty());
    // Another key takes the slot of the removed key.
    store.add(Endpoint, "f", "1");
    let mut client = LocalClient::new(&store, XdsVariant::Delta);
    client.subscribe_to(Endpoint, &["f", "e"]);
    let response = client.receive_and_ack();
    assert_eq!(response.names(), ["f"]);
    assert_eq!(response.removed, ["e"]);
}

#[test]
fn a_request_may_have_very_many_names() {
    let many: Vec<String> = (0..50_000)
        .map(|number| format!("{}", number * 7_919 % 100_003))
        .collect();
    let resources: Vec<_> = many
        .iter()
        .map(|name| (Cluster, name.as_str(), "1"))
        .collect();
    let store = TestStore::with(&resources);
    let mut client = LocalClient::new(&store, XdsVariant::Delta);
    let wildcards = vec!["*".to_owned(); 100_000];
    let request = DeltaDiscoveryRequest {
        resource_names_subscribe: [many.clone(), wildcards].concat(),
        initial_resource_versions: many
            .iter()
            .map(|name| (format!("{name}x"), name.clone()))
            .collect(),
        ..Default::default()
    };
    client.send_delta(Cluster, request);
    let request = DeltaDiscoveryRequest {
        resource_names_unsubscribe: many,
        ..Default::default()
    };
    client.send_delta(Cluster, request);
    assert_eq!(client.receive().unwrap().names().len(), 50_000);
}
