//! The random scripts, and the contents of the resources that they put.

use std::collections::BTreeMap;

use evermesh_proto::resource::ResourceType::{self, Cluster, Endpoint, Listener, Route};
use proptest::prelude::*;

use crate::support::store::Change;

pub(crate) const NAMES: [&str; 4] = ["a", "b", "c", "d"];
pub(crate) const KINDS: [ResourceType; 4] = [Cluster, Endpoint, Listener, Route];
/// Names of the parts of a listener or route.
const PARTS: [&str; 2] = ["p", "q"];
/// The client NACKs a response with a resource that contains this.
pub(crate) const BAD: &str = "bad";

#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// Puts a resource: type, index of the name, and content.
    Put(ResourceType, usize, PutContent),
    /// Removes a resource from the view, and from the store if the flag is set. The same commit changes the listeners and
    /// routes that need it.
    Remove(ResourceType, usize, bool),
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

/// The content of a resource: a number for the base and for each part that exists (3 is bad), and for each of them a bit
/// set of clusters that it needs, as far as they exist. Only listeners and routes have parts and needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PutContent {
    base: (u8, usize),
    parts: [Option<(u8, usize)>; 2],
}

fn step() -> impl Strategy<Value = Step> {
    let kind = || prop::sample::select(KINDS.to_vec());
    let base = (0..4_u8, prop_oneof![2 => Just(0), 1 => 0..16_usize]);
    let part = || {
        let number = prop_oneof![9 => 0..3_u8, 1 => Just(3)];
        prop::option::of((number, 0..16_usize))
    };
    let content = (base, part(), part());
    let content = content.prop_map(|(base, p, q)| PutContent {
        base,
        parts: [p, q],
    });
    prop_oneof![
        8 => (kind(), 0..4_usize, content).prop_map(|(k, n, c)| Step::Put(k, n, c)),
        3 => (kind(), 0..4_usize, any::<bool>()).prop_map(|(k, n, all)| Step::Remove(k, n, all)),
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
pub(crate) fn script() -> impl Strategy<Value = Vec<Step>> {
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

/// The content of a resource as the client sees it: `1| p=2|a,c` has a base without needs, and a part `p` that needs the
/// clusters `a` and `c`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) base: Element,
    pub(crate) parts: BTreeMap<String, Element>,
}

/// The base or a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) word: String,
    pub(crate) needs: Vec<String>,
}

impl Element {
    fn parse(text: &str) -> Self {
        let (word, needs) = text.split_once('|').unwrap_or((text, ""));
        let needs = needs.split(',').filter(|need| !need.is_empty());
        Self {
            word: word.to_owned(),
            needs: needs.map(ToOwned::to_owned).collect(),
        }
    }

    fn text(&self) -> String {
        format!("{}|{}", self.word, self.needs.join(","))
    }

    pub(crate) fn needs_any_of(&self, clusters: impl Fn(&str) -> bool) -> bool {
        self.needs.iter().any(|need| clusters(need))
    }
}

impl Content {
    pub(crate) fn new(kind: ResourceType, put: PutContent, exists: impl Fn(&str) -> bool) -> Self {
        let refers = matches!(kind, Listener | Route);
        let element = |(number, clusters): (u8, usize)| {
            let needed = NAMES.iter().enumerate();
            let needed = needed
                .filter(|(at, cluster)| refers && clusters & (1 << at) != 0 && exists(cluster));
            Element {
                word: if number == 3 {
                    BAD.to_owned()
                } else {
                    number.to_string()
                },
                needs: needed.map(|(_, cluster)| (*cluster).to_owned()).collect(),
            }
        };
        let parts = PARTS.iter().zip(put.parts);
        Self {
            base: element(put.base),
            parts: parts
                .filter(|_| refers)
                .filter_map(|(name, part)| Some(((*name).to_owned(), element(part?))))
                .collect(),
        }
    }

    pub(crate) fn parse(text: &str) -> Self {
        let mut words = text.split(' ');
        let base = Element::parse(words.next().unwrap());
        let parts = words.map(|word| {
            let (name, part) = word.split_once('=').unwrap();
            (name.to_owned(), Element::parse(part))
        });
        Self {
            base,
            parts: parts.collect(),
        }
    }

    pub(crate) fn text(&self) -> String {
        let parts = self.parts.iter();
        let parts = parts.map(|(name, part)| format!(" {name}={}", part.text()));
        self.base.text() + &parts.collect::<String>()
    }

    pub(crate) fn elements(&self) -> impl Iterator<Item = &Element> {
        std::iter::once(&self.base).chain(self.parts.values())
    }

    /// All needed clusters.
    pub(crate) fn needs(&self) -> impl Iterator<Item = &str> {
        self.elements()
            .flat_map(|element| element.needs.iter().map(String::as_str))
    }

    pub(crate) fn is_bad(&self) -> bool {
        self.elements().any(|element| element.word == BAD)
    }

    /// Removes a cluster from all needs.
    pub(crate) fn forget(&mut self, cluster: &str) {
        let elements = std::iter::once(&mut self.base).chain(self.parts.values_mut());
        for element in elements {
            element.needs.retain(|need| need != cluster);
        }
    }

    /// Adds the resource to a commit. A resource without parts is sent as a whole.
    pub(crate) fn put(&self, change: Change, kind: ResourceType, name: &str) -> Change {
        let base = self.base.text();
        let needs: Vec<&str> = self.base.needs.iter().map(String::as_str).collect();
        if self.parts.is_empty() {
            return change.put_needing(kind, name, &base, &needs);
        }
        let texts: Vec<_> = self.parts.values().map(Element::text).collect();
        let part_needs: Vec<Vec<&str>> = self
            .parts
            .values()
            .map(|part| part.needs.iter().map(String::as_str).collect())
            .collect();
        let parts: Vec<(&str, &str, &[&str])> = self
            .parts
            .keys()
            .zip(&texts)
            .zip(&part_needs)
            .map(|((name, text), needs)| (name.as_str(), text.as_str(), needs.as_slice()))
            .collect();
        change.put_parts_on(kind, name, (&base, &needs), &parts)
    }
}
