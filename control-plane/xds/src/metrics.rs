//! Plain counters of what the server did. Whoever exports metrics reads them.
//!
//! Must not know a metrics library.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters since the start; every one only grows, but for `streams_open`.
#[derive(Debug, Default)]
pub struct XdsMetrics {
    /// Streams opened.
    pub streams: Counter,
    /// Streams open now.
    pub streams_open: Counter,
    /// Requests read, ACKs and NACKs among them.
    pub requests: Counter,
    /// Responses sent.
    pub responses: Counter,
    /// Bytes of responses sent, with gRPC's five bytes in front of each.
    pub response_bytes: Counter,
    /// Resources in these responses.
    pub resources: Counter,
    /// AllowedRemovals in delta responses, and resources left out of a state-of-the-world response.
    pub removals: Counter,
    /// Responses accepted.
    pub acks: Counter,
    /// Responses refused.
    pub nacks: Counter,
    /// Requests ignored since they answer an older response.
    pub stale_nonces: Counter,
    /// Resources a reconnecting client had already, so that they were not sent.
    pub resumed: Counter,
    /// Commits to the store.
    pub commits: Counter,
}

/// One number.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(crate) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Relaxed);
    }

    pub(crate) fn sub(&self, count: usize) {
        self.0.fetch_sub(count as u64, Relaxed);
    }
}
