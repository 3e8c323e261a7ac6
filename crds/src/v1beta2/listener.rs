//! What listeners and routes share: connection pools and timeouts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Duration;

/// Limits for HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpConnectionPool {
    /// Connections open at once; at least 1.
    #[schemars(range(min = 1))]
    pub max_connections: u64,
    /// Requests that wait for a connection; at least 1. Default: 2147483647.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_pending_requests: Option<u64>,
}

/// Limits for HTTP/2 and gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Http2ConnectionPool {
    /// Requests in flight at once; at least 1.
    #[schemars(range(min = 1))]
    pub max_requests: u64,
}

/// Limits for TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpConnectionPool {
    /// Connections open at once; at least 1.
    #[schemars(range(min = 1))]
    pub max_connections: u64,
}

/// How long requests may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpTimeout {
    /// From the end of the request to the end of the response. Default: 15 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_request: Option<Duration>,
    /// Without a byte in either direction. Default: 5 minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,
}

/// How long connections may be idle.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpTimeout {
    /// Without a byte in either direction. Default: 1 hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,
}
