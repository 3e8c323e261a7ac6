//! What admission costs over HTTPS: as the API server counts its calls of the chart's webhooks, and for exact
//! percentiles by asking the same webhooks directly over one connection.
//!
//! Everything is created for show (server-side dry run), so that the mesh stays as large as it is.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use evermesh_testkit::kubernetes::ApiServer;
use http::Request;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::{
    Api, Client, Config,
    api::{DynamicObject, PostParams},
    config::KubeConfigOptions,
};
use serde_json::{Value, json};

use crate::{cluster, mesh, percentiles, say};

/// Creations measured of each kind.
const CREATIONS: usize = 1000;

/// The smallest bucket of the API server's histogram, in seconds.
const SMALLEST: &str = "0.005";

/// The chart's configuration of what fills in fields, which holds our authority's certificate like the other one.
const CONFIGURATION: &str = "appmesh-controller-mutating-webhook-configuration";

/// What is created, the name of the webhook that is asked about it, where that one is, and its name in our metrics.
const WEBHOOKS: [(Created, &str, &str, &str); 4] = [
    (
        Created::VirtualNode,
        "mvirtualnode.appmesh.k8s.aws",
        "/mutate-appmesh-k8s-aws-v1beta2-virtualnode",
        "mutate",
    ),
    (
        Created::VirtualNode,
        "vvirtualnode.appmesh.k8s.aws",
        "/validate-appmesh-k8s-aws-v1beta2-virtualnode",
        "validate",
    ),
    (
        Created::Route,
        "vroute.evermesh.dev",
        "/validate-evermesh-dev-v1alpha1-route",
        "validate",
    ),
    (
        Created::Pod,
        "mpod.appmesh.k8s.aws",
        "/mutate-v1-pod",
        "inject",
    ),
];

/// What is created; nobody is asked about the first.
#[derive(Clone, Copy, Debug)]
enum Created {
    ConfigMap,
    VirtualNode,
    Route,
    Pod,
}

pub(crate) async fn run() -> Result<()> {
    say(&format!(
        "Admission over HTTPS, {CREATIONS} creations of each for show, one after the other:"
    ));
    for services in [100, 1000] {
        measure(services).await?;
    }
    Ok(())
}

async fn measure(services: usize) -> Result<()> {
    let api = ApiServer::start().await?;
    let (control_plane, webhook) = cluster::with_webhooks(&api).await?;
    let client = api.client().await?;
    cluster::fill(&client, &members(services)?).await?;
    // For the account of its pods.
    api.create_namespace("bench").await?;
    cluster::all_written(&client, services).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;

    say(&format!("  among {services} virtual nodes with pods:"));
    let before = metrics(&client).await? + &control_plane.metrics().await?;
    let mut whole = Vec::new();
    for created in [
        Created::ConfigMap,
        Created::VirtualNode,
        Created::Route,
        Created::Pod,
    ] {
        let milliseconds = create(&client, &created.object()?).await?;
        let [p50, p99] = percentiles(&milliseconds, [50, 99]);
        whole.push(format!("{created:?} {p50:.1} and {p99:.1} ms"));
    }
    let after = metrics(&client).await? + &control_plane.metrics().await?;
    let direct = direct(&client, &format!("https://{webhook}")).await?;
    for (created, name, path, ours) in WEBHOOKS {
        let milliseconds = ask(&direct, path, &created.object()?).await?;
        let [p50, p99, max] = percentiles(&milliseconds, [50, 99, 100]);
        let calls = Calls::of(&after, name).since(&Calls::of(&before, name));
        let ours = Calls::ours(&after, ours).since(&Calls::ours(&before, ours));
        say(&format!(
            "    {name}: p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms; for the API server {:.0} of {:.0} calls \
             within 5 ms, {:.2} ms on average, of which reading and answering took {:.2} ms",
            calls.within,
            calls.all,
            calls.seconds * 1e3 / calls.all,
            ours.seconds * 1e3 / ours.all,
        ));
    }
    say(&format!(
        "    whole creations, p50 and p99: {}",
        whole.join(", ")
    ));
    Ok(())
}

/// The mesh of the other measurements, with pods for each node, in a namespace whose pods become members.
fn members(services: usize) -> Result<Vec<String>> {
    let objects = mesh::objects(services).into_iter().map(|text| {
        let mut object = cluster::yaml(&text)?;
        if object["kind"] == "Namespace" {
            let labels = json!({"appmesh.k8s.aws/sidecarInjectorWebhook": "enabled"});
            object["metadata"]["labels"] = labels;
        }
        if object["kind"] == "VirtualNode" {
            let selector = json!({"matchLabels": {"app": object["metadata"]["name"]}});
            object["spec"]["podSelector"] = selector;
        }
        Ok(object.to_string())
    });
    objects.collect()
}

