//! The cost of ACK counts and statuses with 2,000 proxies: the same connections and changes in five settings.
//!
//! | setting | adds |
//! |---|---|
//! | without statuses | the reference: no replica counts |
//! | counting | this replica counts ACKs; another one holds the Lease, so no status is written |
//! | statuses | this replica holds the Lease and writes each status |
//! | without statuses, 20,000 objects | 17,000 nodes that no proxy uses |
//! | statuses, 20,000 pending | the API server takes five seconds for each write of a status, so the statuses of nearly all objects are pending |
//!
//! The proxies run in this process; see [`load`](crate::load). CPU time is printed by thread: `xds` serves the proxies,
//! `engine` rebuilds, `status` counts ACKs and makes statuses, and `main` has everything else: watches and writes of the
//! API, and the tracker of changes.

use std::{
    process,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use evermesh_testkit::{control_plane::ControlPlane, kubernetes::ApiServer};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    cluster,
    large_mesh::{self, CALLERS, NAMESPACE},
    load::{OfflineProxy, ProxyFleet},
    percentiles, print,
    usage::{self, ThreadUsage},
};

/// Number of services, each with a node and ten pods.
const SERVICES: usize = 1000;
/// Number of proxies: two of each node.
const PROXIES: usize = 2 * SERVICES;
/// Number of proxies that a change of a router concerns.
const CONCERNED: usize = 2 * CALLERS;
/// Number of nodes that no proxy uses.
const IDLE: usize = 17_000;
/// Number of changes of weights. `/debug/changes` has the last 256.
const CHANGES: usize = 250;
/// Number of times that all proxies reconnect.
const RECONNECTIONS: usize = 3;
/// Pause between two changes.
const PAUSE: Duration = Duration::from_millis(100);
/// Time for counts and deferred statuses to be brought up to date: longer than proxies count as starting.
const SETTLED: Duration = Duration::from_secs(15);
/// Time for which the control plane is measured without proxies.
const IDLE_TIME: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_mins(5);

/// Seconds that the API server takes for the write of a status, in the setting with pending statuses.
const SLOWNESS: u32 = 5;
/// The name of the Lease.
const LEASE: &str = "evermesh";

const WITH_STATUSES: [&str; 2] = ["--leader-election-namespace", NAMESPACE];

pub(crate) async fn run() -> Result<()> {
    let api = ApiServer::start().await?;
    api.install_crds().await?;
    let client = api.client().await?;
    let started = Instant::now();
    for object in large_mesh::first() {
        cluster::create_object(&client, object).await?;
    }
    fill(&client, large_mesh::services(SERVICES)).await?;
    print(&format!(
        "{PROXIES} proxies, {SERVICES} services, 10,000 pods, {CHANGES} changes of weights for {CONCERNED} proxies each \
         (objects created in {:.0} s, load average {}):",
        started.elapsed().as_secs_f64(),
        std::fs::read_to_string("/proc/loadavg")?.trim_end(),
    ));
    let reference = Setting {
        name: "without statuses",
        arguments: &[],
        awaits_statuses: false,
    };
    let counting = Setting {
        name: "counting",
        arguments: &WITH_STATUSES,
        ..reference
    };
    let statuses = Setting {
        name: "statuses",
        awaits_statuses: true,
        ..counting
    };
    reference.measure(&api, 2).await?;
    set_holder(&client, Some("another replica")).await?;
    counting.measure(&api, 3).await?;
    set_holder(&client, None).await?;
    statuses.measure(&api, 4).await?;

    fill(&client, large_mesh::idle_nodes(IDLE)).await?;
    let larger = Setting {
        name: "without statuses, 20,000 objects",
        ..reference
    };
    larger.measure(&api, 5).await?;
    let _slow = SlowStatuses::install(&client).await?;
    let pending = Setting {
        name: "statuses, 20,000 pending",
        ..counting
    };
    pending.measure(&api, 6).await?;
    let idle = nodes_without_status(&client).await?;
    print(&format!("    {idle} nodes still have no status"));
    Ok(())
}

/// A setting in which the control plane is measured.
#[derive(Clone, Copy)]
struct Setting {
    name: &'static str,
    arguments: &'static [&'static str],
    /// Whether the statuses of the services are written before proxies connect.
    awaits_statuses: bool,
}

impl Setting {
    async fn measure(&self, api: &ApiServer, weight: usize) -> Result<()> {
        print(&format!("  {}:", self.name));
        let arguments = [&["--endpoint-slices"], self.arguments].concat();
        let mut control_plane = ControlPlane::start_on_cluster(&api.kubeconfig(), &arguments)?;
        control_plane.ready().await?;
        let client = api.client().await?;
        if self.awaits_statuses {
            timeout(LIMIT, cluster::all_written(&client, SERVICES)).await??;
        }
        sleep(IDLE_TIME).await;
        let idle = Measurement::start(&control_plane)?;
        sleep(IDLE_TIME).await;
        idle.print("idle, per second", IDLE_TIME.as_secs().try_into()?)?;

        let process = control_plane.process_id();
        let process = process.context("the control plane does not run")?;
        let memory = usage::rss_kilobytes(process)?;
        let address = format!("http://{}", control_plane.xds());
        let all = (0..PROXIES).map(|index| large_mesh::node_id(index % SERVICES));
        let all = all.map(OfflineProxy::new).collect();
        let connect = Measurement::start(&control_plane)?;
        let mut fleet = ProxyFleet::connect(&address, all).await?;
        connect.print("connect, until the last proxy is configured", 1)?;
        sleep(SETTLED).await;
        connect.print("connect", 1)?;
        let growth = usage::rss_kilobytes(process)?.saturating_sub(memory);
        print(&format!(
            "    memory: {} KB per proxy",
            growth / u64::try_from(PROXIES)?
        ));

        change_weights(&client, &control_plane, &mut fleet, weight).await?;
        sleep(SETTLED).await;

        for _ in 0..RECONNECTIONS {
            let reconnect = Measurement::start(&control_plane)?;
            let all = fleet.disconnect().await?;
            fleet = ProxyFleet::connect(&address, all).await?;
            reconnect.print("reconnect, until the last stream is open", 1)?;
            sleep(SETTLED).await;
            reconnect.print("reconnect", 1)?;
        }
        control_plane.stop().await
    }
}

