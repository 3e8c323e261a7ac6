//! Settings of the listeners of nodes and gateways: health checks, outlier detection, timeouts and connection pools.

use std::time::Duration;

use evermesh_crds::v1beta2;
use evermesh_model::{
    ActiveHealthCheck, OutlierEjection, Protocol, Reason, ServicePort, Severity, Timeout,
    TrafficLimits, problem::FieldPath,
};

use crate::{stage::Problems, values};

/// Parses the health check of a node's listener. Returns `None` if its path is not usable.
pub(crate) fn read_health_check(
    check: &v1beta2::HealthCheckPolicy,
    listener: ServicePort,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Option<ActiveHealthCheck> {
    let v1beta2::HealthCheckPolicy {
        healthy_threshold,
        interval_millis,
        path,
        port,
        protocol,
        timeout_millis,
        unhealthy_threshold,
    } = check;
    let protocol = values::protocol(*protocol);
    check_port(*port, listener, field, problems);
    let path = match path.as_deref() {
        None | Some("") => "/",
        Some(path) if matches!(protocol, Protocol::Grpc | Protocol::Tcp) => {
            problems.add(
                field.field("path"),
                Reason::ProtocolMismatch,
                format!("a health check with the protocol {protocol} has no path; remove path"),
            );
            path
        }
        Some(path) if is_request_path(path) => path,
        Some(path) => {
            problems.add(
                field.field("path"),
                Reason::InvalidValue,
                format!(
                    "`{}` is not a path of an HTTP request, so endpoints are not checked; begin it with `/` and leave out spaces",
                    path.escape_debug()
                ),
            );
            return None;
        }
    };
    Some(ActiveHealthCheck {
        protocol,
        path: path.into(),
        healthy_threshold: *healthy_threshold,
        unhealthy_threshold: *unhealthy_threshold,
        interval: Duration::from_millis((*interval_millis).into()),
        timeout: Duration::from_millis((*timeout_millis).into()),
    })
}

/// Returns whether the text can be sent as the path of a request. Envoy refuses control characters, and servers refuse
/// spaces.
fn is_request_path(text: &str) -> bool {
    text.starts_with('/') && !text.contains(|c: char| c.is_control() || c.is_whitespace())
}

/// Reports the port of a health check if it is not the listener's port. AWS refused such a health check.
pub(crate) fn check_port(
    port: Option<u16>,
    listener: ServicePort,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) {
    if let Some(port) = port.filter(|port| *port != listener.port) {
        problems.add_with_severity(
            field.field("port"),
            Reason::InvalidValue,
            Severity::Warning,
            format!(
                "port {port} is not the port of the listener, {}, which is checked instead; remove port",
                listener.port
            ),
        );
    }
}

/// Parses the outlier detection of a node's listener. Returns `None` if one of its durations is 0, which Envoy refuses.
pub(crate) fn read_outlier_detection(
    detection: &v1beta2::OutlierDetection,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Option<OutlierEjection> {
    let v1beta2::OutlierDetection {
        max_server_errors,
        interval,
        base_ejection_duration,
        max_ejection_percent,
    } = detection;
    let durations = [
        ("interval", *interval),
        ("baseEjectionDuration", *base_ejection_duration),
    ];
    let [interval, base_duration] = durations.map(|(name, duration)| {
        let duration = values::duration(duration);
        if duration.is_zero() {
            problems.add(
                field.field(name),
                Reason::InvalidValue,
                "the duration is 0, so failing endpoints are not ejected; use at least 1 ms",
            );
        }
        duration
    });
    if interval.is_zero() || base_duration.is_zero() {
        return None;
    }
    Some(OutlierEjection {
        max_server_errors: limit(*max_server_errors),
        interval,
        base_duration,
        max_percent: *max_ejection_percent,
    })
}

/// Parses the timeouts of a node's listener.
///
/// Flagger writes `http` for a `grpc` listener. Therefore a timeout for one of HTTP, HTTP/2 and gRPC applies to all
/// three, with a warning.
pub(crate) fn read_timeout(
    timeout: v1beta2::ListenerTimeout,
    protocol: Protocol,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Timeout {
    let v1beta2::ListenerTimeout {
        tcp,
        http,
        http2,
        grpc,
    } = timeout;
    let variants = [
        (Protocol::Tcp, tcp.map(values::tcp_timeout)),
        (Protocol::Http, http.map(values::http_timeout)),
        (Protocol::Http2, http2.map(values::http_timeout)),
        (Protocol::Grpc, grpc.map(values::http_timeout)),
    ];
    let mut set = variants
        .into_iter()
        .filter_map(|(variant, timeout)| Some((variant, timeout?)));
    let Some((variant, timeout)) = set.next() else {
        problems.add_with_severity(
            field.clone(),
            Reason::InvalidUnion,
            Severity::Warning,
            format!("no protocol is set, so the defaults apply; set {protocol}, or remove timeout"),
        );
        return Timeout::default();
    };
    if set.next().is_some() {
        problems.add(
            field.clone(),
            Reason::InvalidUnion,
            format!(
                "timeouts of several protocols are set, so none applies; keep the one for {protocol}"
            ),
        );
        return Timeout::default();
    }
    if variant == protocol {
        return timeout;
    }
    let (severity, consequence, timeout) = if variant.is_http() == protocol.is_http() {
        (
            Severity::Warning,
            "the timeout applies nevertheless",
            timeout,
        )
    } else {
        (
            Severity::Error,
            "the timeout is ignored",
            Timeout::default(),
        )
    };
    problems.add_with_severity(
        field.field(variant.as_str()),
        Reason::ProtocolMismatch,
        severity,
        format!(
            "the listener's protocol is {protocol}, not {variant}; {consequence}; use timeout.{protocol}"
        ),
    );
    timeout
}

/// Parses the connection pool of a node's listener.
pub(crate) fn read_node_pool(
    pool: v1beta2::VirtualNodeConnectionPool,
    protocol: Protocol,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> TrafficLimits {
    let v1beta2::VirtualNodeConnectionPool {
        tcp,
        http,
        http2,
        grpc,
    } = pool;
    let variants = [
        (Protocol::Tcp, tcp.map(tcp_limits)),
        (Protocol::Http, http.map(http_limits)),
        (Protocol::Http2, http2.map(request_limits)),
        (Protocol::Grpc, grpc.map(request_limits)),
    ];
    read_pool(variants, protocol, field, problems)
}

/// Parses the connection pool of a gateway's listener.
pub(crate) fn read_gateway_pool(
    pool: v1beta2::VirtualGatewayConnectionPool,
    protocol: Protocol,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> TrafficLimits {
    let v1beta2::VirtualGatewayConnectionPool { http, http2, grpc } = pool;
    let variants = [
        (Protocol::Http, http.map(http_limits)),
        (Protocol::Http2, http2.map(request_limits)),
        (Protocol::Grpc, grpc.map(request_limits)),
    ];
    read_pool(variants, protocol, field, problems)
}

/// The limits of the variant that is set. Several variants were reported at admission.
///
/// A variant of another protocol applies too, with a warning: each of its limits has a meaning for every protocol.
fn read_pool(
    variants: impl IntoIterator<Item = (Protocol, Option<TrafficLimits>)>,
    protocol: Protocol,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> TrafficLimits {
    let set = variants
        .into_iter()
        .find_map(|(variant, limits)| Some((variant, limits?)));
    let Some((variant, limits)) = set else {
        problems.add_with_severity(
            field.clone(),
            Reason::InvalidUnion,
            Severity::Warning,
            format!("no protocol is set, so nothing is limited; set {protocol}, or remove connectionPool"),
        );
        return TrafficLimits::default();
    };
    if variant != protocol {
        problems.add(
            field.field(variant.as_str()),
            Reason::ProtocolMismatch,
            format!(
                "the listener's protocol is {protocol}, not {variant}; the limits apply nevertheless; use connectionPool.{protocol}"
            ),
        );
    }
    limits
}

fn tcp_limits(
    v1beta2::TcpConnectionPool { max_connections }: v1beta2::TcpConnectionPool,
) -> TrafficLimits {
    TrafficLimits {
        connections: Some(limit(max_connections)),
        ..TrafficLimits::default()
    }
}

fn http_limits(pool: v1beta2::HttpConnectionPool) -> TrafficLimits {
    let v1beta2::HttpConnectionPool {
        max_connections,
        max_pending_requests,
    } = pool;
    TrafficLimits {
        connections: Some(limit(max_connections)),
        pending_requests: max_pending_requests.map(limit),
        requests: None,
    }
}

fn request_limits(
    v1beta2::Http2ConnectionPool { max_requests }: v1beta2::Http2ConnectionPool,
) -> TrafficLimits {
    TrafficLimits {
        requests: Some(limit(max_requests)),
        ..TrafficLimits::default()
    }
}

/// A limit as Envoy stores it. A number that does not fit is beyond any traffic.
fn limit(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
