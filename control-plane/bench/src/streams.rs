//! Memory of the control plane per xDS stream, without authentication and with the token of a pod.
//!
//! The streams are connections of this process with the subscriptions of an Envoy of the front node. The result is the
//! growth of the control plane's RSS divided by the number of streams.

use std::time::Duration;

use anyhow::{Context as _, Result};
use evermesh_proto::{
    core::Node,
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
    resource::ResourceType,
};
use evermesh_testkit::{control_plane::ControlPlane, kubernetes::ApiServer};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::{Api, Client, api::PostParams};
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming, metadata::AsciiMetadataValue, transport::Endpoint};

use crate::{
    bare::{EGRESS, INGRESS},
    cluster,
    fleet::NODE,
    mesh::{self, BACKENDS},
    print, usage,
};

/// Number of streams in each measurement.
const STREAMS: usize = 1000;
/// Number of measurements, each with a new process.
const ROUNDS: usize = 3;
/// Number of concurrent connection attempts.
const AT_A_TIME: usize = 32;
const LIMIT: Duration = Duration::from_secs(30);
/// Time for the memory of a process to settle.
const SETTLED: Duration = Duration::from_secs(3);

pub(crate) async fn run() -> Result<()> {
    let api = ApiServer::start().await?;
    let (mut control_plane, _) = cluster::with_webhooks(&api).await?;
    let client = api.client().await?;
    cluster::fill(&client, &mesh::objects(BACKENDS)).await?;
    let selector = json!({"spec": {"podSelector": {"matchLabels": {"app": "front"}}}}).to_string();
    let patch = [
        "patch",
        "virtualnode.appmesh.k8s.aws",
        "front",
        "-n=bench",
        "--type=merge",
        "-p",
        &selector,
    ];
    api.kubectl(&patch).await?;
    api.create_namespace("bench").await?;
    let tokens: Vec<String> = stream::iter(0..STREAMS)
        .map(|index| token(&client, index))
        .buffer_unordered(AT_A_TIME)
        .try_collect()
        .await?;

    print(&format!(
        "Memory per stream with {STREAMS} streams, in {ROUNDS} processes one after the other:"
    ));
    for (what, tokens) in [("without a token", None), ("with a token", Some(&tokens))] {
        let mut each = Vec::new();
        for _ in 0..ROUNDS {
            control_plane.restart()?;
            control_plane.ready().await?;
            each.push(format!("{:.1} KB", measure(&control_plane, tokens).await?));
        }
        print(&format!("  {what}: {}", each.join(", ")));
    }
    Ok(())
}

/// Creates a pod of the front node and returns a token of its service account that is bound to the pod.
async fn token(client: &Client, index: usize) -> Result<String> {
    let name = format!("front-{index}");
    let pods: Api<Pod> = Api::namespaced(client.clone(), "bench");
    let pod = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"app": "front"}},
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    }))?;
    let created = pods.create(&PostParams::default(), &pod).await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "bench");
    let request = serde_json::from_value(json!({"spec": {
        "audiences": ["evermesh"],
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": created.metadata.uid},
    }}))?;
    let params = PostParams::default();
    let answer = accounts
        .create_token_request("default", &params, &request)
        .await?;
    let token = answer.status.and_then(|status| status.token);
    token.context("the API server returned no token")
}

/// Opens the streams and returns the kilobytes per stream.
async fn measure(control_plane: &ControlPlane, tokens: Option<&Vec<String>>) -> Result<f64> {
    let process = control_plane
        .process_id()
        .context("the control plane does not run")?;
    sleep(SETTLED).await;
    let before = usage::rss_kilobytes(process)?;
    let address = format!("http://{}", control_plane.xds());
    let streams: Vec<OpenStream> = stream::iter(0..STREAMS)
        .map(|index| {
            let token = tokens.map(|tokens| tokens[index].as_str());
            timeout(
                LIMIT,
                connect(address.clone(), NODE, &[INGRESS, EGRESS], token),
            )
        })
        .buffer_unordered(AT_A_TIME)
        .map(|connected| connected?)
        .try_collect()
        .await?;
    sleep(SETTLED).await;
    let growth = usage::rss_kilobytes(process)?.saturating_sub(before);
    let each = f64::from(u32::try_from(growth)?) / f64::from(u32::try_from(streams.len())?);
    Ok(each)
}

/// Opens a stream as an Envoy of a node and ACKs the first response of each type.
async fn connect(
    address: String,
    node: &str,
    routes: &[&str],
    token: Option<&str>,
) -> Result<OpenStream> {
    let channel = Endpoint::from_shared(address)?.connect().await?;
    let (requests, body) = mpsc::channel(8);
    let subscriptions = [
        (ResourceType::Cluster, &["*"][..]),
        (ResourceType::Listener, &["*"]),
        (ResourceType::Route, routes),
    ];
    for (kind, names) in subscriptions {
        requests.try_send(DeltaDiscoveryRequest {
            node: Some(Node {
                id: node.to_owned(),
                ..Node::default()
            }),
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryRequest::default()
        })?;
    }
    let mut request = Request::new(ReceiverStream::new(body));
    if let Some(token) = token {
        let value = AsciiMetadataValue::try_from(format!("Bearer {token}"))?;
        request.metadata_mut().insert("authorization", value);
    }
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let responses = client.delta_aggregated_resources(request).await?;
    let mut stream = OpenStream {
        requests,
        responses: responses.into_inner(),
    };
    for _ in subscriptions {
        stream.ack_next().await?;
    }
    Ok(stream)
}

/// A stream that is closed when this is dropped.
struct OpenStream {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl OpenStream {
    /// Waits for a response and ACKs it. An error if the stream has ended.
    async fn ack_next(&mut self) -> Result<()> {
        let response = self.responses.message().await?;
        let response = response.context("the stream ended")?;
        self.requests.try_send(DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        })?;
        Ok(())
    }
}
