//! Connection pools and timeouts of listeners and routes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Duration;

/// Limits of an HTTP/1.1 listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpConnectionPool {
    /// Maximum number of concurrent connections to the application; at least 1. Further requests wait for a connection.
    #[schemars(range(min = 1))]
    pub max_connections: u64,
    /// Maximum number of requests that wait for a connection; at least 1. Default: 2147483647.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_pending_requests: Option<u64>,
}

/// Limits of an HTTP/2 or gRPC listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Http2ConnectionPool {
    /// Maximum number of concurrent requests; at least 1.
    #[schemars(range(min = 1))]
    pub max_requests: u64,
}

/// Limits of a TCP listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpConnectionPool {
    /// Maximum number of concurrent connections to the application; at least 1.
    #[schemars(range(min = 1))]
    pub max_connections: u64,
}

/// Timeouts of HTTP requests and gRPC calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpTimeout {
    /// Time from the end of the request to the end of the response. Zero disables the timeout. Default: 15 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_request: Option<Duration>,
    /// Time without data in either direction. Zero disables the timeout. Default: 5 minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,
}

/// Timeout of TCP connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpTimeout {
    /// Time without data in either direction. Zero disables the timeout. Default: 1 hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,
}
