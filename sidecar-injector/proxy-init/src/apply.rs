//! Runs the program without a subcommand: writes, prints or removes the rules with the chosen backend.

use std::{
    io::{self, Write},
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::{
    iptables,
    nftables::{self, NetlinkError},
    plan::{InterceptionPlan, InvalidInterceptionSettings},
    rules::{Chain, NetfilterFamily, chains},
    settings::{FirewallBackend, InterceptionSettings},
};

/// A file that exists if the kernel has IPv6.
const IPV6: &str = "/proc/net/if_inet6";

#[derive(Debug, thiserror::Error)]
pub(crate) enum InterceptionError {
    #[error(transparent)]
    Settings(#[from] InvalidInterceptionSettings),
    #[error(transparent)]
    Nftables(#[from] NetlinkError),
    #[error(transparent)]
    Iptables(#[from] IptablesError),
    #[error("the rules cannot be printed: {0}")]
    Print(#[from] io::Error),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum IptablesError {
    #[error("`--backend iptables` requires the program {program}: {source}")]
    Missing {
        program: &'static str,
        source: io::Error,
    },
    #[error(
        "{program} is not permitted to change rules: add the capability NET_ADMIN to the container (securityContext.capabilities.add: [NET_ADMIN]): {stderr}"
    )]
    NotPermitted {
        program: &'static str,
        stderr: String,
    },
    #[error("{program} failed: {stderr}")]
    Failed {
        program: &'static str,
        stderr: String,
    },
}

/// Writes the rules, or prints or removes them if the settings say so. Messages and printed rules go to `out`.
pub(crate) fn run(
    settings: &InterceptionSettings,
    out: &mut impl Write,
) -> Result<(), InterceptionError> {
    if settings.clean {
        return clean(settings.backend);
    }
    let Some(plan) = InterceptionPlan::read(settings)? else {
        writeln!(
            out,
            "no rules are written because APPMESH_START_ENABLED is not 1"
        )?;
        return Ok(());
    };
    let has_ipv6 = Path::new(IPV6).exists();
    let rules: Vec<(NetfilterFamily, Vec<Chain>)> = families(plan.ipv6, has_ipv6)
        .iter()
        .map(|family| (*family, chains(&plan, *family)))
        .collect();
    if settings.dry_run {
        for (family, chains) in &rules {
            let text = match settings.backend {
                FirewallBackend::Auto | FirewallBackend::Nftables => {
                    nftables::text(*family, chains)
                }
                FirewallBackend::Iptables => iptables::script("", chains),
            };
            out.write_all(text.as_bytes())?;
        }
        return Ok(());
    }
    if plan.ipv6 && !has_ipv6 {
        writeln!(out, "the kernel has no IPv6: only IPv4 is intercepted")?;
    }
    match settings.backend {
        FirewallBackend::Nftables => nftables::write(&rules)?,
        FirewallBackend::Iptables => write_iptables(&rules)?,
        FirewallBackend::Auto => match nftables::write(&rules) {
            Err(unsupported @ NetlinkError::Unsupported { .. }) => match write_iptables(&rules) {
                Err(IptablesError::Missing { .. }) => return Err(unsupported.into()),
                result => result?,
            },
            result => result?,
        },
    }
    Ok(())
}

/// The families to intercept. App Mesh's controller asked for IPv6 in every pod, so a missing IPv6 is not an error.
fn families(ipv6: bool, has_ipv6: bool) -> &'static [NetfilterFamily] {
    if ipv6 && has_ipv6 {
        &[NetfilterFamily::V4, NetfilterFamily::V6]
    } else {
        &[NetfilterFamily::V4]
    }
}

/// Removes the rules of the backend, or of both for `auto`. A backend that the kernel or the image lacks has no rules.
fn clean(backend: FirewallBackend) -> Result<(), InterceptionError> {
    for family in [NetfilterFamily::V4, NetfilterFamily::V6] {
        if backend != FirewallBackend::Iptables {
            match nftables::remove(family) {
                Err(NetlinkError::Unsupported { .. }) => {}
                result => result?,
            }
        }
        if backend != FirewallBackend::Nftables {
            match restore(family, &[]) {
                Err(IptablesError::Missing { .. }) => {}
                result => result?,
            }
        }
    }
    Ok(())
}

fn write_iptables(rules: &[(NetfilterFamily, Vec<Chain>)]) -> Result<(), IptablesError> {
    rules
        .iter()
        .try_for_each(|(family, chains)| restore(*family, chains))
}

/// Replaces the chains of a family.
fn restore(family: NetfilterFamily, chains: &[Chain]) -> Result<(), IptablesError> {
    let [save, restore] = match family {
        NetfilterFamily::V4 => ["iptables-save", "iptables-restore"],
        NetfilterFamily::V6 => ["ip6tables-save", "ip6tables-restore"],
    };
    let current = program(save, &["-t", "nat"], "")?;
    let script = iptables::script(&current, chains);
    if script == iptables::script("", &[]) {
        return Ok(());
    }
    program(restore, &["--noflush", "--wait"], &script).map(drop)
}

/// Runs a program to its end and returns its standard output.
fn program(
    program: &'static str,
    arguments: &[&str],
    input: &str,
) -> Result<String, IptablesError> {
    let run = || -> io::Result<Output> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that fails early closes its standard input; its standard error has the reason.
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output()
    };
    let output = run().map_err(|source| IptablesError::Missing { program, source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if stderr.contains("Permission denied") || stderr.contains("Operation not permitted") {
        return Err(IptablesError::NotPermitted { program, stderr });
    }
    Err(IptablesError::Failed { program, stderr })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::settings;

    #[test]
    fn dry_run_prints_the_rules() {
        let settings = InterceptionSettings {
            dry_run: true,
            enable_ipv6: Some("0".to_owned()),
            ..settings()
        };
        let mut out = Vec::new();
        run(&settings, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("table ip evermesh\n"), "{text}");
    }
}
