//! Resource warming: the endpoints of a new or updated cluster follow it
//! (xDS protocol, "Resource warming").

#![allow(clippy::unwrap_used)] // a panic fails the test

mod support;

use evermesh_proto::{
    discovery::DeltaDiscoveryRequest,
    resource::ResourceType::{Cluster, Endpoint},
};
use evermesh_xds::XdsVariant;
use support::{
    client::VARIANTS,
    local::{LocalClient, envoy},
    store::{Change, TestStore, key},
};

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

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

#[test]
fn endpoints_of_an_updated_cluster_are_sent_again_if_others_beside_them_are_rejected() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.add(Endpoint, "b", "1");
        client.subscribe_to(Endpoint, &["a", "b"]);
        client.settle();
        store.update(Cluster, "a", "2");
        client.receive_and_ack();
        store.update(Endpoint, "b", "bad");
        let endpoints = client.receive().unwrap();
        assert_eq!(endpoints.names(), ["a", "b"]);
        client.nack(&endpoints, "b is bad");
        assert_eq!(client.receive_and_ack().names(), ["a"]);
        assert_eq!(client.receive_and_nack("b is bad").names(), ["b"]);
        client.assert_no_response();
    }
}
