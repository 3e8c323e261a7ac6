//! The leader's side: receives the reports of the other replicas.

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
use evermesh_model::ObjectRef;
use evermesh_xds::PeerText;
use futures::StreamExt;
use tokio::{
    sync::{mpsc, watch},
    time,
};

use super::{PeerEvent, PeerReport, SILENCE_TIMEOUT};
use crate::effect::{ack_count::AckCount, key::digest_of, lease::Leader};

/// Longest line, in bytes.
const MAX_LINE: usize = 16 << 20;

/// Handler of `POST /replicas/{leader}/{replica}`.
#[derive(Clone)]
pub(crate) struct PeerServer {
    /// The identity of this replica.
    pub(crate) identity: Arc<str>,
    pub(crate) leader: watch::Receiver<Leader>,
    pub(crate) events: mpsc::Sender<PeerEvent>,
    /// The number of the next stream.
    pub(crate) next_stream: Arc<AtomicU64>,
}

impl PeerServer {
    /// Receives reports until the request ends. `leader` is the replica that the client believes to be the leader.
    ///
    /// Answers 409 if this replica is not that leader, and 403 if the Lease does not show the client's key.
    pub(crate) async fn receive(
        mut self,
        leader: &str,
        replica: String,
        headers: &HeaderMap,
        body: Body,
    ) -> Response {
        if !self.leader.borrow().is_us() || *leader != *self.identity {
            return (StatusCode::CONFLICT, "not the leader\n").into_response();
        }
        if !self.is_authenticated(&replica, headers).await {
            let text = "the Lease does not show this replica with this key\n";
            return (StatusCode::FORBIDDEN, text).into_response();
        }
        let stream = self.next_stream.fetch_add(1, Ordering::Relaxed);
        tracing::info!(replica = %PeerText(&replica), "receiving ACK counts from a replica");
        let connected = PeerEvent::Connected { stream, replica };
        let ended = match self.events.send(connected).await {
            Ok(()) => self.receive_lines(stream, body).await,
            Err(_) => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        };
        let _ = self.events.send(PeerEvent::Disconnected { stream }).await;
        match ended {
            Ok(()) => StatusCode::OK.into_response(),
            Err(error) => (StatusCode::BAD_REQUEST, error).into_response(),
        }
    }

    /// Whether the Lease shows the digest of the key that the replica sent. Waits up to [`SILENCE_TIMEOUT`], because a
    /// new replica is known only after the leader has read the Lease again.
    async fn is_authenticated(&mut self, replica: &str, headers: &HeaderMap) -> bool {
        let key = headers
            .get(AUTHORIZATION)
            .and_then(|it| it.to_str().ok()?.strip_prefix("Bearer "));
        let Some(digest) = key.map(digest_of) else {
            return false;
        };
        let shows_digest = |leader: &Leader| match leader {
            Leader::Us { others, .. } => others.get(replica) == Some(&digest),
            _ => false,
        };
        let found = time::timeout(SILENCE_TIMEOUT, self.leader.wait_for(shows_digest)).await;
        found.is_ok_and(|found| found.is_ok())
    }

    async fn receive_lines(&self, stream: u64, body: Body) -> Result<(), String> {
        let mut chunks = pin!(body.into_data_stream());
        let mut line = Vec::new();
        loop {
            let chunk = match time::timeout(SILENCE_TIMEOUT, chunks.next()).await {
                Ok(Some(chunk)) => chunk.map_err(|error| error.to_string())?,
                Ok(None) => return Ok(()),
                Err(_) => return Err("no line within 5 s\n".to_owned()),
            };
            let mut rest: &[u8] = &chunk;
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                line.extend_from_slice(&rest[..end]);
                rest = &rest[end + 1..];
                let counts = parse_line(&line)?;
                line.clear();
                // An empty list is a heartbeat.
                if counts.is_empty() {
                    continue;
                }
                let event = PeerEvent::Counts { stream, counts };
                if self.events.send(event).await.is_err() {
                    return Ok(());
                }
            }
            line.extend_from_slice(rest);
            if line.len() > MAX_LINE {
                return Err(format!("a line is longer than {MAX_LINE} bytes\n"));
            }
        }
    }
}

fn parse_line(line: &[u8]) -> Result<Vec<(ObjectRef, Option<AckCount>)>, String> {
    let reports: Vec<PeerReport> =
        serde_json::from_slice(line).map_err(|error| format!("{error}\n"))?;
    // A newer replica may report objects of a kind that this one does not know.
    let counts = reports
        .into_iter()
        .filter_map(|PeerReport { object, count }| Some((object.parse().ok()?, count)));
    Ok(counts.collect())
}

#[cfg(test)]
mod tests {
    use evermesh_model::Kind;

    use super::*;

    #[test]
    fn serialized_reports_are_parsed_back() {
        let object = ObjectRef::new(Kind::Mesh, "", "shop");
        let reports = [PeerReport {
            object: object.to_string(),
            count: Some(AckCount::default()),
        }];
        let line = serde_json::to_vec(&reports).unwrap();
        assert_eq!(
            parse_line(&line),
            Ok(vec![(object, Some(AckCount::default()))])
        );
        parse_line(b"no JSON").unwrap_err();
    }

    #[test]
    fn reports_of_older_and_newer_replicas_are_understood() {
        let object = ObjectRef::new(Kind::Mesh, "", "shop");
        let line = br#"[
            {"object": "Mesh/shop", "new": {}, "count": {"digest": "d", "concerned": 2, "new": [1], "withheld": {"new": 1}}},
            {"object": "NewKind/n/x", "count": {"digest": "d"}},
            {"count": {}},
            {"object": "Mesh/old"}
        ]"#;
        let count = AckCount {
            digest: "d".to_owned(),
            concerned: 2,
            ..AckCount::default()
        };
        let old = ObjectRef::new(Kind::Mesh, "", "old");
        assert_eq!(
            parse_line(line),
            Ok(vec![(object, Some(count)), (old, None)])
        );
    }
}
