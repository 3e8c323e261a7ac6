//! Reports of ACK counts from every replica to the leader.
//!
//! Each replica except the leader keeps one HTTP request open to the leader's metrics or admin address, which the Lease
//! names, and writes JSON lines into its body: first the counts of all objects, then the counts that changed, and an
//! empty list every second as a heartbeat. The request carries the replica's [`key`](super::key).
//!
//! ```text
//!  replica B: PeerClient ──POST /replicas/<leader>/<B>──► replica A (leader): PeerServer ──PeerEvent──► Peers
//!             [{"object":"Route/shop/color","count":{…}}]\n
//! ```
//!
//! The leader keeps the counts of a replica that stopped reporting for [`RECONNECT_TIME`]. A count is valid only for the
//! resource versions that its digest names; the status writer compares the digests.

mod client;
mod server;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use evermesh_model::ObjectRef;
use serde::{Deserialize, Serialize};

pub(super) use self::client::PeerClient;
pub(crate) use self::server::PeerServer;
use super::{RECONNECT_TIME, ack_count::AckCount, presence::Replicas};

/// Time without a line after which the leader closes the request of a replica.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(5);

/// One element of a line: a replica's count of one object, or `None` once no proxy of the replica uses the object.
///
/// During an upgrade, replicas of two versions report to each other. So each field has a default, unknown fields are
/// ignored, and no field may change its meaning: add another one instead.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct PeerReport {
    object: String,
    count: Option<AckCount>,
}

/// Something that the leader received from a replica. `stream` identifies the HTTP request.
#[derive(Debug)]
pub(crate) enum PeerEvent {
    /// A replica opened a request; the counts of all its objects follow.
    Connected { stream: u64, replica: String },
    /// The newest counts of some objects.
    Counts {
        stream: u64,
        counts: Vec<(ObjectRef, Option<AckCount>)>,
    },
    /// The request ended.
    Disconnected { stream: u64 },
}

/// The counts that the other replicas reported, by stream.
#[derive(Default)]
pub(super) struct Peers {
    streams: BTreeMap<u64, Peer>,
}

struct Peer {
    replica: String,
    counts: BTreeMap<ObjectRef, AckCount>,
    disconnected_at: Option<Instant>,
}

impl Peers {
    /// The count of an object by each other replica that has one.
    pub(super) fn counts_of(&self, object: &ObjectRef) -> impl Iterator<Item = &AckCount> {
        let object = object.clone();
        let peers = self.streams.values();
        peers.filter_map(move |peer| peer.counts.get(&object))
    }

    /// The names of those replicas that have not reported.
    pub(super) fn missing(&self, replicas: &Replicas) -> BTreeSet<String> {
        let reported: BTreeSet<&String> = self.streams.values().map(|peer| &peer.replica).collect();
        let missing = replicas
            .keys()
            .filter(|replica| !reported.contains(replica));
        missing.cloned().collect()
    }

    /// Whether all of these replicas report now.
    pub(super) fn are_connected(&self, replicas: &Replicas) -> bool {
        let peers = self.streams.values();
        let connected = peers.filter(|peer| peer.disconnected_at.is_none());
        let connected: BTreeSet<&String> = connected.map(|peer| &peer.replica).collect();
        replicas.keys().all(|replica| connected.contains(replica))
    }

    /// Applies an event. Returns the objects whose counts may have changed.
    pub(super) fn apply(&mut self, event: PeerEvent, now: Instant) -> Vec<ObjectRef> {
        match event {
            PeerEvent::Connected { stream, replica } => {
                let removed = self.remove(|peer| peer.replica == replica);
                let peer = Peer {
                    replica,
                    counts: BTreeMap::new(),
                    disconnected_at: None,
                };
                self.streams.insert(stream, peer);
                removed
            }
            PeerEvent::Counts { stream, counts } => {
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
            PeerEvent::Disconnected { stream } => {
                if let Some(peer) = self.streams.get_mut(&stream) {
                    peer.disconnected_at = Some(now);
                }
                Vec::new()
            }
        }
    }

    /// Removes replicas that disconnected [`RECONNECT_TIME`] ago or earlier. Returns the objects that they had counted.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<ObjectRef> {
        self.remove(|peer| {
            let silence = peer.disconnected_at.map(|at| now.duration_since(at));
            silence.is_some_and(|silence| silence >= RECONNECT_TIME)
        })
    }

    fn remove(&mut self, is_gone: impl Fn(&Peer) -> bool) -> Vec<ObjectRef> {
        let gone = self.streams.extract_if(.., |_, peer| is_gone(peer));
        gone.flat_map(|(_, peer)| peer.counts.into_keys()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use evermesh_model::Kind;

    use super::*;

    fn count(acked: usize) -> AckCount {
        AckCount {
            concerned: 1,
            acked,
            ..AckCount::default()
        }
    }

    #[test]
    fn disconnected_replica_counts_until_it_expires_or_reconnects() {
        let object = ObjectRef::new(Kind::Route, "n", "r");
        let replica = "a".to_owned();
        let start = Instant::now();
        let mut peers = Peers::default();
        let apply = |peers: &mut Peers, event| peers.apply(event, start);
        apply(
            &mut peers,
            PeerEvent::Connected {
                stream: 1,
                replica: replica.clone(),
            },
        );
        let counts = vec![(object.clone(), Some(count(1)))];
        let affected = apply(&mut peers, PeerEvent::Counts { stream: 1, counts });
        assert_eq!(affected, slice::from_ref(&object));
        let replicas = Replicas::from([("a".to_owned(), String::new())]);
        assert!(peers.are_connected(&replicas) && peers.missing(&replicas).is_empty());
        apply(&mut peers, PeerEvent::Disconnected { stream: 1 });
        assert!(!peers.are_connected(&replicas) && peers.missing(&replicas).is_empty());
        let almost = RECONNECT_TIME.saturating_sub(Duration::from_millis(1));
        assert!(peers.expire(start + almost).is_empty());
        assert_eq!(peers.counts_of(&object).count(), 1);

        let connected = PeerEvent::Connected { stream: 2, replica };
        assert_eq!(apply(&mut peers, connected), slice::from_ref(&object));
        assert_eq!(peers.counts_of(&object).count(), 0);
        let counts = vec![(object.clone(), Some(count(0)))];
        apply(&mut peers, PeerEvent::Counts { stream: 2, counts });
        apply(&mut peers, PeerEvent::Disconnected { stream: 2 });
        let expired = peers.expire(start + RECONNECT_TIME);
        assert_eq!(expired, slice::from_ref(&object));
        assert_eq!(peers.counts_of(&object).count(), 0);
    }
}
