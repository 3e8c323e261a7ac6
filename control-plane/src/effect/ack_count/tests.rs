//! Counts with real streams, and counts after random events.

mod cost;
mod random;

use evermesh_model::Kind;
use evermesh_proto::{ProxyView, Resource, ResourceKey};
use evermesh_testkit::{wait::eventually, xds::open_stream};
use evermesh_xds::{Store, StoreCommit, XdsServerOptions, without_credentials};
use tokio::net::TcpListener;
use tonic::transport::Endpoint;

use super::*;
use crate::effect::EffectInbox;

/// A cluster that was derived from the route `n/r`. An empty body is a valid `Cluster` message.
fn cluster(name: &str, body: &'static [u8]) -> (ResourceKey, Arc<Resource>) {
    let origins: [Arc<str>; 1] = ["Route/n/r".into()];
    let resource = Resource::from_encoded(ResourceType::Cluster, name.into(), body.into());
    let key = ResourceKey {
        kind: ResourceType::Cluster,
        name: name.into(),
        scope: None,
    };
    (key, Arc::new(resource.with_origins(origins)))
}

fn committed(upserts: Vec<(ResourceKey, Arc<Resource>)>) -> EffectChanges {
    let inbox = EffectInbox::default();
    inbox.committed(upserts, Vec::new(), Vec::new());
    inbox.take()
}

/// Makes a commit in the store and in the counter.
fn commit(store: &Store, counter: &mut AckCounter, commit: StoreCommit) {
    let inbox = EffectInbox::default();
    let (upserts, removals) = (commit.upserts.clone(), commit.removals.clone());
    inbox.committed(upserts, removals, commit.views.clone());
    store.commit(commit);
    counter.record(inbox.take());
}

fn route() -> ObjectRef {
    ObjectRef::new(Kind::Route, "n", "r")
}

#[test]
fn digest_depends_on_keys_and_versions_alone() {
    let digest = |commits: [(ResourceKey, Arc<Resource>); 2]| {
        let mut counter = AckCounter::new(ProxyRegistry::new(None));
        for commit in commits {
            counter.record(committed(vec![commit]));
        }
        counter.digest(&route())
    };
    let first = digest([cluster("a", b""), cluster("b", b"")]);
    assert_eq!(digest([cluster("b", b""), cluster("a", b"")]), first);
    assert_ne!(digest([cluster("a", b""), cluster("b", b"other")]), first);
    assert_ne!(digest([cluster("a", b""), cluster("c", b"")]), first);
}

#[test]
fn object_without_proxies_has_no_count() {
    let mut counter = AckCounter::new(ProxyRegistry::new(None));
    counter.record(committed(vec![cluster("a", b"")]));
    assert!(counter.recount(SystemTime::now()).is_empty());
    assert_eq!(counter.get(&route()), None);
}

/// Serves a store and opens a stream of a proxy, over plaintext, with the view `view`.
async fn connect(
    store: &Arc<Store>,
    registry: &Arc<ProxyRegistry>,
) -> evermesh_testkit::xds::DeltaStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let options = XdsServerOptions::new(without_credentials(|_| Ok("view".into()).into()));
    let server = evermesh_xds::serve(listener, Arc::clone(store), Arc::clone(registry), options);
    tokio::spawn(server);
    let channel = Endpoint::from_shared(address).unwrap().connect_lazy();
    open_stream(channel, "node", None).await.unwrap()
}

#[tokio::test]
async fn proxy_without_a_private_key_is_reported_for_its_node_and_for_the_mesh() {
    let (store, registry) = (Store::new(), ProxyRegistry::new(None));
    let of = |kind, name: &str, scope: Option<&str>, origin: &str| {
        let resource = Resource::from_encoded(kind, name.into(), "".into());
        let resource = resource.with_origins([Arc::from(origin)]);
        let key = ResourceKey {
            kind,
            name: name.into(),
            scope: scope.map(Into::into),
        };
        (key, resource)
    };
    let listener = of(
        ResourceType::Listener,
        "l",
        Some("view"),
        "VirtualNode/n/own",
    );
    let other = of(ResourceType::Cluster, "c", None, "VirtualNode/n/other");
    let (key, secret) = of(ResourceType::Secret, "s", None, "Mesh/m");
    let upserts: Vec<(ResourceKey, Arc<Resource>)> = vec![
        (listener.0, Arc::new(listener.1)),
        (other.0, Arc::new(other.1)),
    ];
    let keys = upserts.iter().map(|(key, _)| key.clone());
    let view = ProxyView::new(keys.chain([key.clone()]).collect());
    let mut counter = AckCounter::new(Arc::clone(&registry));
    let first = StoreCommit {
        upserts,
        views: vec![("view".into(), Some(Arc::new(view)))],
        ..StoreCommit::default()
    };
    commit(&store, &mut counter, first);
    let _stream = connect(&store, &registry).await;
    let now = registry.connected()[0].since + STARTUP_TIME;
    counter.sweep(now, true);
    let objects = ["Mesh/m", "VirtualNode/n/other", "VirtualNode/n/own"];
    let withheld = |counter: &mut AckCounter| {
        counter.recount(now);
        objects.map(|object| {
            let count = counter.get(&object.parse().unwrap());
            count.map_or(0, |count| count.withheld.proxies)
        })
    };
    assert_eq!(withheld(&mut counter), [0, 0, 0]);

    let secret = Arc::new(secret.into_confidential());
    let second = StoreCommit {
        upserts: vec![(key, secret)],
        ..StoreCommit::default()
    };
    commit(&store, &mut counter, second);
    counter.sweep(now, true);
    assert_eq!(withheld(&mut counter), [1, 0, 1]);
}

#[tokio::test]
async fn proxy_without_an_ack_counts_as_waiting_once_it_had_time_to_start() {
    let (store, registry) = (Store::new(), ProxyRegistry::new(None));
    let (key, resource) = cluster("a", b"");
    let mut counter = AckCounter::new(Arc::clone(&registry));
    let view = ProxyView::new(vec![key.clone()]);
    let only = StoreCommit {
        upserts: vec![(key, resource)],
        views: vec![("view".into(), Some(Arc::new(view)))],
        ..StoreCommit::default()
    };
    commit(&store, &mut counter, only);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let options = XdsServerOptions::new(without_credentials(|_| Ok("view".into()).into()));
    let server = evermesh_xds::serve(listener, Arc::clone(&store), Arc::clone(&registry), options);
    tokio::spawn(server);
    let channel = Endpoint::from_shared(address).unwrap().connect_lazy();
    let stream = open_stream(channel, "node", None).await.unwrap();

    let connected_at = registry.connected()[0].since;
    counter.sweep(connected_at, false);
    assert!(
        counter.recount(connected_at).is_empty(),
        "a starting proxy is not counted"
    );

    let started = connected_at + STARTUP_TIME;
    counter.sweep(started, false);
    assert_eq!(counter.recount(started), [route()]);
    let count = counter.get(&route()).unwrap();
    assert_eq!((count.concerned, count.acked), (1, 0));
    assert!(count.waiting_since.is_some());
    assert_eq!(count.digest, counter.digest(&route()));

    drop(stream);
    let limit = Duration::from_secs(10);
    eventually("the disconnect", limit, async || registry.is_empty()).await;
    counter.sweep(started, false);
    assert_eq!(counter.recount(started), [route()]);
    assert_eq!(counter.get(&route()), None);
}
