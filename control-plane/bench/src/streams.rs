//! What a proxy's stream costs the control plane in memory: of one that shows nothing, and of one with a pod's token.
//!
//! The proxies are connections of this process, each of which asks for what an Envoy of the front node asks for.

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
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Streaming, metadata::AsciiMetadataValue, transport::Endpoint};

use crate::{
    bare::{EGRESS, INGRESS},
    cluster,
    fleet::NODE,
    mesh::{self, BACKENDS},
    say, usage,
};

/// Streams measured at a time.
const STREAMS: usize = 1000;
/// Processes measured, each from its start.
const ROUNDS: usize = 3;
/// Connected at a time.
const AT_A_TIME: usize = 32;
const PATIENCE: Duration = Duration::from_secs(30);
/// Until the memory of a process is what it stays.
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

    say(&format!(
        "Memory of each of {STREAMS} streams, in {ROUNDS} processes one after the other:"
    ));
    for (what, tokens) in [("showing nothing", None), ("with a token", Some(&tokens))] {
        let mut each = Vec::new();
        for _ in 0..ROUNDS {
            control_plane.restart()?;
            control_plane.ready().await?;
            each.push(format!("{:.1} KB", measure(&control_plane, tokens).await?));
        }
        say(&format!("  {what}: {}", each.join(", ")));
    }
    Ok(())
}

/// Creates a pod of the front node; returns its token.
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
    token.context("a token is granted")
}

/// Kilobytes that a stream takes.
async fn measure(control_plane: &ControlPlane, tokens: Option<&Vec<String>>) -> Result<f64> {
    let process = control_plane
        .process_id()
        .context("the control plane runs")?;
    sleep(SETTLED).await;
    let before = usage::rss_kilobytes(process)?;
    let address = format!("http://{}", control_plane.xds());
    let connected: Vec<Connected> = stream::iter(0..STREAMS)
        .map(|index| {
            let token = tokens.map(|tokens| tokens[index].as_str());
            timeout(PATIENCE, connect(address.clone(), token))
        })
        .buffer_unordered(AT_A_TIME)
        .map(|connected| connected?)
        .try_collect()
        .await?;
    sleep(SETTLED).await;
    let taken = usage::rss_kilobytes(process)?.saturating_sub(before);
    let each = f64::from(u32::try_from(taken)?) / f64::from(u32::try_from(connected.len())?);
    Ok(each)
}

/// Connects as an Envoy of the front node, and acknowledges everything that it is first sent.
async fn connect(address: String, token: Option<&str>) -> Result<Connected> {
    let channel = Endpoint::from_shared(address)?.connect().await?;
    let (requests, body) = mpsc::unbounded_channel();
    let wanted = [
        (ResourceType::Cluster, &["*"][..]),
        (ResourceType::Listener, &["*"]),
        (ResourceType::Route, &[INGRESS, EGRESS]),
    ];
    for (kind, names) in wanted {
        requests.send(DeltaDiscoveryRequest {
            node: Some(Node {
                id: NODE.to_owned(),
                ..Node::default()
            }),
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryRequest::default()
        })?;
    }
    let mut request = Request::new(UnboundedReceiverStream::new(body));
    if let Some(token) = token {
        let value = AsciiMetadataValue::try_from(format!("Bearer {token}"))?;
        request.metadata_mut().insert("authorization", value);
    }
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let answers = client.delta_aggregated_resources(request).await?;
    let mut answers = answers.into_inner();
    for _ in wanted {
        let answer = answers.message().await?.context("the stream goes on")?;
        requests.send(DeltaDiscoveryRequest {
            type_url: answer.type_url,
            response_nonce: answer.nonce,
            ..DeltaDiscoveryRequest::default()
        })?;
    }
    Ok(Connected {
        _requests: requests,
        _answers: answers,
    })
}

/// A stream that lives until this is dropped.
struct Connected {
    _requests: mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    _answers: Streaming<DeltaDiscoveryResponse>,
}
