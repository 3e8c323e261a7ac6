//! CPU cost of the protocol state machine, without sockets: changes of endpoints and routes, idle polls, connects,
//! complete sets and large requests.

#![allow(clippy::unwrap_used)] // a benchmark may panic

use std::sync::Arc;

use divan::{Bencher, black_box};
use evermesh_proto::{
    ProxyView,
    discovery::DeltaDiscoveryRequest,
    resource::{Resource, ResourceKey, ResourceType},
};
use evermesh_xds::{Connection, Delta, DiscoveryProtocol, Sotw, Store, StoreCommit, XdsVariant};
use prost::Message;

fn main() {
    divan::main();
}

fn names(count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("cds_egress_mesh_node-{number}_http_8080"))
        .collect()
}

fn put(kind: ResourceType, name: &str, content: u8) -> (ResourceKey, Arc<Resource>) {
    let name: Arc<str> = name.into();
    let key = ResourceKey {
        kind,
        name: Arc::clone(&name),
        scope: None,
    };
    let body = vec![content; 600].into();
    (key, Arc::new(Resource::from_encoded(kind, name, body)))
}

fn store(kind: ResourceType, names: &[String]) -> Arc<Store> {
    let store = Store::new();
    let upserts: Vec<_> = names.iter().map(|name| put(kind, name, 0)).collect();
    let view = ProxyView::new(upserts.iter().map(|(key, _)| key.clone()).collect());
    store.commit(StoreCommit {
        upserts,
        views: vec![("node".into(), Some(Arc::new(view)))],
        ..StoreCommit::default()
    });
    store
}

fn subscribe(names: &[String]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        resource_names_subscribe: names.to_vec(),
        ..Default::default()
    }
}

fn ack(nonce: String) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        response_nonce: nonce,
        ..Default::default()
    }
}

/// An incremental stream that subscribes to these endpoints and has ACKed all of them.
fn settled(store: &Arc<Store>, names: &[String]) -> Connection {
    let mut connection = Connection::new(store, "node".into(), XdsVariant::Delta);
    Delta::on_request(&mut connection, ResourceType::Endpoint, subscribe(names)).unwrap();
    while let Some(response) = Delta::next_response(&mut connection) {
        Delta::on_request(&mut connection, ResourceType::Endpoint, ack(response.nonce)).unwrap();
    }
    connection
}

/// One changed resource: commit, dispatch, response, encoding and ACK.
#[divan::bench(args = [20, 1000])]
fn one_change(bencher: Bencher<'_, '_>, count: usize) {
    let names = names(count);
    let store = store(ResourceType::Endpoint, &names);
    let mut connection = settled(&store, &names);
    let changes = [1, 2].map(|content| put(ResourceType::Endpoint, &names[count / 2], content));
    let mut changes = changes.iter().cycle();
    bencher.bench_local(|| {
        store.commit(StoreCommit {
            upserts: changes.next().into_iter().cloned().collect(),
            ..StoreCommit::default()
        });
        store.flush();
        if let Some(response) = Delta::next_response(&mut connection) {
            black_box(response.encode_to_vec());
            Delta::on_request(&mut connection, ResourceType::Endpoint, ack(response.nonce))
                .unwrap();
        }
        connection.take_outcomes();
        assert!(Delta::next_response(&mut connection).is_none());
    });
}

/// One changed route that needs all clusters of the stream: the route waits only for what it needs, so its delivery
/// looks at every cluster and load assignment.
#[divan::bench(args = [20, 1000])]
fn one_route(bencher: Bencher<'_, '_>, count: usize) {
    let names = names(count);
    let needs: Vec<Arc<str>> = names.iter().map(|name| name.as_str().into()).collect();
    let route = |content| {
        let (key, route) = put(ResourceType::Route, "rds_egress_http_8080", content);
        let route = Resource::clone(&route).with_needs(needs.as_slice());
        (key, Arc::new(route))
    };
    let kinds = [ResourceType::Cluster, ResourceType::Endpoint];
    let upserts = kinds.map(|kind| names.iter().map(move |name| put(kind, name, 0)));
    let upserts: Vec<_> = upserts.into_iter().flatten().chain([route(0)]).collect();
    let view = ProxyView::new(upserts.iter().map(|(key, _)| key.clone()).collect());
    let store = Store::new();
    store.commit(StoreCommit {
        upserts,
        views: vec![("node".into(), Some(Arc::new(view)))],
        ..StoreCommit::default()
    });
    let mut connection = Connection::new(&store, "node".into(), XdsVariant::Delta);
    let subscriptions = [
        (ResourceType::Cluster, Vec::new()),
        (ResourceType::Endpoint, names),
        (ResourceType::Route, vec!["rds_egress_http_8080".to_owned()]),
    ];
    for (kind, names) in subscriptions {
        Delta::on_request(&mut connection, kind, subscribe(&names)).unwrap();
    }
    answer_all(&mut connection);
    let changes = [route(1), route(2)];
    let mut changes = changes.iter().cycle();
    bencher.bench_local(|| {
        store.commit(StoreCommit {
            upserts: changes.next().into_iter().cloned().collect(),
            ..StoreCommit::default()
        });
        store.flush();
        answer_all(&mut connection);
        connection.take_outcomes();
    });
}

/// ACKs responses until the server has none.
fn answer_all(connection: &mut Connection) {
    while let Some(response) = Delta::next_response(connection) {
        let kind = ResourceType::from_type_url(&response.type_url);
        black_box(response.encode_to_vec());
        if let Some(kind) = kind {
            Delta::on_request(connection, kind, ack(response.nonce)).unwrap();
        }
    }
}

/// A poll of a stream without a pending change.
#[divan::bench]
fn silence(bencher: Bencher<'_, '_>) {
    let names = names(20);
    let store = store(ResourceType::Endpoint, &names);
    let mut connection = settled(&store, &names);
    bencher.bench_local(|| Delta::next_response(black_box(&mut connection)));
}

/// A new stream that subscribes to 20 of 1,000 endpoints.
#[divan::bench]
fn connect(bencher: Bencher<'_, '_>) {
    let names = names(1000);
    let store = store(ResourceType::Endpoint, &names);
    bencher.bench_local(|| settled(&store, &names[..20]));
}

/// The complete set of clusters for a new state-of-the-world stream.
#[divan::bench(args = [20, 1000])]
fn whole_set(bencher: Bencher<'_, '_>, count: usize) {
    let store = store(ResourceType::Cluster, &names(count));
    bencher.bench_local(|| {
        let mut connection = Connection::new(&store, "node".into(), XdsVariant::Sotw);
        let request = evermesh_proto::discovery::DiscoveryRequest::default();
        Sotw::on_request(&mut connection, ResourceType::Cluster, request).unwrap();
        Sotw::next_response(&mut connection).map(|response| response.encode_to_vec())
    });
}

/// A request with as many names as a hostile client might send. Sorting the names is the only step that is not linear.
#[divan::bench(args = [1_000, 100_000])]
fn many_names(bencher: Bencher<'_, '_>, count: usize) {
    let store = store(ResourceType::Cluster, &names(1));
    let request = subscribe(&names(count));
    bencher.bench_local(|| {
        let mut connection = Connection::new(&store, "node".into(), XdsVariant::Delta);
        Delta::on_request(&mut connection, ResourceType::Cluster, request.clone()).unwrap();
        connection
    });
}
