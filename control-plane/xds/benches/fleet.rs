//! Many streams on loopback: one change of endpoints goes to 40 of them, and each ACKs it.
//!
//! The clients run in a process of their own, which is this program again, so that CPU time and memory are those of the
//! server. Prints the memory per stream, the CPU time per delivery, and the time until the last ACK of a change.
//! `FLEET=2000 cargo bench --bench fleet` sets the number of streams; each needs a file descriptor in both processes.

#![allow(clippy::print_stdout)] // the benchmark prints its result

use std::{
    env, fs,
    process::{Child, Command},
    sync::Arc,
    time::{Duration, Instant},
};

use evermesh_proto::{
    ProxyView, core,
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    resource::{Resource, ResourceKey, ResourceType},
};
use evermesh_xds::{
    ProxyRegistry, Store, StoreCommit, XdsServerOptions, serve, without_credentials,
};
use tokio::{net::TcpListener, runtime, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

type AnyResult<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const CHANGES: usize = 500;
const AFFECTED: usize = 40;
const THREAD: &str = "fleet-server";
const PATH: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

fn main() -> AnyResult<()> {
    if let Ok(address) = env::var("FLEET_SERVER") {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        return runtime.block_on(clients(address, fleet()));
    }
    measure()
}

fn fleet() -> usize {
    let fleet = env::var("FLEET").ok().and_then(|text| text.parse().ok());
    fleet.unwrap_or(200)
}

fn name(number: usize) -> String {
    format!("cds_egress_mesh_node-{number}_http_8080")
}

fn put(name: &str, content: u8) -> (ResourceKey, Arc<Resource>) {
    let name: Arc<str> = name.into();
    let kind = ResourceType::Endpoint;
    let key = ResourceKey {
        kind,
        name: Arc::clone(&name),
        scope: None,
    };
    let body = vec![content; 600].into();
    (key, Arc::new(Resource::from_encoded(kind, name, body)))
}

fn measure() -> AnyResult<()> {
    let streams = fleet();
    let store = Store::new();
    let upserts: Vec<_> = (0..1000).map(|number| put(&name(number), 0)).collect();
    let view = ProxyView::new(upserts.iter().map(|(key, _)| key.clone()).collect());
    store.commit(StoreCommit {
        upserts,
        views: vec![("node".into(), Some(Arc::new(view)))],
        ..StoreCommit::default()
    });
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name(THREAD)
        .enable_all()
        .build()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    let options = XdsServerOptions::new(without_credentials(|node: &core::Node| {
        Ok(node.id.as_str().into()).into()
    }));
    let registry = ProxyRegistry::new(None);
    runtime.spawn(serve(listener, Arc::clone(&store), registry, options));

    let before = (memory()?, cpu()?);
    let mut child = Clients(
        Command::new(env::current_exe()?)
            .env("FLEET_SERVER", format!("http://{address}"))
            .spawn()?,
    );
    let metrics = store.metrics();
    wait(|| metrics.acks.get() >= streams as u64);
    std::thread::sleep(Duration::from_millis(200));
    let kilobytes = (memory()? - before.0) / streams as u64;
    println!(
        "{streams} streams: {kilobytes} KB each, connected in {} ms CPU",
        (cpu()? - before.1) / 1_000_000
    );

    let affected = streams.min(AFFECTED);
    let mut lasts = Vec::with_capacity(CHANGES);
    let before = cpu()?;
    for change in 0..CHANGES {
        let content = u8::try_from(change % 250)? + 1;
        let target = metrics.acks.get() + affected as u64;
        let start = Instant::now();
        store.commit(StoreCommit {
            upserts: vec![put(&name(0), content)],
            ..StoreCommit::default()
        });
        wait(|| metrics.acks.get() >= target);
        lasts.push(start.elapsed());
    }
    let spent = cpu()? - before;
    lasts.sort();
    println!(
        "one change to {affected}: {} ns CPU per delivery, last ACK p50 {:?} p99 {:?}",
        spent / (CHANGES * affected) as u64,
        lasts[CHANGES / 2],
        lasts[CHANGES * 99 / 100],
    );
    child.0.kill()?;
    Ok(())
}

/// The process of the clients. Dropping it ends the process.
struct Clients(Child);

impl Drop for Clients {
    fn drop(&mut self) {
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

fn wait(done: impl Fn() -> bool) {
    while !done() {
        std::thread::sleep(Duration::from_micros(20));
    }
}

/// Resident memory of this process in KB.
fn memory() -> AnyResult<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or("/proc/self/status has no VmRSS")?.parse()?)
}

/// CPU time of the server's threads in nanoseconds.
fn cpu() -> AnyResult<u64> {
    let mut sum = 0;
    for task in fs::read_dir("/proc/self/task")? {
        let path = task?.path();
        if fs::read_to_string(path.join("comm"))?.trim_end() == THREAD {
            let schedule = fs::read_to_string(path.join("schedstat"))?;
            let spent = schedule.split_whitespace().next();
            sum += spent
                .ok_or("/proc/self/task/*/schedstat has no CPU time")?
                .parse::<u64>()?;
        }
    }
    Ok(sum)
}

async fn clients(address: String, count: usize) -> AnyResult<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..count {
        let first = if number < AFFECTED {
            0
        } else {
            1 + number % 900
        };
        let names =
            std::iter::once(first).chain((1..20).map(|step| 1 + (number * 7 + step * 37) % 999));
        let names: std::collections::BTreeSet<String> = names.map(name).collect();
        tasks.spawn(client(address.clone(), names.into_iter().collect()));
    }
    while let Some(result) = tasks.join_next().await {
        result??;
    }
    Ok(())
}

async fn client(address: String, names: Vec<String>) -> AnyResult<()> {
    let channel = Channel::from_shared(address)?.connect().await?;
    let (requests, receiver) = mpsc::channel(8);
    let mut grpc = Grpc::new(channel);
    grpc.ready().await?;
    let codec = ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
    requests.try_send(DeltaDiscoveryRequest {
        node: Some(core::Node {
            id: "node".into(),
            ..Default::default()
        }),
        type_url: ResourceType::Endpoint.type_url().into(),
        resource_names_subscribe: names,
        ..Default::default()
    })?;
    let stream = tonic::Request::new(ReceiverStream::new(receiver));
    let response = grpc.streaming(stream, PATH.parse()?, codec).await?;
    let mut responses = response.into_inner();
    while let Some(response) = responses.message().await? {
        requests.try_send(DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..Default::default()
        })?;
    }
    Ok(())
}
