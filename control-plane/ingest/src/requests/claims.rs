//! The claims of the routes of a router or gateway, and which of them leave nothing for another one.
//!
//! A router may have thousands of routes. So each claim is compared only with those that an index finds by host name, path
//! and one of the other conditions.

use std::collections::{BTreeMap, BTreeSet};

use evermesh_model::gateway::HostnameMatch;

use super::{PathSet, RequestSet, ValueName, expression::ParsedExpression};

/// The requests or connections that a route claims.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim<'a> {
    /// Absent for TCP connections.
    pub(crate) requests: Option<&'a RequestSet>,
    /// In lower case; absent for any host name.
    pub(crate) hostname: Option<&'a HostnameMatch>,
    /// Absent for every port.
    pub(crate) port: Option<u16>,
}

/// The port to which a route is limited, unless it is the only one.
pub(crate) fn limiting_port(port: Option<u16>, ports: impl Iterator<Item = u16>) -> Option<u16> {
    let ports: BTreeSet<u16> = ports.collect();
    port.filter(|port| ports.len() != 1 || !ports.contains(port))
}

impl Claim<'_> {
    pub(crate) fn contains(&self, other: &Self) -> bool {
        self.port.is_none_or(|port| other.port == Some(port))
            && hostname_contains(self.hostname, other.hostname)
            && match (self.requests, other.requests) {
                (Some(own), Some(other)) => own.contains(other),
                (None, None) => true,
                _ => false,
            }
    }
}

/// As in Envoy, a suffix that begins with a dot needs a label before it.
fn hostname_contains(wide: Option<&HostnameMatch>, narrow: Option<&HostnameMatch>) -> bool {
    use HostnameMatch::{Exact, Suffix};
    match (wide, narrow) {
        (None, _) => true,
        (Some(Exact(wide)), Some(Exact(narrow))) => wide == narrow,
        (Some(Suffix(wide)), Some(Suffix(narrow))) => narrow.ends_with(&**wide),
        (Some(Suffix(wide)), Some(Exact(narrow))) => {
            narrow.ends_with(&**wide) && (narrow.len() > wide.len() || !wide.starts_with('.'))
        }
        (Some(Exact(_)), Some(Suffix(_))) | (Some(_), None) => false,
    }
}