/// CPU time since a moment, of the control plane and of this process.
struct Measurement {
    process: u32,
    start: Instant,
    control_plane: ThreadUsage,
    generator: ThreadUsage,
}

impl Measurement {
    fn start(control_plane: &ControlPlane) -> Result<Self> {
        let process = control_plane.process_id();
        let process = process.context("the control plane does not run")?;
        Ok(Self {
            process,
            start: Instant::now(),
            control_plane: ThreadUsage::of(process)?,
            generator: ThreadUsage::of(process::id())?,
        })
    }

    /// Prints what was used since the start, divided by the number of `events`.
    fn print(&self, what: &str, events: u32) -> Result<()> {
        let seconds = self.start.elapsed().as_secs_f64();
        let control_plane = ThreadUsage::of(self.process)? - &self.control_plane;
        let generator = ThreadUsage::of(process::id())? - &self.generator;
        print(&format!(
            "    {what}: CPU {}; load generator {:.2} ms; {seconds:.2} s in all",
            control_plane.milliseconds_per(events),
            generator.total() * 1e3 / f64::from(events),
        ));
        Ok(())
    }
}

async fn fill(client: &Client, objects: Vec<Value>) -> Result<()> {
    stream::iter(objects)
        .map(|object| cluster::create_object(client, object))
        .buffer_unordered(cluster::WRITES)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}

/// Lets another replica, which does not exist, hold the Lease for an hour, or removes the Lease.
async fn set_holder(client: &Client, holder: Option<&str>) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let lease = serde_json::from_value(json!({
        "metadata": {"name": LEASE},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 3600},
    }))?;
    match holder {
        Some(_) => {
            leases.create(&PostParams::default(), &lease).await?;
        }
        None => {
            leases.delete(LEASE, &DeleteParams::default()).await?;
        }
    }
    Ok(())
}

/// Makes the API server take [`SLOWNESS`] seconds for each write of a status.
///
/// The API server calls a webhook that never answers, and accepts the write when its patience ends.
struct SlowStatuses(JoinHandle<()>);

impl SlowStatuses {
    async fn install(client: &Client) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let webhook = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "slow"},
            "webhooks": [{
                "name": "slow.evermesh.dev",
                "clientConfig": {"url": format!("https://{}", listener.local_addr()?)},
                "rules": [{
                    "apiGroups": ["appmesh.k8s.aws", "evermesh.dev"],
                    "apiVersions": ["*"],
                    "operations": ["UPDATE"],
                    "resources": ["*/status"],
                }],
                "failurePolicy": "Ignore",
                "timeoutSeconds": SLOWNESS,
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }],
        });
        cluster::create_object(client, webhook).await?;
        Ok(Self(tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                open.push(connection);
            }
        })))
    }
}

impl Drop for SlowStatuses {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn nodes_without_status(client: &Client) -> Result<usize> {
    let kind = json!({"apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "VirtualNode"});
    let nodes: Api<DynamicObject> = Api::all_with(client.clone(), &cluster::resource(&kind)?);
    let nodes = nodes.list(&ListParams::default()).await?;
    let pending = nodes.iter().filter(|node| node.data["status"].is_null());
    Ok(pending.count())
}

/// Sets this weight in one router after the other.
async fn change_weights(
    client: &Client,
    control_plane: &ControlPlane,
    fleet: &mut ProxyFleet,
    weight: usize,
) -> Result<()> {
    let kind = json!({"apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "VirtualRouter"});
    let resource = cluster::resource(&kind)?;
    let routers: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &resource);
    let last = control_plane.changes().await?;
    let last = last.last().map_or(0, |change| change.id);
    let changes = Measurement::start(control_plane)?;
    let mut from_write = Vec::new();
    for change in 0..CHANGES {
        // Neighbours share callers, so the next router is one far away.
        let index = change * 37 % SERVICES;
        let other = large_mesh::routes(index, SERVICES, weight);
        while fleet.routes.try_recv().is_ok() {}
        let written = Instant::now();
        let patch = Patch::Merge(json!({"spec": {"routes": other}}));
        let name = large_mesh::router(index);
        routers
            .patch(&name, &PatchParams::default(), &patch)
            .await?;
        let arrived = fleet.next_routes(CONCERNED).await?;
        from_write.push((arrived - written).as_secs_f64() * 1e3);
        sleep(PAUSE).await;
    }
    changes.print("weight change", u32::try_from(CHANGES)?)?;
    let all = control_plane.changes().await?;
    let ours = all.iter().filter(|it| it.id > last && it.deliveries > 0);
    let mut from_notice: Vec<f64> = ours.filter_map(|change| change.acked_ms).collect();
    for (what, milliseconds) in [
        ("from the write to the last proxy", &mut from_write),
        (
            "from the event at the control plane to the last ACK",
            &mut from_notice,
        ),
    ] {
        milliseconds.sort_by(f64::total_cmp);
        let [p50, p99, max] = percentiles(milliseconds, [50, 99, 100]);
        print(&format!(
            "    weight change: {what} p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms"
        ));
    }
    Ok(())
}
