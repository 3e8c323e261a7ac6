//! The work for one event among 2,000 proxies: the answers that are read and the objects that are visited.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use evermesh_proto::{ProxyView, Resource, ResourceKey, ResourceType};
use evermesh_xds::{ClientAnswer, ConnectedProxy, Delivery, DeliveryOutcome, ProxyId};

use super::{
    super::AckCounter,
    random::{WorldAnswers, WorldProxy},
};
use crate::effect::EffectInbox;

const VIEWS: u64 = 1000;
const PROXIES: u64 = 2 * VIEWS;

/// Proxies of 1,000 views that have ACKed everything. Each view lists the clusters of two nodes, which other views list
/// too, and a route configuration.
struct Fleet {
    source: WorldAnswers,
    counter: AckCounter<WorldAnswers>,
    now: SystemTime,
}

/// The work since the last look.
#[derive(Debug, PartialEq)]
struct Work {
    /// Answers of a proxy to a resource that were read.
    answers: usize,
    /// Objects that were looked up, repetitions included.
    visits: usize,
}

/// The objects of a view: two nodes, their mesh and a route.
const OBJECTS: usize = 4;

fn view_name(view: u64) -> Arc<str> {
    format!("view-{view}").into()
}

fn cluster(node: u64) -> (ResourceKey, Arc<Resource>) {
    let name = format!("cluster-{}", node % VIEWS);
    let node = format!("VirtualNode/n/{}", node % VIEWS);
    resource(ResourceType::Cluster, &name, None, &["Mesh/m", &node], 0)
}

fn routes(view: u64, version: u8) -> (ResourceKey, Arc<Resource>) {
    let (route, node) = (format!("Route/n/{view}"), format!("VirtualNode/n/{view}"));
    let scope = Some(view_name(view));
    let origins = ["Mesh/m", &route, &node];
    resource(ResourceType::Route, "routes", scope, &origins, version)
}

fn resource(
    kind: ResourceType,
    name: &str,
    scope: Option<Arc<str>>,
    origins: &[&str],
    version: u8,
) -> (ResourceKey, Arc<Resource>) {
    let resource = Resource::from_encoded(kind, name.into(), vec![version].into());
    let origins: Vec<Arc<str>> = origins.iter().map(|it| Arc::from(*it)).collect();
    let name = name.into();
    let key = ResourceKey { kind, name, scope };
    (key, Arc::new(resource.with_origins(origins)))
}

fn resources(view: u64) -> [(ResourceKey, Arc<Resource>); 3] {
    [cluster(view), cluster(view + 1), routes(view, 0)]
}

impl Fleet {
    fn new() -> Self {
        let source = WorldAnswers::default();
        let mut fleet = Self {
            counter: AckCounter::new(source.clone()),
            source,
            now: SystemTime::UNIX_EPOCH + Duration::from_hours(1),
        };
        let inbox = EffectInbox::default();
        for view in 0..VIEWS {
            let resources = resources(view);
            let keys = resources.iter().map(|(key, _)| key.clone()).collect();
            let listed = Arc::new(ProxyView::new(keys));
            let mut world = fleet.source.world.lock();
            world.views.insert(view_name(view), Arc::clone(&listed));
            world.resources.extend(resources.clone());
            let views = vec![(view_name(view), Some(listed))];
            inbox.committed(resources.into(), Vec::new(), views);
        }
        fleet.counter.record(inbox.take());
        for id in 0..PROXIES {
            fleet.connect(id);
        }
        fleet.sweep();
        fleet.work();
        fleet
    }

    /// Connects a proxy that has ACKed everything and is not starting any more.
    fn connect(&self, id: u64) {
        let view = id % VIEWS;
        let connected = ConnectedProxy {
            id: ProxyId(id),
            node_id: view_name(view),
            view: view_name(view),
            since: self.now - Duration::from_mins(1),
            is_trusted: true,
        };
        let acked = |resource: &Resource| ClientAnswer {
            acked: Some(resource.version),
            ..ClientAnswer::default()
        };
        let answers = resources(view).map(|(key, resource)| (key, acked(&resource)));
        let answers = answers.into();
        let mut world = self.source.world.lock();
        world
            .proxies
            .insert(ProxyId(id), WorldProxy { connected, answers });
    }

    fn sweep(&mut self) {
        self.counter.sweep(self.now, false);
        self.counter.recount(self.now);
    }

    fn work(&mut self) -> Work {
        Work {
            answers: self.source.questions.take(),
            visits: std::mem::take(&mut self.counter.objects.visits),
        }
    }

    /// Commits a version of the routes of a view.
    fn commit_routes(&mut self, view: u64, version: u8) {
        let (key, resource) = routes(view, version);
        let mut world = self.source.world.lock();
        world.resources.insert(key.clone(), Arc::clone(&resource));
        drop(world);
        let inbox = EffectInbox::default();
        inbox.committed(vec![(key, resource)], Vec::new(), Vec::new());
        self.counter.record(inbox.take());
        self.counter.recount(self.now);
    }

    /// Lets a proxy ACK a version of its routes.
    fn ack_routes(&mut self, id: u64, version: u8) {
        let view = id % VIEWS;
        let (key, resource) = routes(view, version);
        let mut world = self.source.world.lock();
        let proxy = world.proxies.get_mut(&ProxyId(id)).unwrap();
        proxy.answers.entry(key).or_default().acked = Some(resource.version);
        drop(world);
        let inbox = EffectInbox::default();
        inbox.answered(&Delivery {
            proxy: ProxyId(id),
            view: view_name(view),
            resource,
            outcome: DeliveryOutcome::Acked,
        });
        self.counter.record(inbox.take());
        self.counter.recount(self.now);
    }

    fn acked(&self, object: &str) -> (usize, usize) {
        let count = self.counter.get(&object.parse().unwrap()).unwrap();
        (count.acked, count.concerned)
    }
}

#[test]
fn commit_and_ack_cost_what_they_concern() {
    let mut fleet = Fleet::new();
    fleet.commit_routes(7, 1);
    assert_eq!(fleet.acked("Route/n/7"), (0, 2));
    // The digests of three objects, and these objects for each of two proxies.
    let (answers, visits) = (2, 3 + 2 * 3);
    assert_eq!(fleet.work(), Work { answers, visits });

    fleet.ack_routes(7, 1);
    assert_eq!(fleet.acked("Route/n/7"), (1, 2));
    let (answers, visits) = (1, 3);
    assert_eq!(fleet.work(), Work { answers, visits });
    assert_eq!(fleet.acked("Route/n/8"), (2, 2));
}

#[test]
fn connection_and_its_end_cost_what_they_concern() {
    let mut fleet = Fleet::new();
    assert_eq!(fleet.acked("VirtualNode/n/7"), (4, 4));
    fleet.connect(PROXIES + 7);
    fleet.sweep();
    assert_eq!(fleet.acked("VirtualNode/n/7"), (5, 5));
    let (answers, visits) = (3, OBJECTS);
    assert_eq!(fleet.work(), Work { answers, visits });

    let mut world = fleet.source.world.lock();
    world.proxies.remove(&ProxyId(7));
    drop(world);
    fleet.sweep();
    assert_eq!(fleet.acked("VirtualNode/n/7"), (4, 4));
    let (answers, visits) = (0, OBJECTS);
    assert_eq!(fleet.work(), Work { answers, visits });

    fleet.source.lists.take();
    fleet.sweep();
    let (answers, visits) = (0, 0);
    assert_eq!(fleet.work(), Work { answers, visits });
    assert_eq!(fleet.source.lists.take(), 0);
}
