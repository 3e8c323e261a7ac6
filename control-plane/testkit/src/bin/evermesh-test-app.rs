//! Small programs that tests and the demo run on hosts and in pods: servers, clients and namespace holders.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Parser;
use evermesh_testkit::{
    app, collector, dns,
    http::Address,
    load::{Load, LoadStats},
    xds,
};
use futures::future::try_join_all;
use tokio::{
    net::lookup_host,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
use tonic::{
    Code,
    transport::{Certificate, Channel, ClientTlsConfig},
};

/// Test applications: servers, a load client, an xDS client and namespace holders
#[derive(Parser)]
enum Args {
    /// Answer HTTP/1.1 and cleartext HTTP/2 requests with a name
    Http {
        /// Body of every response
        #[arg(long)]
        name: String,
        /// Address to listen on; may be given several times
        #[arg(long, required = true)]
        listen: Vec<SocketAddr>,
    },
    /// Send a name on every TCP connection, then echo
    Tcp {
        /// Name to send
        #[arg(long)]
        name: String,
        /// Address to listen on
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Answer DNS queries for addresses
    Dns {
        /// Address to listen on
        #[arg(long)]
        listen: SocketAddr,
        /// NAME=ADDRESS; may be given several times, also for one name
        #[arg(long, value_parser = dns_record)]
        record: Vec<(String, IpAddr)>,
    },
    /// Accept spans in Zipkin's JSON and answer GET with all of them
    Collector {
        /// Address to listen on
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Send requests at a fixed rate; print a line of JSON per second and one for the whole run; SIGTERM ends the run
    Load {
        /// HOST:PORT to connect to; the name is resolved once
        #[arg(long)]
        connect: String,
        /// Host header of the requests
        #[arg(long)]
        host: String,
        /// Path of the requests
        #[arg(long, default_value = "/")]
        path: String,
        /// Requests per second
        #[arg(long, default_value_t = 200)]
        rate: u32,
        /// Length of the run in seconds
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Use cleartext HTTP/2 instead of HTTP/1.1
        #[arg(long)]
        http2: bool,
        /// End the run also when standard input is closed
        #[arg(long)]
        until_input_ends: bool,
    },
    /// Subscribe to the clusters of a node and print the gRPC code of the response
    Ask {
        /// HOST:PORT of the xDS server
        #[arg(long)]
        connect: String,
        /// Node ID
        #[arg(long)]
        node: String,
        /// File with a bearer token
        #[arg(long)]
        token_file: Option<PathBuf>,
        /// Certificates of the server's authority, in PEM
        #[arg(long)]
        authority: String,
    },
    /// Hold the namespaces of a pod: reap orphans until SIGTERM
    Pause,
    /// Hold the namespace of a lab host and connect clients of a Unix socket to servers inside it
    Agent {
        /// Unix socket to listen on
        #[arg(long)]
        socket: PathBuf,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match Args::parse() {
        Args::Http { name, listen } => {
            let servers = listen
                .into_iter()
                .map(|address| app::serve_http(address, &name));
            until_terminated(try_join_all(servers)).await
        }
        Args::Tcp { name, listen } => until_terminated(app::serve_tcp(listen, &name)).await,
        Args::Dns { listen, record } => until_terminated(dns::serve(listen, record)).await,
        Args::Collector { listen } => until_terminated(collector::serve(listen)).await,
        Args::Pause => until_terminated(app::reap()).await,
        Args::Agent { socket } => {
            tokio::select! {
                served = app::serve_agent(&socket) => served,
                reaped = app::reap() => reaped,
            }
        }
        Args::Ask {
            connect,
            node,
            token_file,
            authority,
        } => {
            let trust = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority));
            let channel = Channel::from_shared(format!("https://{connect}"))?;
            let channel = channel.tls_config(trust)?.connect().await?;
            let token = token_file.map(std::fs::read_to_string).transpose()?;
            let authorization = token.map(|token| format!("Bearer {}", token.trim()));
            let stream = xds::open_stream(channel, &node, authorization.as_deref()).await;
            let code = stream.err().map_or(Code::Ok, |status| status.code());
            writeln!(std::io::stdout(), "{code:?}")?;
            Ok(())
        }
        Args::Load {
            connect,
            host,
            path,
            rate,
            seconds,
            http2,
            until_input_ends,
        } => {
            let mut addresses = lookup_host(&connect)
                .await
                .with_context(|| format!("resolving `{connect}`"))?;
            let address = addresses
                .next()
                .with_context(|| format!("`{connect}` has no address"))?;
            let load = Load {
                target: Address::Tcp(address),
                host,
                path,
                rate,
                duration: Duration::from_secs(seconds),
                http2,
            };
            let mut terminated = signal(SignalKind::terminate())?;
            let stop = async move {
                tokio::select! {
                    _ = terminated.recv() => {}
                    () = end_of_input(), if until_input_ends => {}
                }
            };
            print(&load.run_until(stop, print).await?);
            Ok(())
        }
    }
}

fn dns_record(text: &str) -> Result<(String, IpAddr)> {
    let (name, address) = text.split_once('=').context("expected NAME=ADDRESS")?;
    Ok((name.to_owned(), address.parse()?))
}

/// Runs `work` until SIGTERM, which has no default action for process 1 of a container.
async fn until_terminated<T>(work: impl Future<Output = Result<T>>) -> Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        done = work => done.map(drop),
        _ = terminated.recv() => Ok(()),
    }
}

async fn end_of_input() {
    let (sender, receiver) = oneshot::channel::<()>();
    // A blocking task of tokio would delay the end of the process until the input is closed.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        drop(sender);
    });
    let _ = receiver.await;
}

fn print(stats: &LoadStats) {
    let line = serde_json::to_string(stats).expect("statistics have string keys");
    // If the reader is gone, the load still runs to its end.
    let _ = writeln!(std::io::stdout(), "{line}");
}
