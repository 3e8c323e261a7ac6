//! The order between types, on the protocol state machine without I/O: make before break, and warming.

mod support;

use evermesh_proto::{
    discovery::DeltaDiscoveryRequest,
    resource::ResourceType::{Cluster, Endpoint, Listener, Route},
};
use evermesh_xds::XdsVariant;
use support::{
    client::VARIANTS,
    local::LocalClient,
    store::{Change, TestStore, key},
};

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

// "Eventual consistency considerations"

/// A client that has subscribed to all types as Envoy does, and has ACKed one resource of each.
fn envoy(variant: XdsVariant) -> (TestStore, LocalClient) {
    let store = TestStore::with(&[
        (Cluster, "a", "1"),
        (Endpoint, "a", "1"),
        (Listener, "l", "1"),
        (Route, "r", "1"),
    ]);
    let mut client = LocalClient::new(&store, variant);
    client.subscribe_to(Cluster, &[]);
    client.settle();
    client.subscribe_to(Endpoint, &["a"]);
    client.settle();
    client.subscribe_to(Listener, &[]);
    client.settle();
    client.subscribe_to(Route, &["r"]);
    client.settle();
    (store, client)
}

#[test]
fn types_are_sent_in_order() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.replace_all(&[
            (Route, "r", "2"),
            (Listener, "l", "2"),
            (Endpoint, "a", "2"),
            (Cluster, "a", "2"),
        ]);
        let kinds: Vec<_> = client.settle().into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [Cluster, Endpoint, Listener, Route]);
    }
}

#[test]
fn a_route_waits_for_new_clusters_and_their_endpoints() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.commit(
            Change::default()
                .put(Cluster, "b", "1")
                .put(Endpoint, "b", "1")
                .put_needing(Route, "r", "2", &["b"]),
        );
        let clusters = client.receive().unwrap();
        assert_eq!(clusters.kind, Cluster);
        client.assert_no_response();
        // Envoy subscribes to the endpoints of a new cluster before it ACKs the cluster.
        client.subscribe_to(Endpoint, &["a", "b"]);
        let endpoints = client.receive().unwrap();
        assert_eq!(endpoints.names(), ["b"]);
        client.ack(&clusters);
        client.assert_no_response();
        client.ack(&endpoints);
        assert_eq!(client.receive_and_ack().kind, Route);
        client.assert_no_response();
    }
}

// The barrier holds routes and listeners back by type, and does not look at `Resource::needs`. The next six tests pin
// what follows from that rule.

#[test]
fn a_route_does_not_wait_for_a_rejected_cluster_that_it_needs() {
    for variant in VARIANTS {
        for kind in [Listener, Route] {
            let name = if kind == Route { "r" } else { "l" };
            let (store, mut client) = envoy(variant);
            store.commit(Change::default().put(Cluster, "b", "bad").put_needing(
                kind,
                name,
                "2",
                &["b"],
            ));
            let clusters = client.receive().unwrap();
            assert_eq!(clusters.kind, Cluster);
            client.assert_no_response();
            client.nack(&clusters, "b is bad");
            let response = client.receive_and_ack();
            assert_eq!((response.kind, response.names()), (kind, vec![name]));
            assert!(!client.resources(Cluster).contains_key("b"));
            client.assert_no_response();
        }
    }
}

#[test]
fn a_route_waits_for_the_good_version_of_a_rejected_cluster() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.add(Cluster, "b", "bad");
        client.receive_and_nack("b is bad");
        store.commit(Change::default().put(Cluster, "b", "good").put_needing(
            Route,
            "r",
            "2",
            &["b"],
        ));
        let clusters = client.receive().unwrap();
        assert_eq!(
            (clusters.kind, &*clusters.resources["b"]),
            (Cluster, "good")
        );
        client.assert_no_response();
        client.ack(&clusters);
        assert_eq!(client.receive_and_ack().kind, Route);
    }
}

#[test]
fn a_route_does_not_wait_for_a_cluster_that_does_not_exist() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.commit(Change::default().put_needing(Route, "r", "2", &["unknown"]));
        assert_eq!(client.receive_and_ack().kind, Route);
    }
}

