//! Latency of the Envoys alone: a server sends recorded responses of Evermesh and does nothing else.
//!
//! The benchmark records what the control plane serves with two weights and alternates between the route configurations.
//! A control plane cannot be faster than this server on the same machine.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use evermesh_proto::{
    core::Node,
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        aggregated_discovery_service_server::{
            AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
        },
    },
    resource::ResourceType,
};
use evermesh_testkit::{control_plane::ControlPlane, envoy::Envoy, tools};
use futures::{Stream, StreamExt as _, stream};
use tokio::{
    net::TcpListener,
    sync::mpsc::{self, Receiver, Sender},
    time::{sleep, timeout},
};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Endpoint, Server, server::TcpIncoming},
};

use crate::{
    fleet::{self, ENVOYS, NODE},
    mesh::{self, BACKENDS},
    percentiles, print, usage,
};

/// Number of changes.
const CHANGES: u32 = 200;
/// Time between two changes, equal to that of the other benchmarks.
const PAUSE: Duration = Duration::from_millis(100);
const LIMIT: Duration = Duration::from_secs(10);

/// The route configuration for incoming requests of the front node.
pub(crate) const INGRESS: &str = "rds_ingress_http_8080";
/// The route configuration for outgoing requests, which has the weights.
pub(crate) const EGRESS: &str = "rds_egress_http_8080";

/// Responses and ACKs that may wait. Each change needs one of a stream and one for each Envoy.
const QUEUED_MESSAGES: usize = 1 << 10;

/// The response to the first request for each type URL.
type Recording = BTreeMap<String, DeltaDiscoveryResponse>;

pub(crate) async fn run() -> Result<()> {
    let (recording, other_route) = record().await?;
    let route = ResourceType::Route.type_url();
    let routes = [&recording[route], &other_route].map(|all| {
        let mut change = all.clone();
        change.resources.retain(|resource| resource.name == EGRESS);
        change
    });
    let (acked, mut acks) = mpsc::channel(QUEUED_MESSAGES);
    let server = RecordedServer {
        recording: Arc::new(recording),
        streams: Arc::default(),
        acked,
    };
    let streams = Arc::clone(&server.streams);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = Server::builder().add_service(AggregatedDiscoveryServiceServer::new(server));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tokio::spawn(server.serve_with_incoming(incoming));

    let mut envoys = fleet::start(address).await?;
    sleep(Duration::from_secs(1)).await;
    let cpu_before = cpu_of(&mut envoys)?;
    let mut milliseconds = Vec::new();
    for change in 0..CHANGES {
        while acks.try_recv().is_ok() {}
        let mut response = routes[usize::from(change % 2 == 0)].clone();
        response.nonce = change.to_string();
        let started = Instant::now();
        for stream in streams.lock().expect("no holder panics").iter() {
            // Without an ACK of a closed stream the loop below fails.
            let _ = stream.try_send(response.clone());
        }
        for _ in 0..ENVOYS {
            timeout(LIMIT, acks.recv())
                .await?
                .context("the server ended")?;
        }
        milliseconds.push(started.elapsed().as_secs_f64() * 1e3);
        sleep(PAUSE).await;
    }
    let cpu = (cpu_of(&mut envoys)? - cpu_before) * 1e3 / f64::from(CHANGES);
    milliseconds.sort_by(f64::total_cmp);
    let [p50, p99, max] = percentiles(&milliseconds, [50, 99, 100]);
    print(&format!(
        "Recorded responses to the last ACK of {ENVOYS} Envoys (lower bound), {CHANGES} changes: p50 {p50:.1} ms, p99 \
         {p99:.1} ms, max {max:.1} ms; CPU of all Envoys {cpu:.1} ms per change"
    ));
    Ok(())
}

/// CPU seconds of all Envoys.
fn cpu_of(envoys: &mut [Envoy]) -> Result<f64> {
    let each = envoys
        .iter_mut()
        .map(|envoy| usage::cpu_seconds(envoy.process().id()));
    each.sum()
}

/// The responses for the front node, and its route configurations with another weight.
async fn record() -> Result<(Recording, DeltaDiscoveryResponse)> {
    let config = tools::scratch("bare")?;
    for (index, object) in mesh::objects(BACKENDS).into_iter().enumerate() {
        fs::write(config.path().join(format!("{index}.yaml")), object)?;
    }
    let recording = fetch(config.path()).await?;
    // `mesh::objects` begins with the Route.
    fs::write(config.path().join("0.yaml"), mesh::route(2))?;
    let mut other = fetch(config.path()).await?;
    let route = other.remove(ResourceType::Route.type_url());
    Ok((
        recording,
        route.context("no route configuration was recorded")?,
    ))
}

async fn fetch(config: &Path) -> Result<Recording> {
    let mut control_plane = ControlPlane::start(config, &[])?;
    control_plane.ready().await?;
    let address = format!("http://{}", control_plane.xds());
    let channel = Endpoint::from_shared(address)?.connect().await?;
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let mut recording = Recording::new();
    // One stream per type: a stream with clusters gets routes only after it has ACKed the clusters.
    for (kind, names) in [
        (ResourceType::Cluster, &["*"][..]),
        (ResourceType::Listener, &["*"]),
        (ResourceType::Route, &[INGRESS, EGRESS]),
    ] {
        let request = DeltaDiscoveryRequest {
            node: Some(Node {
                id: NODE.to_owned(),
                ..Default::default()
            }),
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        let requests = stream::iter([request]).chain(stream::pending());
        let answers = client.delta_aggregated_resources(requests).await?;
        let answer = timeout(LIMIT, answers.into_inner().message()).await??;
        let answer = answer.context("the stream ended")?;
        recording.insert(answer.type_url.clone(), answer);
    }
    Ok(recording)
}

/// An xDS server that sends recorded responses.
struct RecordedServer {
    recording: Arc<Recording>,
    streams: Arc<Mutex<Vec<Sender<DeltaDiscoveryResponse>>>>,
    acked: Sender<()>,
}

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for RecordedServer {
    type StreamAggregatedResourcesStream = ResponseStream<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = ResponseStream<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("use delta xDS"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (sender, receiver) = mpsc::channel(QUEUED_MESSAGES);
        let recording = Arc::clone(&self.recording);
        let acked = self.acked.clone();
        let requests = request.into_inner();
        self.streams
            .lock()
            .expect("no holder panics")
            .push(sender.clone());
        tokio::spawn(respond(requests, recording, sender, acked));
        Ok(Response::new(Box::pin(stream::unfold(receiver, next))))
    }
}

async fn next<T>(mut receiver: Receiver<T>) -> Option<(Result<T, Status>, Receiver<T>)> {
    let answer = receiver.recv().await?;
    Some((Ok(answer), receiver))
}

/// Sends the recorded response to the first request for each type, and reports each ACK.
async fn respond(
    mut requests: Streaming<DeltaDiscoveryRequest>,
    recording: Arc<Recording>,
    responses: Sender<DeltaDiscoveryResponse>,
    acked: Sender<()>,
) {
    while let Ok(Some(request)) = requests.message().await {
        let is_first = request.response_nonce.is_empty();
        let recorded = recording.get(&request.type_url).filter(|_| is_first);
        // Both channels close only at the end of the benchmark or of the stream.
        let _ = match recorded {
            Some(response) => responses.try_send(response.clone()).is_ok(),
            None => request.error_detail.is_none() && acked.try_send(()).is_ok(),
        };
    }
}
