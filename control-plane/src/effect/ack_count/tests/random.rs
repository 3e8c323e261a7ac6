//! The counts after any history are those of a counter that sees only the result.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use evermesh_proto::{ContentVersion, ProxyView, Resource, ResourceKey, ResourceType};
use evermesh_xds::{
    ClientAnswer, ConnectedProxy, Delivery, DeliveryOutcome, ProxyAnswers, ProxyId, Rejection,
};
use parking_lot::Mutex;
use proptest::prelude::*;

use super::super::{AckCount, AckCounter, AnswerSource, AnsweringProxies};
use crate::effect::EffectInbox;

const VIEWS: [&str; 3] = ["m/a", "m/b", "n/a"];
const ORIGINS: [&str; 4] = [
    "Mesh/m",
    "VirtualNode/n/a",
    "VirtualService/n/s",
    "Route/n/r",
];

/// Resources that several views list, those of the views below `m`, those of one view, and a private key.
fn keys() -> Vec<ResourceKey> {
    let key = |kind, name: &str, scope: Option<&str>| ResourceKey {
        kind,
        name: name.into(),
        scope: scope.map(Into::into),
    };
    vec![
        key(ResourceType::Cluster, "c", None),
        key(ResourceType::Endpoint, "c", None),
        key(ResourceType::Secret, "s", None),
        key(ResourceType::Cluster, "m", Some("m")),
        key(ResourceType::Route, "r", Some("m/a")),
        key(ResourceType::Listener, "l", Some("m/a")),
        key(ResourceType::Listener, "l", Some("m/b")),
    ]
}

#[derive(Debug, Clone)]
enum Event {
    Commit {
        key: usize,
        body: u8,
        origins: Vec<usize>,
    },
    Remove {
        key: usize,
    },
    View {
        view: usize,
        keys: Option<Vec<usize>>,
    },
    Connect {
        view: usize,
        is_trusted: bool,
    },
    Disconnect {
        proxy: usize,
    },
    Answer {
        proxy: usize,
        key: usize,
        is_ack: bool,
    },
    Wait {
        seconds: u64,
    },
}

/// Whether the counter takes the changes after an event.
#[derive(Debug, Clone, Copy)]
enum InboxReading {
    Now,
    /// The changes stay in the inbox, together with those of the next event.
    Later,
    /// The inbox has dropped the answers.
    WithoutAnswers,
}

