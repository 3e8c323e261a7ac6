//! The clients that an attack must not harm: a proxy whose configuration changes, a proxy that connects anew again and
//! again, and the kubelet, which asks for `/livez`.
//!
//! They have a thread and addresses of their own, so that neither the attacker's work nor its share of the connections
//! delays them.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use evermesh_proto::{
    core::Node,
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    resource::ResourceType,
};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    runtime::Builder,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    client::{self, XdsConnection, XdsStream, framed},
    target::{self, NODE, Ports, Target},
};

/// Addresses of these clients; attackers have others.
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
const KUBELET: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 10);

/// Longest time for anything. A client that waited longer has failed.
const DEADLINE: Duration = Duration::from_mins(1);

/// Pauses after a change, a probe and a new stream.
const CHANGE_PAUSE: Duration = Duration::from_millis(25);
const PROBE_PAUSE: Duration = Duration::from_millis(25);
const STREAM_PAUSE: Duration = Duration::from_millis(100);

/// Times and failures that the clients saw so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sightings {
    /// Milliseconds from the write of a change to its arrival.
    pub(crate) changes: Vec<f64>,
    /// Milliseconds from connecting to the answer of `/livez`.
    pub(crate) probes: Vec<f64>,
    /// Milliseconds from connecting to the first response of a new stream.
    pub(crate) streams: Vec<f64>,
    /// Errors, each with the client that had it.
    pub(crate) failures: Vec<String>,
}

pub(crate) struct Bystander {
    seen: Arc<Mutex<Sightings>>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Bystander {
    /// Starts the clients and waits until the proxy has its configuration.
    pub(crate) async fn start(target: &Arc<Target>) -> Result<Self> {
        let seen = Arc::<Mutex<Sightings>>::default();
        let stop = CancellationToken::new();
        let clients = Clients {
            target: Arc::clone(target),
            seen: Arc::clone(&seen),
        };
        let stopped = stop.clone();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().spawn(move || {
            runtime.block_on(stopped.run_until_cancelled(clients.run()));
        })?;
        let bystander = Self {
            seen,
            stop,
            thread: Some(thread),
        };
        bystander.sees(1).await?;
        Ok(bystander)
    }

    /// Everything that was seen since the start or the last call.
    pub(crate) fn take(&self) -> Sightings {
        std::mem::take(&mut *lock(&self.seen))
    }

    /// Waits until each client has succeeded this many times, or has failed.
    pub(crate) async fn sees(&self, times: usize) -> Result<()> {
        let enough = async {
            loop {
                let seen = lock(&self.seen).clone();
                let lists = [&seen.changes, &seen.probes, &seen.streams];
                if !seen.failures.is_empty() || lists.iter().all(|list| list.len() >= times) {
                    break;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        let enough = timeout(2 * DEADLINE, enough).await;
        enough.context("a bystander neither succeeded nor failed")
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.stop.cancel();
        // The thread has no panic to report that its clients have not reported.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn lock(seen: &Mutex<Sightings>) -> std::sync::MutexGuard<'_, Sightings> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Clients {
    target: Arc<Target>,
    seen: Arc<Mutex<Sightings>>,
}

impl Clients {
    async fn run(self) {
        let changing = self.repeat("its configuration", CHANGE_PAUSE, async || {
            // The whole life of a stream, which ends only by a failure.
            self.follow_changes().await
        });
        let probing = self.repeat("/livez", PROBE_PAUSE, async || {
            let milliseconds = timed(self.probe()).await?;
            lock(&self.seen).probes.push(milliseconds);
            Ok(())
        });
        let mut number = 0;
        let connecting = self.repeat("a new stream", STREAM_PAUSE, async || {
            number += 1;
            let token = target::token(number);
            let opened = async { open(&self.target.ports, &token).await.map(drop) };
            let milliseconds = timed(opened).await?;
            lock(&self.seen).streams.push(milliseconds);
            Ok(())
        });
        tokio::join!(changing, probing, connecting);
    }

    async fn repeat(&self, what: &str, pause: Duration, mut work: impl AsyncFnMut() -> Result<()>) {
        loop {
            if let Err(error) = work().await {
                let failure = format!("{what}: {error:#}");
                lock(&self.seen).failures.push(failure);
            }
            sleep(pause).await;
        }
    }

    async fn follow_changes(&self) -> Result<()> {
        let (_connection, mut stream) = open(&self.target.ports, &target::token(0)).await?;
        for number in 1.. {
            let host = target::changed_host(number);
            let received = async {
                target::change(&self.target.api, number);
                while !stream.receive_and_ack(&host).await? {}
                Ok(())
            };
            let milliseconds = timed(received).await?;
            lock(&self.seen).changes.push(milliseconds);
            sleep(CHANGE_PAUSE).await;
        }
        Ok(())
    }

    async fn probe(&self) -> Result<()> {
        let mut stream = client::connect(self.target.ports.metrics, KUBELET).await?;
        let request = b"GET /livez HTTP/1.1\r\nhost: kubelet\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await?;
        if !response.starts_with("HTTP/1.1 200") {
            bail!("answered `{response}`");
        }
        Ok(())
    }
}

/// Milliseconds until the work is done.
async fn timed(work: impl Future<Output = Result<()>>) -> Result<f64> {
    let started = Instant::now();
    let done = timeout(DEADLINE, work).await;
    done.with_context(|| format!("nothing within {DEADLINE:?}"))??;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

/// Opens a stream to all clusters of the front node and ACKs the first response.
async fn open(ports: &Ports, token: &str) -> Result<(XdsConnection, XdsStream)> {
    let connection = if ports.is_xds_encrypted {
        XdsConnection::open(client::connect_tls(&ports.tls, ports.xds, PROXY).await?).await?
    } else {
        XdsConnection::open(client::connect(ports.xds, PROXY).await?).await?
    };
    let mut stream = connection.stream(Some(token)).await?;
    let first = DeltaDiscoveryRequest {
        node: Some(Node {
            id: NODE.to_owned(),
            ..Node::default()
        }),
        ..clusters()
    };
    stream.send_bytes(framed(&first)).await?;
    stream.receive_and_ack("").await?;
    Ok((connection, stream))
}

fn clusters() -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: ResourceType::Cluster.type_url().to_owned(),
        ..DeltaDiscoveryRequest::default()
    }
}

impl XdsStream {
    /// ACKs the next response; tells whether it contains this text.
    async fn receive_and_ack(&mut self, text: &str) -> Result<bool> {
        let response: DeltaDiscoveryResponse = self.receive().await?;
        let found = String::from_utf8_lossy(&response.encode_to_vec()).contains(text);
        let ack = DeltaDiscoveryRequest {
            response_nonce: response.nonce,
            ..clusters()
        };
        self.send_bytes(framed(&ack)).await?;
        Ok(found)
    }
}
