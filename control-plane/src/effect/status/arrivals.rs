//! Holds the first status of an object that only misses other objects, because these may be on their way.
//!
//! `kubectl apply` of a folder creates objects one after the other, the watches of their kinds deliver them in any order,
//! and registration creates Cloud Map services. An object that refers to one of them would have a false condition and a
//! warning event for a moment. An object that has a status keeps none of its later changes back.

use std::{collections::BTreeMap, time::Duration};

use evermesh_model::{ObjectRef, Problem, Reason, Severity};
use tokio::time::Instant;

/// Objects whose first status is held, with the time since which each one has waited.
#[derive(Debug, Default)]
pub(super) struct Arrivals(BTreeMap<ObjectRef, Instant>);

impl Arrivals {
    /// Whether the status of an object without one has to wait. Its errors then only say that something does not exist.
    pub(super) fn holds(&mut self, object: &ObjectRef, problems: &[Problem], now: Instant) -> bool {
        let Some(limit) = arrival_time(problems) else {
            self.0.remove(object);
            return false;
        };
        let since = *self.0.entry(object.clone()).or_insert(now);
        now.duration_since(since) < limit
    }

    pub(super) fn forget(&mut self, object: &ObjectRef) {
        self.0.remove(object);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The objects to look at again, in case that their time is over.
    pub(super) fn waiting(&self) -> impl Iterator<Item = ObjectRef> {
        self.0.keys().cloned()
    }
}

/// Time within which everything that is missing may arrive; `None` without an error, or with one that stays.
fn arrival_time(problems: &[Problem]) -> Option<Duration> {
    let errors = problems.iter().filter(|it| it.severity == Severity::Error);
    let times = errors.map(|error| match error.reason {
        Reason::MeshNotFound | Reason::GatewayNotFound | Reason::ReferenceNotFound => {
            Some(Duration::from_secs(5))
        }
        // Registration creates the service, and discovery asks for it every 5 s (`--cloud-map-interval`).
        Reason::CloudMapNotFound => Some(Duration::from_secs(15)),
        _ => None,
    });
    let times: Option<Vec<Duration>> = times.collect();
    times?.into_iter().max()
}

#[cfg(test)]
mod tests {
    use evermesh_model::{FieldPath, Kind};

    use super::*;

    #[test]
    fn status_waits_only_for_what_may_arrive() {
        let object = ObjectRef::new(Kind::Route, "n", "r");
        let problem = |reason| Problem::new(&object, FieldPath::spec(), reason, "");
        let missing = [problem(Reason::ReferenceNotFound)];
        let no_service = [problem(Reason::CloudMapNotFound)];
        let wrong = [
            problem(Reason::ReferenceNotFound),
            problem(Reason::InvalidValue),
        ];
        let warned = [
            problem(Reason::ReferenceNotFound),
            problem(Reason::AllWeightsZero),
        ];
        let start = Instant::now();
        let held = |problems: &[Problem], seconds: [u64; 2]| {
            let mut arrivals = Arrivals::default();
            seconds.map(|second| {
                let now = start + Duration::from_secs(second);
                arrivals.holds(&object, problems, now)
            })
        };
        assert_eq!(held(&missing, [0, 4]), [true, true]);
        assert_eq!(held(&missing, [0, 5]), [true, false]);
        assert_eq!(held(&warned, [0, 5]), [true, false]);
        assert_eq!(held(&no_service, [0, 14]), [true, true]);
        assert_eq!(held(&no_service, [0, 15]), [true, false]);
        assert_eq!(held(&wrong, [0, 1]), [false, false]);
        assert_eq!(held(&[], [0, 1]), [false, false]);
    }

    #[test]
    fn only_objects_that_wait_are_looked_at_again() {
        let object = ObjectRef::new(Kind::Route, "n", "r");
        let missing = Problem::new(&object, FieldPath::spec(), Reason::ReferenceNotFound, "");
        let mut arrivals = Arrivals::default();
        arrivals.holds(&object, &[missing], Instant::now());
        assert_eq!(arrivals.waiting().next(), Some(object.clone()));
        arrivals.holds(&object, &[], Instant::now());
        assert_eq!(arrivals.waiting().next(), None);
    }
}
