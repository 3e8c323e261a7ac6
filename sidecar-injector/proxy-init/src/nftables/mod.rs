//! The rules as tables of nftables, one for each family, in the words of `nft` and as messages for the kernel.
//!
//! The kernel is told by netlink and not through `nft`, so that the image is one static file: what is needed of the
//! protocol fits in [`message`]. A test holds that both ways make the same table.

mod message;
mod socket;

use std::fmt::Write as _;

pub(crate) use self::socket::Refusal;
use crate::{
    plan::Exempt,
    rules::{Chain, Family, Hook, Match, Rule, Verdict},
};

/// The name of the table.
const TABLE: &str = "evermesh";

/// Where the kernel translates destinations (`NF_IP_PRI_NAT_DST`).
const PRIORITY: i32 = -100;

/// Makes these the only chains of ours in each family, in one step.
pub(crate) fn write(families: &[(Family, Vec<Chain>)]) -> Result<(), Refusal> {
    socket::send(message::replace(families))
}

/// Removes what [`write()`] wrote, in one step.
pub(crate) fn remove(family: Family) -> Result<(), Refusal> {
    socket::send(message::remove(family))
}

/// What [`write()`] does, in the words of `nft -f -`.
pub(crate) fn text(family: Family, chains: &[Chain]) -> String {
    let family_name = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    let table = format!("table {family_name} {TABLE}");
    // It is made first so that there is one to delete.
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
        let (hook, end) = match chain.hook {
            Hook::Prerouting => ("prerouting", "saddr"),
            Hook::Output => ("output", "daddr"),
        };
        let _ = writeln!(text, "\tchain {} {{", chain.name);
        let _ = writeln!(
            text,
            "\t\ttype nat hook {hook} priority {PRIORITY}; policy accept;"
        );
        let _ = writeln!(text, "\t\tfib {end} type local return");
        for rule in &chain.rules {
            let _ = writeln!(text, "\t\t{}", words(family_name, rule));
        }
        text.push_str("\t}\n");
    }
    text.push_str("}\n");
    text
}

fn words(family: &str, rule: &Rule) -> String {
    let matches = match &rule.matches {
        Match::Any => "meta l4proto tcp".to_owned(),
        Match::Ports(set, _) => format!("tcp dport @{set}"),
        Match::Network(network) => format!("{family} daddr {network}"),
        Match::Of(Exempt::Uid(uid)) => format!("meta skuid {uid}"),
        Match::Of(Exempt::Gid(gid)) => format!("meta skgid {gid}"),
        Match::Of(Exempt::Mark(mark)) => format!("meta mark {mark}"),
    };
    match rule.verdict {
        Verdict::Return => format!("{matches} return"),
        Verdict::Redirect(port) => format!("{matches} redirect to :{port}"),
    }
}

/// The sets that rules refer to.
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
        plan::{Plan, tests::settings},
        rules::chains,
    };

    #[test]
    fn the_rules_are_those_of_app_mesh() {
        let plan = Plan::read(&settings()).unwrap().unwrap();
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
        assert_eq!(text(Family::V4, &chains(&plan, Family::V4)), expected);
        let v6 = text(Family::V6, &chains(&plan, Family::V6));
        assert!(v6.contains("ip6 daddr fd00:ec2::254/128 return"), "{v6}");
        assert!(!v6.contains("169.254"), "{v6}");
    }

    #[test]
    fn without_ports_of_the_application_nothing_that_comes_in_is_caught() {
        let mut settings = settings();
        settings.app_ports = None;
        let plan = Plan::read(&settings).unwrap().unwrap();
        let text = text(Family::V4, &chains(&plan, Family::V4));
        assert!(!text.contains("INGRESS"), "{text}");
    }
}
