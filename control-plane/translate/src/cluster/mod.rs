//! Clusters: one for each listener of a node, one for the application beside each proxy, and two for each mesh that
//! forward to the original destination.
//!
//! The cluster of a node does not depend on the caller, so all callers share one resource.

mod circuit_breakers;
mod feature;
mod health_check;
mod http_version;
mod outlier;
mod tls;

use std::{sync::Arc, time::Duration};

use evermesh_model::{
    Discovery, DnsResponse, IpFamilyPreference, NodeListener, ResolvedMesh, ResolvedNode,
    ServicePort, TrafficLimits,
};
use evermesh_proto::{
    Resource, ResourceType,
    cluster::{
        Cluster,
        cluster::{
            ClusterDiscoveryType, DiscoveryType, DnsLookupFamily, EdsClusterConfig, LbPolicy,
        },
    },
    endpoint::{
        ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
    },
};

pub(crate) use self::feature::{ClusterFeature, ClusterRole};
use crate::{
    endpoint, names,
    scope::{EncodedResources, MeshScope},
    tls::TargetTls,
    wire,
};

/// Connect timeout towards other nodes and original destinations.
const REMOTE_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Connect timeout towards the application beside the proxy, and of a gateway towards itself.
const LOCAL_CONNECT_TIMEOUT: Duration = Duration::from_millis(250);

/// The clusters by which callers without a client policy reach a node, one for each of its listeners.
pub(crate) fn node_clusters(node: &ResolvedNode, mesh: &ResolvedMesh) -> EncodedResources {
    let scope = MeshScope::new(&mesh.name);
    node.listeners
        .iter()
        .map(|listener| {
            let name = names::node_cluster(&node.name, listener.service_port());
            let tls = TargetTls::without_policy(node, listener);
            let resource = node_cluster(&name, node, listener, mesh, tls.as_ref())
                .with_origins([wire::origin(&node.object)]);
            (scope.key(ResourceType::Cluster, name), Arc::new(resource))
        })
        .collect()
}

/// A cluster by which callers reach a listener of a node.
pub(crate) fn node_cluster(
    name: &Arc<str>,
    node: &ResolvedNode,
    listener: &NodeListener,
    mesh: &ResolvedMesh,
    tls: Option<&TargetTls>,
) -> Resource {
    let role = ClusterRole::Target {
        node,
        listener,
        tls,
    };
    let cluster = Cluster {
        // Without this, Envoy keeps an endpoint that discovery removed as long as health checks succeed.
        ignore_health_on_host_removal: true,
        ..new_cluster(name, REMOTE_CONNECT_TIMEOUT, role)
    };
    let (discovery, assignment) = match &node.discovery {
        None => (DiscoveryType::Static, Some(empty_assignment(name))),
        Some(Discovery::Dns { hostname, response }) => (
            match response {
                DnsResponse::LoadBalancer => DiscoveryType::LogicalDns,
                DnsResponse::Endpoints => DiscoveryType::StrictDns,
            },
            Some(single_endpoint(name, hostname.to_string(), listener.port)),
        ),
        Some(Discovery::CloudMap { .. } | Discovery::Slices { .. }) => (DiscoveryType::Eds, None),
    };
    let lookup = match mesh.ip_preference {
        None => DnsLookupFamily::Auto,
        Some(IpFamilyPreference::Ipv4Only) => DnsLookupFamily::V4Only,
        Some(IpFamilyPreference::Ipv6Only) => DnsLookupFamily::V6Only,
    };
    let cluster = Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery.into())),
        eds_cluster_config: (discovery == DiscoveryType::Eds).then(|| EdsClusterConfig {
            eds_config: Some(wire::ads()),
            ..Default::default()
        }),
        dns_lookup_family: lookup.into(),
        load_assignment: assignment,
        ..cluster
    };
    Resource::encode(Arc::clone(name), &cluster)
}

/// A cluster with one endpoint on loopback: the application beside the proxy, or the gateway itself.
pub(crate) fn local_cluster(
    name: &str,
    mesh: &ResolvedMesh,
    ServicePort { port, protocol }: ServicePort,
    limits: TrafficLimits,
) -> Cluster {
    let role = ClusterRole::Local { protocol, limits };
    Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        load_assignment: Some(single_endpoint(
            name,
            wire::loopback(mesh).to_string(),
            port,
        )),
        ..new_cluster(name, LOCAL_CONNECT_TIMEOUT, role)
    }
}

/// The two clusters of a mesh that forward a connection to its original destination: one for AWS APIs, one for
/// `egressFilter` `ALLOW_ALL`.
pub(crate) fn original_destinations(mesh: &ResolvedMesh) -> EncodedResources {
    let scope = MeshScope::new(&mesh.name);
    [
        names::amazonaws_cluster(&mesh.name),
        names::allow_all_cluster(&mesh.name),
    ]
    .into_iter()
    .map(|name| {
        let cluster = Cluster {
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(
                DiscoveryType::OriginalDst.into(),
            )),
            lb_policy: LbPolicy::ClusterProvided.into(),
            ..new_cluster(
                &name,
                REMOTE_CONNECT_TIMEOUT,
                ClusterRole::OriginalDestination,
            )
        };
        let resource = Resource::encode(Arc::clone(&name), &cluster)
            .with_origins([wire::origin(&mesh.object)]);
        (scope.key(ResourceType::Cluster, name), Arc::new(resource))
    })
    .collect()
}

/// A cluster with all features of its role. The caller adds the discovery of its endpoints.
fn new_cluster(name: &str, connect_timeout: Duration, role: ClusterRole<'_>) -> Cluster {
    let mut cluster = Cluster {
        name: name.to_owned(),
        connect_timeout: Some(wire::duration(connect_timeout)),
        ..Default::default()
    };
    feature::add_all(role, &mut cluster);
    cluster
}

/// A load assignment with one endpoint.
fn single_endpoint(cluster: &str, host: String, port: u16) -> ClusterLoadAssignment {
    ClusterLoadAssignment {
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: vec![LbEndpoint {
                host_identifier: Some(HostIdentifier::Endpoint(endpoint::static_endpoint(
                    host, port,
                ))),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..empty_assignment(cluster)
    }
}

/// A load assignment without endpoints; requests are answered 503.
fn empty_assignment(cluster: &str) -> ClusterLoadAssignment {
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        ..Default::default()
    }
}
