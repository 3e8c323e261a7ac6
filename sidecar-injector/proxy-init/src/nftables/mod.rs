//! The nftables backend: one table per family, as netlink messages for the kernel and as input for `nft`.
//!
//! The program talks to the kernel over netlink instead of running `nft`, so that the image is one static file. A test
//! checks that the messages and the text create the same table.

mod message;
mod socket;

use std::fmt::Write as _;

pub(crate) use self::socket::NetlinkError;
use crate::{
    plan::Exempt,
    rules::{Chain, Hook, Match, NetfilterFamily, Rule, RuleVerdict},
};

const TABLE: &str = "evermesh";

/// The priority of destination NAT (`NF_IP_PRI_NAT_DST`).
const PRIORITY: i32 = -100;

/// Replaces the tables of these families, all in one step.
pub(crate) fn write(families: &[(NetfilterFamily, Vec<Chain>)]) -> Result<(), NetlinkError> {
    socket::send(message::replace(families))
}

/// Removes the table of a family, if it exists.
pub(crate) fn remove(family: NetfilterFamily) -> Result<(), NetlinkError> {
    socket::send(message::remove(family))
}

/// The input of `nft -f -` that does the same as [`write()`] for one family.
pub(crate) fn text(family: NetfilterFamily, chains: &[Chain]) -> String {
    let family_name = match family {
        NetfilterFamily::V4 => "ip",
        NetfilterFamily::V6 => "ip6",
    };
    let table = format!("table {family_name} {TABLE}");
    // Deleting a table that does not exist is an error, so it is created first.
    let mut text = format!("{table}\ndelete {table}\n{table} {{\n");
    // Writing to a string does not fail.
    for (name, ports) in sets(chains) {
        let ports: Vec<String> = ports.map(|port| port.to_string()).collect();
        let ports = ports.join(", ");
        let _ = writeln!(
            text,
            "\tset {name} {{\n\t\ttype inet_service\n\t\telements = {{ {ports} }}\n\t}}"
        );
    }
    for chain in chains {
        let (hook, remote_address) = match chain.hook {
            Hook::Prerouting => ("prerouting", "saddr"),
            Hook::Output => ("output", "daddr"),
        };
        let _ = writeln!(text, "\tchain {} {{", chain.name);
        let _ = writeln!(
            text,
            "\t\ttype nat hook {hook} priority {PRIORITY}; policy accept;"
        );
        let _ = writeln!(text, "\t\tfib {remote_address} type local return");
        for rule in &chain.rules {
            let _ = writeln!(text, "\t\t{}", statement(family_name, rule));
        }
        text.push_str("\t}\n");
    }
    text.push_str("}\n");
    text
}

fn statement(family: &str, rule: &Rule) -> String {
    let matches = match &rule.matches {
        Match::Any => "meta l4proto tcp".to_owned(),
        Match::Ports(set, _) => format!("tcp dport @{set}"),
        Match::Network(network) => format!("{family} daddr {network}"),
        Match::Of(Exempt::Uid(uid)) => format!("meta skuid {uid}"),
        Match::Of(Exempt::Gid(gid)) => format!("meta skgid {gid}"),
        Match::Of(Exempt::Mark(mark)) => format!("meta mark {mark}"),
    };
    match rule.verdict {
        RuleVerdict::Return => format!("{matches} return"),
        RuleVerdict::Redirect(port) => format!("{matches} redirect to :{port}"),
    }
}

/// The sets of ports that rules refer to, by name.
fn sets(chains: &[Chain]) -> impl Iterator<Item = (&'static str, impl Iterator<Item = u16>)> {
    let rules = chains.iter().flat_map(|chain| &chain.rules);
    rules.filter_map(|rule| match &rule.matches {
        Match::Ports(name, ports) => Some((*name, ports.iter().copied())),
        Match::Any | Match::Network(_) | Match::Of(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        plan::{InterceptionPlan, tests::settings},
        rules::chains,
    };

    #[test]
    fn rules_equal_those_of_app_mesh() {
        let plan = InterceptionPlan::read(&settings()).unwrap().unwrap();
        let expected = "\
table ip evermesh
delete table ip evermesh
table ip evermesh {
	set app_ports {
		type inet_service
		elements = { 443, 8080 }
	}
	set ignored_ports {
		type inet_service
		elements = { 22, 25 }
	}
	chain APPMESH_INGRESS {
		type nat hook prerouting priority -100; policy accept;
		fib saddr type local return
		tcp dport @app_ports redirect to :15000
	}
	chain APPMESH_EGRESS {
		type nat hook output priority -100; policy accept;
		fib daddr type local return
		meta skuid 1337 return
		tcp dport @ignored_ports return
		ip daddr 10.0.0.0/8 return
		ip daddr 169.254.169.254/32 return
		meta l4proto tcp redirect to :15001
	}
}
";
        assert_eq!(
            text(NetfilterFamily::V4, &chains(&plan, NetfilterFamily::V4)),
            expected
        );
        let v6 = text(NetfilterFamily::V6, &chains(&plan, NetfilterFamily::V6));
        assert!(v6.contains("ip6 daddr fd00:ec2::254/128 return"), "{v6}");
        assert!(!v6.contains("169.254"), "{v6}");
    }

    #[test]
    fn no_inbound_chain_without_application_ports() {
        let mut settings = settings();
        settings.app_ports = None;
        let plan = InterceptionPlan::read(&settings).unwrap().unwrap();
        let text = text(NetfilterFamily::V4, &chains(&plan, NetfilterFamily::V4));
        assert!(!text.contains("INGRESS"), "{text}");
    }
}
