//! Random scripts of commits, subscriptions, ACKs, NACKs and reconnects, on the protocol state machine without I/O.
//!
//! Each step checks the invariants of the protocol; the end of a script checks that the client has what it subscribes
//! to. The checks hold for whole scripts, on every stream:
//!
//! - At most one response per type is in flight.
//! - Make before break: with a wildcard subscription to clusters, a listener or route arrives after every cluster that
//!   it needs, unless the client rejected the newest version of that cluster on this stream.
//! - With a wildcard subscription to clusters, a cluster is not removed while a listener or route of the client needs
//!   it. The server cannot know what the client kept from an earlier stream, so the check covers resources that the
//!   client ACKed or resumed on this stream.
//! - The endpoints of a sent cluster follow it.
//!
//! Failing seeds are kept in `simulation.proptest-regressions` beside this file; commit them.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use evermesh_proto::resource::ResourceType::{self, Cluster, Endpoint, Listener, Route};
use evermesh_xds::{StoreCommit, XdsVariant};
use proptest::{prelude::*, test_runner::FileFailurePersistence};
use support::{
    client::Response,
    local::LocalClient,
    store::{Change, TestStore},
};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const KINDS: [ResourceType; 4] = [Cluster, Endpoint, Listener, Route];
/// The client NACKs a response with a resource whose content begins with this.
const BAD: &str = "bad";

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Puts a resource: type, index of the name, content (3 is bad), and a bit set of clusters that a listener or route
    /// needs, as far as they exist.
    Put(ResourceType, usize, u8, usize),
    /// Removes a resource. The same commit changes the listeners and routes that need it.
    Remove(ResourceType, usize),
    /// Removes the view and restores it.
    RestoreView,
    /// Subscribes to exactly the names in a bit set; the fifth bit is the wildcard.
    Subscribe(ResourceType, u8),
    /// The client receives a response if the server has one.
    Receive,
    /// The client ACKs or NACKs the response of this type, if it received one. A NACK names the bad resources or none.
    Answer(ResourceType, bool),
    /// The client receives and answers responses until the server has none.
    Settle,
    /// The client opens a new stream, to the same server or another one.
    Reconnect(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let kind = || prop::sample::select(KINDS.to_vec());
    prop_oneof![
        8 => (kind(), 0..4_usize, 0..4_u8, 0..16_usize).prop_map(|(k, n, c, m)| Step::Put(k, n, c, m)),
        3 => (kind(), 0..4_usize).prop_map(|(k, n)| Step::Remove(k, n)),
        1 => Just(Step::RestoreView),
        2 => (kind(), 0..32_u8).prop_map(|(k, set)| Step::Subscribe(k, set)),
        8 => Just(Step::Receive),
        8 => (kind(), any::<bool>()).prop_map(|(k, named)| Step::Answer(k, named)),
        2 => Just(Step::Settle),
        1 => any::<bool>().prop_map(Step::Reconnect),
    ]
}

/// A script. Half of the scripts begin like Envoy: with wildcards for clusters and listeners, and with all names of
/// endpoints and routes.
fn script() -> impl Strategy<Value = Vec<Step>> {
    const WILDCARD: u8 = 16;
    const ALL_NAMES: u8 = 15;
    let steps = prop::collection::vec(step(), 1..120);
    (any::<bool>(), steps).prop_map(|(is_envoy, mut steps)| {
        if is_envoy {
            let subscriptions = [
                (Cluster, WILDCARD),
                (Endpoint, ALL_NAMES),
                (Listener, WILDCARD),
                (Route, ALL_NAMES),
            ];
            steps.splice(
                0..0,
                subscriptions.map(|(kind, set)| Step::Subscribe(kind, set)),
            );
        }
        steps
    })
}

