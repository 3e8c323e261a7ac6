//! From a write to a Kubernetes API, beside the floor: the same write until a bare watcher has its event.

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
    percentiles, say, usage,
};

/// Changes measured.
const CHANGES: usize = 200;
/// Refusals measured, and as many corrections.
const REFUSALS: usize = 20;
/// Objects written at a time.
const WRITES: usize = 32;
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn run() -> Result<()> {
    say(&format!(
        "From an API write to the last ACK of {ENVOYS} Envoys, and to its event at a bare watcher (the floor), {CHANGES} \
         changes each, status written:"
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
        .context("the control plane runs")?;
    let rss_ready = usage::rss_kilobytes(process)? / 1024;
    let _envoys = fleet::start(control_plane.xds()).await?;
    all_written(&client, services).await?;
    let settled = started.elapsed();

    let routes: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), "bench", &resource(&route(1)?)?);
    let mut floor = bare_watcher(&api, &route(1)?).await?;
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
            let (seen, at) = timeout(PATIENCE, floor.recv())
                .await?
                .context("the watch goes on")?;
            if seen == generation {
                to_watcher.push(at - written);
                break;
            }
        }
        to_envoys.push(fleet::last_ack(&control_plane, last).await? - written);
        // The status of the last change is not what is measured.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let cpu = usage::cpu_seconds(process)? - cpu_before;
    to_watcher.sort_by(f64::total_cmp);
    to_envoys.sort_by(f64::total_cmp);
    let [floor50, floor99] = percentiles(&to_watcher, [50, 99]);
    let [p50, p99, max] = percentiles(&to_envoys, [50, 99, 100]);
    say(&format!(
        "  {count:>5} objects: p50 {p50:.1} ms (floor {floor50:.1} + {:.1}), p99 {p99:.1} ms (floor {floor99:.1} + {:.1}), \
         max {max:.1} ms; CPU {:.2} ms a change (status and the measuring included); ready after {:.2} s with RSS \
         {rss_ready} MB, every status written after {:.1} s, RSS then {} MB",
        p50 - floor50,
        p99 - floor99,
        cpu * 1e3 / f64::from(u32::try_from(CHANGES)?),
        ready.as_secs_f64(),
        settled.as_secs_f64(),
        usage::rss_kilobytes(process)? / 1024,
    ));
    statuses(&routes).await
}

/// From the write of what every Envoy refuses until the status of the object says so, and back.
async fn statuses(routes: &Api<DynamicObject>) -> Result<()> {
    let (mut refused, mut corrected) = (Vec::new(), Vec::new());
    for change in 0..REFUSALS {
        let weight = change + 2;
        let mut wrong = route(weight)?["spec"].clone();
        // A class that no parser but RE2 knows not to exist.
        wrong["httpRoute"]["match"] = json!({"path": {"regex": "/[\\p{None}]"}});
        refused.push(until(routes, &wrong, "Rejected").await?);
        let mut right = route(weight)?["spec"].clone();
        right["httpRoute"]["match"]["path"] = Value::Null;
        corrected.push(until(routes, &right, "Programmed").await?);
    }
    for (what, mut milliseconds) in [("refusal", refused), ("correction", corrected)] {
        milliseconds.sort_by(f64::total_cmp);
        let [p50, max] = percentiles(&milliseconds, [50, 100]);
        say(&format!(
            "         from a {what} to its status: p50 {p50:.0} ms, max {max:.0} ms"
        ));
    }
    Ok(())
}

