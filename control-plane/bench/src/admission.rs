//! Latency of the admission webhooks over HTTPS.
//!
//! Two measurements of the same webhooks: the API server's own histogram of its calls, and exact percentiles of direct
//! calls over one connection. Objects are created with a server-side dry run, so the size of the mesh stays the same.

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

use crate::{cluster, mesh, percentiles, print};

/// Number of creations of each kind.
const CREATIONS: usize = 1000;

/// Upper bound of the smallest bucket of the API server's histogram, in seconds.
const SMALLEST: &str = "0.005";

/// A webhook configuration of the chart, from which the CA certificate is read.
const CONFIGURATION: &str = "appmesh-controller-mutating-webhook-configuration";

/// The created object, the name of its webhook, the webhook's path, and its label in Evermesh's metrics.
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

/// The kinds of created objects; no webhook is called for the first.
#[derive(Clone, Copy, Debug)]
enum Created {
    ConfigMap,
    VirtualNode,
    Route,
    Pod,
}

pub(crate) async fn run() -> Result<()> {
    print(&format!(
        "Admission over HTTPS, {CREATIONS} creations of each kind with a dry run, one after the other:"
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
    // Pods need the service account of their namespace.
    api.create_namespace("bench").await?;
    cluster::all_written(&client, services).await?;
    // Let the start of the control plane end, which would compete with the first calls.
    tokio::time::sleep(Duration::from_secs(2)).await;

    print(&format!(
        "  with {services} virtual nodes that select pods:"
    ));
    let before = metrics(&client).await? + &control_plane.metrics().await?;
    let mut creations = Vec::new();
    for created in [
        Created::ConfigMap,
        Created::VirtualNode,
        Created::Route,
        Created::Pod,
    ] {
        let milliseconds = create(&client, &created.object()?).await?;
        let [p50, p99] = percentiles(&milliseconds, [50, 99]);
        creations.push(format!("{created:?} {p50:.1} and {p99:.1} ms"));
    }
    let after = metrics(&client).await? + &control_plane.metrics().await?;
    let direct = direct(&client, &format!("https://{webhook}")).await?;
    for (created, name, path, label) in WEBHOOKS {
        let milliseconds = call(&direct, path, &created.object()?).await?;
        let [p50, p99, max] = percentiles(&milliseconds, [50, 99, 100]);
        let calls = WebhookCalls::by_api_server(&after, name)
            .since(&WebhookCalls::by_api_server(&before, name));
        let in_evermesh = WebhookCalls::in_evermesh(&after, label)
            .since(&WebhookCalls::in_evermesh(&before, label));
        print(&format!(
            "    {name}: called directly p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms; by the API server \
             {:.0} of {:.0} calls within 5 ms, {:.2} ms on average, of which {:.2} ms in Evermesh",
            calls.within,
            calls.all,
            calls.seconds * 1e3 / calls.all,
            in_evermesh.seconds * 1e3 / in_evermesh.all,
        ));
    }
    print(&format!(
        "    creations at the API server, p50 and p99: {}",
        creations.join(", ")
    ));
    Ok(())
}

/// The mesh of the other benchmarks, in which each virtual node selects pods and the namespace enables injection.
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

/// Creates the object [`CREATIONS`] times with a dry run; returns the sorted times in milliseconds.
async fn create(client: &Client, object: &Value) -> Result<Vec<f64>> {
    let resource = cluster::resource(object)?;
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "bench", &resource);
    let object: DynamicObject = serde_json::from_value(object.clone())?;
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    timed(async || {
        api.create(&dry_run, &object).await?;
        Ok(())
    })
    .await
}

/// A client that calls the webhooks with the CA certificate of the webhook configuration.
async fn direct(client: &Client, url: &str) -> Result<Client> {
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let webhooks = configurations.get(CONFIGURATION).await?.webhooks;
    let webhook = webhooks.into_iter().flatten().next();
    let authority = webhook.and_then(|webhook| webhook.client_config.ca_bundle);
    let authority = authority.context("the webhook configuration has no CA certificate")?;
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

/// Calls a webhook [`CREATIONS`] times with the object; returns the sorted times in milliseconds.
async fn call(webhooks: &Client, path: &str, object: &Value) -> Result<Vec<f64>> {
    let api_version = object["apiVersion"]
        .as_str()
        .context("the object has no apiVersion")?;
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
        let response = webhooks.request_text(request.body(review.clone())?).await?;
        ensure!(response.contains(r#""allowed":true"#), "{path}: {response}");
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

/// The calls of a webhook in a histogram.
struct WebhookCalls {
    all: f64,
    /// Calls that took at most [`SMALLEST`].
    within: f64,
    seconds: f64,
}

impl WebhookCalls {
    /// The calls as the API server measures them.
    fn by_api_server(metrics: &str, webhook: &str) -> Self {
        let histogram = "apiserver_admission_webhook_admission_duration_seconds";
        Self::read(metrics, histogram, &format!("name=\"{webhook}\""))
    }

    /// The calls as Evermesh measures them, from the read request to the response, for all kinds together.
    fn in_evermesh(metrics: &str, webhook: &str) -> Self {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_one_webhook_are_read_from_a_histogram() {
        const BEFORE: &str = "\
apiserver_admission_webhook_admission_duration_seconds_bucket{name=\"a\",operation=\"CREATE\",le=\"0.005\"} 1
apiserver_admission_webhook_admission_duration_seconds_sum{name=\"a\",operation=\"CREATE\"} 0.5
apiserver_admission_webhook_admission_duration_seconds_count{name=\"a\",operation=\"CREATE\"} 2
";
        const AFTER: &str = "\
apiserver_admission_webhook_admission_duration_seconds_bucket{name=\"a\",operation=\"CREATE\",le=\"0.005\"} 4
apiserver_admission_webhook_admission_duration_seconds_bucket{name=\"a\",operation=\"CREATE\",le=\"+Inf\"} 7
apiserver_admission_webhook_admission_duration_seconds_bucket{name=\"b\",operation=\"CREATE\",le=\"0.005\"} 90
apiserver_admission_webhook_admission_duration_seconds_sum{name=\"a\",operation=\"CREATE\"} 1.75
apiserver_admission_webhook_admission_duration_seconds_count{name=\"a\",operation=\"CREATE\"} 7
";
        let before = WebhookCalls::by_api_server(BEFORE, "a");
        let calls = WebhookCalls::by_api_server(AFTER, "a").since(&before);
        assert!((calls.all - 5.0).abs() < 1e-9);
        assert!((calls.within - 3.0).abs() < 1e-9);
        assert!((calls.seconds - 1.25).abs() < 1e-9);
    }
}
