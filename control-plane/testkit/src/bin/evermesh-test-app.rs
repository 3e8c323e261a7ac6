//! The small programs that tests and the demo run on hosts.

use std::{io::Write as _, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use clap::Parser;
use evermesh_testkit::{
    app, collector,
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
use tonic::{Code, transport::Channel};

/// Servers that answer with their name, a collector of traces, and a load client.
#[derive(Parser)]
enum Args {
    /// Answers HTTP/1.1 and cleartext HTTP/2 with a name.
    Http {
        /// The answer.
        #[arg(long)]
        name: String,
        /// The addresses to listen on.
        #[arg(long, required = true)]
        listen: Vec<SocketAddr>,
    },
    /// Greets TCP connections with a name, then echoes.
    Tcp {
        /// The greeting.
        #[arg(long)]
        name: String,
        /// The address to listen on.
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Collects traces as Zipkin does, and answers `GET` with all spans.
    Collector {
        /// The address to listen on.
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Sends requests at a fixed rate and prints a line of JSON per second, and one at the end; SIGTERM is an early end.
    Load {
        /// The address to connect to; a name is looked up once.
        #[arg(long)]
        connect: String,
        /// The `Host` header.
        #[arg(long)]
        host: String,
        /// The path.
        #[arg(long, default_value = "/")]
        path: String,
        /// Requests per second.
        #[arg(long, default_value_t = 200)]
        rate: u32,
        /// How long.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Cleartext HTTP/2 instead of HTTP/1.1.
        #[arg(long)]
        http2: bool,
        /// The end of the standard input is an early end too.
        #[arg(long)]
        until_input_ends: bool,
    },
    /// Asks an xDS server for the clusters of a node and prints the gRPC code of its answer.
    Ask {
        /// The server, as HOST:PORT.
        #[arg(long)]
        connect: String,
        /// The node's id.
        #[arg(long)]
        node: String,
        /// A file with a token to show.
        #[arg(long)]
        token_file: Option<PathBuf>,
    },
    /// Waits until it is told to end, and until then for every orphan, as what holds the namespaces of a pod.
    Pause,
    /// Holds a host's namespace and connects callers of a Unix socket to what listens inside.
    Agent {
        /// The Unix socket.
        #[arg(long)]
        socket: PathBuf,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match Args::parse() {
        Args::Http { name, listen } => {
            let servers = listen.into_iter().map(|it| app::serve_http(it, &name));
            until_terminated(try_join_all(servers)).await
        }
        Args::Tcp { name, listen } => until_terminated(app::serve_tcp(listen, &name)).await,
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
        } => {
            let channel = Channel::from_shared(format!("http://{connect}"))?;
            let channel = channel.connect().await?;
            let token = token_file.map(std::fs::read_to_string).transpose()?;
            let authorization = token.map(|it| format!("Bearer {}", it.trim()));
            let asked = xds::open_stream(channel, &node, authorization.as_deref()).await;
            let code = asked.err().map_or(Code::Ok, |status| status.code());
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
            let duration = Duration::from_secs(seconds);
            let mut found = lookup_host(&connect).await.context(connect.clone())?;
            let connect = found.next().context("a name without an address")?;
            let load = Load {
                target: Address::Tcp(connect),
                host,
                path,
                rate,
                duration,
                http2,
            };
            let mut terminated = signal(SignalKind::terminate())?;
            let stop = async move {
                tokio::select! {
                    _ = terminated.recv() => {}
                    () = input_ends(), if until_input_ends => {}
                }
            };
            print(&load.run_until(stop, print).await?);
            Ok(())
        }
    }
}

/// Nobody else ends the first process of a container: for it, signals have no default.
async fn until_terminated<T>(work: impl Future<Output = Result<T>>) -> Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        done = work => done.map(drop),
        _ = terminated.recv() => Ok(()),
    }
}

async fn input_ends() {
    let (ended, noticed) = oneshot::channel::<()>();
    // A thread of its own, which nobody waits for.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        drop(ended);
    });
    let _ = noticed.await;
}

fn print(tally: &LoadStats) {
    let line = serde_json::to_string(tally).expect("a tally has string keys");
    // Whoever read us is gone; the load goes on to its end.
    let _ = writeln!(std::io::stdout(), "{line}");
}
