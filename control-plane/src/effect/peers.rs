//! How replicas tell their leader what their proxies made of each object.
//!
//! Every other replica keeps one HTTP request open to the leader's admin address, which the Lease names, and writes
//! lines of JSON into its body: first everything, then what changed, and something every second to show that it lives.
//! It shows its key, of which the Lease has the digest.
//! A replica that fell silent is remembered for as long as it may come back; what it last said counts for the versions
//! that it said it of, and for no others.
//!
//! Must not judge what is told.

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
use super::{RETURNING, ack_count::AckCount, presence::Replicas};

/// How long a replica that tells may be silent.
const SILENCE: Duration = Duration::from_secs(5);

/// What one replica says of one object; nothing if none of its proxies is concerned any more.
#[derive(Serialize, Deserialize)]
struct PeerReport {
    object: String,
    count: Option<AckCount>,
}

/// What the leader hears.
#[derive(Debug)]
pub(crate) enum PeerEvent {
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
        counts: Vec<(ObjectRef, Option<AckCount>)>,
    },
    /// It fell silent.
    Ended {
        /// Which request.
        stream: u64,
    },
}

/// What the other replicas told.
#[derive(Default)]
pub(super) struct Peers {
    streams: BTreeMap<u64, Peer>,
}

struct Peer {
    replica: String,
    counts: BTreeMap<ObjectRef, AckCount>,
    /// Since when it is silent.
    silent: Option<Instant>,
}

impl Peers {
    /// What each says of an object.
    pub(super) fn of(&self, object: &ObjectRef) -> impl Iterator<Item = &AckCount> {
        let object = object.clone();
        let peers = self.streams.values();
        peers.filter_map(move |peer| peer.counts.get(&object))
    }

    /// Those of these replicas that have not told anything.
    pub(super) fn missing(&self, replicas: &Replicas) -> BTreeSet<String> {
        let told: BTreeSet<&String> = self.streams.values().map(|peer| &peer.replica).collect();
        let missing = replicas.keys().filter(|replica| !told.contains(replica));
        missing.cloned().collect()
    }

    /// Takes in what was heard, and returns the objects concerned.
    pub(super) fn take(&mut self, heard: PeerEvent, now: Instant) -> Vec<ObjectRef> {
        match heard {
            PeerEvent::Began { stream, replica } => {
                let before = self.remove(|peer| peer.replica == replica);
                let peer = Peer {
                    replica,
                    counts: BTreeMap::new(),
                    silent: None,
                };
                self.streams.insert(stream, peer);
                before
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
            PeerEvent::Ended { stream } => {
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
    fn a_replica_that_fell_silent_counts_until_it_is_forgotten_or_begins_anew() {
        let object = ObjectRef::new(Kind::Route, "n", "r");
        let replica = "a".to_owned();
        let start = Instant::now();
        let mut peers = Peers::default();
        let hear = |peers: &mut Peers, heard| peers.take(heard, start);
        hear(
            &mut peers,
            PeerEvent::Began {
                stream: 1,
                replica: replica.clone(),
            },
        );
        let counts = vec![(object.clone(), Some(count(1)))];
        let concerned = hear(&mut peers, PeerEvent::Counts { stream: 1, counts });
        assert_eq!(concerned, slice::from_ref(&object));
        hear(&mut peers, PeerEvent::Ended { stream: 1 });
        let almost = RETURNING.saturating_sub(Duration::from_millis(1));
        assert!(peers.forget(start + almost).is_empty());
        assert_eq!(peers.of(&object).count(), 1);

        let began = PeerEvent::Began { stream: 2, replica };
        assert_eq!(hear(&mut peers, began), slice::from_ref(&object));
        assert_eq!(peers.of(&object).count(), 0);
        let counts = vec![(object.clone(), Some(count(0)))];
        hear(&mut peers, PeerEvent::Counts { stream: 2, counts });
        hear(&mut peers, PeerEvent::Ended { stream: 2 });
        let forgotten = peers.forget(start + RETURNING);
        assert_eq!(forgotten, slice::from_ref(&object));
        assert_eq!(peers.of(&object).count(), 0);
    }
}
