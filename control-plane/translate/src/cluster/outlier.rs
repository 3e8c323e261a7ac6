//! Ejection of endpoints that fail requests (`outlier_detection`).

use std::time::Duration;

use evermesh_model::OutlierEjection;
use evermesh_proto::cluster::{self, Cluster};

use super::{ClusterFeature, ClusterRole};
use crate::wire;

/// Envoy's default of `max_ejection_time`.
const DEFAULT_MAX_EJECTION: Duration = Duration::from_mins(5);

/// The `outlierDetection` of the target's listener. Envoy's other detectors do not eject endpoints.
pub(crate) struct EndpointEjection;

impl ClusterFeature for EndpointEjection {
    fn add(&self, role: ClusterRole<'_>, cluster: &mut Cluster) {
        if let ClusterRole::Target { listener, .. } = role {
            cluster.outlier_detection = listener.outlier.as_ref().map(to_proto);
        }
    }
}

fn to_proto(ejection: &OutlierEjection) -> cluster::OutlierDetection {
    let OutlierEjection {
        max_server_errors,
        interval,
        base_duration,
        max_percent,
    } = ejection;
    let never = Some(wire::uint32(0));
    cluster::OutlierDetection {
        consecutive_5xx: Some(wire::uint32(*max_server_errors)),
        enforcing_consecutive_5xx: Some(wire::uint32(100)),
        interval: Some(wire::duration(*interval)),
        base_ejection_time: Some(wire::duration(*base_duration)),
        // Envoy's default would cut a longer base duration short.
        max_ejection_time: Some(wire::duration((*base_duration).max(DEFAULT_MAX_EJECTION))),
        max_ejection_percent: Some(wire::uint32(*max_percent)),
        // App Mesh ejected one endpoint whatever the percentage; Envoy does so only with this setting.
        always_eject_one_host: Some(wire::bool(true)),
        enforcing_success_rate: never,
        enforcing_consecutive_gateway_failure: never,
        enforcing_failure_percentage: never,
        ..Default::default()
    }
}