fn reading() -> impl Strategy<Value = InboxReading> {
    prop_oneof![
        4 => Just(InboxReading::Now),
        2 => Just(InboxReading::Later),
        1 => Just(InboxReading::WithoutAnswers),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let some = |count: usize| prop::collection::vec(0..count, 0..=count);
    prop_oneof![
        (0..7_usize, 0..3_u8, some(4)).prop_map(|(key, body, origins)| Event::Commit {
            key,
            body,
            origins
        }),
        (0..7_usize).prop_map(|key| Event::Remove { key }),
        (0..3_usize, prop::option::weighted(0.8, some(7)))
            .prop_map(|(view, keys)| Event::View { view, keys }),
        (0..3_usize, any::<bool>())
            .prop_map(|(view, is_trusted)| Event::Connect { view, is_trusted }),
        (0..4_usize).prop_map(|proxy| Event::Disconnect { proxy }),
        (0..4_usize, 0..7_usize, prop::bool::weighted(0.7))
            .prop_map(|(proxy, key, is_ack)| Event::Answer { proxy, key, is_ack }),
        (1..4_u64).prop_map(|seconds| Event::Wait { seconds }),
    ]
}

/// The store and the connected proxies.
#[derive(Default)]
pub(super) struct ProxyWorld {
    pub(super) resources: BTreeMap<ResourceKey, Arc<Resource>>,
    pub(super) views: BTreeMap<Arc<str>, Arc<ProxyView>>,
    pub(super) proxies: BTreeMap<ProxyId, WorldProxy>,
    last_id: u64,
}

pub(super) struct WorldProxy {
    pub(super) connected: ConnectedProxy,
    pub(super) answers: BTreeMap<ResourceKey, ClientAnswer>,
}

/// Counts the resources and the lists of proxies about which it is asked.
#[derive(Clone, Default)]
pub(super) struct WorldAnswers {
    pub(super) world: Rc<Mutex<ProxyWorld>>,
    pub(super) questions: Rc<Cell<usize>>,
    pub(super) lists: Rc<Cell<usize>>,
}

impl AnswerSource for WorldAnswers {
    fn turnover(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for id in self.world.lock().proxies.keys() {
            id.0.hash(&mut hasher);
        }
        hasher.finish()
    }

    fn connected(&self) -> Vec<ConnectedProxy> {
        self.lists.set(self.lists.get() + 1);
        let world = self.world.lock();
        world
            .proxies
            .values()
            .map(|it| it.connected.clone())
            .collect()
    }

    fn connected_proxy(&self, id: ProxyId) -> Option<ConnectedProxy> {
        Some(self.world.lock().proxies.get(&id)?.connected.clone())
    }

    fn answers(&self, id: ProxyId, keys: &[&ResourceKey]) -> Option<ProxyAnswers> {
        self.questions.set(self.questions.get() + keys.len());
        let world = self.world.lock();
        let proxy = world.proxies.get(&id)?;
        let view = world.views.get(&proxy.connected.view);
        let secrets = view.map_or(&[][..], |view| view.of_type(ResourceType::Secret));
        let served = secrets
            .iter()
            .filter(|key| world.resources.contains_key(key));
        let withheld = served.filter(|_| !proxy.connected.is_trusted);
        let answer =
            |key: &&ResourceKey| Some(proxy.answers.get(*key).cloned().unwrap_or_default());
        Some(ProxyAnswers {
            answers: keys.iter().map(answer).collect(),
            withheld: withheld.map(|key| Arc::clone(&key.name)).collect(),
        })
    }
}

impl WorldAnswers {
    /// Applies an event to the world, and leaves what the counter is to know in the inbox.
    fn apply(&self, event: &Event, now: &mut SystemTime, inbox: &EffectInbox) {
        let mut world = self.world.lock();
        match event {
            Event::Commit { key, body, origins } => {
                let key = keys().swap_remove(*key);
                let origins = origins.iter().map(|it| Arc::from(ORIGINS[*it]));
                let origins: BTreeSet<Arc<str>> = origins.collect();
                let resource = resource(&key, *body, origins);
                world.resources.insert(key.clone(), Arc::clone(&resource));
                inbox.committed(vec![(key, resource)], Vec::new(), Vec::new());
            }
            Event::Remove { key } => {
                let key = keys().swap_remove(*key);
                world.resources.remove(&key);
                inbox.committed(Vec::new(), vec![key], Vec::new());
            }
            Event::View { view, keys: listed } => {
                let name: Arc<str> = VIEWS[*view].into();
                let listed = listed.as_ref().map(|listed| {
                    let listed = listed.iter().map(|key| keys().swap_remove(*key));
                    let listed = listed.filter(|key| key.is_for(&name));
                    Arc::new(ProxyView::new(listed.collect()))
                });
                match &listed {
                    Some(view) => world.views.insert(Arc::clone(&name), Arc::clone(view)),
                    None => world.views.remove(&name),
                };
                inbox.committed(Vec::new(), Vec::new(), vec![(name, listed)]);
            }
            Event::Connect { view, is_trusted } => {
                world.last_id += 1;
                let connected = ConnectedProxy {
                    id: ProxyId(world.last_id),
                    node_id: VIEWS[*view].into(),
                    view: VIEWS[*view].into(),
                    since: *now,
                    is_trusted: *is_trusted,
                };
                let answers = BTreeMap::new();
                world
                    .proxies
                    .insert(connected.id, WorldProxy { connected, answers });
            }
            Event::Disconnect { proxy } => {
                if let Some(id) = world.proxies.keys().nth(*proxy).copied() {
                    world.proxies.remove(&id);
                }
            }
            Event::Answer { proxy, key, is_ack } => {
                let key = keys().swap_remove(*key);
                let resource = world.resources.get(&key).cloned();
                let proxy = world.proxies.values_mut().nth(*proxy);
                let (Some(resource), Some(proxy)) = (resource, proxy) else {
                    return;
                };
                if !key.is_for(&proxy.connected.view) {
                    return;
                }
                let answer = proxy.answers.entry(key).or_default();
                let outcome = if *is_ack {
                    answer.acked = Some(resource.version);
                    answer.rejection = None;
                    DeliveryOutcome::Acked
                } else {
                    let rejection = rejection(resource.version);
                    answer.rejection = Some(rejection.clone());
                    DeliveryOutcome::Rejected(rejection.message)
                };
                inbox.answered(&Delivery {
                    proxy: proxy.connected.id,
                    view: Arc::clone(&proxy.connected.view),
                    resource,
                    outcome,
                });
            }
            Event::Wait { seconds } => {
                *now += Duration::from_secs(*seconds);
            }
        }
    }

    /// The counts of a counter that has not seen the history.
    fn expected(&self, now: SystemTime) -> BTreeMap<String, AckCount> {
        let mut fresh = AckCounter::new(self.clone());
        let world = self.world.lock();
        let resources = world.resources.iter();
        let views = world.views.iter();
        let inbox = EffectInbox::default();
        inbox.committed(
            resources
                .map(|(key, it)| (key.clone(), Arc::clone(it)))
                .collect(),
            Vec::new(),
            views
                .map(|(name, it)| (Arc::clone(name), Some(Arc::clone(it))))
                .collect(),
        );
        drop(world);
        fresh.record(inbox.take());
        counts(&mut fresh, now)
    }
}

fn resource(key: &ResourceKey, body: u8, origins: BTreeSet<Arc<str>>) -> Arc<Resource> {
    let resource = Resource::from_encoded(key.kind, Arc::clone(&key.name), vec![body].into());
    let origins: Vec<Arc<str>> = origins.into_iter().collect();
    let resource = resource.with_origins(origins);
    Arc::new(match key.kind {
        ResourceType::Secret => resource.into_confidential(),
        _ => resource,
    })
}

fn rejection(version: ContentVersion) -> Rejection {
    Rejection {
        version,
        message: "no".to_owned(),
        at: SystemTime::UNIX_EPOCH,
    }
}

/// All counts, without the time since which a proxy has been waiting: the fresh counter cannot know it.
fn counts(counter: &mut AckCounter<WorldAnswers>, now: SystemTime) -> BTreeMap<String, AckCount> {
    // The second sweep finds that a starting proxy gave no further answer.
    for _ in 0..2 {
        counter.sweep(now, true);
    }
    counter.recount(now);
    let since = |count: &AckCount| {
        count
            .waiting_since
            .map(|_| k8s_openapi::jiff::Timestamp::UNIX_EPOCH)
    };
    let counts = counter.all().map(|(object, count)| {
        let count = AckCount {
            waiting_since: since(count),
            ..count.clone()
        };
        (object.to_string(), count)
    });
    counts.collect()
}

proptest! {
    #[test]
    fn counts_do_not_depend_on_the_history(
        events in prop::collection::vec((event(), reading()), 1..60),
    ) {
        let source = WorldAnswers::default();
        let inbox = EffectInbox::default();
        let mut now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let mut counter = AckCounter::new(source.clone());
        for (event, reading) in &events {
            source.apply(event, &mut now, &inbox);
            let mut changes = match reading {
                InboxReading::Later => continue,
                InboxReading::Now | InboxReading::WithoutAnswers => inbox.take(),
            };
            if let InboxReading::WithoutAnswers = reading {
                changes.answers = AnsweringProxies::incomplete();
            }
            counter.record(changes);
            prop_assert_eq!(counts(&mut counter, now), source.expected(now));
        }
    }
}
