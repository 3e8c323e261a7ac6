//! The ages at which a stream ends and at which its connection takes no further stream.
//!
//! A client that opens its next stream on the same connection would stay on the same replica for ever. So a connection
//! announces its end (GOAWAY) before the first of its streams can reach the end of its age: an open stream continues, and
//! the next one needs a new connection, for which the network chooses a replica.
//!
//! ```text
//! 0 ────────────────── 27 min ─────── 30 min ─────── 33 min
//! connection opens     GOAWAY         streams end with OK, each at a random time
//! ```

use std::time::Duration;

/// The part of the age by which a stream ends earlier or later.
const SPREAD: u32 = 10;

/// The age at which a connection takes no further stream: the smallest age at which a stream ends.
pub(crate) fn connection_age(mean: Duration) -> Duration {
    mean / SPREAD * (SPREAD - 1)
}

/// A random age at which a stream ends, uniform between 90 and 110 % of the mean.
pub(crate) fn random(mean: Duration) -> Duration {
    let range = mean / SPREAD * 2;
    let nanos = u64::try_from(range.as_nanos()).unwrap_or(u64::MAX);
    connection_age(mean) + Duration::from_nanos(fastrand::u64(..=nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_spread_over_a_fifth_of_the_mean() {
        let mean = Duration::from_mins(30);
        let ages: Vec<Duration> = (0..1_000).map(|_| random(mean)).collect();
        let (first, last) = (Duration::from_mins(27), Duration::from_mins(33));
        assert_eq!(connection_age(mean), first);
        assert!(ages.iter().all(|age| (first..=last).contains(age)));
        // Each fails with a probability of 0.9^1000.
        assert!(
            ages.iter()
                .any(|age| *age < first + Duration::from_secs(36))
        );
        assert!(ages.iter().any(|age| *age + Duration::from_secs(36) > last));
    }
}
