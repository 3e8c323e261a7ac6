//! `make bench`: how long a change takes to the last of 20 real Envoys, from a file and from a Kubernetes API, small and
//! large, beside what the Envoys and the API take by themselves, and what that costs the control plane; then how long
//! the API server waits for admission, and what a proxy's stream costs in memory.
//!
//! It prints and never judges: a machine's speed is no test.

mod admission;
mod bare;
mod cluster;
mod fleet;
mod folder;
mod mesh;
mod streams;
mod usage;

use std::io::Write as _;

use anyhow::Result;
use clap::{Parser, ValueEnum};

/// Measures Evermesh with real Envoys and a real Kubernetes API.
#[derive(Parser)]
struct Args {
    /// What is measured; all of it unless said
    parts: Vec<Part>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Part {
    /// What the Envoys alone take
    Bare,
    /// From a file's write to the last ACK
    Folder,
    /// From an API write to the last ACK, and statuses
    Cluster,
    /// What the API server waits for the webhooks
    Admission,
    /// What a proxy's stream costs in memory
    Streams,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let Args { parts } = Args::parse();
    let parts = if parts.is_empty() {
        Part::value_variants()
    } else {
        &parts
    };
    for part in parts {
        match part {
            Part::Bare => bare::run().await?,
            Part::Folder => folder::run().await?,
            Part::Cluster => cluster::run().await?,
            Part::Admission => admission::run().await?,
            Part::Streams => streams::run().await?,
        }
    }
    Ok(())
}

/// The values at these percentages of the sorted list.
fn percentiles<const N: usize>(sorted: &[f64], percentages: [usize; N]) -> [f64; N] {
    percentages.map(|percent| sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)])
}

/// Prints a line at once.
fn say(line: &str) {
    // Whoever read us is gone.
    let _ = writeln!(std::io::stdout(), "{line}");
}
