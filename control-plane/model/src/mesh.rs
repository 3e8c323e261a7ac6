//! What holds for every member of a mesh.

use std::sync::Arc;

use serde::Serialize;

use crate::ObjectRef;

/// A mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResolvedMesh {
    /// Its `awsName`: in node ids, ARNs and cluster names.
    pub name: Arc<str>,
    /// Where it comes from.
    pub object: ObjectRef,
    /// What a node may reach besides its backends.
    pub egress: EgressPolicy,
    /// The IP family of discovery and listeners, if the user chose one.
    pub ip_preference: Option<IpFamilyPreference>,
    /// Whether a DNS name that means a Service of the cluster is served from its EndpointSlices, if the user chose for
    /// this mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_slices: Option<bool>,
}

/// App Mesh `egressFilter.type`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum EgressPolicy {
    /// Declared backends, and TLS on port 443 with a server name under `amazonaws.com`.
    #[default]
    DropAll,
    /// Whatever no backend claims passes to its original destination.
    AllowAll,
}

/// App Mesh `meshServiceDiscovery.ipPreference`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum IpFamilyPreference {
    /// IPv4 addresses only
    Ipv4Only,
    /// IPv6 addresses only
    Ipv6Only,
}
