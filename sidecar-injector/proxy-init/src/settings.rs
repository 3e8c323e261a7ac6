//! What can be asked for. No logic; [`crate::plan`] reads the values.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::wait::Target;

/// Sends the TCP traffic of this network namespace through its Envoy.
///
/// Connections from elsewhere to the application's ports go to Envoy's ingress port, connections to elsewhere go to its
/// egress port, but for Envoy's own. Running it again replaces what it wrote. The capability `NET_ADMIN` is needed.
#[derive(Debug, Parser)]
#[command(
    name = "evermesh-proxy-init",
    version,
    args_conflicts_with_subcommands = true
)]
pub(crate) struct Cli {
    /// Another thing to do.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// What to intercept.
    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// Another thing to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Wait until a URL answers 200, such as until Envoy is ready
    Wait(WaitArgs),
}

/// What to intercept: the variables of App Mesh's init container, or flags. The values are read later, by the plan, so
/// that an error names the variable.
#[derive(Debug, Default, Args)]
pub(crate) struct Settings {
    /// 1 to write the rules; anything else leaves the network as it is
    #[arg(long, value_name = "1|0", env = "APPMESH_START_ENABLED")]
    pub(crate) start_enabled: Option<String>,

    /// The user that Envoy runs as: its connections are not intercepted. This or the group is needed
    #[arg(long, value_name = "UID", env = "APPMESH_IGNORE_UID")]
    pub(crate) ignore_uid: Option<String>,

    /// The group that Envoy runs as, to the same effect
    #[arg(long, value_name = "GID", env = "APPMESH_IGNORE_GID")]
    pub(crate) ignore_gid: Option<String>,

    /// A mark of sockets, to the same effect: where Envoy has no user of its own
    #[arg(long, value_name = "MARK", env = "EVERMESH_IGNORE_MARK")]
    pub(crate) ignore_mark: Option<String>,

    /// Envoy's port for what comes in, 15000 if unset
    #[arg(long, value_name = "PORT", env = "APPMESH_ENVOY_INGRESS_PORT")]
    pub(crate) envoy_ingress_port: Option<String>,

    /// Envoy's port for what goes out, 15001 if unset
    #[arg(long, value_name = "PORT", env = "APPMESH_ENVOY_EGRESS_PORT")]
    pub(crate) envoy_egress_port: Option<String>,

    /// The application's ports, separated by commas; others are reached without Envoy
    #[arg(long, value_name = "PORTS", env = "APPMESH_APP_PORTS")]
    pub(crate) app_ports: Option<String>,

    /// Addresses and CIDRs of both families, separated by commas, that are called without Envoy
    #[arg(long, value_name = "IPS", env = "APPMESH_EGRESS_IGNORED_IP")]
    pub(crate) egress_ignored_ip: Option<String>,

    /// Ports, separated by commas, that are called without Envoy wherever they are
    #[arg(long, value_name = "PORTS", env = "APPMESH_EGRESS_IGNORED_PORTS")]
    pub(crate) egress_ignored_ports: Option<String>,

    /// 0: IPv4 alone. 1 or unset: IPv6 too, where there is some
    #[arg(long, value_name = "1|0", env = "APPMESH_ENABLE_IPV6")]
    pub(crate) enable_ipv6: Option<String>,

    /// What writes the rules
    #[arg(
        long,
        value_name = "BACKEND",
        default_value = "auto",
        env = "EVERMESH_INTERCEPTION_BACKEND"
    )]
    pub(crate) backend: Backend,

    /// Print the rules and write none
    #[arg(long, env = "EVERMESH_DRY_RUN")]
    pub(crate) dry_run: bool,

    /// Remove the rules
    #[arg(long, env = "EVERMESH_CLEAN")]
    pub(crate) clean: bool,
}

/// What writes the rules.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// nftables; iptables where the kernel has no nftables and the image has the programs
    #[default]
    Auto,
    /// A table of our own for each family, written by this program itself
    Nftables,
    /// Chains in the table nat, written by iptables-restore and ip6tables-restore
    Iptables,
}

/// `evermesh-proxy-init wait`
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// What to ask, by HTTP
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:9901/ready",
        env = "EVERMESH_WAIT_URL"
    )]
    pub(crate) url: Target,

    /// How long to wait, in seconds
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
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_has_its_variable() {
        let cli = Cli::command();
        for command in cli.get_subcommands().chain([&cli]) {
            for argument in command.get_arguments() {
                let id = argument.get_id().as_str();
                let variable = argument.get_env().and_then(|name| name.to_str());
                let is_named = variable
                    .is_some_and(|it| it.starts_with("APPMESH_") || it.starts_with("EVERMESH_"));
                assert!(is_named || ["help", "version"].contains(&id), "--{id}");
            }
        }
    }
}
