//! Redirects the traffic of a lab host to its Envoy with `evermesh-proxy-init`, the program of the init container.
//!
//! | direction | traffic | goes to port |
//! |---|---|---|
//! | ingress | connections from other hosts to one of the `app_ports` | 15000 |
//! | egress | TCP connections to other hosts, except Envoy's own and those to ignored addresses and ports | 15001 |
//!
//! Connections to loopback and to the host's own address are not redirected.

use std::net::IpAddr;

use anyhow::Result;

use crate::{
    hosts::{LabHost, PROXY_MARK, PROXY_UID, ProxyIdentity},
    process, tools,
};

/// Port on which Envoy accepts ingress traffic.
pub const INGRESS_PORT: u16 = 15000;

/// Port on which Envoy accepts egress traffic.
pub const EGRESS_PORT: u16 = 15001;

#[derive(Clone, Debug, Default)]
pub struct Interception {
    /// Ports of the application that other hosts reach through Envoy.
    pub app_ports: Vec<u16>,
    /// Destinations that the application calls directly.
    pub ignored_ips: Vec<IpAddr>,
    /// Ports that the application calls directly at any address.
    pub ignored_ports: Vec<u16>,
}

impl Interception {
    /// Installs the rules on the host; they replace earlier ones.
    pub fn install(&self, host: &LabHost) -> Result<()> {
        self.run(host, &[]).map(drop)
    }

    /// Runs `evermesh-proxy-init` with more arguments and returns its output.
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
            .env("APPMESH_APP_PORTS", comma_separated(&self.app_ports))
            .env(
                "APPMESH_EGRESS_IGNORED_IP",
                comma_separated(&self.ignored_ips),
            )
            .env(
                "APPMESH_EGRESS_IGNORED_PORTS",
                comma_separated(&self.ignored_ports),
            )
            // Only root may write to the default folder of this lock.
            .env("XTABLES_LOCKFILE", host.dir().join("xtables.lock"));
        process::run(&mut command)
    }
}

fn comma_separated<T: ToString>(all: &[T]) -> String {
    let all: Vec<String> = all.iter().map(ToString::to_string).collect();
    all.join(",")
}
