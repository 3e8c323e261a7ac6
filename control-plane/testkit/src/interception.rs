//! A host's traffic through its Envoy, by the program that does it in a pod.
//!
//! In: connections from elsewhere to a listed port go to Envoy's port 15000.
//! Out: every other TCP connection that leaves the host goes to port 15001, but for Envoy's own and what is ignored.
//! Calls to loopback and to the host's own address are left alone.

use std::net::IpAddr;

use anyhow::Result;

use crate::{
    hosts::{LabHost, PROXY_MARK, PROXY_UID, ProxyIdentity},
    process, tools,
};

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
    pub ignored_ips: Vec<IpAddr>,
    /// Ports that the application calls directly, wherever they are.
    pub ignored_ports: Vec<u16>,
}

impl Interception {
    /// Writes the rules into the host, replacing earlier ones.
    pub fn install(&self, host: &LabHost) -> Result<()> {
        self.run(host, &[]).map(drop)
    }

    /// Runs the program with these arguments, and returns what it printed.
    pub fn run(&self, host: &LabHost, arguments: &[&str]) -> Result<String> {
        let (exempt, id) = match host.proxy_identity() {
            ProxyIdentity::Uid => ("APPMESH_IGNORE_UID", PROXY_UID),
            ProxyIdentity::Mark => ("EVERMESH_IGNORE_MARK", PROXY_MARK),
        };
        let mut command = host.command(tools::built("evermesh-proxy-init")?);
        command
            .args(arguments)
            .env("APPMESH_START_ENABLED", "1")
            .env(exempt, id.to_string())
            .env("APPMESH_ENVOY_INGRESS_PORT", INGRESS_PORT.to_string())
            .env("APPMESH_ENVOY_EGRESS_PORT", EGRESS_PORT.to_string())
            .env("APPMESH_APP_PORTS", list(&self.app_ports))
            .env("APPMESH_EGRESS_IGNORED_IP", list(&self.ignored_ips))
            .env("APPMESH_EGRESS_IGNORED_PORTS", list(&self.ignored_ports))
            // The lock of iptables lies where only root may write.
            .env("XTABLES_LOCKFILE", host.dir().join("xtables.lock"));
        process::run(&mut command)
    }
}

/// As the variables have it.
fn list<T: ToString>(all: &[T]) -> String {
    let all: Vec<String> = all.iter().map(ToString::to_string).collect();
    all.join(",")
}
