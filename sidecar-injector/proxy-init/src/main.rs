//! The `evermesh-proxy-init` binary: sends a pod's traffic through its Envoy, before the application starts.
//!
//! In: App Mesh's variables, or flags of the same meaning. Out: rules in this network namespace, or on standard output.
//! What is asked for ([`settings`]) becomes a [`plan`], the plan becomes [`rules`], and a backend writes them; only the
//! backends do I/O.

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

use crate::settings::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = io::stdout().lock();
    let done = match &cli.command {
        None => apply::run(&cli.settings, &mut out).map_err(|error| error.to_string()),
        Some(Command::Wait(args)) => wait::run(args).map_err(|error| error.to_string()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; there is nobody else to tell.
            let _ = writeln!(io::stderr(), "evermesh-proxy-init: {error}");
            ExitCode::FAILURE
        }
    }
}
