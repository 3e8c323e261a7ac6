//! Where a replica tells the one that leads.

use std::{convert::Infallible, net::SocketAddr};

use axum::{
    body::{Body, Bytes},
    http::{
        Request,
        header::{AUTHORIZATION, HOST},
    },
};
use evermesh_model::ObjectRef;
use futures::StreamExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::mpsc, time};
use tokio_stream::wrappers::ReceiverStream;

use super::{PeerReport, SILENCE};
use crate::effect::{ack_count::AckCount, key::ReplicaKey};

/// Lines that may wait to be sent before the connection is given up: as many as 100,000 objects take at once.
const WAITING: usize = 512;
/// Objects in a line.
const OBJECTS: usize = 256;

/// This replica's connection to the leader.
#[derive(Default)]
pub(in crate::effect) struct PeerClient {
    lines: Option<(String, mpsc::Sender<Bytes>)>,
}

impl PeerClient {
    /// Whether the leader of this name is being told.
    pub(in crate::effect) fn reaches(&self, leader: &str) -> bool {
        let lines = self.lines.as_ref();
        lines.is_some_and(|(name, lines)| name == leader && !lines.is_closed())
    }

    /// Connects to a leader; we are `identity`, by `key`.
    pub(in crate::effect) fn call(
        &mut self,
        leader: &str,
        address: SocketAddr,
        (identity, key): (&str, &ReplicaKey),
    ) {
        let (lines, body) = mpsc::channel(WAITING);
        self.lines = Some((leader.to_owned(), lines));
        let path = format!("/replicas/{leader}/{identity}");
        let key = key.clone();
        tokio::spawn(async move {
            if let Err(error) = tell(address, &path, &key, body).await {
                tracing::warn!(%address, %error, "the leader cannot be told what proxies accept here; trying again");
            }
        });
    }

    /// Says something; a connection that cannot keep up is given up, and made anew from the beginning.
    pub(in crate::effect) fn say<'a>(
        &mut self,
        counts: impl Iterator<Item = (&'a ObjectRef, Option<&'a AckCount>)>,
    ) {
        let told: Vec<PeerReport> = counts
            .map(|(object, count)| PeerReport {
                object: object.to_string(),
                count: count.cloned(),
            })
            .collect();
        let Some((_, lines)) = &self.lines else {
            return;
        };
        // Nothing at all is said too: it shows that we live.
        let empty: &[PeerReport] = &[];
        let parts = told.chunks(OBJECTS);
        let mut parts = parts.chain(told.is_empty().then_some(empty));
        let all_said = parts.all(|told| {
            let line = serde_json::to_vec(told).map(|mut line| {
                line.push(b'\n');
                Bytes::from(line)
            });
            line.is_ok_and(|line| lines.try_send(line).is_ok())
        });
        if !all_said {
            self.hang_up();
        }
    }

    pub(in crate::effect) fn hang_up(&mut self) {
        self.lines = None;
    }
}

async fn tell(
    address: SocketAddr,
    path: &str,
    key: &ReplicaKey,
    lines: mpsc::Receiver<Bytes>,
) -> anyhow::Result<()> {
    let stream = time::timeout(SILENCE, TcpStream::connect(address)).await??;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let body = Body::from_stream(ReceiverStream::new(lines).map(Ok::<_, Infallible>));
    let request = Request::post(path)
        .header(HOST, address.to_string())
        .header(AUTHORIZATION, format!("Bearer {}", key.secret()))
        .body(body)?;
    let (answer, connection) = tokio::join!(sender.send_request(request), connection);
    connection?;
    let status = answer?.status();
    anyhow::ensure!(status.is_success(), "{status}");
    Ok(())
}
