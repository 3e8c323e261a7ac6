//! The invariants:
//!
//! - At most one response per type is in flight.
//! - Make before break: with a wildcard subscription to clusters, a listener or route consists of elements (its base and
//!   its parts) whose clusters the client has, with their endpoints. An element that needs a cluster that the client
//!   rejected is as in the client's copy. Only a client without a copy gets an element whose cluster it rejected.
//! - Liveness: while the server has no response, a listener or route that the client lacks needs a cluster that the
//!   client has not answered or has rejected, or is bad itself.
//! - With a wildcard subscription to clusters, a cluster is not removed while a listener or route of the client needs
//!   it. A state-of-the-world client cannot tell the server what it kept from an earlier stream, so there the check
//!   covers resources that the client ACKed on this stream.
//! - The endpoints of a sent cluster follow it.

use std::collections::{BTreeMap, BTreeSet};

use evermesh_proto::resource::ResourceType::{self, Cluster, Endpoint, Listener, Route, Secret};
use evermesh_xds::XdsVariant;

use crate::{
    Simulation,
    script::{Content, Element, KINDS, NAMES},
    support::client::Response,
};

impl Simulation {
    /// The ones that the client lacks of a cluster and its endpoints, as far as the server knows, each with whether the
    /// client rejected it.
    fn lacked(&self, cluster: &str) -> impl Iterator<Item = (ResourceType, bool)> {
        [Cluster, Endpoint].into_iter().filter_map(move |kind| {
            let resource = (kind, cluster.to_owned());
            let lacks_copy = match self.variant {
                XdsVariant::Delta => !self.client.resources(kind).contains_key(cluster),
                // The server does not know what the client kept from an earlier stream.
                XdsVariant::Sotw => !self.known.contains(&resource),
            };
            let is_lacked = self.newest(kind, cluster).is_some()
                && self.is_subscribed(kind, cluster)
                && (lacks_copy || self.is_being_removed(kind, cluster));
            is_lacked.then(|| (kind, self.rejected.contains(&resource)))
        })
    }

    fn is_being_removed(&self, kind: ResourceType, name: &str) -> bool {
        let in_flight = self.in_flight.get(&kind);
        in_flight.is_some_and(|(response, _)| {
            let is_left_out =
                self.client.has_complete_sets(kind) && !response.resources.contains_key(name);
            is_left_out || response.removed.iter().any(|removed| removed == name)
        })
    }

    fn is_rejected(&self, cluster: &str) -> bool {
        let mut lacked = self.lacked(cluster);
        lacked.any(|(kind, is_rejected)| is_rejected && !self.may_have_unknown(kind))
    }

    fn is_pending(&self, cluster: &str) -> bool {
        self.lacked(cluster).any(|(_, is_rejected)| !is_rejected)
    }

    /// Whether the server waits for the client's answer to a cluster or its endpoints.
    fn is_awaited(&self, cluster: &str) -> bool {
        let is_requested = |kind| self.requested.contains(&(kind, cluster.to_owned()));
        self.is_pending(cluster) || is_requested(Cluster) || is_requested(Endpoint)
    }

    /// Whether the server cannot know if a state-of-the-world client has a version from an earlier stream.
    fn may_have_unknown(&self, kind: ResourceType) -> bool {
        self.variant == XdsVariant::Sotw
            && kind.supports_wildcard()
            && !self.acked_types.contains(&kind)
    }

    pub(crate) fn check_response(&self, response: &Response) {
        let kind = response.kind;
        assert!(
            !self.in_flight.contains_key(&kind),
            "two {kind} responses in flight"
        );
        if !matches!(kind, Listener | Route) || !self.is_wildcard(Cluster) {
            return;
        }
        // A complete set repeats what the client has, including what it ACKed before it had the wildcard.
        let resources = self.client.resources(kind);
        let new = response.resources.iter();
        let new = new.filter(|(name, content)| resources.get(*name) != Some(content));
        for (name, content) in new {
            let is_known = self.known.contains(&(kind, name.clone()));
            let copy = resources.get(name).filter(|_| is_known);
            let copy = copy.map(|text| Content::parse(text));
            self.check_content(kind, name, &Content::parse(content), copy.as_ref());
        }
    }

