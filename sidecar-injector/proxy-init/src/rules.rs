//! The rules of one IP family, in words that every backend has. Pure.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::plan::{Exempt, Plan};

/// What comes in to a port of the application.
pub(crate) const INGRESS: &str = "APPMESH_INGRESS";

/// What goes out.
pub(crate) const EGRESS: &str = "APPMESH_EGRESS";

/// An IP family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// Where the kernel enters the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    /// Of what comes in.
    Prerouting,
    /// Of what goes out.
    Output,
}

/// A chain that is entered from a hook by TCP connections from or to somewhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    pub(crate) hook: Hook,
    /// The first that matches decides.
    pub(crate) rules: Vec<Rule>,
}

/// What matches, and what then happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) matches: Match,
    pub(crate) verdict: Verdict,
}

/// Of which connections a rule is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Match {
    /// All.
    Any,
    /// Those to a port of a set, which has a name.
    Ports(&'static str, BTreeSet<u16>),
    /// Those to a network.
    Network(IpNet),
    /// Those of somebody.
    Of(Exempt),
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes where it wanted.
    Return,
    /// It goes to this port of ours.
    Redirect(u16),
}

impl Hook {
    /// The kernel's name.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Output => "OUTPUT",
        }
    }
}

/// The chains of a family.
pub(crate) fn chains(plan: &Plan, family: Family) -> Vec<Chain> {
    let mut chains = Vec::new();
    if !plan.app_ports.is_empty() {
        chains.push(Chain {
            name: INGRESS,
            hook: Hook::Prerouting,
            rules: vec![Rule {
                matches: Match::Ports("app_ports", plan.app_ports.clone()),
                verdict: Verdict::Redirect(plan.ingress_port),
            }],
        });
    }
    let mut ignored: Vec<Match> = plan.exempt.iter().copied().map(Match::Of).collect();
    if !plan.ignored_ports.is_empty() {
        let ports = plan.ignored_ports.clone();
        ignored.push(Match::Ports("ignored_ports", ports));
    }
    let networks = plan.ignored_networks.iter();
    let networks = networks.filter(|network| (family == Family::V4) == network.addr().is_ipv4());
    ignored.extend(networks.copied().map(Match::Network));
    let rules = ignored.into_iter().map(|matches| Rule {
        matches,
        verdict: Verdict::Return,
    });
    let rest = Rule {
        matches: Match::Any,
        verdict: Verdict::Redirect(plan.egress_port),
    };
    chains.push(Chain {
        name: EGRESS,
        hook: Hook::Output,
        rules: rules.chain([rest]).collect(),
    });
    chains
}
