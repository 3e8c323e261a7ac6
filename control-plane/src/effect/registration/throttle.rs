//! How fast instances may be registered: AWS counts the calls of an account, and others call too.
//!
//! In: who wants to call. Out: when it may. A burst passes at once, what is beyond has to wait its turn.
//!
//! Must not be one a service: the account has one quota.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{self, Instant};

/// Between two calls: four a second.
const INTERVAL: Duration = Duration::from_millis(250);
/// How many may come at once after a rest.
const BURST: u32 = 80;

/// The throttle.
#[derive(Debug)]
pub(super) struct Throttle {
    /// When the next call would be due had they all come evenly.
    next: Mutex<Option<Instant>>,
}

impl Throttle {
    pub(super) const fn new() -> Self {
        Self {
            next: Mutex::new(None),
        }
    }

    /// Waits for a turn.
    pub(super) async fn turn(&self) {
        time::sleep_until(self.reserve(Instant::now())).await;
    }

    fn reserve(&self, now: Instant) -> Instant {
        let mut next = self.next.lock();
        let due = next.filter(|next| *next > now).unwrap_or(now);
        *next = Some(due + INTERVAL);
        // Who is less than a burst early may go.
        let early = INTERVAL * (BURST - 1);
        due.checked_sub(early).map_or(now, |due| due.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_the_rest_waits_its_turn() {
        let throttle = Throttle::new();
        let begin = Instant::now();
        let after = async |calls: u32| {
            for _ in 0..calls {
                throttle.turn().await;
            }
            begin.elapsed()
        };
        assert_eq!(after(80).await, Duration::ZERO);
        let waited = after(8).await;
        assert!(
            waited.abs_diff(INTERVAL * 8) < Duration::from_millis(20),
            "{waited:?}"
        );
        time::sleep(INTERVAL * 40).await;
        let begin = Instant::now();
        after(40).await;
        assert!(
            begin.elapsed() < Duration::from_millis(20),
            "a rest allows a burst"
        );
    }
}
