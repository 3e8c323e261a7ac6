//! A client with a route of two parts, and a change by which one part needs a cluster that the client rejects.

use evermesh_proto::resource::{
    ContentVersion, ResourceType,
    ResourceType::{Cluster, Listener, Route},
};
use evermesh_xds::XdsVariant;

use super::{
    local::LocalClient,
    store::{Change, TestStore, key},
};

/// The clusters `a` and `b`, a listener, and a route of two parts that need one cluster each.
pub fn first() -> Change {
    Change::default()
        .put(Cluster, "a", "1")
        .put(Cluster, "b", "1")
        .put(Listener, "l", "1")
        .put_parts(Route, "r", &[("p", "1", &["a"]), ("q", "1", &["b"])])
}

/// Moves the part `p` to a new cluster that the client rejects, and changes the part `q`.
pub fn second() -> Change {
    Change::default().put(Cluster, "new", "bad").put_parts(
        Route,
        "r",
        &[("p", "2", &["new"]), ("q", "2", &["b"])],
    )
}

/// A client that has subscribed to all types but endpoints as Envoy does, and has ACKed [`first`].
pub fn envoy(variant: XdsVariant) -> (TestStore, LocalClient) {
    let store = TestStore::with(&[]);
    store.commit(first());
    let mut client = LocalClient::new(&store, variant);
    client.subscribe_to(Cluster, &[]);
    client.settle();
    client.subscribe_to(Listener, &[]);
    client.subscribe_to(Route, &["r"]);
    client.settle();
    client.outcomes();
    (store, client)
}

pub fn route(client: &LocalClient) -> String {
    client.resources(Route)["r"].clone()
}

pub fn newest(store: &TestStore, kind: ResourceType, name: &str) -> ContentVersion {
    store.get(&key(kind, name)).unwrap().version
}

/// Receives a response with clusters and NACKs it.
pub fn reject_cluster(client: &mut LocalClient) {
    assert_eq!(client.receive_and_nack("no such host").kind, Cluster);
}

/// Answers responses with clusters until the client has rejected `new` alone and accepted all others.
pub fn reject_cluster_among_others(client: &mut LocalClient) {
    while let Some(response) = client.receive() {
        assert_eq!(response.kind, Cluster);
        if response.resources.contains_key("new") {
            client.nack(&response, "new: no such host");
        } else {
            client.ack(&response);
        }
    }
    assert_eq!(client.resources(Cluster).len(), 2);
}
