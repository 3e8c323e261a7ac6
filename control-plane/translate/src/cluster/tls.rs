//! TLS of connections to the endpoints (`transport_socket`).

use evermesh_proto::cluster::Cluster;

use super::{ClusterFeature, ClusterRole};

/// TLS towards the node. Health checks use it too.
pub(crate) struct Tls;

impl ClusterFeature for Tls {
    fn add(&self, role: ClusterRole<'_>, cluster: &mut Cluster) {
        if let ClusterRole::Target {
            listener,
            tls: Some(tls),
            ..
        } = role
        {
            cluster.transport_socket = Some(tls.to_socket(listener.protocol));
        }
    }
}
