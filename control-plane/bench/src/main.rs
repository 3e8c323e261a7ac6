//! `evermesh-bench`: benchmarks of the whole control plane with real Envoys and a real Kubernetes API (`make bench`).
//!
//! | part | measures |
//! |---|---|
//! | `bare` | a change from a server that only sends bytes, to the last ACK of 20 Envoys: the lower bound of `folder` |
//! | `folder` | a file's write to the last ACK of 20 Envoys; CPU and memory |
//! | `cluster` | a write to the API to the last ACK, with the event at a bare watcher as the lower bound; statuses |
//! | `admission` | responses of the webhooks, called by the API server and directly |
//! | `counting` | CPU of connecting 2,000 proxies and of changes, with and without statuses |
//! | `streams` | memory of the control plane per xDS stream |
//!
//! The benchmarks print measurements and assert nothing about them. docs/benchmarks.md has figures.

mod admission;
mod bare;
mod cluster;
mod counting;
mod fleet;
mod folder;
mod large_mesh;
mod load;
mod mesh;
mod streams;
mod usage;

use std::io::Write as _;

use anyhow::Result;
use clap::{Parser, ValueEnum};

/// Measure Evermesh with real Envoys and a real Kubernetes API
#[derive(Parser)]
struct Args {
    /// Benchmarks to run [default: all]
    parts: Vec<Part>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Part {
    /// Latency of the Envoys alone
    Bare,
    /// Latency from the write of a file to the last ACK
    Folder,
    /// Latency from a write to the API to the last ACK and to the status
    Cluster,
    /// Latency of the admission webhooks
    Admission,
    /// Cost of statuses with 2,000 proxies
    Counting,
    /// Memory per xDS stream
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
            Part::Counting => counting::run().await?,
            Part::Streams => streams::run().await?,
        }
    }
    Ok(())
}

/// The percentiles of a sorted list that is not empty.
fn percentiles<const N: usize>(sorted: &[f64], percentages: [usize; N]) -> [f64; N] {
    percentages.map(|percent| sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)])
}

fn print(line: &str) {
    // A closed pipe does not end the benchmark.
    let _ = writeln!(std::io::stdout(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_sorted_list_are_its_elements() {
        let rounded = |values: [f64; 3]| values.map(|value| format!("{value:.0}"));
        let sorted: Vec<f64> = (0..200).map(f64::from).collect();
        let values = percentiles(&sorted, [50, 99, 100]);
        assert_eq!(rounded(values), ["100", "198", "199"]);
        assert_eq!(rounded(percentiles(&[7.0], [0, 50, 100])), ["7"; 3]);
    }
}
