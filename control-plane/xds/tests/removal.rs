//! Removals come last: routes, then their clusters, then the endpoints of these
//! (xDS protocol, "Eventual consistency considerations").

#![allow(clippy::unwrap_used)] // a panic fails the test

mod support;

use evermesh_proto::resource::ResourceType::{Cluster, Endpoint, Route};
use evermesh_xds::XdsVariant;
use support::{client::VARIANTS, local::envoy, store::Change};

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
fn a_route_waits_for_a_cluster_whose_removal_is_on_its_way() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.add(Cluster, "b", "1");
        client.settle();
        store.remove(Cluster, "b");
        let removal = client.receive().unwrap();
        assert_eq!(removal.kind, Cluster);
        store.commit(
            Change::default()
                .put(Cluster, "b", "1")
                .put_needing(Route, "r", "2", &["b"]),
        );
        client.assert_no_response();
        client.ack(&removal);
        let cluster = client.receive().unwrap();
        assert_eq!(cluster.kind, Cluster);
        client.assert_no_response();
        client.ack(&cluster);
        assert_eq!(client.receive_and_ack().kind, Route);
    }
}

#[test]
fn cluster_that_is_still_in_use_and_its_endpoints_get_changes_until_they_are_removed() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.commit(Change::default().put_needing(Route, "r", "2", &["a"]));
        client.settle();
        // The client rejects the route without the cluster, and the view does not list the cluster any more.
        store.commit(
            Change::default()
                .put(Route, "r", "bad")
                .unlist(Cluster, "a")
                .unlist(Endpoint, "a"),
        );
        client.receive_and_nack("r is bad");
        store.update(Endpoint, "a", "2");
        client.settle();
        assert_eq!(client.resources(Endpoint)["a"], "2");
        store.update(Cluster, "a", "2");
        client.settle();
        assert_eq!(client.resources(Cluster)["a"], "2");
        store.update(Route, "r", "3");
        client.settle();
        assert!(client.resources(Cluster).is_empty());
        if variant == XdsVariant::Delta {
            assert!(client.resources(Endpoint).is_empty());
        }
        let sent = client.connection.resources();
        assert!(
            !sent.iter().any(|status| status.kind == Cluster),
            "{sent:?}"
        );
        store.update(Cluster, "a", "3");
        client.assert_no_response();
    }
}
