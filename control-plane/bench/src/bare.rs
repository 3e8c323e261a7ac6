//! What the Envoys alone take: the bytes that Evermesh serves, from a server that keeps them ready and does nothing else.
//!
//! No control plane can be faster than that on the same machine.

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
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    time::{sleep, timeout},
};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Endpoint, Server, server::TcpIncoming},
};

use crate::{
    fleet::{self, ENVOYS, NODE},
    mesh::{self, BACKENDS},
    percentiles, say, usage,
};

const CHANGES: u32 = 200;
/// Between two changes, as long as in the other measurements.
const PAUSE: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(10);

/// The route configurations of the node.
pub(crate) const INGRESS: &str = "rds_ingress_http_8080";
/// The one that changes.
pub(crate) const EGRESS: &str = "rds_egress_http_8080";

/// A type URL, and what is answered to who asks for it first.
type Recording = BTreeMap<String, DeltaDiscoveryResponse>;

pub(crate) async fn run() -> Result<()> {
    let (recording, other_route) = record().await?;
    let route = ResourceType::Route.type_url();
    let routes = [&recording[route], &other_route].map(|all| {
        let mut change = all.clone();
        change.resources.retain(|resource| resource.name == EGRESS);
        change
    });
    let (acked, mut acks) = mpsc::unbounded_channel();
    let bare = Bare {
        recording: Arc::new(recording),
        streams: Arc::default(),
        acked,
    };
    let streams = Arc::clone(&bare.streams);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = Server::builder().add_service(AggregatedDiscoveryServiceServer::new(bare));
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
            // One that is gone does not answer, which is noticed below.
            let _ = stream.send(response.clone());
        }
        for _ in 0..ENVOYS {
            timeout(PATIENCE, acks.recv()).await?.context("an ACK")?;
        }
        milliseconds.push(started.elapsed().as_secs_f64() * 1e3);
        sleep(PAUSE).await;
    }
    let cpu = (cpu_of(&mut envoys)? - cpu_before) * 1e3 / f64::from(CHANGES);
    milliseconds.sort_by(f64::total_cmp);
    let [p50, p99, max] = percentiles(&milliseconds, [50, 99, 100]);
    say(&format!(
        "The same bytes from a server that only sends them to the last ACK of {ENVOYS} Envoys (their floor), {CHANGES} \
         changes: p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms; CPU of all Envoys {cpu:.1} ms a change"
    ));
    Ok(())
}

/// Seconds that all of them spent.
fn cpu_of(envoys: &mut [Envoy]) -> Result<f64> {
    let each = envoys
        .iter_mut()
        .map(|envoy| usage::cpu_seconds(envoy.process().id()));
    each.sum()
}

/// What the node is served, and its route configuration with another weight.
async fn record() -> Result<(Recording, DeltaDiscoveryResponse)> {
    let config = tools::scratch("bare")?;
    for (index, object) in mesh::objects(BACKENDS).into_iter().enumerate() {
        fs::write(config.path().join(format!("{index}.yaml")), object)?;
    }
    let recording = fetch(config.path()).await?;
    // The first object.
    fs::write(config.path().join("0.yaml"), mesh::route(2))?;
    let mut other = fetch(config.path()).await?;
    let route = other.remove(ResourceType::Route.type_url());
    Ok((recording, route.context("a route was recorded")?))
}

async fn fetch(config: &Path) -> Result<Recording> {
    let mut control_plane = ControlPlane::start(config, &[])?;
    control_plane.ready().await?;
    let address = format!("http://{}", control_plane.xds());
    let channel = Endpoint::from_shared(address)?.connect().await?;
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let mut recording = Recording::new();
    // A stream each: one that has clusters is given routes only when it has acknowledged those.
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
        let answer = timeout(PATIENCE, answers.into_inner().message()).await??;
        let answer = answer.context("the stream goes on")?;
        recording.insert(answer.type_url.clone(), answer);
    }
    Ok(recording)
}

/// A server that knows nothing but its recording.
struct Bare {
    recording: Arc<Recording>,
    streams: Arc<Mutex<Vec<UnboundedSender<DeltaDiscoveryResponse>>>>,
    acked: UnboundedSender<()>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Bare {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("the Envoys here speak delta"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let recording = Arc::clone(&self.recording);
        let acked = self.acked.clone();
        let requests = request.into_inner();
        self.streams
            .lock()
            .expect("no holder panics")
            .push(sender.clone());
        tokio::spawn(answer(requests, recording, sender, acked));
        Ok(Response::new(Box::pin(stream::unfold(receiver, next))))
    }
}

async fn next<T>(
    mut receiver: UnboundedReceiver<T>,
) -> Option<(Result<T, Status>, UnboundedReceiver<T>)> {
    let answer = receiver.recv().await?;
    Some((Ok(answer), receiver))
}

/// Answers the first request for each type, and tells of what is acknowledged.
async fn answer(
    mut requests: Streaming<DeltaDiscoveryRequest>,
    recording: Arc<Recording>,
    answers: UnboundedSender<DeltaDiscoveryResponse>,
    acked: UnboundedSender<()>,
) {
    while let Ok(Some(request)) = requests.message().await {
        let first = request.response_nonce.is_empty();
        let known = recording.get(&request.type_url).filter(|_| first);
        // Whoever is gone needs neither.
        let _ = match known {
            Some(answer) => answers.send(answer.clone()).is_ok(),
            None => request.error_detail.is_none() && acked.send(()).is_ok(),
        };
    }
}
