//! A relay between a client of Cloud Map and its server, which records the calls.

use std::sync::{Arc, Mutex};

use evermesh_testkit::moto::Moto;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// One call of the Cloud Map API.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Such as `DiscoverInstances`.
    pub(crate) action: String,
    pub(crate) body: Value,
}

#[derive(Default)]
struct Record {
    calls: Vec<Call>,
    failed_connections: usize,
    /// Whether connections are closed even if the server accepts them.
    is_closed: bool,
}

/// A relay on loopback; it stops with the tokio runtime that it was started on.
pub(crate) struct CloudMapRelay {
    endpoint: String,
    record: Arc<Mutex<Record>>,
}

impl CloudMapRelay {
    /// Starts a relay to the server at this URL.
    pub(crate) async fn start(server: &str) -> Self {
        let server = server.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let record = Arc::<Mutex<Record>>::default();
        let relay = Self {
            endpoint,
            record: Arc::clone(&record),
        };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await;
                let mut state = record.lock().unwrap();
                match server {
                    Ok(server) if !state.is_closed => {
                        tokio::spawn(forward(client, server, Arc::clone(&record)));
                    }
                    _ => state.failed_connections += 1,
                }
            }
        });
        relay
    }

    /// The URL for the client.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// All calls so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.record.lock().unwrap().calls.clone()
    }

    /// Restarts the server. The client cannot reach it before everything is registered again.
    pub(crate) async fn restart(&self, server: &mut Moto) {
        self.record.lock().unwrap().is_closed = true;
        server.restart().await.unwrap();
        self.record.lock().unwrap().is_closed = false;
    }

    /// Number of connections that were closed because the server, or the relay, did not accept one.
    pub(crate) fn failed_connections(&self) -> usize {
        self.record.lock().unwrap().failed_connections
    }
}

async fn forward(client: TcpStream, server: TcpStream, record: Arc<Mutex<Record>>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let (mut chunk, mut unread) = ([0; 4096], Vec::new());
    while let Ok(length @ 1..) = from_client.read(&mut chunk).await {
        unread.extend_from_slice(&chunk[..length]);
        while let Some((call, length)) = parse(&unread) {
            record.lock().unwrap().calls.push(call);
            unread.drain(..length);
        }
        if to_server.write_all(&chunk[..length]).await.is_err() {
            return;
        }
    }
}

/// The first request and its length, unless a part of the request is missing.
fn parse(bytes: &[u8]) -> Option<(Call, usize)> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).unwrap();
    let header = |name: &str| {
        let mut headers = text.lines().filter_map(|line| line.split_once(": "));
        let (_, value) = headers.find(|(found, _)| found.eq_ignore_ascii_case(name))?;
        Some(value)
    };
    let length = head + header("content-length")?.parse::<usize>().unwrap();
    let body = serde_json::from_slice(bytes.get(head..length)?).unwrap();
    let (_, action) = header("x-amz-target").unwrap().split_once('.').unwrap();
    let action = action.to_owned();
    Some((Call { action, body }, length))
}