type Contents = BTreeMap<(ResourceType, &'static str), String>;

/// The clusters that a resource with this content needs: `1|a,c` needs `a` and `c`.
fn needs(content: &str) -> Vec<&str> {
    let (_, needs) = content.split_once('|').unwrap_or_default();
    needs.split(',').filter(|need| !need.is_empty()).collect()
}

struct Simulation {
    variant: XdsVariant,
    store: TestStore,
    /// The newest contents in the store.
    contents: Contents,
    client: LocalClient,
    /// Names to which the client subscribes explicitly.
    names: BTreeMap<ResourceType, BTreeSet<&'static str>>,
    wildcards: BTreeMap<ResourceType, bool>,
    /// Responses that the client has not answered yet, each with whether the client had a wildcard subscription to
    /// clusters when it was made.
    in_flight: BTreeMap<ResourceType, (Response, bool)>,
    /// Clusters whose bad version the client rejected on this stream, until it ACKs a good one.
    rejected: BTreeSet<String>,
    /// Clusters that were sent and whose endpoints must follow.
    warming: BTreeSet<String>,
    /// The client's resources that the server knows on this stream: ACKed on it, or resumed.
    known: BTreeSet<(ResourceType, String)>,
    /// Types of which the client ACKed a response on this stream.
    acked_types: BTreeSet<ResourceType>,
}

impl Simulation {
    fn new(variant: XdsVariant) -> Self {
        let store = TestStore::with(&[]);
        Self {
            variant,
            client: LocalClient::new(&store, variant),
            store,
            contents: Contents::new(),
            names: BTreeMap::new(),
            wildcards: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            rejected: BTreeSet::new(),
            warming: BTreeSet::new(),
            known: BTreeSet::new(),
            acked_types: BTreeSet::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Put(kind, name, content, clusters) => {
                self.put(kind, NAMES[name], content, clusters);
            }
            Step::Remove(kind, name) => self.remove(kind, NAMES[name]),
            Step::RestoreView => self.restore_view(),
            Step::Subscribe(kind, set) => self.subscribe(kind, set),
            Step::Receive => self.receive(),
            Step::Answer(kind, names_bad) => self.answer(kind, names_bad),
            Step::Settle => self.settle(),
            Step::Reconnect(to_another) => self.reconnect(to_another),
        }
    }

    fn put(&mut self, kind: ResourceType, name: &'static str, content: u8, clusters: usize) {
        let word = if content == 3 {
            BAD.to_owned()
        } else {
            content.to_string()
        };
        let has_needs = matches!(kind, Listener | Route);
        let needed = NAMES.iter().enumerate().filter(|(at, cluster)| {
            has_needs
                && clusters & (1 << at) != 0
                && self.contents.contains_key(&(Cluster, **cluster))
        });
        let needed: Vec<_> = needed.map(|(_, cluster)| *cluster).collect();
        let content = format!("{word}|{}", needed.join(","));
        if kind == Endpoint && word == BAD {
            self.warming.remove(name);
        }
        self.contents.insert((kind, name), content.clone());
        let change = Change::default().put_needing(kind, name, &content, &needed);
        self.store.commit(change);
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
        self.store.commit(change);
        if kind == Endpoint {
            self.warming.remove(name);
        }
    }

    fn restore_view(&mut self) {
        let view = self.store.view("node");
        for view in [None, view] {
            self.store.apply(StoreCommit {
                views: vec![("node".into(), view)],
                ..StoreCommit::default()
            });
            if self.store.view("node").is_none() {
                self.client.assert_no_response();
            }
        }
    }

    fn subscribe(&mut self, kind: ResourceType, set: u8) {
        if self.variant == XdsVariant::Sotw && self.in_flight.contains_key(&kind) {
            // The request would have the nonce of the response in flight and be its ACK.
            return;
        }
        let names = NAMES
            .iter()
            .enumerate()
            .filter(|(at, _)| set & (1 << at) != 0);
        let names: BTreeSet<_> = names.map(|(_, name)| *name).collect();
        let wildcard = set & 16 != 0 && kind.supports_wildcard();
        let mut requested: Vec<_> = names.iter().copied().collect();
        requested.extend(wildcard.then_some("*"));
        let has_no_names = self.names.get(&kind).is_none_or(BTreeSet::is_empty);
        if requested.is_empty() && has_no_names && !self.is_wildcard(kind) {
            // `protocol.rs` tests the legacy wildcard.
            return;
        }
        if kind == Endpoint {
            self.warming
                .retain(|cluster| names.contains(cluster.as_str()));
        }
        self.names.insert(kind, names);
        self.wildcards.insert(kind, wildcard);
        self.client.subscribe_to(kind, &requested);
        // The client and the server forget the resources from which the client unsubscribed.
        if kind == Cluster {
            let mut rejected = std::mem::take(&mut self.rejected);
            rejected.retain(|name| self.is_subscribed(Cluster, name));
            self.rejected = rejected;
        }
        let client = &self.client;
        self.known
            .retain(|(found, name)| *found != kind || client.resources(kind).contains_key(name));
    }

    /// Whether the client has rejected the newest version of a cluster on this stream.
    fn is_rejected(&self, cluster: &str) -> bool {
        let mut newest = self.contents.iter();
        let newest = newest.find(|((kind, name), _)| (*kind, *name) == (Cluster, cluster));
        self.rejected.contains(cluster)
            && newest.is_none_or(|(_, content)| content.starts_with(BAD))
    }

    fn is_wildcard(&self, kind: ResourceType) -> bool {
        self.wildcards.get(&kind).copied().unwrap_or_default()
    }

    fn is_subscribed(&self, kind: ResourceType, name: &str) -> bool {
        let names = self.names.get(&kind);
        self.is_wildcard(kind) || names.is_some_and(|names| names.contains(name))
    }

    fn receive(&mut self) {
        let Some(response) = self.client.receive() else {
            return;
        };
        let kind = response.kind;
        assert!(
            !self.in_flight.contains_key(&kind),
            "two {kind} responses in flight"
        );
        if matches!(kind, Listener | Route) && self.is_wildcard(Cluster) {
            assert!(
                !self.in_flight.contains_key(&Cluster),
                "{kind} before the client answered clusters"
            );
            let clusters = self.client.resources(Cluster);
            // A complete set repeats what the client has, including what it ACKed before it had the wildcard.
            let resources = self.client.resources(kind);
            let new = response.resources.iter();
            let new = new.filter(|(name, content)| resources.get(*name) != Some(content));
            for need in new.flat_map(|(_, content)| needs(content)) {
                assert!(
                    clusters.contains_key(need) || self.is_rejected(need),
                    "{kind} before cluster {need}"
                );
            }
        }
        let resources = self.client.resources(kind);
        for (name, content) in &response.resources {
            let endpoints = self.contents.get(&(Endpoint, name.as_str()));
            let has_good_endpoints = endpoints.is_some_and(|content| !content.starts_with(BAD));
            if kind == Cluster
                && resources.get(name) != Some(content)
                && has_good_endpoints
                && self.is_subscribed(Endpoint, name)
            {
                self.warming.insert(name.clone());
            }
            if kind == Endpoint {
                self.warming.remove(name);
            }
        }
        self.in_flight
            .insert(kind, (response, self.is_wildcard(Cluster)));
    }

    fn answer(&mut self, kind: ResourceType, names_bad: bool) {
        let Some((response, was_wildcard)) = self.in_flight.remove(&kind) else {
            return;
        };
        let bad = response
            .resources
            .iter()
            .filter(|(_, content)| content.starts_with(BAD));
        let bad: Vec<_> = bad.map(|(name, _)| name.clone()).collect();
        if !bad.is_empty() {
            let message = if names_bad {
                format!("bad resources: {}", bad.join(", "))
            } else {
                "something is wrong".to_owned()
            };
            if kind == Cluster {
                self.rejected.extend(bad);
            }
            self.client.nack(&response, &message);
            return;
        }
        let clusters_before = self.known_names(Cluster);
        self.client.ack(&response);
        self.acked_types.insert(kind);
        let resources = self.client.resources(kind);
        let acked = response.resources.keys();
        let acked = acked.filter(|name| resources.contains_key(*name));
        self.known.extend(acked.map(|name| (kind, name.clone())));
        self.known
            .retain(|(found, name)| *found != kind || resources.contains_key(name));
        if kind == Cluster {
            self.rejected
                .retain(|name| !response.resources.contains_key(name));
            if was_wildcard && self.is_wildcard(Cluster) {
                self.check_removed_clusters(&clusters_before);
            }
        }
    }

    /// Names of the client's resources of a type that the server knows.
    fn known_names(&self, kind: ResourceType) -> BTreeSet<String> {
        let known = self.known.iter().filter(|(found, _)| *found == kind);
        known.map(|(_, name)| name.clone()).collect()
    }

    /// Checks that the client did not lose a cluster that its listeners and routes need.
    fn check_removed_clusters(&self, before: &BTreeSet<String>) {
        let after = self.known_names(Cluster);
        for kind in [Listener, Route] {
            let resources = self.client.resources(kind);
            for name in self.known_names(kind) {
                for need in needs(&resources[&name]) {
                    assert!(
                        !before.contains(need) || after.contains(need),
                        "cluster {need} was removed before {kind} {name} that needs it"
                    );
                }
            }
        }
    }

    fn reconnect(&mut self, to_another: bool) {
        if to_another {
            self.store = TestStore::with(&[]);
            let mut change = Change::default();
            for ((kind, name), content) in &self.contents {
                change = change.put_needing(*kind, name, content, &needs(content));
            }
            self.store.commit(change);
        }
        self.in_flight.clear();
        self.rejected.clear();
        self.warming.clear();
        self.acked_types.clear();
        self.known.clear();
        if self.variant == XdsVariant::Delta {
            // The server resumes the resources whose version is the newest.
            for ((kind, name), content) in &self.contents {
                if self.client.resources(*kind).get(*name) == Some(content) {
                    self.known.insert((*kind, (*name).to_owned()));
                }
            }
        }
        self.client.reconnect(&self.store);
    }

    fn is_cluster_needed(&self, cluster: &str) -> bool {
        let resources = [
            self.client.resources(Listener),
            self.client.resources(Route),
        ];
        resources
            .iter()
            .flat_map(BTreeMap::values)
            .any(|content| needs(content).contains(&cluster))
    }

    fn has_removed_cluster(&self) -> bool {
        let clusters = self.client.resources(Cluster);
        let mut removed = NAMES
            .iter()
            .filter(|name| !self.contents.contains_key(&(Cluster, **name)));
        removed.any(|name| clusters.contains_key(*name))
    }

    fn has_subscribed_bad(&self, kind: ResourceType) -> bool {
        let contents = self.contents.iter();
        let mut subscribed =
            contents.filter(|((found, name), _)| *found == kind && self.is_subscribed(kind, name));
        subscribed.any(|(_, content)| content.starts_with(BAD))
    }

    /// Receives and answers responses until the server has none.
    fn settle(&mut self) {
        for _ in 0..500 {
            let before = self.in_flight.len();
            self.receive();
            if self.in_flight.len() == before {
                if self.in_flight.is_empty() {
                    return;
                }
                for kind in KINDS {
                    self.answer(kind, false);
                }
            }
        }
        panic!("the server never stops responding");
    }

    /// Settles, and checks what the client has in the end.
    fn finish(&mut self) {
        self.settle();
        self.client.assert_no_response();
        assert!(
            self.warming.is_empty(),
            "no endpoints followed the clusters {:?}",
            self.warming
        );
        for kind in KINDS {
            let resources = self.client.resources(kind);
            for name in NAMES {
                let newest = self.contents.get(&(kind, name));
                let found = resources.get(name);
                match newest {
                    _ if !self.is_subscribed(kind, name) => {
                        assert_eq!(found, None, "{kind} {name}");
                    }
                    Some(newest) if newest.starts_with(BAD) => {
                        assert!(found.is_none_or(|found| !found.starts_with(BAD)));
                    }
                    Some(newest) => assert_eq!(found, Some(newest), "{kind} {name}"),
                    None if self.may_keep_removed(kind, name) => {}
                    None => assert_eq!(found, None, "{kind} {name}"),
                }
            }
        }
    }

    /// Whether the client may have a resource that the store removed.
    fn may_keep_removed(&self, kind: ResourceType, name: &str) -> bool {
        match kind {
            // State of the world cannot express that endpoints and routes were removed.
            Endpoint | Route if self.variant == XdsVariant::Sotw => true,
            // A resource from an earlier stream, if the client NACKed every complete set on this one and a set without the
            // rejected resource would remove its last good version.
            Cluster | Listener
                if self.variant == XdsVariant::Sotw
                    && !self.acked_types.contains(&kind)
                    && self.has_subscribed_bad(kind) =>
            {
                true
            }
            // The last good version of a rejected listener or route needs the cluster.
            Cluster => self.is_cluster_needed(name),
            // Endpoints are removed after clusters.
            Endpoint => self.has_removed_cluster(),
            Listener | Route | ResourceType::Secret => false,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource(
            "proptest-regressions",
        ))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn delta_client_ends_with_its_subscribed_resources(steps in script()) {
        let mut simulation = Simulation::new(XdsVariant::Delta);
        for step in steps {
            simulation.step(step);
        }
        simulation.finish();
    }

    #[test]
    fn sotw_client_ends_with_its_subscribed_resources(steps in script()) {
        let mut simulation = Simulation::new(XdsVariant::Sotw);
        for step in steps {
            simulation.step(step);
        }
        simulation.finish();
    }
}
