//! The protocol's rules on the machine without I/O: subscriptions, answers, reconnections.

mod support;

use evermesh_proto::{
    discovery::{DeltaDiscoveryRequest, DiscoveryRequest},
    resource::ResourceType::{Cluster, Endpoint, Listener, Route},
};
use evermesh_xds::{Connection, DeliveryOutcome, DiscoveryProtocol, Sotw, StoreCommit, XdsVariant};
use support::{
    peer::{Peer, VARIANTS},
    world::{World, upsert},
};

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_is_said_before_the_first_commit_or_without_a_view() {
    for variant in VARIANTS {
        let world = World::new();
        assert!(!world.is_ready());
        let mut peer = Peer::new(&world, variant);
        peer.want(Cluster, &[]);
        peer.want(Route, &["r"]);
        peer.assert_silent();
        world.commit_nothing();
        assert!(world.is_ready());
        peer.assert_silent();
        world.set(&[(Cluster, "c", "1"), (Route, "r", "1")]);
        assert_eq!(peer.next().names(), ["c"]);
        assert_eq!(peer.next().names(), ["r"]);
        peer.assert_silent();
    }
}

#[test]
fn a_view_that_goes_freezes_its_clients_and_one_that_comes_back_resumes_them() {
    for variant in VARIANTS {
        let world = World::with(&[(Cluster, "c", "1")]);
        let mut peer = Peer::new(&world, variant);
        peer.want(Cluster, &[]);
        peer.settle();
        world.apply(StoreCommit {
            views: vec![("node".into(), None)],
            ..StoreCommit::default()
        });
        world.update(Cluster, "c", "2");
        peer.assert_silent();
        world.set(&[(Cluster, "c", "2"), (Cluster, "d", "1")]);
        peer.settle();
        assert_eq!(
            peer.has(Cluster).into_values().collect::<Vec<_>>(),
            ["2", "1"]
        );
    }
}

#[test]
fn an_empty_wildcard_is_answered() {
    for variant in VARIANTS {
        let world = World::with(&[(Route, "r", "1")]);
        let mut peer = Peer::new(&world, variant);
        peer.want(Cluster, &[]);
        let said = peer.next();
        assert_eq!((said.kind, said.names()), (Cluster, vec![]));
        peer.assert_silent();
    }
}

#[test]
fn one_response_of_a_type_is_in_flight_and_the_next_has_the_newest() {
    for variant in VARIANTS {
        let world = World::with(&[(Endpoint, "e", "1"), (Route, "r", "1")]);
        let mut peer = Peer::new(&world, variant);
        peer.want(Endpoint, &["e"]);
        let first = peer.hear().unwrap();
        world.update(Endpoint, "e", "2");
        world.update(Endpoint, "e", "3");
        peer.assert_silent();
        peer.want(Route, &["r"]);
        assert_eq!(peer.next().kind, Route);
        peer.ack(&first);
        assert_eq!(peer.next().resources["e"], "3");
        peer.assert_silent();
    }
}

#[test]
fn an_answer_is_never_answered_and_an_unchanged_commit_is_silent() {
    for variant in VARIANTS {
        let world = World::with(&[(Cluster, "c", "1")]);
        let mut peer = Peer::new(&world, variant);
        peer.want(Cluster, &[]);
        let said = peer.next();
        peer.ack(&said);
        peer.assert_silent();
        world.update(Cluster, "c", "1");
        world.add(Endpoint, "e", "1");
        peer.assert_silent();
    }
}

#[test]
fn a_change_that_is_taken_back_in_time_is_not_sent() {
    for variant in VARIANTS {
        let world = World::with(&[(Cluster, "c", "1")]);
        let mut peer = Peer::new(&world, variant);
        peer.want(Cluster, &[]);
        peer.settle();
        world.update(Cluster, "c", "2");
        world.update(Cluster, "c", "1");
        peer.assert_silent();
    }
}

