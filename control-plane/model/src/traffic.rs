//! Values shared by listeners, routes and clusters.

use std::{fmt, time::Duration};

use serde::Serialize;

/// What a listener speaks. App Mesh's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1
    Http,
    /// HTTP/2 with prior knowledge
    Http2,
    /// gRPC over HTTP/2
    Grpc,
    /// Anything over TCP
    Tcp,
}

impl Protocol {
    /// The word in manifests and in Envoy's resource names.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }

    /// Whether Envoy reads requests of it (HTTP connection manager) rather than bytes (TCP proxy).
    pub const fn is_http(self) -> bool {
        !matches!(self, Self::Tcp)
    }

    /// Whether the upstream connection is HTTP/2.
    pub const fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Timeouts as the user wrote them. `None` is App Mesh's default, zero switches one off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Timeout {
    /// From the end of the request to the end of the response; 15 s when absent (HTTP only).
    pub per_request: Option<Duration>,
    /// Without a byte in either direction; Envoy's 5 minutes (HTTP) or 1 hour (TCP) when absent.
    pub idle: Option<Duration>,
}

impl Timeout {
    /// `perRequest` of HTTP-like listeners and routes that say nothing.
    pub const DEFAULT_PER_REQUEST: Duration = Duration::from_secs(15);
}
