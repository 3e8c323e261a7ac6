//! The init container `evermesh-proxy-init`: redirects the TCP traffic of a pod's network namespace to the pod's Envoy.
//!
//! ```text
//! variables of App Mesh's init container, or flags     settings
//!   │ checked and parsed
//!   ▼
//! ports, users and networks                            plan
//!   │ once for IPv4 and once for IPv6
//!   ▼
//! chains of rules                                      rules
//!   │ apply chooses the backend
//!   ├─▶ nftables, by netlink                           nftables
//!   ├─▶ iptables-restore                               iptables
//!   └─▶ standard output, with --dry-run
//! ```
//!
//! With app port 8080 and Envoy's user 1337, a connection from another pod to port 8080 arrives at Envoy's port 15000, a
//! connection of the application to any other host arrives at port 15001, and Envoy's own connections are unchanged.
//!
//! The command `wait` returns when a URL answers with status 200, such as Envoy's `/ready`.

mod apply;
mod iptables;
mod nftables;
mod plan;
mod rules;
mod settings;
mod wait;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;

use crate::settings::{ProxyInitCli, ProxyInitCommand};

fn main() -> ExitCode {
    let cli = ProxyInitCli::parse();
    let mut out = io::stdout().lock();
    let result = match &cli.command {
        None => apply::run(&cli.settings, &mut out).map_err(|error| error.to_string()),
        Some(ProxyInitCommand::Wait(args)) => wait::run(args).map_err(|error| error.to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The exit code still reports the failure if standard error is closed.
            let _ = writeln!(io::stderr(), "evermesh-proxy-init: {error}");
            ExitCode::FAILURE
        }
    }
}
