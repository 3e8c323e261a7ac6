//! Reports of the server about listeners and routes that need a rejected cluster.

mod support;

use std::sync::Arc;

use evermesh_proto::resource::ResourceType::{Cluster, Endpoint, Route};
use evermesh_xds::DeliveryOutcome;
use support::{
    blocked::{envoy, first, newest, reject_cluster, reject_cluster_among_others, second},
    client::VARIANTS,
    local::LocalClient,
    store::{Change, TestStore},
};

/// Outcomes of the newest version of `r` since the last call.
fn outcomes(store: &TestStore, client: &mut LocalClient) -> Vec<DeliveryOutcome> {
    let newest = newest(store, Route, "r");
    let outcomes = client.outcomes().into_iter();
    outcomes
        .filter(|(resource, _)| resource.version == newest)
        .map(|(_, outcome)| outcome)
        .collect()
}

#[test]
fn blocked_version_is_reported_once_and_its_ack_after_the_repair() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.commit(second());
        reject_cluster(&mut client);
        client.settle();
        let blocked = DeliveryOutcome::Blocked(vec!["new".into()]);
        assert_eq!(outcomes(&store, &mut client), [blocked]);
        store.update(Cluster, "new", "good");
        client.settle();
        assert_eq!(outcomes(&store, &mut client), [DeliveryOutcome::Acked]);
    }
}

#[test]
fn repair_is_reported_for_a_client_that_has_the_newest_version_already() {
    for variant in VARIANTS {
        let store = TestStore::with(&[]);
        store.commit(first());
        store.commit(second());
        let mut client = LocalClient::new(&store, variant);
        client.subscribe_to(Cluster, &[]);
        reject_cluster_among_others(&mut client);
        client.subscribe_to(Route, &["r"]);
        client.settle();
        assert_eq!(outcomes(&store, &mut client), [DeliveryOutcome::Acked]);
        store.update(Cluster, "new", "good");
        client.settle();
        assert_eq!(outcomes(&store, &mut client), [DeliveryOutcome::Acked]);
        assert!(client.status(Route, "r").blocked_by.is_empty());
    }
}

#[test]
fn route_that_the_client_has_is_blocked_if_the_endpoints_of_its_cluster_are_rejected() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        client.subscribe_to(Endpoint, &["b"]);
        client.settle();
        client.outcomes();
        store.commit(Change::default().put(Endpoint, "b", "bad"));
        assert_eq!(client.receive_and_nack("no address").kind, Endpoint);
        client.assert_no_response();
        let blocked = DeliveryOutcome::Blocked(vec!["b".into()]);
        assert_eq!(outcomes(&store, &mut client), [blocked]);
        assert_eq!(client.status(Route, "r").blocked_by, [Arc::from("b")]);
        store.update(Endpoint, "b", "good");
        client.settle();
        assert_eq!(outcomes(&store, &mut client), [DeliveryOutcome::Acked]);
    }
}