#[test]
fn the_version_of_a_set_is_equal_on_every_replica() {
    for variant in VARIANTS {
        let resources = [(Cluster, "c", "2"), (Cluster, "d", "1")];
        let world = World::with(&[(Cluster, "c", "1"), (Cluster, "d", "1")]);
        let mut peer = Peer::new(&world, variant);
        peer.want(Cluster, &[]);
        let first = peer.next();
        world.update(Cluster, "c", "2");
        let second = peer.next();
        assert_ne!(first.version, second.version);
        let mut other = Peer::new(&World::with(&resources), variant);
        other.want(Cluster, &[]);
        assert_eq!(other.next().version, second.version);
    }
}

#[test]
fn two_scopes_give_two_clients_their_own_under_one_name() {
    let world = World::new();
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
    world.apply(StoreCommit {
        views: views.collect(),
        upserts,
        ..StoreCommit::default()
    });
    for view in ["blue", "green"] {
        let mut peer = Peer::new(&world, XdsVariant::Delta);
        peer.connection = Connection::new(&world, view.into(), XdsVariant::Delta);
        peer.want(Route, &["r"]);
        assert_eq!(peer.next().resources["r"], view);
    }
}

#[test]
fn a_name_that_moves_to_another_key_follows_the_view() {
    for variant in VARIANTS {
        let world = World::with(&[(Route, "r", "shared")]);
        let mut peer = Peer::new(&world, variant);
        peer.want(Route, &["r"]);
        peer.settle();
        let (mut key, resource) = upsert(Route, "r", "own");
        key.scope = Some("node".into());
        world.apply(StoreCommit {
            views: vec![(
                "node".into(),
                Some(evermesh_proto::ProxyView::new(vec![key.clone()]).into()),
            )],
            upserts: vec![(key.clone(), resource)],
            ..StoreCommit::default()
        });
        assert_eq!(peer.next().resources["r"], "own");
        world.update(Route, "r", "shared, changed");
        peer.assert_silent();
    }
}

// How the client specifies what resources to return.

#[test]
fn sotw_follows_the_example_of_the_protocol_text() {
    let world = World::with(&[(Cluster, "A", "1"), (Cluster, "B", "1")]);
    let mut peer = Peer::new(&world, XdsVariant::Sotw);
    peer.want(Cluster, &[]);
    assert_eq!(peer.next().names(), ["A", "B"]);
    peer.want(Cluster, &["*", "A"]);
    assert_eq!(peer.next().names(), ["A", "B"], "A is newly requested");
    peer.want(Cluster, &["A"]);
    peer.assert_silent();
    world.update(Cluster, "B", "2");
    peer.assert_silent();
    peer.want(Cluster, &[]);
    world.update(Cluster, "A", "2");
    peer.assert_silent();
}

#[test]
fn delta_follows_the_example_of_the_protocol_text() {
    let world = World::with(&[(Cluster, "A", "1"), (Cluster, "B", "1")]);
    let mut peer = Peer::new(&world, XdsVariant::Delta);
    peer.delta(Cluster, DeltaDiscoveryRequest::default());
    assert_eq!(peer.next().names(), ["A", "B"]);
    peer.delta(
        Cluster,
        DeltaDiscoveryRequest {
            resource_names_subscribe: names(&["A"]),
            ..Default::default()
        },
    );
    assert_eq!(peer.next().names(), ["A"]);
    world.update(Cluster, "B", "2");
    assert_eq!(peer.next().names(), ["B"]);
    let unsubscribe = |peer: &mut Peer, name: &str| {
        let request = DeltaDiscoveryRequest {
            resource_names_unsubscribe: names(&[name]),
            ..Default::default()
        };
        peer.delta(Cluster, request);
    };
    unsubscribe(&mut peer, "*");
    world.update(Cluster, "B", "3");
    peer.assert_silent();
    world.update(Cluster, "A", "3");
    assert_eq!(peer.next().names(), ["A"]);
    unsubscribe(&mut peer, "A");
    world.update(Cluster, "A", "4");
    peer.delta(Cluster, DeltaDiscoveryRequest::default());
    peer.assert_silent();
}

