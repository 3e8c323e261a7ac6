//! Listeners of nodes and gateways: a port, and the settings that proxies apply to its traffic.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use crate::{Protocol, ServerTls, ServicePort, Timeout};

/// One inbound port of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeListener {
    /// 1 to 65535
    pub port: u16,
    /// The protocol of the application behind the listener.
    pub protocol: Protocol,
    /// The timeouts of requests to the application.
    pub timeout: Timeout,
    /// The check by which callers find endpoints that do not work; none if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<ActiveHealthCheck>,
    /// The ejection of endpoints that fail requests, by callers; none if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier: Option<OutlierEjection>,
    /// The limits that the node's own proxy enforces.
    #[serde(skip_serializing_if = "TrafficLimits::is_unlimited")]
    pub limits: TrafficLimits,
    /// TLS of the port; plaintext if absent (App Mesh `tls.mode` `DISABLED`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServerTls>,
}

impl NodeListener {
    /// A listener with the defaults of App Mesh: no health check, no ejection, no limits, plaintext.
    pub fn new(port: u16, protocol: Protocol) -> Self {
        Self {
            port,
            protocol,
            timeout: Timeout::default(),
            health_check: None,
            outlier: None,
            limits: TrafficLimits::default(),
            tls: None,
        }
    }

    /// The port and protocol by which callers know the listener.
    pub const fn service_port(&self) -> ServicePort {
        ServicePort {
            port: self.port,
            protocol: self.protocol,
        }
    }
}

/// One inbound port of a gateway. The protocol is never [`Protocol::Tcp`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GatewayListener {
    /// 1 to 65535
    pub port: u16,
    /// The protocol of clients.
    pub protocol: Protocol,
    /// The limits of the traffic that enters by this port.
    #[serde(skip_serializing_if = "TrafficLimits::is_unlimited")]
    pub limits: TrafficLimits,
    /// TLS of the port; plaintext if absent (App Mesh `tls.mode` `DISABLED`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServerTls>,
}

impl GatewayListener {
    /// A plaintext listener without limits.
    pub fn new(port: u16, protocol: Protocol) -> Self {
        Self {
            port,
            protocol,
            limits: TrafficLimits::default(),
            tls: None,
        }
    }

    /// The port and protocol by which callers know the listener.
    pub const fn service_port(&self) -> ServicePort {
        ServicePort {
            port: self.port,
            protocol: self.protocol,
        }
    }
}

/// App Mesh `healthCheck` of a node's listener. Every proxy of a caller checks every endpoint of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ActiveHealthCheck {
    /// An HTTP request, a call of the gRPC health service, or a TCP connection. The listener's protocol may differ.
    pub protocol: Protocol,
    /// The path of the HTTP request. Used with `http` and `http2`.
    pub path: Arc<str>,
    /// Consecutive successes after which an endpoint is healthy.
    pub healthy_threshold: u32,
    /// Consecutive failures after which an endpoint is unhealthy.
    pub unhealthy_threshold: u32,
    /// The time between two checks of an endpoint.
    pub interval: Duration,
    /// The time to wait for an answer.
    pub timeout: Duration,
}

/// App Mesh `outlierDetection`: callers stop sending requests to an endpoint that fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutlierEjection {
    /// Consecutive server errors, failed connections included, after which an endpoint is ejected; at least 1.
    pub max_server_errors: u32,
    /// The time between two evaluations, which end ejections.
    pub interval: Duration,
    /// The duration of the first ejection; the n-th lasts n times as long.
    pub base_duration: Duration,
    /// The maximum share of ejected endpoints, 0 to 100. One endpoint may be ejected regardless of it.
    pub max_percent: u32,
}

/// App Mesh `connectionPool`: limits of concurrent traffic, each absent if there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TrafficLimits {
    /// Concurrent connections, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Requests that wait for a connection, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_requests: Option<u32>,
    /// Concurrent requests, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<u32>,
}

impl TrafficLimits {
    /// Whether nothing is limited.
    pub const fn is_unlimited(&self) -> bool {
        let Self {
            connections,
            pending_requests,
            requests,
        } = self;
        connections.is_none() && pending_requests.is_none() && requests.is_none()
    }
}
