//! Where the leader hears the other replicas.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
    response::{IntoResponse, Response},
};
use evermesh_model::{ObjectRef, object::InvalidObjectRef};
use futures::StreamExt;
use tokio::{
    sync::{mpsc, watch},
    time,
};

use super::{PeerEvent, PeerReport, SILENCE};
use crate::effect::{ack_count::AckCount, key::digest_of, lease::Leader};

/// Longest line, in bytes.
const LINE: usize = 16 << 20;

/// Where the other replicas reach the leader.
#[derive(Clone)]
pub(crate) struct PeerServer {
    pub(crate) identity: Arc<str>,
    pub(crate) leader: watch::Receiver<Leader>,
    pub(crate) heard: mpsc::Sender<PeerEvent>,
    pub(crate) streams: Arc<AtomicU64>,
}

impl PeerServer {
    /// Takes one request. `leader` is the name it was sent to.
    pub(crate) async fn listen(
        mut self,
        leader: &str,
        replica: String,
        headers: &HeaderMap,
        body: Body,
    ) -> Response {
        if !self.leader.borrow().is_us() || *leader != *self.identity {
            return (StatusCode::CONFLICT, "not the leader\n").into_response();
        }
        if !self.knows(&replica, headers).await {
            let text = "the Lease does not show this replica with this key\n";
            return (StatusCode::FORBIDDEN, text).into_response();
        }
        let stream = self.streams.fetch_add(1, Ordering::Relaxed);
        tracing::info!(replica, "a replica tells what its proxies accept");
        let began = PeerEvent::Began { stream, replica };
        let ended = match self.heard.send(began).await {
            Ok(()) => self.hear(stream, body).await,
            Err(_) => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        };
        let _ = self.heard.send(PeerEvent::Ended { stream }).await;
        match ended {
            Ok(()) => StatusCode::OK.into_response(),
            Err(error) => (StatusCode::BAD_REQUEST, error).into_response(),
        }
    }

    /// Whether the Lease shows this replica and the digest of the key that it sent. A replica that has just shown itself
    /// is seen when the Lease is next read.
    async fn knows(&mut self, replica: &str, headers: &HeaderMap) -> bool {
        let key = headers
            .get(AUTHORIZATION)
            .and_then(|it| it.to_str().ok()?.strip_prefix("Bearer "));
        let Some(digest) = key.map(digest_of) else {
            return false;
        };
        let shows = |leader: &Leader| match leader {
            Leader::Us { others } => others.get(replica) == Some(&digest),
            _ => false,
        };
        let seen = time::timeout(SILENCE, self.leader.wait_for(shows)).await;
        seen.is_ok_and(|seen| seen.is_ok())
    }

    async fn hear(&self, stream: u64, body: Body) -> Result<(), String> {
        let mut chunks = pin!(body.into_data_stream());
        let mut line = Vec::new();
        loop {
            let chunk = match time::timeout(SILENCE, chunks.next()).await {
                Ok(Some(chunk)) => chunk.map_err(|error| error.to_string())?,
                Ok(None) => return Ok(()),
                Err(_) => return Err("silent for too long\n".to_owned()),
            };
            let mut rest: &[u8] = &chunk;
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                line.extend_from_slice(&rest[..end]);
                rest = &rest[end + 1..];
                let counts = read(&line)?;
                line.clear();
                // A line without any shows that the replica lives.
                if counts.is_empty() {
                    continue;
                }
                let heard = PeerEvent::Counts { stream, counts };
                if self.heard.send(heard).await.is_err() {
                    return Ok(());
                }
            }
            line.extend_from_slice(rest);
            if line.len() > LINE {
                return Err("a line is too long\n".to_owned());
            }
        }
    }
}

fn read(line: &[u8]) -> Result<Vec<(ObjectRef, Option<AckCount>)>, String> {
    let told: Vec<PeerReport> =
        serde_json::from_slice(line).map_err(|error| format!("{error}\n"))?;
    let counts = told.into_iter().map(|PeerReport { object, count }| {
        let object = object
            .parse()
            .map_err(|InvalidObjectRef| format!("{object} is no object\n"))?;
        Ok((object, count))
    });
    counts.collect()
}

#[cfg(test)]
mod tests {
    use evermesh_model::Kind;

    use super::*;

    #[test]
    fn what_is_said_is_what_is_heard() {
        let object = ObjectRef::new(Kind::Mesh, "", "shop");
        let told = [PeerReport {
            object: object.to_string(),
            count: Some(AckCount::default()),
        }];
        let line = serde_json::to_vec(&told).unwrap();
        assert_eq!(read(&line), Ok(vec![(object, Some(AckCount::default()))]));
        assert!(read(br#"[{"object": "Nothing/x", "count": null}]"#).is_err());
    }
}
