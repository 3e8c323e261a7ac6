//! The iptables backend: a script for `iptables-restore` with the chains of App Mesh's init container in the table nat.
//!
//! No I/O: the caller runs `iptables-save` and `iptables-restore`.

use std::fmt::Write as _;

use crate::{
    plan::Exempt,
    rules::{Chain, EGRESS, Hook, INGRESS, Match, Rule, RuleVerdict},
};

/// Limit for the ports of one rule (iptables-extensions(8), multiport).
const PORTS_PER_RULE: usize = 15;

/// The input of `iptables-restore --noflush` that replaces the chains of this program in one step. Other chains and
/// rules stay.
///
/// `current` is the table nat as `iptables-save` prints it.
pub(crate) fn script(current: &str, chains: &[Chain]) -> String {
    let mut script = "*nat\n".to_owned();
    let exists = |chain: &str| {
        current
            .lines()
            .any(|it| it.starts_with(&format!(":{chain} ")))
    };
    for chain in chains {
        // Creates the chain, or empties an existing one.
        line(&mut script, &format!(":{} - [0:0]", chain.name));
    }
    for entry in current.lines().filter_map(|it| it.strip_prefix("-A ")) {
        let target = entry.rsplit(' ').next().unwrap_or_default();
        if [INGRESS, EGRESS].contains(&target) {
            line(&mut script, &format!("-D {entry}"));
        }
    }
    for chain in [INGRESS, EGRESS] {
        if exists(chain) && chains.iter().all(|it| it.name != chain) {
            line(&mut script, &format!("-F {chain}"));
            line(&mut script, &format!("-X {chain}"));
        }
    }
    for chain in chains {
        let remote = match chain.hook {
            Hook::Prerouting => "! --src-type LOCAL",
            Hook::Output => "! --dst-type LOCAL",
        };
        let (hook, name) = (chain.hook.as_str(), chain.name);
        line(
            &mut script,
            &format!("-A {hook} -p tcp -m addrtype {remote} -j {name}"),
        );
        for rule in &chain.rules {
            for specification in specifications(rule) {
                line(&mut script, &format!("-A {name} {specification}"));
            }
        }
    }
    script.push_str("COMMIT\n");
    script
}

/// The rule specifications for one rule: several if it has more ports than iptables allows.
fn specifications(rule: &Rule) -> Vec<String> {
    let verdict = match rule.verdict {
        RuleVerdict::Return => "-j RETURN".to_owned(),
        RuleVerdict::Redirect(port) => format!("-j REDIRECT --to-ports {port}"),
    };
    let matches = match &rule.matches {
        Match::Any => vec!["-p tcp".to_owned()],
        Match::Ports(_, ports) => {
            let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
            let chunks = ports.chunks(PORTS_PER_RULE).map(|ports| ports.join(","));
            chunks
                .map(|ports| format!("-p tcp -m multiport --dports {ports}"))
                .collect()
        }
        Match::Network(network) => vec![format!("-d {network}")],
        Match::Of(Exempt::Uid(uid)) => vec![format!("-m owner --uid-owner {uid}")],
        Match::Of(Exempt::Gid(gid)) => vec![format!("-m owner --gid-owner {gid}")],
        Match::Of(Exempt::Mark(mark)) => vec![format!("-m mark --mark {mark}")],
    };
    let matches = matches.into_iter();
    matches
        .map(|matches| format!("{matches} {verdict}"))
        .collect()
}

fn line(script: &mut String, line: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(script, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        plan::{InterceptionPlan, tests::settings},
        rules::{NetfilterFamily, chains},
    };

    #[test]
    fn rules_equal_those_of_app_mesh() {
        let plan = InterceptionPlan::read(&settings()).unwrap().unwrap();
        let expected = "\
*nat
:APPMESH_INGRESS - [0:0]
:APPMESH_EGRESS - [0:0]
-A PREROUTING -p tcp -m addrtype ! --src-type LOCAL -j APPMESH_INGRESS
-A APPMESH_INGRESS -p tcp -m multiport --dports 443,8080 -j REDIRECT --to-ports 15000
-A OUTPUT -p tcp -m addrtype ! --dst-type LOCAL -j APPMESH_EGRESS
-A APPMESH_EGRESS -m owner --uid-owner 1337 -j RETURN
-A APPMESH_EGRESS -p tcp -m multiport --dports 22,25 -j RETURN
-A APPMESH_EGRESS -d 10.0.0.0/8 -j RETURN
-A APPMESH_EGRESS -d 169.254.169.254/32 -j RETURN
-A APPMESH_EGRESS -p tcp -j REDIRECT --to-ports 15001
COMMIT
";
        assert_eq!(script("", &chains(&plan, NetfilterFamily::V4)), expected);
        let v6 = script("", &chains(&plan, NetfilterFamily::V6));
        assert!(v6.contains("-d fd00:ec2::254/128 -j RETURN"), "{v6}");
        assert!(!v6.contains("169.254"), "{v6}");
    }

    #[test]
    fn rule_lists_at_most_fifteen_ports() {
        let mut settings = settings();
        let ports: Vec<String> = (1..=40).map(|port| port.to_string()).collect();
        settings.app_ports = Some(ports.join(","));
        let plan = InterceptionPlan::read(&settings).unwrap().unwrap();
        let script = script("", &chains(&plan, NetfilterFamily::V4));
        let rules = script.lines().filter(|it| it.contains("15000")).count();
        assert_eq!(rules, 3, "{script}");
    }

    #[test]
    fn existing_chains_are_replaced_and_others_stay() {
        let current = "\
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:APPMESH_EGRESS - [0:0]
:APPMESH_INGRESS - [0:0]
:OTHER - [0:0]
-A PREROUTING -p tcp -m addrtype ! --src-type LOCAL -j APPMESH_INGRESS
-A OUTPUT -p tcp -m addrtype ! --dst-type LOCAL -j APPMESH_EGRESS
-A OUTPUT -j OTHER
-A APPMESH_EGRESS -p tcp -j REDIRECT --to-ports 15001
COMMIT
";
        let cleaned = "\
*nat
-D PREROUTING -p tcp -m addrtype ! --src-type LOCAL -j APPMESH_INGRESS
-D OUTPUT -p tcp -m addrtype ! --dst-type LOCAL -j APPMESH_EGRESS
-F APPMESH_INGRESS
-X APPMESH_INGRESS
-F APPMESH_EGRESS
-X APPMESH_EGRESS
COMMIT
";
        assert_eq!(script(current, &[]), cleaned);
        let mut settings = settings();
        settings.app_ports = None;
        let plan = InterceptionPlan::read(&settings).unwrap().unwrap();
        let again = script(current, &chains(&plan, NetfilterFamily::V4));
        assert!(again.contains("-X APPMESH_INGRESS"), "{again}");
        assert!(!again.contains("-X APPMESH_EGRESS"), "{again}");
        assert!(again.contains("-D OUTPUT"), "{again}");
    }
}
