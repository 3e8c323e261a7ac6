//! Which replicas there are, or were a moment ago: each shows itself in the Lease, so that the leader knows of those
//! that cannot reach it, and a new one of those that it never met.
//!
//! An annotation a replica, whose value changes while it lives, with the digest of its [`key`](super::key). It stays when the replica stops: its proxies have to
//! find another one first, and until then somebody has to know that there are more than are connected. Times are
//! measured by who reads, as those of the Lease are.
//!
//! Must not know what the leader makes of it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use evermesh_proto::ContentVersion;

use super::{RETURNING, key::ReplicaKey};

/// What the annotations' names begin with; what follows is a hash of the replica's name, which is too long itself.
const PREFIX: &str = "replica.evermesh.dev/";
/// How often a replica shows itself.
const EVERY: Duration = Duration::from_secs(5);

type Annotations = BTreeMap<String, String>;

/// Replicas by name, with the digests of their keys.
pub(crate) type Replicas = BTreeMap<String, String>;

/// What a replica shows of itself.
#[derive(Debug)]
pub(super) struct OwnAnnouncement {
    identity: String,
    digest: String,
    annotation: String,
    count: u64,
    at: Option<Instant>,
}

impl OwnAnnouncement {
    pub(super) fn new(identity: &str, key: &ReplicaKey) -> Self {
        Self {
            identity: identity.to_owned(),
            digest: key.digest(),
            annotation: format!("{PREFIX}{}", ContentVersion::of(identity.as_bytes())),
            count: 0,
            at: None,
        }
    }

    /// Whether it is time again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.at.is_none_or(|at| now.duration_since(at) >= EVERY)
    }

    /// Shows that this replica is there.
    pub(super) fn show(&mut self, annotations: &mut Annotations, now: Instant) {
        self.count += 1;
        self.at = Some(now);
        let value = format!("{} {} {}", self.identity, self.digest, self.count);
        annotations.insert(self.annotation.clone(), value);
    }
}

/// What a leader has seen of all.
#[derive(Debug, Default)]
pub(super) struct ReplicaTracker {
    values: BTreeMap<String, (String, Instant)>,
}

impl ReplicaTracker {
    /// Those whose proxies count, each with the digest of its key. Whoever has not shown itself for long is taken out
    /// of the annotations.
    pub(super) fn counting(&mut self, annotations: &mut Annotations, now: Instant) -> Replicas {
        let mut counting = Replicas::new();
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
            let counts = now.duration_since(since) < RETURNING;
            if counts {
                let mut words = value.split(' ').map(ToOwned::to_owned);
                let name = words.next().unwrap_or_default();
                counting.insert(name, words.next().unwrap_or_default());
            }
            counts
        });
        self.values = values;
        counting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_no_longer_shows_itself_counts_no_longer() {
        let start = Instant::now();
        let mut annotations = Annotations::from([("other/annotation".to_owned(), String::new())]);
        let mut seen = ReplicaTracker::default();
        let key = ReplicaKey::new().unwrap();
        let mut shown = OwnAnnouncement::new("evermesh-0_0123456789abcdef", &key);
        assert!(shown.is_due(start));
        shown.show(&mut annotations, start);
        assert!(!shown.is_due(start));
        assert!(shown.is_due(start + EVERY));

        let replicas = Replicas::from([("evermesh-0_0123456789abcdef".to_owned(), key.digest())]);
        assert_eq!(seen.counting(&mut annotations, start), replicas);
        let almost = start + RETURNING.saturating_sub(Duration::from_millis(1));
        assert_eq!(seen.counting(&mut annotations, almost), replicas);
        shown.show(&mut annotations, almost);
        let later = start + RETURNING;
        assert_eq!(seen.counting(&mut annotations, later), replicas);
        let end = start + RETURNING * 2;
        assert_eq!(seen.counting(&mut annotations, end), Replicas::new());
        assert_eq!(annotations.len(), 1, "{annotations:?}");
    }
}
