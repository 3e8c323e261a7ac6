//! How replicas tell their leader what their proxies made of each object.
//!
//! Every other replica keeps one HTTP request open to the leader's admin address, which the Lease names, and writes
//! lines of JSON into its body: first everything, then what changed, and something every second to show that it lives.
//! A replica that fell silent is remembered for as long as it may come back; what it last said counts for the versions
//! that it said it of, and for no others.
//!
//! Must not judge what is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    http::{Request, StatusCode},
    response::{IntoResponse, Response},
};
use evermesh_model::{ObjectRef, object::NoObject};
use futures::StreamExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    time,
};
use tokio_stream::wrappers::ReceiverStream;

use super::{RETURNING, lease::Leader, tally::Count};

/// How long a replica that tells may be silent.
const SILENCE: Duration = Duration::from_secs(5);
/// Lines that may wait to be sent before the connection is given up: as many as 100,000 objects take at once.
const WAITING: usize = 512;
/// Objects in a line.
const OBJECTS: usize = 256;
/// Longest line, in bytes.
const LINE: usize = 16 << 20;

/// What one replica says of one object; nothing if none of its proxies is concerned any more.
#[derive(Serialize, Deserialize)]
struct Told {
    object: String,
    count: Option<Count>,
}

/// What the leader hears.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A replica begins to tell, from the beginning.
    Began {
        /// Which request.
        stream: u64,
        /// Its name.
        replica: String,
    },
    /// What it says.
    Counts {
        /// Which request.
        stream: u64,
        /// The newest count of each object.
        counts: Vec<(ObjectRef, Option<Count>)>,
    },
    /// It fell silent.
    Ended {
        /// Which request.
        stream: u64,
    },
}

/// Where the other replicas reach the leader.
#[derive(Clone)]
pub(crate) struct Ear {
    pub(crate) identity: Arc<str>,
    pub(crate) leader: watch::Receiver<Leader>,
    pub(crate) heard: mpsc::Sender<Heard>,
    pub(crate) streams: Arc<AtomicU64>,
}

