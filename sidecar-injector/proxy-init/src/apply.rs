//! Writes what is asked for by the backend that is asked for.

use std::{
    io::{self, Write},
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::{
    iptables,
    nftables::{self, Refusal},
    plan::{InvalidSettings, Plan},
    rules::{Chain, Family, chains},
    settings::{Backend, Settings},
};

/// It is there where the kernel knows IPv6.
const IPV6: &str = "/proc/net/if_inet6";

/// What kept it from being done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// What is asked for cannot be read.
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    /// nftables was asked.
    #[error(transparent)]
    Nftables(#[from] Refusal),
    /// iptables was asked.
    #[error(transparent)]
    Iptables(#[from] IptablesError),
    /// The rules cannot be printed.
    #[error("the rules cannot be printed: {0}")]
    Print(#[from] io::Error),
}

/// What iptables has to say.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IptablesError {
    /// It is not there.
    #[error("{program} is needed for --backend iptables: {source}")]
    Missing {
        program: &'static str,
        source: io::Error,
    },
    /// A right is missing.
    #[error(
        "{program} may not change rules: it needs the capability NET_ADMIN (securityContext.capabilities.add: [NET_ADMIN]): {words}"
    )]
    NotPermitted {
        program: &'static str,
        words: String,
    },
    /// It failed.
    #[error("{program}: {words}")]
    Failed {
        program: &'static str,
        words: String,
    },
}

/// Does what is asked for.
pub(crate) fn run(settings: &Settings, out: &mut impl Write) -> Result<(), Error> {
    if settings.clean {
        return clean(settings.backend);
    }
    let Some(plan) = Plan::read(settings)? else {
        writeln!(out, "APPMESH_START_ENABLED is not 1: nothing is done")?;
        return Ok(());
    };
    let has_ipv6 = Path::new(IPV6).exists();
    let rules: Vec<(Family, Vec<Chain>)> = families(plan.ipv6, has_ipv6)
        .iter()
        .map(|family| (*family, chains(&plan, *family)))
        .collect();
    if settings.dry_run {
        for (family, chains) in &rules {
            let text = match settings.backend {
                Backend::Auto | Backend::Nftables => nftables::text(*family, chains),
                Backend::Iptables => iptables::script("", chains),
            };
            out.write_all(text.as_bytes())?;
        }
        return Ok(());
    }
    if plan.ipv6 && !has_ipv6 {
        writeln!(out, "there is no IPv6 here: IPv4 alone is intercepted")?;
    }
    match settings.backend {
        Backend::Nftables => nftables::write(&rules)?,
        Backend::Iptables => write_iptables(&rules)?,
        Backend::Auto => match nftables::write(&rules) {
            Err(refusal @ Refusal::Unsupported { .. }) => match write_iptables(&rules) {
                Err(IptablesError::Missing { .. }) => return Err(refusal.into()),
                other => other?,
            },
            other => other?,
        },
    }
    Ok(())
}

/// App Mesh's controller asked every pod for IPv6, also where there is none.
fn families(ipv6: bool, is_present: bool) -> &'static [Family] {
    if ipv6 && is_present {
        &[Family::V4, Family::V6]
    } else {
        &[Family::V4]
    }
}

/// Removes the rules of both backends, or of one; what is not there is removed already.
fn clean(backend: Backend) -> Result<(), Error> {
    for family in [Family::V4, Family::V6] {
        if backend != Backend::Iptables {
            match nftables::remove(family) {
                Err(Refusal::Unsupported { .. }) => {}
                other => other?,
            }
        }
        if backend != Backend::Nftables {
            match restore(family, &[]) {
                Err(IptablesError::Missing { .. }) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

fn write_iptables(rules: &[(Family, Vec<Chain>)]) -> Result<(), IptablesError> {
    rules
        .iter()
        .try_for_each(|(family, chains)| restore(*family, chains))
}

/// Replaces the chains of a family.
fn restore(family: Family, chains: &[Chain]) -> Result<(), IptablesError> {
    let [save, restore] = match family {
        Family::V4 => ["iptables-save", "iptables-restore"],
        Family::V6 => ["ip6tables-save", "ip6tables-restore"],
    };
    let present = program(save, &["-t", "nat"], "")?;
    let script = iptables::script(&present, chains);
    if script == iptables::script("", &[]) {
        return Ok(());
    }
    program(restore, &["--noflush", "--wait"], &script).map(drop)
}

/// Runs a program to its end and returns what it printed.
fn program(
    program: &'static str,
    arguments: &[&str],
    input: &str,
) -> Result<String, IptablesError> {
    let running = || -> io::Result<Output> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // It may fail before it has read everything, and then says why.
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output()
    };
    let output = running().map_err(|source| IptablesError::Missing { program, source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if words.contains("Permission denied") || words.contains("Operation not permitted") {
        return Err(IptablesError::NotPermitted { program, words });
    }
    Err(IptablesError::Failed { program, words })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::settings;

    #[test]
    fn nothing_is_written_to_be_printed() {
        let settings = Settings {
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
