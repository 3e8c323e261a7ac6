//! How fast something may be done: a burst at once, and what is beyond one at a time.
//!
//! In: who wants a turn. Out: when it has it.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{self, Instant};

/// The throttle.
#[derive(Debug)]
pub(crate) struct Throttle {
    interval: Duration,
    burst: u32,
    /// When the next turn would be due had they all come evenly.
    next: Mutex<Option<Instant>>,
}

impl Throttle {
    /// A turn every `interval`, and `burst` of them at once after a rest.
    pub(crate) const fn new(interval: Duration, burst: u32) -> Self {
        Self {
            interval,
            burst,
            next: Mutex::new(None),
        }
    }

    /// Waits for a turn.
    pub(crate) async fn acquire(&self) {
        time::sleep_until(self.reserve(Instant::now())).await;
    }

    fn reserve(&self, now: Instant) -> Instant {
        let mut next = self.next.lock();
        let due = next.filter(|next| *next > now).unwrap_or(now);
        *next = Some(due + self.interval);
        // Who is less than a burst early may go.
        let early = self.interval * self.burst.saturating_sub(1);
        due.checked_sub(early).map_or(now, |due| due.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(250);

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_the_rest_waits_its_turn() {
        let throttle = Throttle::new(INTERVAL, 80);
        let begin = Instant::now();
        let after = async |calls: u32| {
            for _ in 0..calls {
                throttle.acquire().await;
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