#[test]
fn a_route_waits_for_pending_clusters_that_it_does_not_need() {
    for variant in VARIANTS {
        for is_new in [true, false] {
            let (store, mut client) = envoy(variant);
            store.add(Cluster, "unrelated", "1");
            client.settle();
            let name = if is_new { "another" } else { "unrelated" };
            store.commit(Change::default().put(Cluster, name, "2").put_needing(
                Route,
                "r",
                "2",
                &["a"],
            ));
            let clusters = client.receive().unwrap();
            assert_eq!(clusters.kind, Cluster);
            client.assert_no_response();
            client.ack(&clusters);
            assert_eq!(client.receive_and_ack().kind, Route);
        }
    }
}

#[test]
fn constant_updates_of_an_unrelated_cluster_starve_a_route() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.add(Cluster, "unrelated", "0");
        client.settle();
        store.commit(
            Change::default()
                .put(Cluster, "unrelated", "1")
                .put_needing(Route, "r", "2", &["a"]),
        );
        for version in 2..20 {
            let clusters = client.receive().unwrap();
            assert_eq!(clusters.kind, Cluster);
            // The next update arrives before the client ACKs this one.
            store.update(Cluster, "unrelated", &version.to_string());
            client.assert_no_response();
            client.ack(&clusters);
        }
        assert_eq!(client.receive_and_ack().kind, Cluster);
        assert_eq!(client.receive_and_ack().kind, Route);
    }
}

#[test]
fn a_listener_waits_for_endpoints_that_are_missing_although_it_does_not_need_them() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.add(Endpoint, "unrelated", "1");
        client.subscribe_to(Endpoint, &["a", "unrelated"]);
        store.commit(Change::default().put_needing(Listener, "l", "2", &["a"]));
        let endpoints = client.receive().unwrap();
        assert_eq!(endpoints.names(), ["unrelated"]);
        client.assert_no_response();
        client.ack(&endpoints);
        assert_eq!(client.receive_and_ack().kind, Listener);
    }
}

#[test]
fn frequent_endpoint_updates_do_not_starve_a_route() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.update(Endpoint, "a", "2");
        assert_eq!(client.receive().unwrap().kind, Endpoint);
        store.update(Endpoint, "a", "3");
        store.update(Route, "r", "2");
        assert_eq!(client.receive_and_ack().kind, Route);
    }
}

#[test]
fn a_cluster_is_removed_after_the_route_that_needed_it() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.commit(
            Change::default()
                .put(Cluster, "b", "1")
                .remove(Cluster, "a")
                .put(Route, "r", "2"),
        );
        let response = client.receive_and_ack();
        assert_eq!(response.kind, Cluster);
        assert!(response.removed.is_empty());
        assert_eq!(client.resources(Cluster).len(), 2, "make before break");
        let route = client.receive().unwrap();
        assert_eq!(route.kind, Route);
        client.assert_no_response();
        client.ack(&route);
        let response = client.receive_and_ack();
        assert_eq!(response.kind, Cluster);
        assert_eq!(
            client.resources(Cluster).into_keys().collect::<Vec<_>>(),
            ["b"]
        );
        client.assert_no_response();
    }
}

#[test]
fn endpoints_are_removed_after_their_cluster() {
    let (store, mut client) = envoy(XdsVariant::Delta);
    store.commit(
        Change::default()
            .remove(Cluster, "a")
            .remove(Endpoint, "a")
            .put(Route, "r", "2"),
    );
    let received = [
        client.receive_and_ack(),
        client.receive_and_ack(),
        client.receive_and_ack(),
    ];
    assert_eq!(
        received.each_ref().map(|response| response.kind),
        [Route, Cluster, Endpoint]
    );
    assert_eq!(received[1].removed, ["a"]);
    assert_eq!(received[2].removed, ["a"]);
    client.assert_no_response();
}

