//! Clusters: one for each listener of a node, one for the application beside each proxy, and two for each mesh that
//! forward to the original destination.
//!
//! The cluster of a node does not depend on the caller, so all callers share one resource.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evermesh_model::{
    Discovery, DnsResponse, IpFamilyPreference, Protocol, ResolvedMesh, ResolvedNode, ServicePort,
};
use evermesh_proto::{
    Any, Resource, ResourceKey, ResourceType,
    cluster::{
        CircuitBreakers, Cluster,
        circuit_breakers::Thresholds,
        cluster::{
            ClusterDiscoveryType, DiscoveryType, DnsLookupFamily, EdsClusterConfig, LbPolicy,
        },
    },
    core::{Http1ProtocolOptions, Http2ProtocolOptions},
    endpoint::{
        ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
    },
    pack,
    pb::envoy::extensions::upstreams::http::v3::{
        HttpProtocolOptions,
        http_protocol_options::{
            ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
            explicit_http_config::ProtocolConfig,
        },
    },
};

use crate::{endpoint, names, scope::EncodedResources, wire};

/// The threshold that App Mesh used in circuit breakers for "no limit" (2³¹ − 1).
const UNLIMITED: u32 = 2_147_483_647;
/// Connect timeout towards other nodes and original destinations.
const REMOTE_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Connect timeout towards the application beside the proxy, and of a gateway towards itself.
const LOCAL_CONNECT_TIMEOUT: Duration = Duration::from_millis(250);

/// The clusters by which callers reach a node, one for each of its listeners.
pub(crate) fn node_clusters(node: &ResolvedNode, mesh: &ResolvedMesh) -> EncodedResources {
    node.listeners
        .iter()
        .map(endpoint::port)
        .map(|port| {
            let name = names::node_cluster(&node.name, port);
            let cluster = node_cluster(&name, node, mesh, port);
            let resource = Resource::encode(Arc::clone(&name), &cluster)
                .with_origins([wire::origin(&node.object)]);
            (shared_key(name), Arc::new(resource))
        })
        .collect()
}

fn node_cluster(
    name: &str,
    node: &ResolvedNode,
    mesh: &ResolvedMesh,
    port: ServicePort,
) -> Cluster {
    let cluster = Cluster {
        // Without this, Envoy keeps an endpoint that discovery removed as long as health checks succeed.
        ignore_health_on_host_removal: true,
        ..base_cluster(name, REMOTE_CONNECT_TIMEOUT, port.protocol)
    };
    let (discovery, assignment) = match &node.discovery {
        None => (DiscoveryType::Static, Some(empty_assignment(name))),
        Some(Discovery::Dns { hostname, response }) => (
            match response {
                DnsResponse::LoadBalancer => DiscoveryType::LogicalDns,
                DnsResponse::Endpoints => DiscoveryType::StrictDns,
            },
            Some(single_endpoint(name, hostname.to_string(), port.port)),
        ),
        Some(Discovery::CloudMap { .. } | Discovery::Slices { .. }) => (DiscoveryType::Eds, None),
    };
    let lookup = match mesh.ip_preference {
        None => DnsLookupFamily::Auto,
        Some(IpFamilyPreference::Ipv4Only) => DnsLookupFamily::V4Only,
        Some(IpFamilyPreference::Ipv6Only) => DnsLookupFamily::V6Only,
    };
    Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery.into())),
        eds_cluster_config: (discovery == DiscoveryType::Eds).then(|| EdsClusterConfig {
            eds_config: Some(wire::ads()),
            ..Default::default()
        }),
        dns_lookup_family: lookup.into(),
        load_assignment: assignment,
        ..cluster
    }
}

/// A cluster with one endpoint on loopback: the application beside the proxy, or the gateway itself.
pub(crate) fn local_cluster(name: &str, mesh: &ResolvedMesh, port: ServicePort) -> Cluster {
    Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        load_assignment: Some(single_endpoint(
            name,
            wire::loopback(mesh).to_string(),
            port.port,
        )),
        ..base_cluster(name, LOCAL_CONNECT_TIMEOUT, port.protocol)
    }
}

/// The two clusters of a mesh that forward a connection to its original destination: one for AWS APIs, one for
/// `egressFilter` `ALLOW_ALL`.
pub(crate) fn original_destinations(mesh: &ResolvedMesh) -> EncodedResources {
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
            typed_extension_protocol_options: protocol_options(
                UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
                    http_protocol_options: Some(Http1ProtocolOptions::default()),
                    http2_protocol_options: Some(Http2ProtocolOptions::default()),
                    ..Default::default()
                }),
            ),
            ..base_cluster(&name, REMOTE_CONNECT_TIMEOUT, Protocol::Tcp)
        };
        let resource = Resource::encode(Arc::clone(&name), &cluster)
            .with_origins([wire::origin(&mesh.object)]);
        (shared_key(name), Arc::new(resource))
    })
    .collect()
}

/// The key of a cluster that several views share.
pub(crate) fn shared_key(name: Arc<str>) -> ResourceKey {
    ResourceKey {
        kind: ResourceType::Cluster,
        name,
        scope: None,
    }
}

/// The settings that all clusters share.
///
/// App Mesh sets no limit unless the user does, so the circuit breakers are off. Envoy's defaults are low: with at most
/// 3 concurrent retries a retry policy has no effect under load.
fn base_cluster(name: &str, connect_timeout: Duration, protocol: Protocol) -> Cluster {
    let explicit = |protocol| {
        protocol_options(UpstreamProtocolOptions::ExplicitHttpConfig(
            ExplicitHttpConfig {
                protocol_config: Some(protocol),
            },
        ))
    };
    Cluster {
        name: name.to_owned(),
        connect_timeout: Some(wire::duration(connect_timeout)),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![Thresholds {
                max_connections: Some(wire::uint32(UNLIMITED)),
                max_pending_requests: Some(wire::uint32(UNLIMITED)),
                max_requests: Some(wire::uint32(UNLIMITED)),
                max_retries: Some(wire::uint32(UNLIMITED)),
                ..Default::default()
            }],
            ..Default::default()
        }),
        typed_extension_protocol_options: match protocol {
            Protocol::Tcp => BTreeMap::new(),
            Protocol::Http => explicit(ProtocolConfig::HttpProtocolOptions(
                Http1ProtocolOptions::default(),
            )),
            Protocol::Http2 | Protocol::Grpc => explicit(ProtocolConfig::Http2ProtocolOptions(
                Http2ProtocolOptions::default(),
            )),
        },
        ..Default::default()
    }
}

fn protocol_options(options: UpstreamProtocolOptions) -> BTreeMap<String, Any> {
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(options),
        ..Default::default()
    };
    BTreeMap::from([(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
        pack(&options),
    )])
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
