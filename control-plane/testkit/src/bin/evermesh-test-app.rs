//! The small programs that tests and the demo run on hosts.

use std::{io::Write as _, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Result;
use clap::Parser;
use evermesh_testkit::{
    app,
    http::Address,
    load::{Load, Tally},
};
use tokio::signal::unix::{SignalKind, signal};

/// Servers that answer with their name, and a load client.
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
    /// Sends requests at a fixed rate and prints a line of JSON per second, and one at the end; SIGTERM is an early end.
    Load {
        /// The address to connect to.
        #[arg(long)]
        connect: SocketAddr,
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
    },
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
        Args::Agent { socket } => app::serve_agent(&socket).await,
        Args::Load {
            connect,
            host,
            path,
            rate,
            seconds,
            http2,
        } => {
            let duration = Duration::from_secs(seconds);
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
                terminated.recv().await;
            };
            print(&load.run_until(stop, print).await?);
            Ok(())
        }
    }
}

fn print(tally: &Tally) {
    let line = serde_json::to_string(tally).expect("a tally has string keys");
    // Whoever read us is gone; the load goes on to its end.
    let _ = writeln!(std::io::stdout(), "{line}");
}
