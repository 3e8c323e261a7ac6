//! Health checks, ejections, limits and access logs for small graphs.

use std::time::Duration;

use evermesh_model::{
    AccessLogFile, AccessLogFormat, ActiveHealthCheck, NodeListener, OutlierEjection, Protocol,
    TrafficLimits,
};

/// The number of settings that the functions of this module distinguish.
pub const SETTINGS: usize = 4;

/// Health check, ejection and limits of a listener: none, or different ones.
pub fn add(listener: &mut NodeListener, number: usize) {
    listener.limits = limits(number);
    let protocol = match number {
        0 => return,
        1 => Protocol::Http,
        2 => Protocol::Grpc,
        _ => Protocol::Tcp,
    };
    listener.health_check = Some(ActiveHealthCheck {
        protocol,
        path: "/ready".into(),
        healthy_threshold: 2,
        unhealthy_threshold: 3,
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(2),
    });
    listener.outlier = (number > 1).then(|| OutlierEjection {
        max_server_errors: 5,
        interval: Duration::from_secs(10),
        base_duration: Duration::from_secs(30),
        max_percent: 50,
    });
}

pub fn limits(number: usize) -> TrafficLimits {
    match number {
        0 => TrafficLimits::default(),
        1 => TrafficLimits {
            connections: Some(10),
            pending_requests: Some(20),
            requests: None,
        },
        _ => TrafficLimits {
            requests: Some(30),
            ..TrafficLimits::default()
        },
    }
}

/// An access log: none, or one with each kind of format.
pub fn access_log(number: usize) -> Option<AccessLogFile> {
    let format = match number {
        0 => return None,
        1 => None,
        2 => Some(AccessLogFormat::Text("%RESPONSE_CODE%\n".into())),
        _ => {
            let fields = [("status".into(), "%RESPONSE_CODE%".into())];
            Some(AccessLogFormat::Json(fields.into()))
        }
    };
    Some(AccessLogFile {
        path: "/dev/stdout".into(),
        format,
    })
}
