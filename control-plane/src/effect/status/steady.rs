//! Keeps a status as it is while a proxy is between two streams.
//!
//! A proxy whose stream ended, because of its age for example, opens another one within a second or two, on any replica.
//! Meanwhile the counts lack its answer, and a proxy that had rejected a version has to receive and reject it again. So
//! counts that say less than those before are shown only if they last for [`RETURN_TIME`], unless other versions are
//! served meanwhile: the counts of these are shown at once.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use evermesh_model::ObjectRef;

use crate::effect::condition::ProxyCounts;

/// Time in which a proxy opens its next stream and answers. Envoy connects within half a second, and this replica reads
/// the answers within two seconds after the last one, and while a proxy answers again and again within seven.
const RETURN_TIME: Duration = Duration::from_secs(10);

/// The counts that are shown, by object.
#[derive(Debug, Default)]
pub(super) struct SteadyCounts(BTreeMap<ObjectRef, ShownCounts>);

#[derive(Debug)]
struct ShownCounts {
    /// Digest of the versions that were counted.
    digest: String,
    counts: ProxyCounts,
    /// Time since which the counts have said less.
    less_since: Option<Instant>,
}

impl SteadyCounts {
    /// The counts to show for an object, and whether they differ from `counts`, so that the object has to be looked at
    /// again.
    pub(super) fn show(
        &mut self,
        object: &ObjectRef,
        digest: String,
        counts: ProxyCounts,
        now: Instant,
    ) -> (ProxyCounts, bool) {
        if let Some(shown) = self.0.get_mut(object)
            && shown.digest == digest
            && says_less(&counts, &shown.counts)
        {
            let since = *shown.less_since.get_or_insert(now);
            if now.duration_since(since) < RETURN_TIME {
                return (shown.counts.clone(), true);
            }
        }
        if is_settled(&counts) {
            let shown = ShownCounts {
                digest,
                counts: counts.clone(),
                less_since: None,
            };
            self.0.insert(object.clone(), shown);
        } else {
            self.0.remove(object);
        }
        (counts, false)
    }

    /// Whether these counts are shown already, maybe as those of other versions. Most commits concern objects of which
    /// all proxies ACK the new versions like the last ones, and nothing else is to be done for these.
    pub(super) fn is_shown(
        &mut self,
        object: &ObjectRef,
        digest: String,
        counts: &ProxyCounts,
    ) -> bool {
        let shown = self.0.get_mut(object);
        let Some(shown) = shown.filter(|shown| shown.counts == *counts) else {
            return false;
        };
        shown.digest = digest;
        shown.less_since = None;
        true
    }

    pub(super) fn forget(&mut self, object: &ObjectRef) {
        self.0.remove(object);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Whether the counts of settled ones lack an answer that a proxy gave before.
fn says_less(counts: &ProxyCounts, settled: &ProxyCounts) -> bool {
    counts.concerned < settled.concerned || !is_settled(counts)
}

/// Whether the status that follows does not wait for an answer.
fn is_settled(counts: &ProxyCounts) -> bool {
    counts.acked >= counts.concerned
        || !counts.rejections.is_empty()
        || counts.withheld.example.is_some()
}

#[cfg(test)]
mod tests {
    use evermesh_model::Kind;
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn object() -> ObjectRef {
        ObjectRef::new(Kind::Route, "n", "r")
    }

    fn counts(acked: usize, concerned: usize) -> ProxyCounts {
        ProxyCounts {
            concerned,
            acked,
            waiting_since: (acked < concerned).then_some(Timestamp::UNIX_EPOCH),
            ..ProxyCounts::default()
        }
    }

    fn rejected(acked: usize, concerned: usize) -> ProxyCounts {
        ProxyCounts {
            rejections: vec![("node".to_owned(), "no".to_owned())],
            ..counts(acked, concerned)
        }
    }

    /// The counts that are shown after each count, all with the same versions, one second apart.
    fn shown(all: &[ProxyCounts]) -> Vec<ProxyCounts> {
        let mut steady = SteadyCounts::default();
        let start = Instant::now();
        let seconds = (0..).map(|second| start + Duration::from_secs(second));
        let all = all.iter().cloned().zip(seconds);
        all.map(|(counts, now)| {
            let (shown, is_kept) = steady.show(&object(), "1".to_owned(), counts.clone(), now);
            assert_eq!(is_kept, shown != counts);
            shown
        })
        .collect()
    }

    #[test]
    fn proxy_that_reconnects_in_time_changes_nothing() {
        let all = [counts(3, 3), counts(2, 2), counts(2, 3), counts(3, 3)];
        assert_eq!(shown(&all), vec![counts(3, 3); 4]);
        let all = [rejected(2, 3), counts(2, 2), counts(2, 3), rejected(2, 3)];
        assert_eq!(shown(&all), vec![rejected(2, 3); 4]);
    }

    #[test]
    fn proxy_that_stays_away_is_not_counted_after_the_time_to_return() {
        let mut all = vec![counts(3, 3)];
        all.extend(vec![counts(2, 2); 12]);
        let shown = shown(&all);
        assert_eq!(shown[..11], vec![counts(3, 3); 11]);
        assert_eq!(shown[11..], vec![counts(2, 2); 2]);
    }

    #[test]
    fn each_absence_has_the_full_time() {
        let mut all = vec![counts(3, 3)];
        for _ in 0..3 {
            all.extend(vec![counts(2, 2); 9]);
            all.push(counts(3, 3));
        }
        assert_eq!(shown(&all), vec![counts(3, 3); all.len()]);
    }

    #[test]
    fn new_answers_and_new_proxies_are_shown_at_once() {
        let all = [
            counts(1, 2),
            counts(2, 2),
            rejected(1, 2),
            counts(2, 2),
            counts(3, 3),
        ];
        assert_eq!(shown(&all), all);
    }

    #[test]
    fn equal_counts_of_other_versions_are_shown_already() {
        let mut steady = SteadyCounts::default();
        let now = Instant::now();
        let is_shown = |steady: &mut SteadyCounts, digest: &str, counts: &ProxyCounts| {
            steady.is_shown(&object(), digest.to_owned(), counts)
        };
        assert!(!is_shown(&mut steady, "1", &counts(3, 3)));
        steady.show(&object(), "1".to_owned(), counts(3, 3), now);
        assert!(!is_shown(&mut steady, "2", &counts(2, 3)));
        assert!(is_shown(&mut steady, "2", &counts(3, 3)));
        let (shown, is_kept) = steady.show(&object(), "2".to_owned(), counts(2, 2), now);
        assert!(is_kept);
        assert_eq!(shown, counts(3, 3));
    }

    #[test]
    fn counts_of_other_versions_are_shown_at_once() {
        let mut steady = SteadyCounts::default();
        let now = Instant::now();
        let mut show = |digest: &str, counts: ProxyCounts| {
            steady.show(&object(), digest.to_owned(), counts, now).0
        };
        show("1", counts(3, 3));
        assert_eq!(show("1", counts(2, 3)), counts(3, 3));
        assert_eq!(show("2", counts(2, 3)), counts(2, 3));
        assert_eq!(
            show("2", counts(1, 3)),
            counts(1, 3),
            "the counts before were not settled"
        );
    }
}