#[test]
fn a_rejected_route_keeps_the_clusters_of_its_last_good_version() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.commit(Change::default().put_needing(Route, "r", "2", &["a"]));
        client.settle();
        store.commit(
            Change::default()
                .remove(Cluster, "a")
                .put_needing(Route, "r", "bad", &[]),
        );
        let route = client.receive().unwrap();
        client.nack(&route, "r is bad");
        client.assert_no_response();
        assert!(client.resources(Cluster).contains_key("a"));
        store.commit(Change::default().put_needing(Route, "r", "3", &[]));
        client.settle();
        assert!(!client.resources(Cluster).contains_key("a"));
    }
}

#[test]
fn a_route_does_not_wait_for_clusters_that_are_subscribed_by_name() {
    for variant in VARIANTS {
        let store = TestStore::with(&[(Cluster, "a", "1"), (Route, "r", "1")]);
        let mut client = LocalClient::new(&store, variant);
        client.subscribe_to(Cluster, &["a"]);
        client.subscribe_to(Route, &["r"]);
        client.settle();
        store.replace_all(&[(Cluster, "a", "2"), (Route, "r", "2")]);
        let cluster = client.receive().unwrap();
        let route = client.receive().unwrap();
        assert_eq!((cluster.kind, route.kind), (Cluster, Route));
    }
}

#[test]
fn types_without_a_subscription_delay_nothing() {
    for variant in VARIANTS {
        let store = TestStore::with(&[
            (Cluster, "a", "1"),
            (Endpoint, "a", "1"),
            (Listener, "l", "1"),
        ]);
        let mut client = LocalClient::new(&store, variant);
        client.subscribe_to(Cluster, &[]);
        client.subscribe_to(Listener, &[]);
        client.settle();
        store.commit(
            Change::default()
                .remove(Cluster, "a")
                .put(Listener, "l", "2"),
        );
        client.settle();
        assert!(client.resources(Cluster).is_empty());
        assert_eq!(client.resources(Listener)["l"], "2");
    }
}

// "Resource warming"

#[test]
fn endpoints_follow_their_updated_cluster_even_if_unchanged() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.update(Cluster, "a", "2");
        let received: Vec<_> = client.settle();
        assert_eq!(
            received,
            [(Cluster, names(&["a"])), (Endpoint, names(&["a"]))]
        );
        assert_eq!(client.resources(Endpoint)["a"], "1");
    }
}

#[test]
fn endpoints_under_another_name_follow_the_cluster_that_they_need() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.commit(Change::default().put_needing(Endpoint, "pods", "1", &["a"]));
        client.subscribe_to(Endpoint, &["pods"]);
        client.settle();
        store.update(Cluster, "a", "2");
        let received: Vec<_> = client.settle();
        assert_eq!(
            received,
            [(Cluster, names(&["a"])), (Endpoint, names(&["pods"]))]
        );
    }
}

#[test]
fn a_reconnecting_client_gets_the_endpoints_of_a_changed_cluster() {
    let store = TestStore::with(&[(Cluster, "a", "1"), (Endpoint, "a", "1")]);
    let mut client = LocalClient::new(&store, XdsVariant::Delta);
    client.subscribe_to(Cluster, &[]);
    client.subscribe_to(Endpoint, &["a"]);
    client.settle();
    // The server reads all requests before it responds.
    let store = TestStore::with(&[(Cluster, "a", "2"), (Endpoint, "a", "1")]);
    client.reconnect(&store);
    let received: Vec<_> = client.settle();
    assert_eq!(
        received,
        [(Cluster, names(&["a"])), (Endpoint, names(&["a"]))]
    );

    // The server responds to the first request before it reads the second.
    let request = DeltaDiscoveryRequest {
        initial_resource_versions: [("a".to_owned(), "old".to_owned())].into(),
        ..Default::default()
    };
    let mut late = LocalClient::new(&store, XdsVariant::Delta);
    late.send_delta(Cluster, request);
    assert_eq!(late.receive_and_ack().kind, Cluster);
    let version = store.store.get(&key(Endpoint, "a")).unwrap().version;
    let request = DeltaDiscoveryRequest {
        resource_names_subscribe: names(&["a"]),
        initial_resource_versions: [("a".to_owned(), version.to_string())].into(),
        ..Default::default()
    };
    late.send_delta(Endpoint, request);
    assert_eq!(late.receive_and_ack().kind, Endpoint);
    late.assert_no_response();
}
