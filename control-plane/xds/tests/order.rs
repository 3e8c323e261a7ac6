//! Make before break and warming, on the machine without I/O.

mod support;

use evermesh_proto::{
    discovery::DeltaDiscoveryRequest,
    resource::ResourceType::{Cluster, Endpoint, Listener, Route},
};
use evermesh_xds::XdsVariant;
use support::{
    peer::{Peer, VARIANTS},
    world::{Change, World, key},
};

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

// Eventual consistency considerations: order.

/// An Envoy with a cluster, its endpoints, a listener and a route.
fn envoy(variant: XdsVariant) -> (World, Peer) {
    let world = World::with(&[
        (Cluster, "a", "1"),
        (Endpoint, "a", "1"),
        (Listener, "l", "1"),
        (Route, "r", "1"),
    ]);
    let mut peer = Peer::new(&world, variant);
    peer.want(Cluster, &[]);
    peer.settle();
    peer.want(Endpoint, &["a"]);
    peer.settle();
    peer.want(Listener, &[]);
    peer.settle();
    peer.want(Route, &["r"]);
    peer.settle();
    (world, peer)
}

#[test]
fn types_are_sent_in_order() {
    for variant in VARIANTS {
        let (world, mut peer) = envoy(variant);
        world.set(&[
            (Route, "r", "2"),
            (Listener, "l", "2"),
            (Endpoint, "a", "2"),
            (Cluster, "a", "2"),
        ]);
        let kinds: Vec<_> = peer.settle().into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [Cluster, Endpoint, Listener, Route]);
    }
}

#[test]
fn a_route_waits_for_the_clusters_and_endpoints_it_may_need() {
    for answer in ["ack", "nack"] {
        for variant in VARIANTS {
            let (world, mut peer) = envoy(variant);
            world.commit(
                Change::default()
                    .put(Cluster, "b", "1")
                    .put(Endpoint, "b", "1")
                    .put(Route, "r", "2"),
            );
            let clusters = peer.hear().unwrap();
            assert_eq!(clusters.kind, Cluster);
            peer.assert_silent();
            // Envoy asks for the endpoints of a new cluster before it answers.
            peer.want(Endpoint, &["a", "b"]);
            let endpoints = peer.hear().unwrap();
            assert_eq!(endpoints.names(), ["b"]);
            if answer == "ack" {
                peer.ack(&clusters);
            } else {
                peer.nack(&clusters, "b");
            }
            peer.assert_silent();
            peer.ack(&endpoints);
            assert_eq!(peer.next().kind, Route);
            peer.assert_silent();
        }
    }
}

#[test]
fn busy_endpoints_do_not_starve_a_route() {
    for variant in VARIANTS {
        let (world, mut peer) = envoy(variant);
        world.update(Endpoint, "a", "2");
        assert_eq!(peer.hear().unwrap().kind, Endpoint);
        world.update(Endpoint, "a", "3");
        world.update(Route, "r", "2");
        assert_eq!(peer.next().kind, Route);
    }
}

#[test]
fn a_cluster_is_removed_after_the_route_that_leaves_it() {
    for variant in VARIANTS {
        let (world, mut peer) = envoy(variant);
        world.commit(
            Change::default()
                .put(Cluster, "b", "1")
                .remove(Cluster, "a")
                .put(Route, "r", "2"),
        );
        let said = peer.next();
        assert_eq!(said.kind, Cluster);
        assert!(said.removed.is_empty());
        assert_eq!(peer.has(Cluster).len(), 2, "make before break");
        let route = peer.hear().unwrap();
        assert_eq!(route.kind, Route);
        peer.assert_silent();
        peer.ack(&route);
        let said = peer.next();
        assert_eq!(said.kind, Cluster);
        assert_eq!(peer.has(Cluster).into_keys().collect::<Vec<_>>(), ["b"]);
        peer.assert_silent();
    }
}

#[test]
fn endpoints_are_removed_after_their_cluster() {
    let (world, mut peer) = envoy(XdsVariant::Delta);
    world.commit(
        Change::default()
            .remove(Cluster, "a")
            .remove(Endpoint, "a")
            .put(Route, "r", "2"),
    );
    let heard = [peer.next(), peer.next(), peer.next()];
    assert_eq!(
        heard.each_ref().map(|said| said.kind),
        [Route, Cluster, Endpoint]
    );
    assert_eq!(heard[1].removed, ["a"]);
    assert_eq!(heard[2].removed, ["a"]);
    peer.assert_silent();
}

