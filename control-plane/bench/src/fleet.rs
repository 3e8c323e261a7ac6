//! The Envoys of the benchmarks, and the wait for their ACKs.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use evermesh_testkit::{
    control_plane::{ControlPlane, bootstrap},
    envoy::{Envoy, EnvoyOptions, EnvoyVersion, with_expression_limit},
};

/// Number of Envoys. All belong to one virtual node, so every change of the Route reaches each of them.
pub(crate) const ENVOYS: usize = 20;

/// Resource name of the Envoys.
pub(crate) const NODE: &str = "mesh/bench/virtualNode/front_bench";

/// The limit of the Envoys for the size of regular expressions; Evermesh's own is 1000.
pub(crate) const EXPRESSION_LIMIT: u32 = 100;

/// Time after a change before its ACKs are read. A read would compete with the deliveries for CPU.
const QUIET: Duration = Duration::from_millis(100);

/// Starts the Envoys and waits until they are ready.
pub(crate) async fn start(xds: SocketAddr) -> Result<Vec<Envoy>> {
    let mut envoys = Vec::new();
    for _ in 0..ENVOYS {
        let bootstrap = with_expression_limit(&bootstrap(NODE, xds, false)?, EXPRESSION_LIMIT)?;
        envoys.push(Envoy::start(&EnvoyOptions::new(
            EnvoyVersion::Newest,
            bootstrap,
        ))?);
    }
    for envoy in &mut envoys {
        envoy.ready().await?;
    }
    Ok(envoys)
}

/// The ID of the newest change, or 0 before the first.
pub(crate) async fn last_change(control_plane: &ControlPlane) -> Result<u64> {
    let changes = control_plane.changes().await?;
    Ok(changes.last().map_or(0, |change| change.id))
}

/// Waits for a change newer than `last`; returns the time of its last ACK in milliseconds since 1970.
pub(crate) async fn last_ack(control_plane: &ControlPlane, last: u64) -> Result<f64> {
    tokio::time::sleep(QUIET).await;
    let limit = Instant::now() + Duration::from_secs(10);
    while Instant::now() < limit {
        let changes = control_plane.changes().await?;
        let newer = changes.iter().filter(|change| change.id > last);
        // A change without deliveries does not concern the Envoys.
        let mut reaching = newer.filter(|change| change.deliveries > 0);
        if let Some((change, acked)) = reaching.find_map(|change| Some((change, change.acked_ms?)))
        {
            if change.deliveries != ENVOYS as u64 || change.rejected != 0 {
                bail!("the change was not ACKed by all {ENVOYS} Envoys: {change:?}");
            }
            return Ok(change.at_ms + acked);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bail!(
        "the change was not ACKed within 10 s; log: {}",
        control_plane.log()
    )
}
