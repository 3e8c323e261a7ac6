//! Random scripts of commits, subscriptions, answers and reconnections, with the protocol's invariants
//! checked at each step and the client's state at the end.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use evermesh_proto::resource::ResourceType::{self, Cluster, Endpoint, Listener, Route};
use evermesh_xds::{StoreCommit, XdsVariant};
use proptest::prelude::*;
use support::{
    peer::{Peer, Said},
    world::{Change, World},
};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const KINDS: [ResourceType; 4] = [Cluster, Endpoint, Listener, Route];
/// A client refuses what has this in it.
const BAD: &str = "bad";

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Puts a resource, good or bad; routes and listeners need some of the clusters there are.
    Put(ResourceType, usize, u8, usize),
    /// Removes a resource; what needs it is changed in the same commit.
    Remove(ResourceType, usize),
    /// The view goes and comes back.
    Blink,
    /// The client subscribes to the names in this set; a fifth bit is the wildcard.
    Want(ResourceType, u8),
    /// The server says something, if it has something to say.
    Hear,
    /// The client answers what it heard of a type.
    Answer(ResourceType),
    /// The client comes back, to the same server or another.
    Reconnect(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let kind = || prop::sample::select(KINDS.to_vec());
    prop_oneof![
        6 => (kind(), 0..4_usize, 0..4_u8, 0..16_usize).prop_map(|(k, n, c, m)| Step::Put(k, n, c, m)),
        2 => (kind(), 0..4_usize).prop_map(|(k, n)| Step::Remove(k, n)),
        1 => Just(Step::Blink),
        3 => (kind(), 0..32_u8).prop_map(|(k, set)| Step::Want(k, set)),
        8 => Just(Step::Hear),
        8 => kind().prop_map(Step::Answer),
        1 => any::<bool>().prop_map(Step::Reconnect),
    ]
}

