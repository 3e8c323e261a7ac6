//! `evermesh-fuzz`: writes the seeds of a target for libFuzzer, or runs a target with files.

use std::{fs, path::PathBuf};

use anyhow::Context;
use clap::{Parser, Subcommand};
use evermesh_fuzz::{FuzzTarget, TARGETS};

#[derive(Debug, Parser)]
#[command(name = "evermesh-fuzz")]
struct FuzzCli {
    #[command(subcommand)]
    command: FuzzCommand,
}

#[derive(Debug, Subcommand)]
enum FuzzCommand {
    /// Print the names of all targets
    List,
    /// Write the seeds and the corpus of a target into a folder
    Seeds { target: String, folder: PathBuf },
    /// Run a target with each of these files; a broken invariant ends the command with a panic
    Run { target: String, files: Vec<PathBuf> },
}

#[allow(clippy::print_stdout)] // the output of the command
fn main() -> anyhow::Result<()> {
    match FuzzCli::parse().command {
        FuzzCommand::List => TARGETS
            .iter()
            .for_each(|target| println!("{}", target.name)),
        FuzzCommand::Seeds { target, folder } => {
            let target = find(&target)?;
            fs::create_dir_all(&folder)?;
            let kept = target.corpus()?.into_iter().map(|(_, input)| input);
            for (input, number) in (target.seeds)().into_iter().chain(kept).zip(0..) {
                fs::write(folder.join(format!("seed-{number:04}")), input)?;
            }
        }
        FuzzCommand::Run { target, files } => {
            let target = find(&target)?;
            for file in files {
                let input = fs::read(&file).with_context(|| file.display().to_string())?;
                println!("{}", file.display());
                (target.run)(&input);
            }
        }
    }
    Ok(())
}

fn find(name: &str) -> anyhow::Result<FuzzTarget> {
    let names = || TARGETS.map(|target| target.name).join(", ");
    FuzzTarget::find(name)
        .with_context(|| format!("unknown target `{name}`; use one of {}", names()))
}
