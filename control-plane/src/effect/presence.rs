//! Which replicas live: each shows itself in the Lease, so that the leader knows of those that cannot reach it.
//!
//! An annotation a replica, whose value changes while it lives. Times are measured by who reads, as those of the
//! Lease are.
//!
//! Must not know what the leader makes of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use evermesh_proto::Version;

/// What the annotations' names begin with; what follows is a hash of the replica's name, which is too long itself.
const PREFIX: &str = "replica.evermesh.dev/";
/// How often a replica shows itself.
const EVERY: Duration = Duration::from_secs(5);
/// How long one that no longer does counts as living.
const LIVING: Duration = Duration::from_secs(15);

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

    /// Shows that this replica lives.
    pub(super) fn show(&mut self, annotations: &mut Annotations, now: Instant) {
        self.count += 1;
        self.at = Some(now);
        let value = format!("{} {}", self.identity, self.count);
        annotations.insert(self.key.clone(), value);
    }

    /// Whether it was shown.
    pub(super) fn is_shown(&self) -> bool {
        self.at.is_some()
    }

    /// Takes it back.
    pub(super) fn hide(&mut self, annotations: &mut Annotations) {
        self.at = None;
        annotations.remove(&self.key);
    }
}

/// What a leader has seen of the others.
#[derive(Debug, Default)]
pub(super) struct Seen {
    values: BTreeMap<String, (String, Instant)>,
}

impl Seen {
    /// The names of those who live. Whoever does not is taken out of the annotations.
    pub(super) fn living(
        &mut self,
        annotations: &mut Annotations,
        now: Instant,
    ) -> BTreeSet<String> {
        let mut living = BTreeSet::new();
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
            let lives = now.duration_since(since) < LIVING;
            if lives {
                let name = value
                    .split_once(' ')
                    .map_or(value.as_str(), |(name, _)| name);
                living.insert(name.to_owned());
            }
            lives
        });
        self.values = values;
        living
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_no_longer_shows_itself_no_longer_lives() {
        let start = Instant::now();
        let mut annotations = Annotations::from([("other/annotation".to_owned(), String::new())]);
        let mut seen = Seen::default();
        let mut shown = Shown::new("evermesh-0_0123456789abcdef");
        assert!(shown.is_due(start));
        shown.show(&mut annotations, start);
        assert!(!shown.is_due(start));
        assert!(shown.is_due(start + EVERY));

        let names = BTreeSet::from(["evermesh-0_0123456789abcdef".to_owned()]);
        assert_eq!(seen.living(&mut annotations, start), names);
        let almost = start + LIVING.saturating_sub(Duration::from_millis(1));
        assert_eq!(seen.living(&mut annotations, almost), names);
        shown.show(&mut annotations, almost);
        assert_eq!(seen.living(&mut annotations, start + LIVING), names);
        let end = start + LIVING * 2;
        assert_eq!(seen.living(&mut annotations, end), BTreeSet::new());
        assert_eq!(annotations.len(), 1, "{annotations:?}");

        shown.show(&mut annotations, end);
        assert!(shown.is_shown());
        shown.hide(&mut annotations);
        assert!(!shown.is_shown());
        assert_eq!(annotations.len(), 1, "{annotations:?}");
    }
}