#[test]
fn a_refused_route_keeps_the_clusters_of_its_last_good_version() {
    for variant in VARIANTS {
        let (world, mut peer) = envoy(variant);
        world.commit(Change::default().put_needing(Route, "r", "2", &["a"]));
        peer.settle();
        world.commit(
            Change::default()
                .remove(Cluster, "a")
                .put_needing(Route, "r", "bad", &[]),
        );
        let route = peer.hear().unwrap();
        peer.nack(&route, "r is bad");
        peer.assert_silent();
        assert!(peer.has(Cluster).contains_key("a"));
        world.commit(Change::default().put_needing(Route, "r", "3", &[]));
        peer.settle();
        assert!(!peer.has(Cluster).contains_key("a"));
    }
}

#[test]
fn a_client_of_named_clusters_never_waits() {
    for variant in VARIANTS {
        let world = World::with(&[(Cluster, "a", "1"), (Route, "r", "1")]);
        let mut peer = Peer::new(&world, variant);
        peer.want(Cluster, &["a"]);
        peer.want(Route, &["r"]);
        peer.settle();
        world.set(&[(Cluster, "a", "2"), (Route, "r", "2")]);
        let cluster = peer.hear().unwrap();
        let route = peer.hear().unwrap();
        assert_eq!((cluster.kind, route.kind), (Cluster, Route));
    }
}

#[test]
fn types_that_nobody_asked_for_hold_nothing_up() {
    for variant in VARIANTS {
        let world = World::with(&[
            (Cluster, "a", "1"),
            (Endpoint, "a", "1"),
            (Listener, "l", "1"),
        ]);
        let mut peer = Peer::new(&world, variant);
        peer.want(Cluster, &[]);
        peer.want(Listener, &[]);
        peer.settle();
        world.commit(
            Change::default()
                .remove(Cluster, "a")
                .put(Listener, "l", "2"),
        );
        peer.settle();
        assert!(peer.has(Cluster).is_empty());
        assert_eq!(peer.has(Listener)["l"], "2");
    }
}

// Resource warming.

#[test]
fn the_endpoints_of_a_cluster_follow_it_even_if_unchanged() {
    for variant in VARIANTS {
        let (world, mut peer) = envoy(variant);
        world.update(Cluster, "a", "2");
        let heard: Vec<_> = peer.settle();
        assert_eq!(heard, [(Cluster, names(&["a"])), (Endpoint, names(&["a"]))]);
        assert_eq!(peer.has(Endpoint)["a"], "1");
    }
}

#[test]
fn endpoints_under_another_name_follow_the_cluster_they_need() {
    for variant in VARIANTS {
        let (world, mut peer) = envoy(variant);
        world.commit(Change::default().put_needing(Endpoint, "pods", "1", &["a"]));
        peer.want(Endpoint, &["pods"]);
        peer.settle();
        world.update(Cluster, "a", "2");
        let heard: Vec<_> = peer.settle();
        assert_eq!(
            heard,
            [(Cluster, names(&["a"])), (Endpoint, names(&["pods"]))]
        );
    }
}

#[test]
fn a_reconnecting_client_gets_the_endpoints_of_a_changed_cluster() {
    let world = World::with(&[(Cluster, "a", "1"), (Endpoint, "a", "1")]);
    let mut peer = Peer::new(&world, XdsVariant::Delta);
    peer.want(Cluster, &[]);
    peer.want(Endpoint, &["a"]);
    peer.settle();
    // All requests are read before the first response, or one after the other.
    let world = World::with(&[(Cluster, "a", "2"), (Endpoint, "a", "1")]);
    peer.reconnect(&world);
    let heard: Vec<_> = peer.settle();
    assert_eq!(heard, [(Cluster, names(&["a"])), (Endpoint, names(&["a"]))]);

    let request = DeltaDiscoveryRequest {
        initial_resource_versions: [("a".to_owned(), "old".to_owned())].into(),
        ..Default::default()
    };
    let mut late = Peer::new(&world, XdsVariant::Delta);
    late.delta(Cluster, request);
    assert_eq!(late.next().kind, Cluster);
    let version = world.store.get(&key(Endpoint, "a")).unwrap().version;
    let request = DeltaDiscoveryRequest {
        resource_names_subscribe: names(&["a"]),
        initial_resource_versions: [("a".to_owned(), version.to_string())].into(),
        ..Default::default()
    };
    late.delta(Endpoint, request);
    assert_eq!(late.next().kind, Endpoint);
    late.assert_silent();
}
