//! The small programs that tests and the demo run on hosts.

use std::{io::Write as _, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use clap::Parser;
use evermesh_testkit::{
    app, collector,
    http::Address,
    load::{Load, Tally},
};
use tokio::{
    net::lookup_host,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

/// Servers that answer with their name, a collector of traces, and a load client.
#[derive(Parser)]
enum Args {
    /// Answers HTTP/1.1 and cleartext HTTP/2 with a name.
    Http {
        /// The answer.
        #[arg(long)]
        name: String,
        /// The address to listen on.
        #[arg(long)]
        listen: SocketAddr,
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
    /// Waits until it is told to end, as what holds the namespaces of a pod.
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
        Args::Http { name, listen } => app::serve_http(listen, &name).await,
        Args::Tcp { name, listen } => app::serve_tcp(listen, &name).await,
        Args::Collector { listen } => collector::serve(listen).await,
        Args::Pause => {
            signal(SignalKind::terminate())?.recv().await;
            Ok(())
        }
        Args::Agent { socket } => app::serve_agent(&socket).await,
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

async fn input_ends() {
    let (ended, noticed) = oneshot::channel::<()>();
    // A thread of its own, which nobody waits for.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        drop(ended);
    });
    let _ = noticed.await;
}

fn print(tally: &Tally) {
    let line = serde_json::to_string(tally).expect("a tally has string keys");
    // Whoever read us is gone; the load goes on to its end.
    let _ = writeln!(std::io::stdout(), "{line}");
}
