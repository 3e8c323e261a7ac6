//! The time by the clock of the API server.
//!
//! Replicas whose own clocks differ must agree on what has expired: otherwise one of them replaces certificates that
//! another one has just made, and rejects tokens that the API server accepts. So both use the API server's clock, which
//! each response shows in its header `Date`. Until the first response, and outside a Kubernetes cluster, it is the clock
//! of this machine.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use http::{HeaderMap, header::DATE};
use k8s_openapi::jiff::fmt::rfc2822::DateTimeParser;

/// Source of the current time, so that tests can replace it.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The clock of the API server, read through the clock of this machine.
pub struct ServerClock {
    own: fn() -> SystemTime,
    /// Milliseconds by which the API server is ahead of this machine.
    ahead: AtomicI64,
}

impl Default for ServerClock {
    fn default() -> Self {
        Self::with_own_clock(SystemTime::now)
    }
}

impl fmt::Debug for ServerClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerClock")
            .field("ahead", &self.ahead)
            .finish_non_exhaustive()
    }
}

impl ServerClock {
    /// A clock of a machine on which it is `own()`.
    pub(crate) const fn with_own_clock(own: fn() -> SystemTime) -> Self {
        Self {
            own,
            ahead: AtomicI64::new(0),
        }
    }

    /// Sets the clock by the headers of a response that has just arrived. A response without a date changes nothing.
    pub(crate) fn set(&self, headers: &HeaderMap) {
        let date = headers.get(DATE).and_then(|it| it.to_str().ok());
        let date = date.and_then(|it| DateTimeParser::new().parse_timestamp(it).ok());
        if let Some(date) = date {
            let own = milliseconds((self.own)());
            self.ahead
                .store(date.as_millisecond().saturating_sub(own), Relaxed);
        }
    }

    /// The time, with the precision of a second.
    pub fn now(&self) -> SystemTime {
        let own = (self.own)();
        let ahead = self.ahead.load(Relaxed);
        let distance = Duration::from_millis(ahead.unsigned_abs());
        let now = if ahead < 0 {
            own.checked_sub(distance)
        } else {
            own.checked_add(distance)
        };
        now.unwrap_or(own)
    }

    /// Seconds by which the API server is ahead of this machine; negative if it is behind.
    pub fn seconds_ahead(&self) -> i64 {
        self.ahead.load(Relaxed) / 1_000
    }
}

fn milliseconds(at: SystemTime) -> i64 {
    let since = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn headers(date: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(DATE, HeaderValue::from_static(date))])
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn machines_with_different_clocks_agree_on_the_time_of_the_api_server() {
        let clocks: [fn() -> SystemTime; 4] = [
            || at(NOW),
            || at(NOW - 2 * 3_600),
            || at(NOW + 3 * 365 * 86_400),
            || SystemTime::UNIX_EPOCH,
        ];
        for own in clocks {
            let clock = ServerClock::with_own_clock(own);
            assert_eq!(clock.now(), own(), "no response yet");
            clock.set(&headers("Fri, 15 Jan 2027 08:00:00 GMT"));
            assert_eq!(clock.now(), at(NOW));
            clock.set(&headers("Fri, 15 Jan 2027 08:00:10 GMT"));
            assert_eq!(clock.now(), at(NOW + 10));
            let ahead = i64::try_from(NOW + 10).unwrap() - milliseconds(own()) / 1_000;
            assert_eq!(clock.seconds_ahead(), ahead);
        }
    }

    #[test]
    fn response_without_a_date_changes_nothing() {
        let clock = ServerClock::with_own_clock(|| at(NOW));
        clock.set(&headers("Fri, 15 Jan 2027 07:00:00 GMT"));
        for other in ["", "tomorrow", "Fri, 15 Jan 2027 25:00:00 GMT"] {
            clock.set(&headers(other));
            assert_eq!(clock.now(), at(NOW - 3_600), "{other}");
        }
        clock.set(&HeaderMap::new());
        assert_eq!(clock.now(), at(NOW - 3_600));
    }
}