#[test]
fn a_star_is_a_wildcard_for_clusters_and_listeners_only() {
    for variant in VARIANTS {
        for (kind, all) in [(Cluster, true), (Listener, true), (Route, false)] {
            let world = World::with(&[(kind, "A", "1")]);
            let mut peer = Peer::new(&world, variant);
            peer.want(kind, &["*"]);
            peer.settle();
            assert_eq!(peer.has(kind).len(), usize::from(all), "{variant:?} {kind}");
        }
    }
}

#[test]
fn an_empty_list_of_endpoints_is_no_wildcard() {
    for variant in VARIANTS {
        let world = World::with(&[(Endpoint, "e", "1")]);
        let mut peer = Peer::new(&world, variant);
        peer.want(Endpoint, &[]);
        peer.assert_silent();
    }
}

#[test]
fn one_empty_string_names_nothing() {
    let world = World::with(&[(Cluster, "A", "1")]);
    let mut peer = Peer::new(&world, XdsVariant::Sotw);
    peer.want(Cluster, &[""]);
    peer.assert_silent();
    peer.want(Cluster, &[]);
    peer.assert_silent();
}

#[test]
fn names_after_a_wildcard_end_it_for_good() {
    let world = World::with(&[(Cluster, "A", "1"), (Cluster, "B", "1")]);
    let mut peer = Peer::new(&world, XdsVariant::Sotw);
    peer.want(Cluster, &[]);
    peer.settle();
    peer.want(Cluster, &["B"]);
    assert_eq!(peer.next().names(), ["B"]);
    peer.want(Cluster, &[]);
    world.update(Cluster, "A", "2");
    peer.assert_silent();
}

#[test]
fn subscribing_again_is_answered() {
    let world = World::with(&[(Endpoint, "e", "1")]);
    let mut peer = Peer::new(&world, XdsVariant::Delta);
    peer.want(Endpoint, &["e"]);
    peer.settle();
    let again = DeltaDiscoveryRequest {
        resource_names_subscribe: names(&["e"]),
        ..Default::default()
    };
    peer.delta(Endpoint, again);
    assert_eq!(peer.next().names(), ["e"]);
    peer.assert_silent();
    for variant in VARIANTS {
        let mut peer = Peer::new(&world, variant);
        peer.want(Endpoint, &["e"]);
        peer.settle();
        peer.want(Endpoint, &["f"]);
        peer.settle();
        peer.want(Endpoint, &["e"]);
        assert_eq!(peer.next().names(), ["e"]);
        peer.assert_silent();
    }
}

#[test]
fn unsubscribing_a_name_under_a_wildcard_is_answered() {
    let world = World::with(&[(Cluster, "A", "1")]);
    let mut peer = Peer::new(&world, XdsVariant::Delta);
    peer.want(Cluster, &["*", "A", "missing"]);
    let said = peer.next();
    assert_eq!(said.names(), ["A"]);
    assert_eq!(said.removed, ["missing"]);
    peer.want(Cluster, &["*"]);
    let said = peer.next();
    assert_eq!(said.names(), ["A"]);
    assert_eq!(said.removed, ["missing"]);
    peer.assert_silent();
}

#[test]
fn a_name_unsubscribed_and_subscribed_in_flight_is_sent_again() {
    let world = World::with(&[(Endpoint, "e", "1"), (Endpoint, "f", "1")]);
    let mut peer = Peer::new(&world, XdsVariant::Delta);
    peer.want(Endpoint, &["e", "f"]);
    let said = peer.hear().unwrap();
    peer.want(Endpoint, &["f"]);
    peer.want(Endpoint, &["e", "f"]);
    peer.nack(&said, "e is bad");
    peer.settle();
    assert_eq!(peer.has(Endpoint).len(), 2);
}

// ACK/NACK and resource type instance version.

