//! Latency from a write to a Kubernetes API to the last ACK and to the status of the object.
//!
//! The lower bound is the time until a watcher that does nothing else gets the event of the same write.

use std::{
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use evermesh_testkit::{
    chart::Chart, control_plane::ControlPlane, kubernetes::ApiServer, port::reserve_addresses,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::{
    Api, Client,
    api::{
        ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams, WatchEvent,
        WatchParams,
    },
};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    fleet::{self, ENVOYS},
    mesh::{self, BACKENDS},
    percentiles, print, usage,
};

/// Number of changes for each mesh.
const CHANGES: usize = 200;
/// Number of rejected changes for each mesh, and of corrections.
const REJECTIONS: usize = 20;
/// Number of concurrent creations.
pub(crate) const WRITES: usize = 32;
const LIMIT: Duration = Duration::from_secs(10);

pub(crate) async fn run() -> Result<()> {
    print(&format!(
        "Write to the API to the last ACK of {ENVOYS} Envoys, and to the event at a bare watcher (lower bound), {CHANGES} \
         changes for each mesh:"
    ));
    for services in [BACKENDS, 5000] {
        measure(services).await?;
    }
    Ok(())
}

async fn measure(services: usize) -> Result<()> {
    let api = ApiServer::start().await?;
    api.install_crds().await?;
    let client = api.client().await?;
    let objects = mesh::objects(services);
    let count = objects.len();
    fill(&client, &objects).await?;

    let started = Instant::now();
    let arguments = ["--leader-election-namespace", "bench"];
    let mut control_plane = ControlPlane::start_on_cluster(&api.kubeconfig(), &arguments)?;
    control_plane.ready().await?;
    let ready = started.elapsed();
    let process = control_plane
        .process_id()
        .context("the control plane does not run")?;
    let rss_ready = usage::rss_kilobytes(process)? / 1024;
    let _envoys = fleet::start(control_plane.xds()).await?;
    all_written(&client, services).await?;
    let settled = started.elapsed();

    let routes: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), "bench", &resource(&route(1)?)?);
    let mut events = bare_watcher(&api, &route(1)?).await?;
    let cpu_before = usage::cpu_seconds(process)?;
    let (mut to_watcher, mut to_envoys) = (Vec::new(), Vec::new());
    for change in 0..CHANGES {
        let last = fleet::last_change(&control_plane).await?;
        let patch = json!({"spec": route(change % 98 + 2)?["spec"]});
        let written = since_1970()?;
        let applied = routes
            .patch("all", &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        let generation = applied.metadata.generation;
        loop {
            let (seen, at) = timeout(LIMIT, events.recv())
                .await?
                .context("the watch ended")?;
            if seen == generation {
                to_watcher.push(at - written);
                break;
            }
        }
        to_envoys.push(fleet::last_ack(&control_plane, last).await? - written);
        // Let the write of the status end, which would compete with the next change.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let cpu = usage::cpu_seconds(process)? - cpu_before;
    to_watcher.sort_by(f64::total_cmp);
    to_envoys.sort_by(f64::total_cmp);
    let [bound50, bound99] = percentiles(&to_watcher, [50, 99]);
    let [p50, p99, max] = percentiles(&to_envoys, [50, 99, 100]);
    print(&format!(
        "  {count:>5} objects: p50 {p50:.1} ms (lower bound {bound50:.1} + {:.1}), p99 {p99:.1} ms (lower bound {bound99:.1} + \
         {:.1}), max {max:.1} ms; CPU {:.2} ms per change (with the status and the reads of the benchmark); ready after \
         {:.2} s with RSS {rss_ready} MB, all statuses written after {:.1} s, RSS at the end {} MB",
        p50 - bound50,
        p99 - bound99,
        cpu * 1e3 / f64::from(u32::try_from(CHANGES)?),
        ready.as_secs_f64(),
        settled.as_secs_f64(),
        usage::rss_kilobytes(process)? / 1024,
    ));
    statuses(&routes).await
}

/// Measures the time from a change that every Envoy rejects to the status of the object, and from the correction.
async fn statuses(routes: &Api<DynamicObject>) -> Result<()> {
    let (mut rejected, mut corrected) = (Vec::new(), Vec::new());
    for change in 0..REJECTIONS {
        let weight = change + 2;
        let mut wrong = route(weight)?["spec"].clone();
        // Evermesh accepts an expression of this size.
        wrong["httpRoute"]["match"] =
            json!({"path": {"regex": format!("/a{{{}}}", 2 * fleet::EXPRESSION_LIMIT)}});
        rejected.push(until_reason(routes, &wrong, "Rejected").await?);
        let mut right = route(weight)?["spec"].clone();
        right["httpRoute"]["match"]["path"] = Value::Null;
        corrected.push(until_reason(routes, &right, "Programmed").await?);
    }
    for (what, mut milliseconds) in [("rejected change", rejected), ("correction", corrected)] {
        milliseconds.sort_by(f64::total_cmp);
        let [p50, max] = percentiles(&milliseconds, [50, 100]);
        print(&format!(
            "         {what} to its status: p50 {p50:.0} ms, max {max:.0} ms"
        ));
    }
    Ok(())
}

/// Writes the spec and returns the milliseconds until the condition `Programmed` has this reason.
async fn until_reason(routes: &Api<DynamicObject>, spec: &Value, reason: &str) -> Result<f64> {
    let mut spec = spec.clone();
    if spec["httpRoute"]["match"]["path"].is_object() {
        spec["httpRoute"]["match"]["prefix"] = Value::Null;
    }
    let written = since_1970()?;
    let patch = Patch::Merge(json!({"spec": spec}));
    let params = PatchParams::default();
    let applied = routes.patch("all", &params, &patch).await?;
    timeout(LIMIT, async {
        loop {
            let route = routes.get("all").await?;
            let status = &route.data["status"];
            let conditions = status["conditions"].as_array().into_iter().flatten();
            let mut programmed = conditions.filter(|condition| condition["type"] == "Programmed");
            let has_reason = programmed.any(|condition| condition["reason"] == reason);
            if has_reason && status["observedGeneration"].as_i64() == applied.metadata.generation {
                return Ok(since_1970()? - written);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await?
}

pub(crate) fn route(weight: usize) -> Result<Value> {
    yaml(&mesh::route(weight))
}

pub(crate) fn yaml(text: &str) -> Result<Value> {
    Ok(serde_saphyr::from_str(text)?)
}

pub(crate) fn resource(object: &Value) -> Result<ApiResource> {
    let word = |field: &str| {
        object[field]
            .as_str()
            .with_context(|| format!("the object has no `{field}`"))
    };
    let (version, kind) = (word("apiVersion")?, word("kind")?);
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let plural = match kind {
        "Mesh" => "meshes".to_owned(),
        kind => kind.to_lowercase() + "s",
    };
    let kind = GroupVersionKind::gvk(group, version, kind);
    Ok(ApiResource::from_gvk_with_plural(&kind, &plural))
}

/// Installs the chart and starts Evermesh; returns it with the address of its webhooks, which the API server calls.
pub(crate) async fn with_webhooks(api: &ApiServer) -> Result<(ControlPlane, SocketAddr)> {
    let [webhook] = reserve_addresses()?;
    let installed = Chart::render_open(&[])?.install(api, webhook).await?;
    let mut control_plane =
        ControlPlane::start_installed(&installed, &installed.kubeconfig, webhook)?;
    control_plane.ready().await?;
    installed.wait_for_webhooks(api).await?;
    Ok((control_plane, webhook))
}

/// Creates the objects of [`mesh::objects`] in the Kubernetes API.
pub(crate) async fn fill(client: &Client, objects: &[String]) -> Result<()> {
    // Namespace, mesh and front node come first, then the Route, then the rest in any order.
    let (first, rest) = objects.split_at(4);
    for object in first.iter().skip(1).chain(&first[..1]) {
        create(client, object).await?;
    }
    stream::iter(rest)
        .map(|object| create(client, object))
        .buffer_unordered(WRITES)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}

async fn create(client: &Client, text: &str) -> Result<()> {
    create_object(client, yaml(text)?).await
}

pub(crate) async fn create_object(client: &Client, object: Value) -> Result<()> {
    let resource = resource(&object)?;
    let object: DynamicObject = serde_json::from_value(object)?;
    let api: Api<DynamicObject> = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    api.create(&PostParams::default(), &object).await?;
    Ok(())
}

/// Waits until every router has a status.
pub(crate) async fn all_written(client: &Client, services: usize) -> Result<()> {
    let kind = GroupVersionKind::gvk("appmesh.k8s.aws", "v1beta2", "VirtualRouter");
    let resource = ApiResource::from_gvk_with_plural(&kind, "virtualrouters");
    let routers: Api<DynamicObject> = Api::namespaced_with(client.clone(), "bench", &resource);
    loop {
        let list = routers.list(&kube::api::ListParams::default()).await?;
        let written = list
            .iter()
            .filter(|router| router.data["status"].is_object());
        if written.count() == services {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Watches objects over its own connection; sends the generation and the time of each event.
async fn bare_watcher(
    api: &ApiServer,
    object: &Value,
) -> Result<mpsc::Receiver<(Option<i64>, f64)>> {
    let client = api.client().await?;
    let watched: Api<DynamicObject> = Api::namespaced_with(client, "bench", &resource(object)?);
    let list = watched.list(&kube::api::ListParams::default()).await?;
    let version = list
        .metadata
        .resource_version
        .context("the list has no resource version")?;
    let (sender, receiver) = mpsc::channel(1 << 10);
    tokio::spawn(async move {
        let events = watched.watch(&WatchParams::default(), &version).await?;
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.try_next().await? {
            let at = since_1970()?;
            if let WatchEvent::Modified(object) = event
                && sender.send((object.metadata.generation, at)).await.is_err()
            {
                break;
            }
        }
        anyhow::Ok(())
    });
    Ok(receiver)
}

/// Milliseconds since 1970.
fn since_1970() -> Result<f64> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(since.as_secs_f64() * 1e3)
}
