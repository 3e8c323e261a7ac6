//! The seam for settings of clusters: each feature is a file that adds its part to a cluster.
//!
//! A feature decides by the [`ClusterRole`] whether it applies. A new feature is a new file and an entry in
//! [`FEATURES`]; no other code changes.

use evermesh_model::{NodeListener, Protocol, ResolvedNode, TrafficLimits};
use evermesh_proto::cluster::Cluster;

use super::{
    circuit_breakers::CircuitBreakers, health_check::HealthChecks, http_version::HttpVersion,
    outlier::EndpointEjection, tls::Tls,
};
use crate::tls::TargetTls;

/// The use of a cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ClusterRole<'a> {
    /// Callers reach a listener of a node.
    Target {
        node: &'a ResolvedNode,
        listener: &'a NodeListener,
        /// TLS of the calls; plaintext if absent.
        tls: Option<&'a TargetTls>,
    },
    /// A proxy reaches the application beside it, or a gateway itself.
    Local {
        protocol: Protocol,
        limits: TrafficLimits,
    },
    /// Connections go to the destination that the application chose.
    OriginalDestination,
}

/// A part of a cluster's configuration.
pub(crate) trait ClusterFeature: Sync {
    /// Adds the feature to `cluster`, if the feature applies to clusters of this role.
    fn add(&self, role: ClusterRole<'_>, cluster: &mut Cluster);
}

/// All features. They set different fields, so their order has no effect.
static FEATURES: &[&dyn ClusterFeature] = &[
    &HttpVersion,
    &CircuitBreakers,
    &HealthChecks,
    &EndpointEjection,
    &Tls,
];

/// Adds all features that apply.
pub(super) fn add_all(role: ClusterRole<'_>, cluster: &mut Cluster) {
    for feature in FEATURES {
        feature.add(role, cluster);
    }
}
