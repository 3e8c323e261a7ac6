//! The cost of statuses with many proxies: the same streams and changes with and without the status writer.
//!
//! The streams are connections of this process that ACK everything. Most belong to nodes without backends, the others to
//! the front node, whose Route changes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use evermesh_testkit::{control_plane::ControlPlane, kubernetes::ApiServer};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    bare::{EGRESS, INGRESS},
    cluster,
    fleet::NODE,
    mesh, print,
    streams::{self, OpenStream},
    usage,
};

/// Number of services, each with a node.
const SERVICES: usize = 1000;
/// Number of streams, of which [`FRONTS`] belong to the front node.
const STREAMS: usize = 2000;
const FRONTS: usize = 40;
/// Number of changes of the front node's Route.
const CHANGES: usize = 50;
/// Number of concurrent connection attempts.
const AT_A_TIME: usize = 32;
const LIMIT: Duration = Duration::from_mins(1);
/// Time for counts and statuses to be brought up to date: longer than proxies count as starting.
const SETTLED: Duration = Duration::from_secs(10);

pub(crate) async fn run() -> Result<()> {
    let api = ApiServer::start().await?;
    api.install_crds().await?;
    let client = api.client().await?;
    cluster::fill(&client, &mesh::objects(SERVICES)).await?;
    print(&format!(
        "{STREAMS} streams, {SERVICES} services, {CHANGES} changes to {FRONTS} streams:"
    ));
    for (what, arguments) in [
        ("without statuses", &[][..]),
        ("with statuses", &["--leader-election-namespace", "bench"]),
    ] {
        measure(&api, &client, what, arguments).await?;
    }
    Ok(())
}

async fn measure(api: &ApiServer, client: &Client, what: &str, arguments: &[&str]) -> Result<()> {
    let mut control_plane = ControlPlane::start_on_cluster(&api.kubeconfig(), arguments)?;
    control_plane.ready().await?;
    if !arguments.is_empty() {
        cluster::all_written(client, SERVICES).await?;
    }
    sleep(SETTLED).await;
    let process = control_plane.process_id();
    let process = process.context("the control plane does not run")?;
    let address = format!("http://{}", control_plane.xds());

    let (before, start) = (usage::cpu_seconds(process)?, Instant::now());
    let responses = Arc::<AtomicUsize>::default();
    let mut acking = JoinSet::new();
    let connected: Vec<OpenStream> = stream::iter(0..STREAMS)
        .map(|index| timeout(LIMIT, connect(address.clone(), index)))
        .buffer_unordered(AT_A_TIME)
        .map(|connected| connected?)
        .try_collect()
        .await?;
    let configured = start.elapsed();
    for mut stream in connected {
        let responses = Arc::clone(&responses);
        acking.spawn(async move {
            while stream.ack_next().await.is_ok() {
                responses.fetch_add(1, Relaxed);
            }
        });
    }
    sleep(SETTLED).await;
    let connecting = usage::cpu_seconds(process)? - before;

    let routes: Api<DynamicObject> = Api::namespaced_with(
        client.clone(),
        "bench",
        &cluster::resource(&cluster::route(1)?)?,
    );
    let before = usage::cpu_seconds(process)?;
    for change in 0..CHANGES {
        let expected = responses.load(Relaxed) + FRONTS;
        let patch = json!({"spec": cluster::route(change % 98 + 2)?["spec"]});
        routes
            .patch("all", &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        timeout(LIMIT, async {
            while responses.load(Relaxed) < expected {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .context("a change did not reach the front node's streams")?;
        sleep(Duration::from_millis(100)).await;
    }
    let changing = usage::cpu_seconds(process)? - before;
    print(&format!(
        "  {what}: connecting {connecting:.2} s of CPU, the last stream after {:.2} s; {:.2} ms of CPU per change",
        configured.as_secs_f64(),
        changing * 1e3 / f64::from(u32::try_from(CHANGES)?),
    ));
    Ok(())
}

/// Opens one of the streams: the first belong to the front node.
async fn connect(address: String, index: usize) -> Result<OpenStream> {
    if index < FRONTS {
        return streams::connect(address, NODE, &[INGRESS, EGRESS], None).await;
    }
    let node = format!("mesh/bench/virtualNode/node-{}_bench", index % SERVICES);
    streams::connect(address, &node, &[INGRESS], None).await
}
