//! The command line and the variables. [`crate::plan`] parses the values.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::wait::WaitUrl;

/// Redirects the TCP traffic of this network namespace to its Envoy.
///
/// Connections from other hosts to the application's ports go to Envoy's ingress port. Connections to other hosts go to
/// Envoy's egress port, except Envoy's own. Existing rules of this program are replaced. The capability `NET_ADMIN` is
/// required.
#[derive(Debug, Parser)]
#[command(
    name = "evermesh-proxy-init",
    version,
    args_conflicts_with_subcommands = true
)]
pub(crate) struct ProxyInitCli {
    #[command(subcommand)]
    pub(crate) command: Option<ProxyInitCommand>,
    #[command(flatten)]
    pub(crate) settings: InterceptionSettings,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProxyInitCommand {
    /// Wait until a URL answers with status 200, for example until Envoy is ready
    Wait(WaitArgs),
}

/// The variables of App Mesh's init container, or flags, as text. The plan parses them, so that an error names the
/// variable.
#[derive(Debug, Default, Args)]
pub(crate) struct InterceptionSettings {
    /// Write the rules if this is 1; otherwise leave the network unchanged
    #[arg(long, value_name = "1|0", env = "APPMESH_START_ENABLED")]
    pub(crate) start_enabled: Option<String>,

    /// The user that Envoy runs as; connections of this user are not intercepted. A user, a group or a mark is required
    #[arg(long, value_name = "UID", env = "APPMESH_IGNORE_UID")]
    pub(crate) ignore_uid: Option<String>,

    /// The group that Envoy runs as; connections of this group are not intercepted
    #[arg(long, value_name = "GID", env = "APPMESH_IGNORE_GID")]
    pub(crate) ignore_gid: Option<String>,

    /// A socket mark (`SO_MARK`) whose connections are not intercepted, for an Envoy without a user of its own
    #[arg(long, value_name = "MARK", env = "EVERMESH_IGNORE_MARK")]
    pub(crate) ignore_mark: Option<String>,

    /// Envoy's port for inbound connections, 15000 if unset
    #[arg(long, value_name = "PORT", env = "APPMESH_ENVOY_INGRESS_PORT")]
    pub(crate) envoy_ingress_port: Option<String>,

    /// Envoy's port for outbound connections, 15001 if unset
    #[arg(long, value_name = "PORT", env = "APPMESH_ENVOY_EGRESS_PORT")]
    pub(crate) envoy_egress_port: Option<String>,

    /// The application's ports, separated by commas; inbound connections to other ports are not intercepted
    #[arg(long, value_name = "PORTS", env = "APPMESH_APP_PORTS")]
    pub(crate) app_ports: Option<String>,

    /// IPv4 and IPv6 addresses and CIDRs, separated by commas; outbound connections to them are not intercepted
    #[arg(long, value_name = "IPS", env = "APPMESH_EGRESS_IGNORED_IP")]
    pub(crate) egress_ignored_ip: Option<String>,

    /// Ports, separated by commas; outbound connections to them are not intercepted
    #[arg(long, value_name = "PORTS", env = "APPMESH_EGRESS_IGNORED_PORTS")]
    pub(crate) egress_ignored_ports: Option<String>,

    /// 0: intercept IPv4 only. 1 or unset: intercept IPv6 as well, if the kernel has it
    #[arg(long, value_name = "1|0", env = "APPMESH_ENABLE_IPV6")]
    pub(crate) enable_ipv6: Option<String>,

    /// The firewall that holds the rules
    #[arg(
        long,
        value_name = "BACKEND",
        default_value = "auto",
        env = "EVERMESH_INTERCEPTION_BACKEND"
    )]
    pub(crate) backend: FirewallBackend,

    /// Print the rules instead of writing them
    #[arg(long, env = "EVERMESH_DRY_RUN")]
    pub(crate) dry_run: bool,

    /// Remove the rules of this program
    #[arg(long, env = "EVERMESH_CLEAN")]
    pub(crate) clean: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FirewallBackend {
    /// nftables; iptables if the kernel has no nftables and the image has the iptables programs
    #[default]
    Auto,
    /// One table `evermesh` per IP family, written over netlink
    Nftables,
    /// Chains in the table nat, written by iptables-restore and ip6tables-restore
    Iptables,
}

/// The arguments of `evermesh-proxy-init wait`.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// The URL to request
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:9901/ready",
        env = "EVERMESH_WAIT_URL"
    )]
    pub(crate) url: WaitUrl,

    /// Time after which the command fails, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "180", value_parser = seconds, env = "EVERMESH_WAIT_TIMEOUT")]
    pub(crate) timeout: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<u32>().map_err(|error| error.to_string())?;
    Ok(Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_passes_the_checks_of_clap() {
        ProxyInitCli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_a_variable() {
        let cli = ProxyInitCli::command();
        for command in cli.get_subcommands().chain([&cli]) {
            for argument in command.get_arguments() {
                let id = argument.get_id().as_str();
                let variable = argument.get_env().and_then(|name| name.to_str());
                let has_variable = variable
                    .is_some_and(|it| it.starts_with("APPMESH_") || it.starts_with("EVERMESH_"));
                assert!(has_variable || ["help", "version"].contains(&id), "--{id}");
            }
        }
    }
}
