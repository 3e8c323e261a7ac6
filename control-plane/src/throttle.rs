//! A token-bucket throttle for API calls, and a throttle for log lines.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{self, Instant};

/// Limits a rate to one call per interval, with bursts after idle time.
#[derive(Debug)]
pub(crate) struct Throttle {
    interval: Duration,
    burst: u32,
    /// Time at which the next call would be due if all calls had come evenly.
    next: Mutex<Option<Instant>>,
}

impl Throttle {
    /// One call per `interval` on average, and up to `burst` calls at once after idle time.
    pub(crate) const fn new(interval: Duration, burst: u32) -> Self {
        Self {
            interval,
            burst,
            next: Mutex::new(None),
        }
    }

    /// Waits until a call is allowed.
    pub(crate) async fn acquire(&self) {
        time::sleep_until(self.reserve(Instant::now())).await;
    }

    fn reserve(&self, now: Instant) -> Instant {
        let mut next = self.next.lock();
        let due = next.filter(|next| *next > now).unwrap_or(now);
        *next = Some(due + self.interval);
        // Allow calls that are early by less than a burst.
        let allowance = self.interval * self.burst.saturating_sub(1);
        due.checked_sub(allowance).map_or(now, |due| due.max(now))
    }
}

/// Limits the log lines about one cause.
#[derive(Debug)]
pub(crate) struct LogThrottle {
    interval: Duration,
    state: Mutex<LogState>,
}

#[derive(Debug, Default)]
struct LogState {
    last: Option<Instant>,
    suppressed: u64,
}

impl Default for LogThrottle {
    /// At most one line a second, for what peers cause.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            state: Mutex::default(),
        }
    }
}

impl LogThrottle {
    /// At most one line a minute, for a failure that lasts.
    pub(crate) fn once_a_minute() -> Self {
        Self {
            interval: Duration::from_mins(1),
            state: Mutex::default(),
        }
    }

    /// At most one line a day, for faults that an operator has to repair.
    pub(crate) fn once_a_day() -> Self {
        Self {
            interval: Duration::from_hours(24),
            state: Mutex::default(),
        }
    }

    /// Whether a line may be written now: the number of lines that were suppressed since the last one.
    pub(crate) fn pass(&self) -> Option<u64> {
        let mut state = self.state.lock();
        let now = Instant::now();
        let is_due = |last: Instant| now.duration_since(last) >= self.interval;
        if !state.last.is_none_or(is_due) {
            state.suppressed += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(250);

    #[tokio::test(start_paused = true)]
    async fn one_log_line_per_interval_tells_how_many_were_suppressed() {
        let throttle = LogThrottle::default();
        assert_eq!(throttle.pass(), Some(0));
        assert_eq!(throttle.pass(), None);
        assert_eq!(throttle.pass(), None);
        time::advance(Duration::from_secs(1)).await;
        assert_eq!(throttle.pass(), Some(2));
        assert_eq!(throttle.pass(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn burst_passes_at_once_and_further_calls_wait_an_interval_each() {
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
            "idle time allows a burst"
        );
    }
}
