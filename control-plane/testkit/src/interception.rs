//! The rules that send a host's traffic through its Envoy, as App Mesh's init container wrote them into a pod.
//!
//! In: connections from elsewhere to a listed port go to Envoy's port 15000.
//! Out: every other TCP connection that leaves the host goes to port 15001, but for Envoy's own and what is ignored.
//! Calls to loopback and to the host's own address are left alone.

use std::{fs, net::Ipv4Addr};

use anyhow::Result;

use crate::hosts::{Host, PROXY_MARK, PROXY_UID, ProxyIdentity};

/// Envoy's port for what comes in.
pub const INGRESS_PORT: u16 = 15000;

/// Envoy's port for what goes out.
pub const EGRESS_PORT: u16 = 15001;

/// What to intercept.
#[derive(Clone, Debug, Default)]
pub struct Interception {
    /// Ports of the application that callers reach through Envoy.
    pub app_ports: Vec<u16>,
    /// Addresses that the application calls directly.
    pub ignored_ips: Vec<Ipv4Addr>,
    /// Ports that the application calls directly, wherever they are.
    pub ignored_ports: Vec<u16>,
}

impl Interception {
    /// Writes the rules into the host, replacing earlier ones.
    pub fn install(&self, host: &Host) -> Result<()> {
        let file = host.dir().join(format!("{}.rules", host.name()));
        fs::write(&file, self.rules(host.proxy_identity()))?;
        // The lock of iptables lies where only root may write.
        host.shell(&format!(
            "XTABLES_LOCKFILE={0}.lock iptables-restore {0}",
            file.display()
        ))
        .map(drop)
    }

    /// The table in the words of `iptables-restore`, which replaces it in one step.
    pub(crate) fn rules(&self, identity: ProxyIdentity) -> String {
        let mut rules = vec![
            "PREROUTING -p tcp -m addrtype ! --src-type LOCAL -j INGRESS".to_owned(),
            "OUTPUT -p tcp -m addrtype ! --dst-type LOCAL -j EGRESS".to_owned(),
        ];
        rules.extend(self.app_ports.iter().map(|port| {
            format!("INGRESS -p tcp --dport {port} -j REDIRECT --to-ports {INGRESS_PORT}")
        }));
        rules.push(match identity {
            ProxyIdentity::Uid => format!("EGRESS -m owner --uid-owner {PROXY_UID} -j RETURN"),
            ProxyIdentity::Mark => format!("EGRESS -m mark --mark {PROXY_MARK} -j RETURN"),
        });
        rules.extend(
            self.ignored_ports
                .iter()
                .map(|port| format!("EGRESS -p tcp --dport {port} -j RETURN")),
        );
        rules.extend(
            self.ignored_ips
                .iter()
                .map(|ip| format!("EGRESS -d {ip} -j RETURN")),
        );
        rules.push(format!(
            "EGRESS -p tcp -j REDIRECT --to-ports {EGRESS_PORT}"
        ));
        format!(
            "*nat\n:INGRESS -\n:EGRESS -\n-A {}\nCOMMIT\n",
            rules.join("\n-A ")
        )
    }
}
