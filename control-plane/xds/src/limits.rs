//! Everything that one client can make the server keep or do, and the numbers that bound it.
//!
//! A client that goes beyond a limit loses its stream with `RESOURCE_EXHAUSTED` and a message that names the limit, or
//! its connection with GOAWAY where HTTP/2 counts. Text that is only shown is cut instead
//! ([`PeerText`](crate::PeerText)).
//!
//! ```text
//! connection    streams, resets, header list                       HTTP/2 settings
//! stream        before authorization: `opening_bytes` of one message, for at most `request_time`
//!               after:                `request_bytes`, of which more than `opening_bytes` at a time come from
//!                                     `large_request_bytes` of the whole server
//! subscription  names: three times the view and `spare_names`; the words of a NACK; fields of the node
//! ```

use std::time::Duration;

/// Longest resource name in bytes. The longest that the control plane makes has about 1 KiB.
pub(crate) const NAME_BYTES: usize = 2 << 10;

/// Bytes of the names of a stream, on average over as many as it may subscribe to. Names of resources have less than 100.
pub(crate) const AVERAGE_NAME_BYTES: usize = 256;

/// Longest `node.id` in bytes. The name of a node or gateway with the longest names of Kubernetes has 530.
pub(crate) const NODE_ID_BYTES: usize = 1 << 10;

/// Bytes of `node.cluster` and of `node.user_agent_name` that are kept.
pub(crate) const NODE_FIELD_BYTES: usize = 256;

/// Bytes of a NACK's message that are kept. Envoy sends at most 4 KiB.
pub(crate) const REJECTION_BYTES: usize = 1 << 10;

/// Limits of one server. See the numbers in [`XdsLimits::default`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XdsLimits {
    /// Open streams of one connection (64). Envoy opens one, or one per type.
    pub streams_per_connection: u32,
    /// Streams that a client has reset and that the server has not taken yet (20); beyond it the connection ends. The
    /// guard against "Rapid Reset" (CVE-2023-44487).
    pub pending_resets: usize,
    /// Streams of a connection that the server reset because the client broke a rule of HTTP/2 (256); beyond it the
    /// connection ends. The guard against "`MadeYouReset`" (CVE-2025-8671).
    pub error_resets: usize,
    /// Bytes that a client may send before the server reads them, on one connection (64 KiB, the smallest that HTTP/2
    /// allows).
    pub window_bytes: u32,
    /// Bytes of a request's headers (16 KiB). A service account token has about 1 KiB.
    pub header_bytes: u32,
    /// Bytes of a request that are held before the client is authorized, and bytes of any request besides resource names
    /// and their versions (256 KiB).
    pub opening_bytes: usize,
    /// Time for the first request of a stream, and for one of more than `opening_bytes` (10 s).
    pub request_time: Duration,
    /// Bytes of one request (16 MiB). A reconnecting incremental client lists every resource that it has.
    pub request_bytes: usize,
    /// Bytes of requests of more than `opening_bytes` that are read at the same time, over all streams (64 MiB).
    pub large_request_bytes: usize,
    /// Names that a stream may subscribe to beyond three times the resources of its view (5,000). A client that
    /// reconnects names what it has, which can be more than what its view has become meanwhile.
    pub spare_names: usize,
}

impl Default for XdsLimits {
    fn default() -> Self {
        Self {
            streams_per_connection: 64,
            pending_resets: 20,
            error_resets: 256,
            window_bytes: (64 << 10) - 1,
            header_bytes: 16 << 10,
            opening_bytes: 256 << 10,
            request_time: Duration::from_secs(10),
            request_bytes: 16 << 20,
            large_request_bytes: 64 << 20,
            spare_names: 5_000,
        }
    }
}