    fn check_content(
        &self,
        kind: ResourceType,
        name: &str,
        content: &Content,
        copy: Option<&Content>,
    ) {
        let newest = self.newest(kind, name).unwrap();
        assert_eq!(content.base, newest.base, "base of {kind} {name}");
        self.check_element(&content.base, None, copy.is_some());
        let is_blocked = |element: &Element| element.needs_any_of(|need| self.is_rejected(need));
        let any_is_blocked = newest.elements().any(is_blocked);
        let sent = content.parts.keys().chain(newest.parts.keys());
        let old = copy.into_iter().flat_map(|copy| copy.parts.keys());
        for part in sent.chain(old).collect::<BTreeSet<_>>() {
            let kept = copy.and_then(|copy| copy.parts.get(part));
            let expected = match newest.parts.get(part) {
                Some(wanted) if copy.is_some() && is_blocked(wanted) => kept,
                None if any_is_blocked => kept,
                wanted => wanted,
            };
            let sent = content.parts.get(part);
            assert_eq!(sent, expected, "part {part} of {kind} {name}");
            if let Some(sent) = sent {
                self.check_element(sent, kept, copy.is_some());
            }
        }
    }

    /// Checks that the client has the clusters of an element.
    fn check_element(&self, element: &Element, kept: Option<&Element>, has_copy: bool) {
        for need in &element.needs {
            let is_lacked = self.is_pending(need) || (has_copy && self.is_rejected(need));
            assert!(
                !is_lacked || kept == Some(element),
                "{element:?} was sent, and the client lacks the cluster {need}"
            );
        }
    }

    pub(crate) fn check_that_nothing_waits_without_a_reason(&self) {
        for kind in [Listener, Route] {
            if self.in_flight.contains_key(&kind) {
                continue;
            }
            let resources = self.client.resources(kind);
            let waits = |name: &&str| {
                self.is_subscribed(kind, name)
                    && self.newest(kind, name).is_some_and(|newest| {
                        !newest.is_bad() && resources.get(*name) != Some(&newest.text())
                    })
            };
            let needs_an_answer = |name: &str| {
                let mut needs = self.newest(kind, name).unwrap().needs();
                needs.any(|need| self.is_awaited(need))
            };
            let waiting: Vec<&str> = NAMES.into_iter().filter(waits).collect();
            // The first listeners wait for each other.
            let is_first_set = kind == Listener && !self.acked_types.contains(&kind);
            let subscribed = NAMES
                .into_iter()
                .filter(|name| self.is_subscribed(kind, name) && self.newest(kind, name).is_some());
            let first_waits = is_first_set && subscribed.into_iter().any(needs_an_answer);
            for name in waiting {
                let mut needs = self.newest(kind, name).unwrap().needs();
                let is_explained = self.is_wildcard(Cluster)
                    && (first_waits
                        || needs_an_answer(name)
                        || needs.any(|need| self.is_rejected(need)));
                assert!(is_explained, "{kind} {name} waits without a reason");
            }
        }
    }

    /// Names of the client's resources of a type that the server knows.
    pub(crate) fn known_names(&self, kind: ResourceType) -> BTreeSet<String> {
        let known = self.known.iter().filter(|(found, _)| *found == kind);
        known.map(|(_, name)| name.clone()).collect()
    }

    /// Checks that the client did not lose a cluster that its listeners and routes need.
    pub(crate) fn check_removed_clusters(&self, before: &BTreeSet<String>) {
        let after = self.known_names(Cluster);
        for kind in [Listener, Route] {
            for (name, content) in self.client.resources(kind) {
                if self.variant == XdsVariant::Sotw && !self.known.contains(&(kind, name.clone())) {
                    continue;
                }
                for need in Content::parse(&content).needs() {
                    assert!(
                        !before.contains(need) || after.contains(need),
                        "cluster {need} was removed before {kind} {name} that needs it"
                    );
                }
            }
        }
    }