/// Writes the spec, and waits until `Programmed` has this reason.
async fn until(routes: &Api<DynamicObject>, spec: &Value, reason: &str) -> Result<f64> {
    let mut spec = spec.clone();
    if spec["httpRoute"]["match"]["path"].is_object() {
        spec["httpRoute"]["match"]["prefix"] = Value::Null;
    }
    let written = since_1970()?;
    let patch = Patch::Merge(json!({"spec": spec}));
    let params = PatchParams::default();
    let applied = routes.patch("all", &params, &patch).await?;
    timeout(PATIENCE, async {
        loop {
            let route = routes.get("all").await?;
            let status = &route.data["status"];
            let conditions = status["conditions"].as_array().into_iter().flatten();
            let mut programmed = conditions.filter(|it| it["type"] == "Programmed");
            let is_so = programmed.any(|it| it["reason"] == reason);
            if is_so && status["observedGeneration"].as_i64() == applied.metadata.generation {
                return Ok(since_1970()? - written);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await?
}

fn route(weight: usize) -> Result<Value> {
    yaml(&mesh::route(weight))
}

pub(crate) fn yaml(text: &str) -> Result<Value> {
    Ok(serde_saphyr::from_str(text)?)
}

pub(crate) fn resource(object: &Value) -> Result<ApiResource> {
    let word = |field: &str| object[field].as_str().context("an object says what it is");
    let (version, kind) = (word("apiVersion")?, word("kind")?);
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let plural = match kind {
        "Mesh" => "meshes".to_owned(),
        kind => kind.to_lowercase() + "s",
    };
    let kind = GroupVersionKind::gvk(group, version, kind);
    Ok(ApiResource::from_gvk_with_plural(&kind, &plural))
}

/// Evermesh as its chart installs it, whose webhooks the API server asks, and where they are.
pub(crate) async fn with_webhooks(api: &ApiServer) -> Result<(ControlPlane, SocketAddr)> {
    let [webhook] = reserve_addresses()?;
    let installed = Chart::render(&[])?.install(api, webhook).await?;
    let mut control_plane =
        ControlPlane::start_installed(&installed, &installed.kubeconfig, webhook)?;
    control_plane.ready().await?;
    installed.wait_for_webhooks(api).await?;
    Ok((control_plane, webhook))
}

/// Creates the objects of [`mesh::objects`].
pub(crate) async fn fill(client: &Client, objects: &[String]) -> Result<()> {
    // The mesh and the namespace are before their members.
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
    let object = yaml(text)?;
    let resource = resource(&object)?;
    let object: DynamicObject = serde_json::from_value(object)?;
    let api: Api<DynamicObject> = match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    api.create(&PostParams::default(), &object).await?;
    Ok(())
}

/// Waits until the status of every router has been written.
pub(crate) async fn all_written(client: &Client, services: usize) -> Result<()> {
    let kind = GroupVersionKind::gvk("appmesh.k8s.aws", "v1beta2", "VirtualRouter");
    let resource = ApiResource::from_gvk_with_plural(&kind, "virtualrouters");
    let routers: Api<DynamicObject> = Api::namespaced_with(client.clone(), "bench", &resource);
    loop {
        let list = routers.list(&kube::api::ListParams::default()).await?;
        let written = list.iter().filter(|it| it.data["status"].is_object());
        if written.count() == services {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Tells the generation of each event, and when it came. It has a connection of its own.
async fn bare_watcher(
    api: &ApiServer,
    object: &Value,
) -> Result<mpsc::UnboundedReceiver<(Option<i64>, f64)>> {
    let client = api.client().await?;
    let watched: Api<DynamicObject> = Api::namespaced_with(client, "bench", &resource(object)?);
    let list = watched.list(&kube::api::ListParams::default()).await?;
    let version = list.metadata.resource_version.context("a list has one")?;
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let events = watched.watch(&WatchParams::default(), &version).await?;
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.try_next().await? {
            let at = since_1970()?;
            if let WatchEvent::Modified(object) = event
                && sender.send((object.metadata.generation, at)).is_err()
            {
                break;
            }
        }
        anyhow::Ok(())
    });
    Ok(receiver)
}

/// Milliseconds.
fn since_1970() -> Result<f64> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(since.as_secs_f64() * 1e3)
}
