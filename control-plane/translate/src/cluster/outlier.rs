//! Ejection of endpoints that fail requests (`outlier_detection`).

use evermesh_model::OutlierEjection;
use evermesh_proto::cluster::{self, Cluster};

use super::{ClusterFeature, ClusterRole};
use crate::wire;

/// The `outlierDetection` of the target's listener. Envoy's other detectors do not eject endpoints.
pub(crate) struct OutlierDetection;

impl ClusterFeature for OutlierDetection {
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
        // Envoy's default of 5 minutes would shorten a longer base duration, and refuses it.
        max_ejection_time: Some(wire::duration(
            (*base_duration).max(std::time::Duration::from_mins(5)),
        )),
        max_ejection_percent: Some(wire::uint32(*max_percent)),
        enforcing_success_rate: never,
        enforcing_consecutive_gateway_failure: never,
        enforcing_failure_percentage: never,
        ..Default::default()
    }
}
