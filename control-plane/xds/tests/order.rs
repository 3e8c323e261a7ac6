//! The order between types, on the protocol state machine without I/O: what a listener or route waits for
//! (xDS protocol, "Eventual consistency considerations").

mod support;

use std::collections::BTreeSet;

use evermesh_proto::resource::ResourceType::{Cluster, Endpoint, Listener, Route, Secret};
use evermesh_xds::XdsVariant;
use support::{
    client::VARIANTS,
    local::{LocalClient, envoy},
    store::{Change, TestStore},
};

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

#[test]
fn a_route_waits_for_no_cluster_that_it_does_not_need() {
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
            assert_eq!(client.receive().unwrap().kind, Cluster);
            assert_eq!(client.receive().unwrap().kind, Route);
            client.assert_no_response();
        }
    }
}

#[test]
fn a_route_does_not_wait_for_the_new_version_of_a_cluster_that_the_client_has() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.commit(
            Change::default()
                .put(Cluster, "a", "2")
                .put_needing(Route, "r", "2", &["a"]),
        );
        assert_eq!(client.receive().unwrap().kind, Cluster);
        // The endpoints follow their updated cluster, and the route does not wait for them either.
        assert_eq!(client.receive().unwrap().kind, Endpoint);
        assert_eq!(client.receive().unwrap().kind, Route);
    }
}

#[test]
fn constant_updates_of_clusters_delay_no_route() {
    for variant in VARIANTS {
        for updated in ["unrelated", "a"] {
            let (store, mut client) = envoy(variant);
            store.add(Cluster, "unrelated", "0");
            client.settle();
            for version in 1..20 {
                let version = format!("new {version}");
                store.update(Cluster, updated, &version);
                let cluster = client.receive().unwrap();
                // The next update arrives before the client ACKs this one.
                store.commit(
                    Change::default()
                        .put(Cluster, updated, &format!("{version}b"))
                        .put_needing(Route, "r", &version, &["a"]),
                );
                let mut kinds = BTreeSet::new();
                while let Some(response) = client.receive() {
                    kinds.insert(response.kind);
                    client.ack(&response);
                }
                assert!(kinds.contains(&Route), "{updated}");
                client.ack(&cluster);
            }
        }
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
fn a_listener_does_not_wait_for_missing_endpoints_of_another_cluster() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.add(Endpoint, "unrelated", "1");
        client.subscribe_to(Endpoint, &["a", "unrelated"]);
        store.commit(Change::default().put_needing(Listener, "l", "2", &["a"]));
        assert_eq!(client.receive().unwrap().names(), ["unrelated"]);
        assert_eq!(client.receive().unwrap().kind, Listener);
    }
}

#[test]
fn a_route_waits_for_a_missing_secret_of_its_cluster() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.commit(
            Change::default()
                .put(Cluster, "b", "1")
                .put_needing(Secret, "ca", "1", &["b"])
                .put_needing(Route, "r", "2", &["b"]),
        );
        let cluster = client.receive().unwrap();
        client.subscribe_to(Secret, &["ca"]);
        client.ack(&cluster);
        let secret = client.receive().unwrap();
        assert_eq!(secret.kind, Secret);
        client.assert_no_response();
        client.ack(&secret);
        assert_eq!(client.receive_and_ack().kind, Route);
        // The client has the secret, so its next version delays nothing.
        store.commit(
            Change::default()
                .put_needing(Secret, "ca", "2", &["b"])
                .put_needing(Route, "r", "3", &["b"]),
        );
        assert_eq!(client.receive().unwrap().kind, Route);
        assert_eq!(client.receive().unwrap().kind, Secret);
    }
}

#[test]
fn a_route_waits_for_endpoints_that_a_new_cluster_gets_again() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.add(Endpoint, "b", "1");
        client.subscribe_to(Endpoint, &["a", "b"]);
        client.settle();
        store.commit(
            Change::default()
                .put(Cluster, "b", "1")
                .put_needing(Route, "r", "2", &["b"]),
        );
        assert_eq!(client.receive_and_ack().kind, Cluster);
        let endpoints = client.receive().unwrap();
        assert_eq!(endpoints.names(), ["b"]);
        client.assert_no_response();
        client.ack(&endpoints);
        assert_eq!(client.receive_and_ack().kind, Route);
    }
}

#[test]
fn each_route_waits_for_its_own_clusters() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.add(Route, "s", "1");
        client.subscribe_to(Route, &["r", "s"]);
        client.settle();
        store.commit(
            Change::default()
                .put(Cluster, "b", "1")
                .put_needing(Route, "r", "2", &["b"])
                .put_needing(Route, "s", "2", &["a"]),
        );
        let cluster = client.receive().unwrap();
        assert_eq!(client.receive_and_ack().names(), ["s"]);
        client.assert_no_response();
        client.ack(&cluster);
        assert_eq!(client.receive_and_ack().names(), ["r"]);
    }
}

#[test]
fn the_first_listeners_come_together() {
    for variant in VARIANTS {
        let store = TestStore::with(&[(Cluster, "a", "1")]);
        let mut client = LocalClient::new(&store, variant);
        client.subscribe_to(Cluster, &[]);
        client.settle();
        store.commit(
            Change::default()
                .put(Cluster, "b", "1")
                .put_needing(Listener, "l", "1", &["a"])
                .put_needing(Listener, "m", "1", &["b"]),
        );
        let cluster = client.receive().unwrap();
        client.subscribe_to(Listener, &[]);
        client.assert_no_response();
        client.ack(&cluster);
        assert_eq!(client.receive_and_ack().names(), ["l", "m"]);
        // Later ones come one by one.
        store.commit(
            Change::default()
                .put(Cluster, "c", "1")
                .put_needing(Listener, "l", "2", &["c"])
                .put_needing(Listener, "m", "2", &["b"]),
        );
        let cluster = client.receive().unwrap();
        let listeners = client.receive_and_ack();
        assert_eq!(listeners.resources["m"], "2");
        assert_eq!(client.resources(Listener)["l"], "1");
        client.ack(&cluster);
        client.settle();
        assert_eq!(client.resources(Listener)["l"], "2");
    }
}

#[test]
fn a_cluster_from_an_earlier_stream_counts_as_accepted() {
    let (store, mut client) = envoy(XdsVariant::Delta);
    store.commit(
        Change::default()
            .put(Cluster, "a", "2")
            .put_needing(Route, "r", "2", &["a"]),
    );
    client.reconnect(&store);
    let kinds: BTreeSet<_> = std::iter::from_fn(|| client.receive())
        .map(|response| response.kind)
        .collect();
    assert_eq!(kinds, [Cluster, Endpoint, Route].into());
}

#[test]
fn frequent_endpoint_updates_do_not_starve_a_route() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.update(Endpoint, "a", "2");
        assert_eq!(client.receive().unwrap().kind, Endpoint);
        store.update(Endpoint, "a", "3");
        store.commit(Change::default().put_needing(Route, "r", "2", &["a"]));
        assert_eq!(client.receive_and_ack().kind, Route);
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
        store.commit(
            Change::default()
                .put(Cluster, "b", "1")
                .put_needing(Route, "r", "2", &["b"]),
        );
        assert_eq!(client.receive_and_ack().kind, Route);
        client.subscribe_to(Cluster, &["a", "b"]);
        assert_eq!(client.receive_and_ack().kind, Cluster);
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
