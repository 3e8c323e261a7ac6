//! Counters of the server, independent of any metrics library. The control plane exports them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters since the start of the process. All of them only grow, except `streams_open`.
#[derive(Debug, Default)]
pub struct XdsMetrics {
    /// Streams opened.
    pub streams: Counter,
    /// Streams open now.
    pub streams_open: Counter,
    /// Requests read, including ACKs and NACKs.
    pub requests: Counter,
    /// Responses sent.
    pub responses: Counter,
    /// Bytes of the responses sent, including the five-byte gRPC prefix of each.
    pub response_bytes: Counter,
    /// Resources in the responses sent.
    pub resources: Counter,
    /// Names removed by delta responses, and resources left out of state-of-the-world responses.
    pub removals: Counter,
    /// Responses that clients ACKed.
    pub acks: Counter,
    /// Responses that clients NACKed.
    pub nacks: Counter,
    /// Requests whose nonce was not that of the newest response.
    pub stale_nonces: Counter,
    /// Resources that were not sent because a reconnecting client already had the newest version.
    pub resumed: Counter,
    /// Commits to the store.
    pub commits: Counter,
}

/// An atomic counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Reads the current value.
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
