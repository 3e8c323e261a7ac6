//! Latency from the write of a file to the last ACK, with a small and a large folder.

use std::{
    fs,
    path::Path,
    time::{Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use evermesh_testkit::{control_plane::ControlPlane, tools};

use crate::{
    fleet::{self, ENVOYS},
    mesh::{self, BACKENDS},
    percentiles, print, usage,
};

/// Number of changes for each folder.
const CHANGES: usize = 300;

pub(crate) async fn run() -> Result<()> {
    print(&format!(
        "Write of a file to the last ACK of {ENVOYS} Envoys, {CHANGES} changes for each folder:"
    ));
    for services in [BACKENDS, 1000] {
        let config = tools::scratch("bench")?;
        for (index, object) in mesh::objects(services).into_iter().enumerate() {
            fs::write(config.path().join(format!("{index}.yaml")), object)?;
        }
        measure(config.path(), services).await?;
    }
    Ok(())
}

async fn measure(config: &Path, services: usize) -> Result<()> {
    let started = Instant::now();
    let mut control_plane = ControlPlane::start(config, &[])?;
    control_plane.ready().await?;
    let ready = started.elapsed();
    let _envoys = fleet::start(control_plane.xds()).await?;
    let process = control_plane
        .process_id()
        .context("the control plane does not run")?;
    let cpu_before = usage::cpu_seconds(process)?;
    let mut milliseconds = Vec::with_capacity(CHANGES);
    for change in 0..CHANGES {
        // The weight always differs from the current one, which is 1 or the previous of 98.
        let weight = change % 98 + 2;
        milliseconds.push(shift(&control_plane, config, weight).await?);
    }
    let cpu = usage::cpu_seconds(process)? - cpu_before;
    milliseconds.sort_by(f64::total_cmp);
    let [p50, p99, max] = percentiles(&milliseconds, [50, 99, 100]);
    print(&format!(
        "  {:>5} files: p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms; CPU {:.2} ms per change (with its {ENVOYS} \
         deliveries and the reads of the benchmark); ready after {:.2} s, RSS {} MB",
        mesh::objects(services).len(),
        cpu * 1e3 / f64::from(u32::try_from(CHANGES)?),
        ready.as_secs_f64(),
        usage::rss_kilobytes(process)? / 1024,
    ));
    Ok(())
}

/// Writes a weight and returns the milliseconds until the last ACK.
async fn shift(control_plane: &ControlPlane, config: &Path, weight: usize) -> Result<f64> {
    let last = fleet::last_change(control_plane).await?;
    let text = mesh::route(weight);
    let written = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    // `mesh::objects` begins with the Route.
    fs::write(config.join("0.yaml"), text)?;
    let acked = fleet::last_ack(control_plane, last).await?;
    Ok(acked - written.as_secs_f64() * 1e3)
}
