//! Limits of concurrent traffic (`circuit_breakers`).

use evermesh_model::TrafficLimits;
use evermesh_proto::cluster::{self, Cluster, circuit_breakers::Thresholds};

use super::{ClusterFeature, ClusterRole};
use crate::wire;

/// The threshold that App Mesh used for "no limit" (2³¹ − 1).
const UNLIMITED: u32 = 2_147_483_647;

/// The `connectionPool` of a listener, on the cluster behind that listener. App Mesh let the proxy of the called node
/// enforce the limits, not those of the callers.
///
/// Without a limit the breakers are off. Envoy's defaults are low: with at most 3 concurrent retries a retry policy has
/// no effect under load.
pub(crate) struct CircuitBreakers;

impl ClusterFeature for CircuitBreakers {
    fn add(&self, role: ClusterRole<'_>, cluster: &mut Cluster) {
        let limits = match role {
            ClusterRole::Local { limits, .. } => limits,
            ClusterRole::Target { .. } | ClusterRole::OriginalDestination => {
                TrafficLimits::default()
            }
        };
        let TrafficLimits {
            connections,
            pending_requests,
            requests,
        } = limits;
        let threshold = |limit: Option<u32>| Some(wire::uint32(limit.unwrap_or(UNLIMITED)));
        cluster.circuit_breakers = Some(cluster::CircuitBreakers {
            thresholds: vec![Thresholds {
                max_connections: threshold(connections),
                max_pending_requests: threshold(pending_requests),
                max_requests: threshold(requests),
                max_retries: threshold(None),
                ..Default::default()
            }],
            ..Default::default()
        });
    }
}