type Contents = BTreeMap<(ResourceType, &'static str), String>;

/// The clusters a content needs.
fn needs(content: &str) -> Vec<&str> {
    let (_, needs) = content.split_once('|').unwrap_or_default();
    needs.split(',').filter(|need| !need.is_empty()).collect()
}

struct Simulation {
    world: World,
    contents: Contents,
    peer: Peer,
    variant: XdsVariant,
    wanted: BTreeMap<ResourceType, BTreeSet<&'static str>>,
    wildcards: BTreeMap<ResourceType, bool>,
    flying: BTreeMap<ResourceType, Said>,
    /// Clusters the client refused once: no route waits for them.
    refused: BTreeSet<String>,
    /// Clusters that were sent and whose endpoints must follow.
    warming: BTreeSet<String>,
    /// The server knows everything the client has.
    known: bool,
}

impl Simulation {
    fn new(variant: XdsVariant) -> Self {
        let world = World::with(&[]);
        Self {
            peer: Peer::new(&world, variant),
            world,
            contents: Contents::new(),
            variant,
            wanted: BTreeMap::new(),
            wildcards: BTreeMap::new(),
            flying: BTreeMap::new(),
            refused: BTreeSet::new(),
            warming: BTreeSet::new(),
            known: true,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Put(kind, name, content, clusters) => {
                self.put(kind, NAMES[name], content, clusters);
            }
            Step::Remove(kind, name) => self.remove(kind, NAMES[name]),
            Step::Blink => self.blink(),
            Step::Want(kind, set) => self.want(kind, set),
            Step::Hear => self.hear(),
            Step::Answer(kind) => self.answer(kind),
            Step::Reconnect(other) => self.reconnect(other),
        }
    }

    fn put(&mut self, kind: ResourceType, name: &'static str, content: u8, clusters: usize) {
        let word = if content == 3 {
            BAD.to_owned()
        } else {
            content.to_string()
        };
        let refers = matches!(kind, Listener | Route);
        let needed = NAMES.iter().enumerate().filter(|(at, cluster)| {
            refers && clusters & (1 << at) != 0 && self.contents.contains_key(&(Cluster, **cluster))
        });
        let needed: Vec<_> = needed.map(|(_, cluster)| *cluster).collect();
        let content = format!("{word}|{}", needed.join(","));
        if kind == Endpoint && word == BAD {
            self.warming.remove(name);
        }
        self.contents.insert((kind, name), content.clone());
        let change = Change::default().put_needing(kind, name, &content, &needed);
        self.world.commit(change);
    }

    fn remove(&mut self, kind: ResourceType, name: &'static str) {
        if self.contents.remove(&(kind, name)).is_none() {
            return;
        }
        let mut change = Change::default().remove(kind, name);
        if kind == Cluster {
            for ((kind, referring), content) in &mut self.contents {
                if needs(content).contains(&name) {
                    let (word, _) = content.split_once('|').unwrap_or_default();
                    let rest = needs(content).into_iter().filter(|need| *need != name);
                    let rest: Vec<_> = rest.collect();
                    let changed = format!("{word}|{}", rest.join(","));
                    change = change.put_needing(*kind, referring, &changed, &rest);
                    *content = changed;
                }
            }
        }
        self.world.commit(change);
        self.warming
            .retain(|cluster| kind != Endpoint || cluster != name);
    }

    fn blink(&mut self) {
        let view = self.world.store.view("node");
        for view in [None, view] {
            self.world.apply(StoreCommit {
                views: vec![("node".into(), view)],
                ..StoreCommit::default()
            });
            if self.world.store.view("node").is_none() {
                self.peer.assert_silent();
            }
        }
    }

    fn want(&mut self, kind: ResourceType, set: u8) {
        if self.variant == XdsVariant::Sotw && self.flying.contains_key(&kind) {
            // It would be the answer, too.
            return;
        }
        let names = NAMES
            .iter()
            .enumerate()
            .filter(|(at, _)| set & (1 << at) != 0);
        let names: BTreeSet<_> = names.map(|(_, name)| *name).collect();
        let wildcard = set & 16 != 0 && kind.supports_wildcard();
        let mut asked: Vec<_> = names.iter().copied().collect();
        asked.extend(wildcard.then_some("*"));
        let none = self.wanted.get(&kind).is_none_or(BTreeSet::is_empty);
        if asked.is_empty() && none && self.wildcards.get(&kind) != Some(&true) {
            // The legacy wildcard has tests of its own.
            return;
        }
        self.warming
            .retain(|cluster| kind != Endpoint || names.contains(cluster.as_str()));
        self.wanted.insert(kind, names);
        self.wildcards.insert(kind, wildcard);
        self.peer.want(kind, &asked);
    }

    fn wants(&self, kind: ResourceType, name: &str) -> bool {
        self.wildcards.get(&kind).copied().unwrap_or_default()
            || self
                .wanted
                .get(&kind)
                .is_some_and(|names| names.contains(name))
    }

    fn hear(&mut self) {
        let Some(said) = self.peer.hear() else { return };
        let kind = said.kind;
        assert!(!self.flying.contains_key(&kind), "two {kind} in flight");
        let takes_all = self.wildcards.get(&Cluster) == Some(&true);
        if matches!(kind, Listener | Route) && takes_all {
            assert!(
                !self.flying.contains_key(&Cluster),
                "{kind} before clusters are answered"
            );
            let clusters = self.peer.has(Cluster);
            for need in said.resources.values().flat_map(|content| needs(content)) {
                assert!(
                    clusters.contains_key(need) || self.refused.contains(need),
                    "{kind} without cluster {need}"
                );
            }
        }
        let has = self.peer.has(kind);
        for (name, content) in &said.resources {
            let endpoints = self.contents.get(&(Endpoint, name.as_str()));
            let good = endpoints.is_some_and(|content| !content.starts_with(BAD));
            if kind == Cluster
                && has.get(name) != Some(content)
                && good
                && self.wants(Endpoint, name)
            {
                self.warming.insert(name.clone());
            }
            if kind == Endpoint {
                self.warming.remove(name);
            }
        }
        self.flying.insert(kind, said);
    }

    fn answer(&mut self, kind: ResourceType) {
        let Some(said) = self.flying.remove(&kind) else {
            return;
        };
        if said
            .resources
            .values()
            .any(|content| content.starts_with(BAD))
        {
            if kind == Cluster {
                self.refused.extend(said.resources.keys().cloned());
            }
            self.peer.nack(&said, "something is bad");
            return;
        }
        let before = self.peer.has(Cluster);
        self.peer.ack(&said);
        let takes_all = self.wildcards.get(&Cluster) == Some(&true);
        if kind == Cluster && takes_all && self.known {
            let after = self.peer.has(Cluster);
            for kind in [Listener, Route] {
                for need in self
                    .peer
                    .has(kind)
                    .values()
                    .flat_map(|content| needs(content))
                {
                    assert!(
                        !before.contains_key(need) || after.contains_key(need),
                        "cluster {need} went before the {kind} that needs it"
                    );
                }
            }
        }
    }

    fn is_needed(&self, cluster: &str) -> bool {
        let held = [self.peer.has(Listener), self.peer.has(Route)];
        held.iter()
            .flat_map(BTreeMap::values)
            .any(|content| needs(content).contains(&cluster))
    }

    fn keeps_a_cluster(&self) -> bool {
        let clusters = self.peer.has(Cluster);
        let mut gone = NAMES
            .iter()
            .filter(|name| !self.contents.contains_key(&(Cluster, **name)));
        gone.any(|name| clusters.contains_key(*name))
    }

    fn has_bad(&self, kind: ResourceType) -> bool {
        let of_kind = self
            .contents
            .iter()
            .filter(|((found, _), _)| *found == kind);
        of_kind
            .into_iter()
            .any(|(_, content)| content.starts_with(BAD))
    }

    fn reconnect(&mut self, other: bool) {
        if other {
            self.world = World::with(&[]);
            let mut change = Change::default();
            for ((kind, name), content) in &self.contents {
                change = change.put_needing(*kind, name, content, &needs(content));
            }
            self.world.commit(change);
        }
        self.flying.clear();
        self.refused.extend(NAMES.map(str::to_owned));
        self.known = false;
        self.warming.clear();
        self.peer.reconnect(&self.world);
    }

    /// Answers everything, and checks what the client has in the end.
    fn finish(&mut self) {
        for _ in 0..500 {
            let before = self.flying.len();
            self.hear();
            if self.flying.len() == before {
                if self.flying.is_empty() {
                    break;
                }
                for kind in KINDS {
                    self.answer(kind);
                }
            }
        }
        self.peer.assert_silent();
        assert!(
            self.warming.is_empty(),
            "no endpoints followed {:?}",
            self.warming
        );
        for kind in KINDS {
            let has = self.peer.has(kind);
            for name in NAMES {
                let newest = self.contents.get(&(kind, name));
                let found = has.get(name);
                match newest {
                    _ if !self.wants(kind, name) => assert_eq!(found, None, "{kind} {name}"),
                    Some(newest) if newest.starts_with(BAD) => {
                        assert!(found.is_none_or(|found| !found.starts_with(BAD)));
                    }
                    Some(newest) => assert_eq!(found, Some(newest), "{kind} {name}"),
                    // State of the world cannot say that endpoints or routes are gone.
                    None if self.variant == XdsVariant::Sotw
                        && matches!(kind, Endpoint | Route) => {}
                    // It said so in a response that the client refused, and does not know that it must
                    // say so again: on a new stream it cannot tell what the client kept.
                    None if self.variant == XdsVariant::Sotw
                        && !self.known
                        && self.has_bad(kind) => {}
                    // The last good version of something refused needs it, or its cluster.
                    None if kind == Cluster && self.is_needed(name) => {}
                    None if kind == Endpoint && self.keeps_a_cluster() => {}
                    None => assert_eq!(found, None, "{kind} {name}"),
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn delta_clients_end_with_what_they_subscribe_to(steps in prop::collection::vec(step(), 1..120)) {
        let mut simulation = Simulation::new(XdsVariant::Delta);
        for step in steps {
            simulation.step(step);
        }
        simulation.finish();
    }

    #[test]
    fn sotw_clients_end_with_what_they_subscribe_to(steps in prop::collection::vec(step(), 1..120)) {
        let mut simulation = Simulation::new(XdsVariant::Sotw);
        for step in steps {
            simulation.step(step);
        }
        simulation.finish();
    }
}
