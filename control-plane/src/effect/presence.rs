//! Heartbeats of the replicas: one annotation of the Lease for each replica.
//!
//! ```yaml
//! replica.evermesh.dev/<hash of the identity>: "<identity> <digest of the key> <counter>"
//! ```
//!
//! A replica increments the counter every 5 s. The leader, which may be new, thereby knows the replicas that cannot reach
//! it. The annotation stays when a replica stops, because the replica's proxies need up to [`RECONNECT_TIME`] to connect
//! elsewhere and have to count until then; the leader removes it after that time. The leader measures the time since it
//! saw the counter change and never compares clocks of different machines.

use std::{collections::BTreeMap, time::Duration};

use evermesh_proto::ContentVersion;
use tokio::time::Instant;

use super::{RECONNECT_TIME, key::ReplicaKey};

/// Prefix of the annotation keys. A hash follows because an identity can be longer than the 63 characters that
/// Kubernetes allows.
const PREFIX: &str = "replica.evermesh.dev/";
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

type Annotations = BTreeMap<String, String>;

/// Key digests of replicas by identity.
pub(crate) type Replicas = BTreeMap<String, String>;

/// The heartbeat of this replica.
#[derive(Debug)]
pub(super) struct OwnHeartbeat {
    identity: String,
    digest: String,
    annotation: String,
    counter: u64,
    written_at: Option<Instant>,
}

impl OwnHeartbeat {
    pub(super) fn new(identity: &str, key: &ReplicaKey) -> Self {
        Self {
            identity: identity.to_owned(),
            digest: key.digest(),
            annotation: format!("{PREFIX}{}", ContentVersion::of(identity.as_bytes())),
            counter: 0,
            written_at: None,
        }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.written_at
            .is_none_or(|at| now.duration_since(at) >= HEARTBEAT_INTERVAL)
    }

    /// Sets this replica's annotation to a new value.
    pub(super) fn write(&mut self, annotations: &mut Annotations, now: Instant) {
        self.counter += 1;
        self.written_at = Some(now);
        let value = format!("{} {} {}", self.identity, self.digest, self.counter);
        annotations.insert(self.annotation.clone(), value);
    }
}

/// The leader's record of all heartbeats.
#[derive(Debug, Default)]
pub(super) struct ReplicaTracker {
    /// Annotation value and the time at which it was first seen, by annotation key.
    values: BTreeMap<String, (String, Instant)>,
}

impl ReplicaTracker {
    /// The replicas whose proxies count: those with a heartbeat in the last [`RECONNECT_TIME`]. Removes the annotations
    /// of all others.
    pub(super) fn live_replicas(
        &mut self,
        annotations: &mut Annotations,
        now: Instant,
    ) -> Replicas {
        let mut live = Replicas::new();
        let mut values = BTreeMap::new();
        annotations.retain(|key, value| {
            if !key.starts_with(PREFIX) {
                return true;
            }
            let since = match self.values.get(key) {
                Some((seen, since)) if seen == value => *since,
                _ => now,
            };
            values.insert(key.clone(), (value.clone(), since));
            let is_live = now.duration_since(since) < RECONNECT_TIME;
            if is_live {
                let mut words = value.split(' ').map(ToOwned::to_owned);
                let identity = words.next().unwrap_or_default();
                live.insert(identity, words.next().unwrap_or_default());
            }
            is_live
        });
        self.values = values;
        live
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replica_without_heartbeat_expires() {
        let start = Instant::now();
        let mut annotations = Annotations::from([("other/annotation".to_owned(), String::new())]);
        let mut tracker = ReplicaTracker::default();
        let key = ReplicaKey::new().unwrap();
        let mut heartbeat = OwnHeartbeat::new("evermesh-0_0123456789abcdef", &key);
        assert!(heartbeat.is_due(start));
        heartbeat.write(&mut annotations, start);
        assert!(!heartbeat.is_due(start));
        assert!(heartbeat.is_due(start + HEARTBEAT_INTERVAL));

        let replicas = Replicas::from([("evermesh-0_0123456789abcdef".to_owned(), key.digest())]);
        assert_eq!(tracker.live_replicas(&mut annotations, start), replicas);
        let almost = start + RECONNECT_TIME.saturating_sub(Duration::from_millis(1));
        assert_eq!(tracker.live_replicas(&mut annotations, almost), replicas);
        heartbeat.write(&mut annotations, almost);
        let later = start + RECONNECT_TIME;
        assert_eq!(tracker.live_replicas(&mut annotations, later), replicas);
        let end = start + RECONNECT_TIME * 2;
        assert_eq!(
            tracker.live_replicas(&mut annotations, end),
            Replicas::new()
        );
        assert_eq!(annotations.len(), 1, "{annotations:?}");
    }
}
