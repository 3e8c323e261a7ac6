//! Pauses between attempts to reach the API server.

use std::time::Duration;

use backon::ExponentialBuilder;
use kube::runtime::{
    utils::{Backoff, ResetTimerBackoff},
    watcher::ExponentialBackoff,
};

/// The first and the longest pause. A random part of its length is added to each.
///
/// The longest pause is short, so that statuses are true again within 5 s after the API server has recovered, and no
/// task has to be woken.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(2));

/// Time without a failure after which the next pause is a first one: longer than the longest deadline of a request, so
/// that requests without an answer do not count as health.
const HEALTHY_AFTER: Duration = Duration::from_mins(1);

/// Pauses after failures that follow each other: 0.5 to 1 s, 1 to 2 s, and then 2 to 4 s each.
pub(crate) struct RetryPauses(ResetTimerBackoff<ExponentialBackoff>);

impl Default for RetryPauses {
    fn default() -> Self {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(PAUSES.0)
            .with_max_delay(PAUSES.1)
            .with_jitter()
            .without_max_times();
        let pauses = ExponentialBackoff::from(pauses);
        Self(ResetTimerBackoff::new(pauses, HEALTHY_AFTER))
    }
}

impl RetryPauses {
    /// The pause after another failure.
    pub(crate) fn after_failure(&mut self) -> Duration {
        self.0.next().unwrap_or(PAUSES.1)
    }
}

impl Iterator for RetryPauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.after_failure())
    }
}

impl Backoff for RetryPauses {
    /// Does nothing: kube calls this for every event of a watch, also for those that precede a failing request.
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use tokio::time;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_up_to_the_limit_and_vary() {
        let pauses: Vec<Duration> = RetryPauses::default().take(40).collect();
        let shortest = [500, 1000].into_iter().chain(std::iter::repeat(2000));
        for (pause, shortest) in pauses.iter().zip(shortest.map(Duration::from_millis)) {
            assert!((shortest..=2 * shortest).contains(pause), "{pauses:?}");
        }
        assert!(pauses[2..].iter().any(|it| *it != pauses[2]), "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_minute_without_failure_makes_the_pauses_short_again() {
        let mut pauses = RetryPauses::default();
        for _ in 0..3 {
            pauses.after_failure();
        }
        pauses.reset();
        time::advance(HEALTHY_AFTER * 9 / 10).await;
        assert!(pauses.after_failure() >= PAUSES.1);
        time::advance(HEALTHY_AFTER + PAUSES.0).await;
        assert!(pauses.after_failure() <= 2 * PAUSES.0);
    }
}
