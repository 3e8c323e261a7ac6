//! Protocols and timeouts, which listeners, routes and clusters share.

use std::{fmt, time::Duration};

use serde::Serialize;

/// The protocol of a listener or route, as App Mesh names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1
    Http,
    /// HTTP/2 with prior knowledge
    Http2,
    /// gRPC over HTTP/2
    Grpc,
    /// Any protocol over TCP
    Tcp,
}

impl Protocol {
    /// The name in manifests and in names of Envoy resources.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }

    /// Returns whether Envoy parses requests (HTTP connection manager) instead of forwarding bytes (TCP proxy).
    pub const fn is_http(self) -> bool {
        !matches!(self, Self::Tcp)
    }

    /// Returns whether connections to the application use HTTP/2.
    pub const fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The `timeout` of a listener or route. `None` means the default of App Mesh; zero disables the timeout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Timeout {
    /// Maximum time from the end of the request to the end of the response; 15 s if absent. HTTP only.
    pub per_request: Option<Duration>,
    /// Maximum time without a byte in either direction; Envoy's default of 5 minutes (HTTP) or 1 hour (TCP) if absent.
    pub idle: Option<Duration>,
}

impl Timeout {
    /// Value of `perRequest` for HTTP, HTTP/2 and gRPC if it is not set. Source: App Mesh.
    pub const DEFAULT_PER_REQUEST: Duration = Duration::from_secs(15);
}
