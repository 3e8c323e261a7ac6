//! The proxies that every figure is about.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use evermesh_testkit::{
    control_plane::{ControlPlane, bootstrap},
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
};

/// Proxies of one node, all of which hold the route that changes.
pub(crate) const ENVOYS: usize = 20;

/// Who they are.
pub(crate) const NODE: &str = "mesh/bench/virtualNode/front_bench";

/// How long nothing is asked of the control plane after a change.
const QUIET: Duration = Duration::from_millis(100);

/// Starts them, and waits until they are served.
pub(crate) async fn start(xds: SocketAddr) -> Result<Vec<Envoy>> {
    let mut envoys = Vec::new();
    for _ in 0..ENVOYS {
        let bootstrap = bootstrap(NODE, xds, false)?;
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

/// The number of the newest change.
pub(crate) async fn last_change(control_plane: &ControlPlane) -> Result<u64> {
    let changes = control_plane.changes().await?;
    Ok(changes.last().map_or(0, |change| change.id))
}

/// The time of the last ACK of the next change that reaches every proxy, in milliseconds since 1970.
pub(crate) async fn last_ack(control_plane: &ControlPlane, last: u64) -> Result<f64> {
    // Whoever asks is served by the same threads: not before it is over.
    tokio::time::sleep(QUIET).await;
    let limit = Instant::now() + Duration::from_secs(10);
    while Instant::now() < limit {
        let changes = control_plane.changes().await?;
        let newer = changes.iter().filter(|change| change.id > last);
        // A change that reaches nobody is somebody else's.
        let mut reaching = newer.filter(|change| change.deliveries > 0);
        if let Some((change, acked)) = reaching.find_map(|change| Some((change, change.acked_ms?)))
        {
            if change.deliveries != ENVOYS as u64 || change.rejected != 0 {
                bail!("the change should reach {ENVOYS} Envoys: {change:?}");
            }
            return Ok(change.at_ms + acked);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bail!("no ACK within 10 s; {}", control_plane.log())
}