#[test]
fn a_stale_nonce_is_ignored() {
    let world = World::with(&[(Endpoint, "e", "1"), (Endpoint, "f", "1")]);
    let mut peer = Peer::new(&world, XdsVariant::Sotw);
    peer.want(Endpoint, &["e"]);
    let old = peer.next();
    world.update(Endpoint, "e", "2");
    let new = peer.hear().unwrap();
    peer.ack(&old);
    world.update(Endpoint, "e", "3");
    peer.assert_silent();
    peer.ack(&new);
    assert_eq!(peer.next().resources["e"], "3");
    assert_eq!(world.metrics().stale_nonces.get(), 1);
}

#[test]
fn names_with_a_stale_nonce_count_in_delta_only() {
    let world = World::with(&[(Endpoint, "e", "1"), (Endpoint, "f", "1")]);
    let mut peer = Peer::new(&world, XdsVariant::Delta);
    peer.want(Endpoint, &["e"]);
    peer.next();
    let request = DeltaDiscoveryRequest {
        resource_names_subscribe: names(&["f"]),
        response_nonce: "stale".into(),
        ..Default::default()
    };
    peer.delta(Endpoint, request);
    assert_eq!(peer.next().names(), ["f"]);

    let mut peer = Peer::new(&world, XdsVariant::Sotw);
    peer.want(Endpoint, &["e"]);
    let said = peer.next();
    peer.want(Endpoint, &["e", "f"]);
    let said_f = peer.hear().unwrap();
    let stale = DiscoveryRequest {
        resource_names: names(&["e"]),
        response_nonce: said.nonce,
        ..Default::default()
    };
    Sotw::on_request(&mut peer.connection, Endpoint, stale);
    // The answer to the newest has both names: `f` was never unsubscribed, and is not sent again.
    peer.ack(&said_f);
    peer.assert_silent();
}

#[test]
fn a_refused_version_is_recorded_and_not_sent_again_until_it_changes() {
    for variant in VARIANTS {
        let world = World::with(&[(Route, "r", "1")]);
        let mut peer = Peer::new(&world, variant);
        peer.want(Route, &["r"]);
        peer.settle();
        world.update(Route, "r", "bad");
        let said = peer.hear().unwrap();
        peer.reports();
        peer.nack(&said, "r is bad");
        peer.assert_silent();
        let status = peer.status(Route, "r");
        let rejection = status.rejection.unwrap();
        assert_eq!(rejection.message, "r is bad");
        assert_eq!(status.sent, Some(rejection.version));
        assert_ne!(status.acked, Some(rejection.version));
        let reports = peer.reports();
        assert_eq!(reports.len(), 1);
        assert_eq!(reports[0].0.version, rejection.version);
        assert_eq!(reports[0].1, DeliveryOutcome::Rejected("r is bad".into()));
        world.update(Route, "r", "2");
        assert_eq!(peer.next().resources["r"], "2");
        assert_eq!(peer.status(Route, "r").rejection, None);
        assert_eq!(peer.reports().last().unwrap().1, DeliveryOutcome::Acked);
    }
}

#[test]
fn a_refused_change_that_is_taken_back_leaves_the_client_as_it_was() {
    for variant in VARIANTS {
        let world = World::with(&[(Route, "r", "1")]);
        let mut peer = Peer::new(&world, variant);
        peer.want(Route, &["r"]);
        peer.settle();
        world.update(Route, "r", "bad");
        let said = peer.hear().unwrap();
        peer.nack(&said, "no");
        world.update(Route, "r", "1");
        peer.assert_silent();
    }
}

