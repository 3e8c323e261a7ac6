//! Random scripts of commits, subscriptions, ACKs, NACKs and reconnects, on the protocol state machine without I/O.
//!
//! Each step checks the invariants of the protocol (`checks`); the end of a script checks that the client has what it
//! subscribes to. The invariants hold for whole scripts, on every stream.
//!
//! Failing seeds are kept in `main.proptest-regressions` beside this file; commit them.

#![allow(clippy::unwrap_used)] // a panic fails the test

#[path = "../support/mod.rs"]
mod support;

mod checks;
mod script;

use std::collections::{BTreeMap, BTreeSet};

use evermesh_proto::resource::ResourceType::{self, Cluster, Endpoint};
use evermesh_xds::{StoreCommit, XdsVariant};
use proptest::{prelude::*, test_runner::FileFailurePersistence};
use script::{BAD, Content, KINDS, NAMES, PutContent, Step, script};
use support::{
    client::Response,
    local::LocalClient,
    store::{Change, TestStore},
};

struct Simulation {
    variant: XdsVariant,
    store: TestStore,
    /// The newest contents of what the view lists.
    contents: BTreeMap<(ResourceType, &'static str), Content>,
    client: LocalClient,
    /// Names to which the client subscribes explicitly.
    names: BTreeMap<ResourceType, BTreeSet<&'static str>>,
    wildcards: BTreeMap<ResourceType, bool>,
    /// Responses that the client has not answered yet, each with whether the client had a wildcard subscription to
    /// clusters when it was made.
    in_flight: BTreeMap<ResourceType, (Response, bool)>,
    /// Resources that the client rejected on this stream, until it ACKs a version.
    rejected: BTreeSet<(ResourceType, String)>,
    /// Resources that the client asked for again, or that follow a new cluster, until they are answered.
    requested: BTreeSet<(ResourceType, String)>,
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
            contents: BTreeMap::new(),
            names: BTreeMap::new(),
            wildcards: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            rejected: BTreeSet::new(),
            requested: BTreeSet::new(),
            warming: BTreeSet::new(),
            known: BTreeSet::new(),
            acked_types: BTreeSet::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Put(kind, name, content) => self.put(kind, NAMES[name], content),
            Step::Remove(kind, name, from_store) => self.remove(kind, NAMES[name], from_store),
            Step::RestoreView => self.restore_view(),
            Step::Subscribe(kind, set) => self.subscribe(kind, set),
            Step::Receive => {
                self.receive();
            }
            Step::Answer(kind, names_bad) => self.answer(kind, names_bad),
            Step::Settle => self.settle(),
            Step::Reconnect(to_another) => self.reconnect(to_another),
        }
    }

    fn put(&mut self, kind: ResourceType, name: &'static str, content: PutContent) {
        let exists = |cluster: &str| {
            let mut contents = self.contents.keys();
            contents.any(|(kind, name)| (*kind, *name) == (Cluster, cluster))
        };
        let content = Content::new(kind, content, exists);
        if kind == Endpoint && content.is_bad() {
            self.warming.remove(name);
        }
        self.store
            .commit(content.put(Change::default(), kind, name));
        self.contents.insert((kind, name), content);
    }

    fn remove(&mut self, kind: ResourceType, name: &'static str, from_store: bool) {
        if self.contents.remove(&(kind, name)).is_none() {
            return;
        }
        let mut change = if from_store {
            Change::default().remove(kind, name)
        } else {
            Change::default().unlist(kind, name)
        };
        if kind == Cluster {
            for ((kind, referring), content) in &mut self.contents {
                if content.needs().any(|need| need == name) {
                    content.forget(name);
                    change = content.put(change, *kind, referring);
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
        let before = self.names.insert(kind, names.clone()).unwrap_or_default();
        // An incremental client that unsubscribes from a name gets it again if the wildcard covers it.
        let dropped = before
            .iter()
            .filter(|name| self.variant == XdsVariant::Delta && !names.contains(*name));
        let requested_again = names.difference(&before).chain(dropped);
        self.requested
            .extend(requested_again.map(|name| (kind, (*name).to_owned())));
        self.wildcards.insert(kind, wildcard);
        self.client.subscribe_to(kind, &requested);
        // The client and the server forget the resources from which the client unsubscribed.
        let mut rejected = std::mem::take(&mut self.rejected);
        rejected.retain(|(kind, name)| self.is_subscribed(*kind, name));
        // A new subscription makes the server send a rejected version again.
        rejected.retain(|(found, name)| {
            *found != kind || !names.contains(name.as_str()) || before.contains(name.as_str())
        });
        self.rejected = rejected;
        let client = &self.client;
        self.known
            .retain(|(found, name)| *found != kind || client.resources(kind).contains_key(name));
    }

    fn is_wildcard(&self, kind: ResourceType) -> bool {
        self.wildcards.get(&kind).copied().unwrap_or_default()
    }

    fn is_subscribed(&self, kind: ResourceType, name: &str) -> bool {
        let names = self.names.get(&kind);
        self.is_wildcard(kind) || names.is_some_and(|names| names.contains(name))
    }

    fn newest(&self, kind: ResourceType, name: &str) -> Option<&Content> {
        let mut contents = self.contents.iter();
        let newest = contents.find(|((found, it), _)| (*found, *it) == (kind, name));
        newest.map(|(_, content)| content)
    }

    /// Receives a response. Returns false if the server has none.
    fn receive(&mut self) -> bool {
        let response = self.client.receive();
        self.resume();
        let Some(response) = response else {
            self.requested.retain(|(kind, _)| {
                self.in_flight.contains_key(kind) || !self.client.has_complete_sets(*kind)
            });
            self.check_that_nothing_waits_without_a_reason();
            return false;
        };
        self.check_response(&response);
        let kind = response.kind;
        let resources = self.client.resources(kind);
        for (name, content) in &response.resources {
            let endpoints = self.newest(Endpoint, name);
            let has_good_endpoints = endpoints.is_some_and(|content| !content.is_bad());
            if kind == Cluster && !resources.contains_key(name) {
                self.requested.insert((Endpoint, name.clone()));
            }
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
        true
    }

    fn answer(&mut self, kind: ResourceType, names_bad: bool) {
        let Some((response, was_wildcard)) = self.in_flight.remove(&kind) else {
            return;
        };
        let bad = response
            .resources
            .iter()
            .filter(|(_, content)| content.contains(BAD));
        let bad: Vec<_> = bad.map(|(name, _)| name.clone()).collect();
        if !bad.is_empty() {
            let message = if names_bad {
                format!("bad resources: {}", bad.join(", "))
            } else {
                "something is wrong".to_owned()
            };
            self.client.nack(&response, &message);
            // The server blames a resource that it sent alone; `protocol.rs` tests which one.
            for status in self.client.connection.resources() {
                let resource = (status.kind, status.name.to_string());
                if status.kind == kind && status.rejection.is_some() && bad.contains(&resource.1) {
                    self.requested.remove(&resource);
                    self.rejected.insert(resource);
                }
            }
            return;
        }
        let clusters_before = self.known_names(Cluster);
        self.client.ack(&response);
        self.acked_types.insert(kind);
        // A complete set repeats resources, also those that the client asked for and that are still to be sent again.
        if !self.client.has_complete_sets(kind) {
            for name in response.resources.keys() {
                self.requested.remove(&(kind, name.clone()));
            }
        }
        let resources = self.client.resources(kind);
        let acked = response.resources.keys();
        let acked = acked.filter(|name| resources.contains_key(*name));
        self.known.extend(acked.map(|name| (kind, name.clone())));
        self.known
            .retain(|(found, name)| *found != kind || resources.contains_key(name));
        self.rejected
            .retain(|(found, name)| *found != kind || !response.resources.contains_key(name));
        if kind == Cluster && was_wildcard && self.is_wildcard(Cluster) {
            self.check_removed_clusters(&clusters_before);
        }
    }

    fn reconnect(&mut self, to_another: bool) {
        if to_another {
            self.store = TestStore::with(&[]);
            let contents = self.contents.iter();
            let change = contents.fold(Change::default(), |change, ((kind, name), content)| {
                content.put(change, *kind, name)
            });
            self.store.commit(change);
        }
        self.in_flight.clear();
        self.rejected.clear();
        self.requested.clear();
        self.warming.clear();
        self.acked_types.clear();
        self.known.clear();
        self.resume();
        self.client.reconnect(&self.store);
    }

    /// The server resumes what an incremental client kept from an earlier stream if that is the newest version.
    fn resume(&mut self) {
        if self.variant == XdsVariant::Sotw {
            return;
        }
        for ((kind, name), content) in &self.contents {
            let resource = (*kind, (*name).to_owned());
            if !self.requested.contains(&resource)
                && self.client.resources(*kind).get(*name) == Some(&content.text())
            {
                self.known.insert(resource);
            }
        }
    }

    /// Receives and answers responses until the server has none.
    fn settle(&mut self) {
        for _ in 0..500 {
            if !self.receive() {
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
}

fn run(variant: XdsVariant, steps: Vec<Step>) {
    let mut simulation = Simulation::new(variant);
    for step in steps {
        simulation.step(step);
    }
    simulation.settle();
    simulation.check_end();
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
        run(XdsVariant::Delta, steps);
    }

    #[test]
    fn sotw_client_ends_with_its_subscribed_resources(steps in script()) {
        run(XdsVariant::Sotw, steps);
    }
}
