//! `make bench`: how long a change takes to the last of 20 real Envoys, from a file and from a Kubernetes API, small and
//! large, beside what the Envoys and the API take by themselves, and what that costs the control plane.
//!
//! It prints and never judges: a machine's speed is no test.

mod bare;
mod cluster;
mod fleet;
mod folder;
mod mesh;
mod usage;

use std::io::Write as _;

use anyhow::Result;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    bare::run().await?;
    folder::run().await?;
    cluster::run().await
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