    /// Checks what the client has after the server has sent everything.
    pub(crate) fn check_end(&self) {
        assert!(
            self.warming.is_empty(),
            "no endpoints followed the clusters {:?}",
            self.warming
        );
        for kind in KINDS {
            let resources = self.client.resources(kind);
            for name in NAMES {
                let found = resources.get(name).map(|text| Content::parse(text));
                match self.newest(kind, name) {
                    _ if !self.is_subscribed(kind, name) => {
                        assert_eq!(found, None, "{kind} {name}");
                    }
                    Some(newest) => self.check_last(kind, name, newest, found.as_ref()),
                    None if self.may_keep_removed(kind, name) => {}
                    None => assert_eq!(found, None, "{kind} {name}"),
                }
            }
        }
    }

    fn check_last(
        &self,
        kind: ResourceType,
        name: &str,
        newest: &Content,
        found: Option<&Content>,
    ) {
        assert!(found.is_none_or(|found| !found.is_bad()), "{kind} {name}");
        let is_blocked = |element: &Element| {
            matches!(kind, Listener | Route)
                && self.is_wildcard(Cluster)
                && element.needs_any_of(|need| self.is_rejected(need))
        };
        let is_known = self.known.contains(&(kind, name.to_owned()));
        let any_is_blocked = newest.elements().any(&is_blocked);
        if is_blocked(&newest.base) || (any_is_blocked && !is_known) {
            return;
        }
        let free: BTreeMap<_, _> = newest
            .parts
            .iter()
            .filter(|(_, part)| !is_blocked(part))
            .collect();
        let is_bad = |element: &Element| element.word == crate::BAD;
        if is_bad(&newest.base) || free.values().any(|part| is_bad(part)) {
            return;
        }
        if !any_is_blocked {
            assert_eq!(found, Some(newest), "{kind} {name}");
            return;
        }
        let found = found.unwrap_or_else(|| panic!("{kind} {name} is missing"));
        assert_eq!(found.base, newest.base, "{kind} {name}");
        for (part, wanted) in free {
            assert_eq!(found.parts.get(part), Some(wanted), "{kind} {name}, {part}");
        }
    }

    /// Whether the client may have a resource that the store removed.
    fn may_keep_removed(&self, kind: ResourceType, name: &str) -> bool {
        match kind {
            // State of the world cannot express that endpoints and routes were removed.
            Endpoint | Route if self.variant == XdsVariant::Sotw => true,
            // A resource from an earlier stream, if the client NACKed every complete set on this one and a set without the
            // rejected resource would remove its last good version.
            Cluster | Listener if self.may_have_unknown(kind) && self.has_subscribed_bad(kind) => {
                true
            }
            Cluster => self.is_cluster_needed(name) || self.has_unknown_referring(),
            // Endpoints are removed after clusters.
            Endpoint => self.has_removed_cluster(),
            Listener | Route | Secret => false,
        }
    }

    /// Whether the client's copy of a listener or route needs the cluster.
    fn is_cluster_needed(&self, cluster: &str) -> bool {
        let kinds = [Listener, Route].into_iter();
        let contents = kinds.flat_map(|kind| self.client.resources(kind).into_values());
        contents
            .map(|text| Content::parse(&text))
            .any(|content| content.needs().any(|need| need == cluster))
    }

    /// Whether the client keeps a listener or route from an earlier stream whose needs the server does not know.
    fn has_unknown_referring(&self) -> bool {
        let keeps = |kind: ResourceType| {
            let resources = self.client.resources(kind);
            resources
                .keys()
                .any(|name| !self.known.contains(&(kind, name.clone())))
        };
        match self.variant {
            XdsVariant::Delta => keeps(Listener) || keeps(Route),
            XdsVariant::Sotw => {
                self.may_have_unknown(Listener) && self.has_subscribed_bad(Listener)
            }
        }
    }

    fn has_removed_cluster(&self) -> bool {
        let clusters = self.client.resources(Cluster);
        let mut removed = NAMES
            .iter()
            .filter(|name| self.newest(Cluster, name).is_none());
        removed.any(|name| clusters.contains_key(*name))
    }

    fn has_subscribed_bad(&self, kind: ResourceType) -> bool {
        let contents = self.contents.iter();
        let mut subscribed =
            contents.filter(|((found, name), _)| *found == kind && self.is_subscribed(kind, name));
        subscribed.any(|(_, content)| content.is_bad())
    }
}
