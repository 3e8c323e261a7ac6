//! The `evermesh` binary: parses the command line, runs the command and sets the exit code.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use evermesh::{
    app,
    args::{BootstrapArgs, CommandLine, EvermeshCommand},
    engine, lint, removal,
};
use evermesh_injector::bootstrap::{bootstrap, render};

/// Exit code of a command that failed. `evermesh lint` ends with 1 if it found errors.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    let cli = CommandLine::parse();
    let mut out = io::stdout().lock();
    let result = match cli.command {
        EvermeshCommand::Serve(args) => {
            drop(out);
            engine::abort_on_other_panics();
            app::serve(&args).map(|()| ExitCode::SUCCESS)
        }
        EvermeshCommand::Lint(args) => lint::run(&args, &mut out),
        EvermeshCommand::Bootstrap(args) => {
            print_bootstrap(&args, &mut out).map(|()| ExitCode::SUCCESS)
        }
        EvermeshCommand::Crds => print_crds(&mut out).map(|()| ExitCode::SUCCESS),
        EvermeshCommand::RemoveFinalizers => removal::run(&mut out).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        // Standard error may be closed, and then the exit code is all that is left.
        let _ = writeln!(io::stderr(), "evermesh: {error:#}");
        ExitCode::from(FAILED)
    })
}

fn print_bootstrap(args: &BootstrapArgs, out: &mut impl Write) -> anyhow::Result<()> {
    write!(out, "{}", render(&bootstrap(&args.options()))?)?;
    Ok(())
}

fn print_crds(out: &mut impl Write) -> anyhow::Result<()> {
    for definition in evermesh_crds::all() {
        write!(out, "---\n{}", evermesh_crds::to_yaml(&definition)?)?;
    }
    Ok(())
}