/// For each of the claims, which are in descending precedence, the first preceding one that contains it.
///
/// A claim that no request meets has none, because something else is wrong with it.
pub(crate) fn takers(claims: &[Claim<'_>]) -> Vec<Option<usize>> {
    count_takers(claims, &mut 0)
}

/// [`takers`]; counts the comparisons of two claims.
pub(super) fn count_takers(claims: &[Claim<'_>], comparisons: &mut usize) -> Vec<Option<usize>> {
    let mut index = ClaimIndex::default();
    let takers = claims.iter().enumerate().map(|(position, claim)| {
        if claim.requests.is_some_and(RequestSet::is_empty) {
            return None;
        }
        let mut candidates: Vec<usize> = index.candidates(claim);
        candidates.sort_unstable();
        let taker = candidates.into_iter().find(|candidate| {
            *comparisons += 1;
            claims[*candidate].contains(claim)
        });
        if taker.is_none() {
            index.insert(claim, position);
        }
        taker
    });
    takers.collect()
}

/// Claims by what a claim that they contain must have.
#[derive(Default)]
struct ClaimIndex<'a> {
    positions: BTreeMap<ClaimKey<'a>, Vec<usize>>,
    suffix_lengths: BTreeSet<usize>,
    prefix_lengths: BTreeSet<usize>,
    expressions: BTreeMap<&'a str, &'a ParsedExpression>,
}

type ClaimKey<'a> = (HostKey<'a>, PathKey<'a>, Option<Landmark<'a>>);
/// A name, and its value if it has only one.
type Landmark<'a> = (&'a ValueName, Option<&'a str>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum HostKey<'a> {
    Any,
    Exact(&'a str),
    Suffix(&'a str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum PathKey<'a> {
    Tcp,
    Exact(&'a str),
    Prefix(&'a str),
    Regex(&'a str),
}

impl<'a> ClaimIndex<'a> {
    fn insert(&mut self, claim: &Claim<'a>, position: usize) {
        let host = match claim.hostname {
            None => HostKey::Any,
            Some(HostnameMatch::Exact(name)) => HostKey::Exact(name),
            Some(HostnameMatch::Suffix(suffix)) => {
                self.suffix_lengths.insert(suffix.len());
                HostKey::Suffix(suffix)
            }
        };
        let path = match claim.requests.map(|requests| &requests.path) {
            None => PathKey::Tcp,
            Some(PathSet::Exact(path)) => PathKey::Exact(path),
            Some(PathSet::Prefix { prefix, .. }) => {
                self.prefix_lengths.insert(prefix.len());
                PathKey::Prefix(prefix)
            }
            Some(PathSet::Regex(expression)) => {
                self.expressions.insert(&expression.text, expression);
                PathKey::Regex(&expression.text)
            }
        };
        let landmark = claim.requests.and_then(RequestSet::landmark);
        let positions = self.positions.entry((host, path, landmark)).or_default();
        positions.push(position);
    }

    /// The positions of all claims that may contain this one.
    fn candidates(&self, claim: &Claim<'a>) -> Vec<usize> {
        let landmarks: Vec<Option<Landmark<'a>>> = match claim.requests {
            Some(requests) => requests.landmarks_of_containing().collect(),
            None => vec![None],
        };
        let mut found = Vec::new();
        let paths = self.paths(claim);
        for host in self.hosts(claim) {
            for path in &paths {
                for landmark in &landmarks {
                    let positions = self.positions.get(&(host, *path, *landmark));
                    found.extend(positions.into_iter().flatten());
                }
            }
        }
        found
    }

    fn hosts(&self, claim: &Claim<'a>) -> Vec<HostKey<'a>> {
        let (exact, name) = match claim.hostname {
            None => return vec![HostKey::Any],
            Some(HostnameMatch::Exact(name)) => (Some(HostKey::Exact(name)), &**name),
            Some(HostnameMatch::Suffix(suffix)) => (None, &**suffix),
        };
        let suffixes = self.suffix_lengths.range(..=name.len());
        let suffixes = suffixes.filter_map(|length| name.get(name.len() - length..));
        let suffixes = suffixes.map(HostKey::Suffix);
        exact
            .into_iter()
            .chain(suffixes)
            .chain([HostKey::Any])
            .collect()
    }

    fn paths(&self, claim: &Claim<'a>) -> Vec<PathKey<'a>> {
        let Some(requests) = claim.requests else {
            return vec![PathKey::Tcp];
        };
        let (own, begins) = match &requests.path {
            PathSet::Exact(path) => (Some(PathKey::Exact(path)), &**path),
            PathSet::Prefix { prefix, .. } => (None, &**prefix),
            PathSet::Regex(expression) => {
                let own = PathKey::Regex(&expression.text);
                (Some(own), expression.prefix.as_str())
            }
        };
        let prefixes = self.prefix_lengths.range(..=begins.len());
        let prefixes = prefixes.filter_map(|length| begins.get(..*length));
        // Every path begins with a slash, also those of an expression that begins with something else.
        let every = (!begins.starts_with('/')).then_some("/");
        let exact = match &requests.path {
            PathSet::Exact(path) => Some(path),
            PathSet::Prefix { .. } | PathSet::Regex(_) => None,
        };
        let expressions = exact.into_iter().flat_map(|path| {
            let accepting = self.expressions.values();
            accepting.filter(|expression| expression.accepts(path) == Some(true))
        });
        own.into_iter()
            .chain(prefixes.chain(every).map(PathKey::Prefix))
            .chain(expressions.map(|expression| PathKey::Regex(&expression.text)))
            .collect()
    }
}
