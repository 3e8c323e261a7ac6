//! Which replicas there are, or were a moment ago: each shows itself in the Lease, so that the leader knows of those
//! that cannot reach it, and a new one of those that it never met.
//!
//! An annotation a replica, whose value changes while it lives. It stays when the replica stops: its proxies have to
//! find another one first, and until then somebody has to know that there are more than are connected. Times are
//! measured by who reads, as those of the Lease are.
//!
//! Must not know what the leader makes of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use evermesh_proto::Version;

use super::RETURNING;

/// What the annotations' names begin with; what follows is a hash of the replica's name, which is too long itself.
const PREFIX: &str = "replica.evermesh.dev/";
/// How often a replica shows itself.
const EVERY: Duration = Duration::from_secs(5);

type Annotations = BTreeMap<String, String>;

/// What a replica shows of itself.
#[derive(Debug)]
pub(super) struct Shown {
    identity: String,
    key: String,
    count: u64,
    at: Option<Instant>,
}

impl Shown {
    pub(super) fn new(identity: &str) -> Self {
        Self {
            identity: identity.to_owned(),
            key: format!("{PREFIX}{}", Version::of(identity.as_bytes())),
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
        let value = format!("{} {}", self.identity, self.count);
        annotations.insert(self.key.clone(), value);
    }
}

/// What a leader has seen of all.
#[derive(Debug, Default)]
pub(super) struct Seen {
    values: BTreeMap<String, (String, Instant)>,
}

impl Seen {
    /// The names of those whose proxies count. Whoever has not shown itself for long is taken out of the annotations.
    pub(super) fn counting(
        &mut self,
        annotations: &mut Annotations,
        now: Instant,
    ) -> BTreeSet<String> {
        let mut counting = BTreeSet::new();
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
                let name = value
                    .split_once(' ')
                    .map_or(value.as_str(), |(name, _)| name);
                counting.insert(name.to_owned());
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
        let mut seen = Seen::default();
        let mut shown = Shown::new("evermesh-0_0123456789abcdef");
        assert!(shown.is_due(start));
        shown.show(&mut annotations, start);
        assert!(!shown.is_due(start));
        assert!(shown.is_due(start + EVERY));

        let names = BTreeSet::from(["evermesh-0_0123456789abcdef".to_owned()]);
        assert_eq!(seen.counting(&mut annotations, start), names);
        let almost = start + RETURNING.saturating_sub(Duration::from_millis(1));
        assert_eq!(seen.counting(&mut annotations, almost), names);
        shown.show(&mut annotations, almost);
        assert_eq!(seen.counting(&mut annotations, start + RETURNING), names);
        let end = start + RETURNING * 2;
        assert_eq!(seen.counting(&mut annotations, end), BTreeSet::new());
        assert_eq!(annotations.len(), 1, "{annotations:?}");
    }
}
