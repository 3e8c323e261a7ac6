//! The chains of one IP family, in terms that both backends have.
//!
//! No I/O: a plan becomes chains, and the backends write the chains.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::plan::{Exempt, InterceptionPlan};

/// The chain for inbound connections.
pub(crate) const INGRESS: &str = "APPMESH_INGRESS";

/// The chain for outbound connections.
pub(crate) const EGRESS: &str = "APPMESH_EGRESS";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NetfilterFamily {
    V4,
    V6,
}

/// The netfilter hook from which the kernel enters a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    /// Inbound connections.
    Prerouting,
    /// Outbound connections.
    Output,
}

/// A chain of rules. The backends let connections that stay on this host skip it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    pub(crate) hook: Hook,
    /// The first rule that matches decides.
    pub(crate) rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) matches: Match,
    pub(crate) verdict: RuleVerdict,
}

/// The connections that a rule applies to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Match {
    /// Every TCP connection.
    Any,
    /// TCP connections to one of these ports. nftables keeps the ports in a set of this name.
    Ports(&'static str, BTreeSet<u16>),
    /// Connections to this network.
    Network(IpNet),
    /// Connections of this user or group, or with this mark.
    Of(Exempt),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RuleVerdict {
    /// Leave the connection unchanged.
    Return,
    /// Send the connection to this port of the host.
    Redirect(u16),
}

impl Hook {
    /// The name in iptables.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Output => "OUTPUT",
        }
    }
}

/// The chains of a family. Without application ports there is no inbound chain.
pub(crate) fn chains(plan: &InterceptionPlan, family: NetfilterFamily) -> Vec<Chain> {
    let mut chains = Vec::new();
    if !plan.app_ports.is_empty() {
        chains.push(Chain {
            name: INGRESS,
            hook: Hook::Prerouting,
            rules: vec![Rule {
                matches: Match::Ports("app_ports", plan.app_ports.clone()),
                verdict: RuleVerdict::Redirect(plan.ingress_port),
            }],
        });
    }
    let mut ignored: Vec<Match> = plan.exempt.iter().copied().map(Match::Of).collect();
    if !plan.ignored_ports.is_empty() {
        let ports = plan.ignored_ports.clone();
        ignored.push(Match::Ports("ignored_ports", ports));
    }
    let is_v4 = family == NetfilterFamily::V4;
    let networks = plan.ignored_networks.iter();
    let networks = networks.filter(|network| is_v4 == network.addr().is_ipv4());
    ignored.extend(networks.copied().map(Match::Network));
    let ignored = ignored.into_iter().map(|matches| Rule {
        matches,
        verdict: RuleVerdict::Return,
    });
    let others = Rule {
        matches: Match::Any,
        verdict: RuleVerdict::Redirect(plan.egress_port),
    };
    chains.push(Chain {
        name: EGRESS,
        hook: Hook::Output,
        rules: ignored.chain([others]).collect(),
    });
    chains
}