impl Ear {
    /// Takes one request. `leader` is the name it was sent to.
    pub(crate) async fn listen(self, leader: &str, replica: String, body: Body) -> Response {
        if !self.leader.borrow().is_us() || *leader != *self.identity {
            return (StatusCode::CONFLICT, "not the leader\n").into_response();
        }
        let stream = self.streams.fetch_add(1, Ordering::Relaxed);
        tracing::info!(replica, "a replica tells what its proxies accept");
        let began = Heard::Began { stream, replica };
        let ended = match self.heard.send(began).await {
            Ok(()) => self.hear(stream, body).await,
            Err(_) => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        };
        let _ = self.heard.send(Heard::Ended { stream }).await;
        match ended {
            Ok(()) => StatusCode::OK.into_response(),
            Err(error) => (StatusCode::BAD_REQUEST, error).into_response(),
        }
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
                let heard = Heard::Counts { stream, counts };
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

fn read(line: &[u8]) -> Result<Vec<(ObjectRef, Option<Count>)>, String> {
    let told: Vec<Told> = serde_json::from_slice(line).map_err(|error| format!("{error}\n"))?;
    let counts = told.into_iter().map(|Told { object, count }| {
        let object = object
            .parse()
            .map_err(|NoObject| format!("{object} is no object\n"))?;
        Ok((object, count))
    });
    counts.collect()
}

/// What the other replicas told.
#[derive(Default)]
pub(super) struct Peers {
    streams: BTreeMap<u64, Peer>,
}

struct Peer {
    replica: String,
    counts: BTreeMap<ObjectRef, Count>,
    /// Since when it is silent.
    silent: Option<Instant>,
}

impl Peers {
    /// What each says of an object.
    pub(super) fn of(&self, object: &ObjectRef) -> impl Iterator<Item = &Count> {
        let object = object.clone();
        let peers = self.streams.values();
        peers.filter_map(move |peer| peer.counts.get(&object))
    }

    /// Those of these replicas that have not told anything.
    pub(super) fn missing(&self, replicas: &BTreeSet<String>) -> BTreeSet<String> {
        let told: BTreeSet<&String> = self.streams.values().map(|peer| &peer.replica).collect();
        let missing = replicas.iter().filter(|replica| !told.contains(replica));
        missing.cloned().collect()
    }

    /// Takes in what was heard, and returns the objects concerned.
    pub(super) fn take(&mut self, heard: Heard, now: Instant) -> Vec<ObjectRef> {
        match heard {
            Heard::Began { stream, replica } => {
                let before = self.remove(|peer| peer.replica == replica);
                let peer = Peer {
                    replica,
                    counts: BTreeMap::new(),
                    silent: None,
                };
                self.streams.insert(stream, peer);
                before
            }
            Heard::Counts { stream, counts } => {
                let Some(peer) = self.streams.get_mut(&stream) else {
                    return Vec::new();
                };
                let counts = counts.into_iter().map(|(object, count)| {
                    match count {
                        Some(count) => peer.counts.insert(object.clone(), count),
                        None => peer.counts.remove(&object),
                    };
                    object
                });
                counts.collect()
            }
            Heard::Ended { stream } => {
                if let Some(peer) = self.streams.get_mut(&stream) {
                    peer.silent = Some(now);
                }
                Vec::new()
            }
        }
    }

    /// Forgets who has been silent for long, and returns the objects concerned.
    pub(super) fn forget(&mut self, now: Instant) -> Vec<ObjectRef> {
        self.remove(|peer| {
            let silent = peer.silent.map(|since| now.duration_since(since));
            silent.is_some_and(|silent| silent >= RETURNING)
        })
    }

    fn remove(&mut self, is_gone: impl Fn(&Peer) -> bool) -> Vec<ObjectRef> {
        let gone = self.streams.extract_if(.., |_, peer| is_gone(peer));
        gone.flat_map(|(_, peer)| peer.counts.into_keys()).collect()
    }
}

/// This replica's connection to the leader.
#[derive(Default)]
pub(super) struct Voice {
    lines: Option<(String, mpsc::Sender<Bytes>)>,
}

impl Voice {
    /// Whether the leader of this name is being told.
    pub(super) fn reaches(&self, leader: &str) -> bool {
        let lines = self.lines.as_ref();
        lines.is_some_and(|(name, lines)| name == leader && !lines.is_closed())
    }

    /// Connects to a leader.
    pub(super) fn call(&mut self, leader: &str, address: SocketAddr, identity: &str) {
        let (lines, body) = mpsc::channel(WAITING);
        self.lines = Some((leader.to_owned(), lines));
        let path = format!("/replicas/{leader}/{identity}");
        tokio::spawn(async move {
            if let Err(error) = tell(address, &path, body).await {
                tracing::warn!(%address, %error, "the leader cannot be told what proxies accept here; trying again");
            }
        });
    }

    /// Says something; a connection that cannot keep up is given up, and made anew from the beginning.
    pub(super) fn say<'a>(
        &mut self,
        counts: impl Iterator<Item = (&'a ObjectRef, Option<&'a Count>)>,
    ) {
        let told: Vec<Told> = counts
            .map(|(object, count)| Told {
                object: object.to_string(),
                count: count.cloned(),
            })
            .collect();
        let Some((_, lines)) = &self.lines else {
            return;
        };
        // Nothing at all is said too: it shows that we live.
        let empty: &[Told] = &[];
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

    pub(super) fn hang_up(&mut self) {
        self.lines = None;
    }
}

async fn tell(address: SocketAddr, path: &str, lines: mpsc::Receiver<Bytes>) -> anyhow::Result<()> {
    let stream = time::timeout(SILENCE, TcpStream::connect(address)).await??;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let body = Body::from_stream(ReceiverStream::new(lines).map(Ok::<_, Infallible>));
    let request = Request::post(path)
        .header("host", address.to_string())
        .body(body)?;
    let (answer, connection) = tokio::join!(sender.send_request(request), connection);
    connection?;
    let status = answer?.status();
    anyhow::ensure!(status.is_success(), "{status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::slice;

    use evermesh_model::Kind;

    use super::*;

    fn count(acked: usize) -> Count {
        Count {
            concerned: 1,
            acked,
            ..Count::default()
        }
    }

    #[test]
    fn a_replica_that_fell_silent_counts_until_it_is_forgotten_or_begins_anew() {
        let object = ObjectRef::new(Kind::Route, "n", "r");
        let replica = "a".to_owned();
        let start = Instant::now();
        let mut peers = Peers::default();
        let hear = |peers: &mut Peers, heard| peers.take(heard, start);
        hear(
            &mut peers,
            Heard::Began {
                stream: 1,
                replica: replica.clone(),
            },
        );
        let counts = vec![(object.clone(), Some(count(1)))];
        let concerned = hear(&mut peers, Heard::Counts { stream: 1, counts });
        assert_eq!(concerned, slice::from_ref(&object));
        hear(&mut peers, Heard::Ended { stream: 1 });
        let almost = RETURNING.saturating_sub(Duration::from_millis(1));
        assert!(peers.forget(start + almost).is_empty());
        assert_eq!(peers.of(&object).count(), 1);

        let began = Heard::Began { stream: 2, replica };
        assert_eq!(hear(&mut peers, began), slice::from_ref(&object));
        assert_eq!(peers.of(&object).count(), 0);
        let counts = vec![(object.clone(), Some(count(0)))];
        hear(&mut peers, Heard::Counts { stream: 2, counts });
        hear(&mut peers, Heard::Ended { stream: 2 });
        let forgotten = peers.forget(start + RETURNING);
        assert_eq!(forgotten, slice::from_ref(&object));
        assert_eq!(peers.of(&object).count(), 0);
    }

    #[test]
    fn what_is_said_is_what_is_heard() {
        let object = ObjectRef::new(Kind::Mesh, "", "shop");
        let told = [Told {
            object: object.to_string(),
            count: Some(count(1)),
        }];
        let line = serde_json::to_vec(&told).unwrap();
        assert_eq!(read(&line), Ok(vec![(object, Some(count(1)))]));
        assert!(read(br#"[{"object": "Nothing/x", "count": null}]"#).is_err());
    }
}