#[test]
fn of_a_refused_batch_the_good_ones_arrive_and_the_bad_one_is_found() {
    for error in ["c2: weight must be positive", "no name in here"] {
        for variant in VARIANTS {
            for kind in [Cluster, Endpoint] {
                let all = ["c1", "c2", "c3", "c4"];
                let world = World::with(&all.map(|name| (kind, name, "1")));
                let mut peer = Peer::new(&world, variant);
                peer.want(kind, &all);
                peer.settle();
                world.set(&all.map(|name| (kind, name, "2")));
                peer.reports();
                let mut rounds = 0;
                while let Some(said) = peer.hear() {
                    rounds += 1;
                    if said
                        .resources
                        .get("c2")
                        .is_some_and(|content| content == "2")
                    {
                        peer.nack(&said, error);
                    } else {
                        peer.ack(&said);
                    }
                }
                assert!(rounds <= 5, "{rounds}");
                let has: Vec<_> = peer.has(kind).into_values().collect();
                assert_eq!(has, ["2", "1", "2", "2"], "{variant:?} {kind} {error}");
                let rejected = peer.reports().into_iter();
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
fn a_whole_set_has_the_last_good_version_of_what_was_refused() {
    let world = World::with(&[(Cluster, "a", "1"), (Cluster, "b", "1")]);
    let mut peer = Peer::new(&world, XdsVariant::Sotw);
    peer.want(Cluster, &[]);
    peer.settle();
    world.update(Cluster, "a", "bad");
    let said = peer.hear().unwrap();
    peer.nack(&said, "a");
    world.update(Cluster, "b", "2");
    let said = peer.next();
    assert_eq!(said.resources["a"], "1");
    assert_eq!(said.resources["b"], "2");
}

#[test]
fn subscribing_again_to_a_refused_resource_sends_it() {
    let world = World::with(&[(Route, "r", "bad")]);
    let mut peer = Peer::new(&world, XdsVariant::Delta);
    peer.want(Route, &["r"]);
    let said = peer.hear().unwrap();
    peer.nack(&said, "no");
    peer.assert_silent();
    peer.want(Route, &[]);
    peer.want(Route, &["r"]);
    assert_eq!(peer.next().names(), ["r"]);
}

#[test]
fn a_removal_that_is_refused_is_not_repeated() {
    let world = World::with(&[(Endpoint, "e", "1")]);
    let mut peer = Peer::new(&world, XdsVariant::Delta);
    peer.want(Endpoint, &["e"]);
    peer.settle();
    world.remove(Endpoint, "e");
    let said = peer.hear().unwrap();
    peer.nack(&said, "e is in use");
    peer.assert_silent();
}

#[test]
fn what_is_removed_while_it_is_in_flight_is_removed_from_the_client_too() {
    for variant in VARIANTS {
        let world = World::with(&[(Cluster, "a", "1"), (Cluster, "b", "1")]);
        let mut peer = Peer::new(&world, variant);
        peer.want(Cluster, &[]);
        let said = peer.hear().unwrap();
        world.remove(Cluster, "a");
        peer.ack(&said);
        peer.settle();
        assert_eq!(peer.has(Cluster).into_keys().collect::<Vec<_>>(), ["b"]);
    }
}

#[test]
fn a_large_set_is_cut_where_the_protocol_allows_it() {
    let content = "x".repeat(900_000);
    let world = World::with(&["a", "b", "c", "d"].map(|name| (Endpoint, name, content.as_str())));
    let mut peer = Peer::new(&world, XdsVariant::Delta);
    peer.want(Endpoint, &["a", "b", "c", "d"]);
    assert_eq!(peer.next().names(), ["a", "b"]);
    assert_eq!(peer.next().names(), ["c", "d"]);
    peer.assert_silent();

    let world = World::with(&["a", "b", "c", "d"].map(|name| (Cluster, name, content.as_str())));
    let mut peer = Peer::new(&world, XdsVariant::Sotw);
    peer.want(Cluster, &[]);
    assert_eq!(peer.next().names().len(), 4);
}

// Incremental xDS: reconnecting.

#[test]
fn what_a_reconnecting_client_has_is_not_sent_again() {
    let resources = [
        (Cluster, "c", "1"),
        (Cluster, "d", "1"),
        (Endpoint, "c", "1"),
    ];
    let world = World::with(&resources);
    let mut peer = Peer::new(&world, XdsVariant::Delta);
    peer.want(Cluster, &[]);
    peer.settle();
    peer.want(Endpoint, &["c"]);
    peer.settle();
    // Another replica, or the same after a restart.
    let world = World::with(&resources);
    peer.reconnect(&world);
    peer.assert_silent();
    assert_eq!(world.metrics().resumed.get(), 3);
    assert!(
        peer.reports()
            .iter()
            .all(|(_, outcome)| *outcome == DeliveryOutcome::Acked)
    );
    world.update(Cluster, "d", "2");
    assert_eq!(peer.next().names(), ["d"]);
    peer.assert_silent();
}

#[test]
fn a_reconnecting_client_hears_what_changed_and_went_meanwhile() {
    let world = World::with(&[
        (Cluster, "c", "1"),
        (Cluster, "d", "1"),
        (Cluster, "e", "1"),
    ]);
    let mut peer = Peer::new(&world, XdsVariant::Delta);
    peer.want(Cluster, &[]);
    peer.settle();
    let world = World::with(&[
        (Cluster, "c", "1"),
        (Cluster, "d", "2"),
        (Cluster, "f", "1"),
    ]);
    peer.reconnect(&world);
    let said = peer.next();
    assert_eq!(said.names(), ["d", "f"]);
    assert_eq!(said.removed, ["e"]);
    peer.assert_silent();
}

#[test]
fn a_reconnecting_client_is_recognised_when_the_server_was_not_ready_yet() {
    let resources = [(Cluster, "c", "1"), (Endpoint, "c", "1")];
    let world = World::with(&resources);
    let mut peer = Peer::new(&world, XdsVariant::Delta);
    peer.want(Cluster, &[]);
    peer.want(Endpoint, &["c"]);
    peer.settle();
    let world = World::new();
    peer.reconnect(&world);
    peer.assert_silent();
    world.set(&resources);
    peer.assert_silent();
    assert_eq!(world.metrics().resumed.get(), 2);
}

#[test]
fn a_claim_of_an_unknown_version_is_replaced() {
    let world = World::with(&[(Endpoint, "e", "1")]);
    let mut peer = Peer::new(&world, XdsVariant::Delta);
    let request = DeltaDiscoveryRequest {
        resource_names_subscribe: names(&["e", "gone"]),
        initial_resource_versions: [("e", "v1"), ("gone", "v1"), ("other", "v1")]
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .into(),
        ..Default::default()
    };
    peer.delta(Endpoint, request);
    let said = peer.next();
    assert_eq!(said.names(), ["e"]);
    assert_eq!(said.removed, ["gone"]);
    peer.assert_silent();
}

#[test]
fn what_nobody_serves_or_watches_is_forgotten() {
    let world = World::with(&[(Endpoint, "e", "1")]);
    let mut peer = Peer::new(&world, XdsVariant::Delta);
    peer.want(Endpoint, &["e"]);
    peer.settle();
    world.remove(Endpoint, "e");
    peer.settle();
    drop(peer);
    assert!(world.resources().is_empty());
    // The place of a key that is gone is used again, by another key.
    world.add(Endpoint, "f", "1");
    let mut peer = Peer::new(&world, XdsVariant::Delta);
    peer.want(Endpoint, &["f", "e"]);
    let said = peer.next();
    assert_eq!(said.names(), ["f"]);
    assert_eq!(said.removed, ["e"]);
}

#[test]
fn a_list_of_very_many_names_is_taken_at_once() {
    let world = World::with(&[(Cluster, "A", "1")]);
    let mut peer = Peer::new(&world, XdsVariant::Delta);
    let many: Vec<String> = (0..100_000)
        .map(|number| format!("{}", number * 7_919 % 100_003))
        .collect();
    let wildcards = vec!["*".to_owned(); 100_000];
    let start = std::time::Instant::now();
    let request = DeltaDiscoveryRequest {
        resource_names_subscribe: [many.clone(), wildcards].concat(),
        initial_resource_versions: many
            .iter()
            .map(|name| (format!("{name}x"), name.clone()))
            .collect(),
        ..Default::default()
    };
    peer.delta(Cluster, request);
    let request = DeltaDiscoveryRequest {
        resource_names_unsubscribe: many,
        ..Default::default()
    };
    peer.delta(Cluster, request);
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    assert_eq!(peer.next().names(), ["A"]);
}