impl Created {
    fn object(self) -> Result<Value> {
        let metadata = json!({"name": "new", "namespace": "bench", "labels": {"app": "node-7"}});
        let backend = |index: usize| json!({"virtualService": {"virtualServiceRef": {"name": format!("service-{index}")}}});
        let container = |index: usize| json!({"name": format!("c-{index}"), "image": "app:1"});
        let mut object = match self {
            Self::ConfigMap => json!({"apiVersion": "v1", "kind": "ConfigMap"}),
            Self::VirtualNode => json!({
                "apiVersion": "appmesh.k8s.aws/v1beta2",
                "kind": "VirtualNode",
                "spec": {
                    "podSelector": {"matchLabels": {"app": "new"}},
                    "listeners": [{"portMapping": {"port": 8080, "protocol": "http"}}],
                    "serviceDiscovery": {"dns": {"hostname": "localhost"}},
                    "backends": (0..mesh::BACKENDS).map(backend).collect::<Vec<_>>(),
                },
            }),
            Self::Route => cluster::yaml(&mesh::route(1))?,
            Self::Pod => json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "spec": {"containers": (0..5).map(container).collect::<Vec<_>>()},
            }),
        };
        object["metadata"] = metadata;
        Ok(object)
    }
}

/// Creates it for show again and again; returns the milliseconds, sorted.
async fn create(client: &Client, object: &Value) -> Result<Vec<f64>> {
    let resource = cluster::resource(object)?;
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "bench", &resource);
    let object: DynamicObject = serde_json::from_value(object.clone())?;
    let for_show = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    timed(async || {
        api.create(&for_show, &object).await?;
        Ok(())
    })
    .await
}

/// A client of the webhooks that trusts what the API server trusts.
async fn direct(client: &Client, url: &str) -> Result<Client> {
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let webhooks = configurations.get(CONFIGURATION).await?.webhooks;
    let webhook = webhooks.into_iter().flatten().next();
    let authority = webhook.and_then(|webhook| webhook.client_config.ca_bundle);
    let authority = authority.context("the API server was told whom to trust")?;
    let kubeconfig = json!({
        "clusters": [{"name": "", "cluster": {"server": url, "certificate-authority-data": authority}}],
        "users": [{"name": "", "user": {}}],
        "contexts": [{"name": "", "context": {"cluster": "", "user": ""}}],
        "current-context": "",
    });
    let kubeconfig = serde_json::from_value(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Asks a webhook about it again and again; returns the milliseconds, sorted.
async fn ask(webhooks: &Client, path: &str, object: &Value) -> Result<Vec<f64>> {
    let api_version = object["apiVersion"].as_str().context("it has a version")?;
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "7a4f1e0c-7d3b-4b6e-9d52-0f2b1c3d4e5f",
            "kind": {"group": group, "version": version, "kind": object["kind"]},
            "name": "new",
            "namespace": "bench",
            "operation": "CREATE",
            "dryRun": true,
            "object": object,
        },
    });
    let review = review.to_string().into_bytes();
    timed(async || {
        let request = Request::post(path).header("content-type", "application/json");
        let answer = webhooks.request_text(request.body(review.clone())?).await?;
        ensure!(answer.contains(r#""allowed":true"#), "{path}: {answer}");
        Ok(())
    })
    .await
}

async fn timed(mut attempt: impl AsyncFnMut() -> Result<()>) -> Result<Vec<f64>> {
    let mut milliseconds = Vec::with_capacity(CREATIONS);
    for _ in 0..CREATIONS {
        let started = Instant::now();
        attempt().await?;
        milliseconds.push(started.elapsed().as_secs_f64() * 1e3);
    }
    milliseconds.sort_by(f64::total_cmp);
    Ok(milliseconds)
}

async fn metrics(client: &Client) -> Result<String> {
    let request = Request::get("/metrics").body(Vec::new())?;
    Ok(client.request_text(request).await?)
}

/// What a histogram says of the calls of a webhook.
struct Calls {
    all: f64,
    /// Those within [`SMALLEST`].
    within: f64,
    seconds: f64,
}

impl Calls {
    /// By the API server.
    fn of(metrics: &str, webhook: &str) -> Self {
        let histogram = "apiserver_admission_webhook_admission_duration_seconds";
        Self::read(metrics, histogram, &format!("name=\"{webhook}\""))
    }

    /// By Evermesh, from the request read to its answer; of the webhooks of all kinds together.
    fn ours(metrics: &str, webhook: &str) -> Self {
        let label = format!("webhook=\"{webhook}\"");
        Self::read(metrics, "evermesh_admission_seconds", &label)
    }

    fn read(metrics: &str, histogram: &str, label: &str) -> Self {
        let sum = |series: &str, bucket: &str| {
            let series = format!("{histogram}_{series}{{");
            let lines = metrics.lines().filter(|line| {
                line.starts_with(&series) && line.contains(label) && line.contains(bucket)
            });
            let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            values.sum()
        };
        Self {
            all: sum("count", ""),
            within: sum("bucket", &format!("le=\"{SMALLEST}\"")),
            seconds: sum("sum", ""),
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            all: self.all - before.all,
            within: self.within - before.within,
            seconds: self.seconds - before.seconds,
        }
    }
}
