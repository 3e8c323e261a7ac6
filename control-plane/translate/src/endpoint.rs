//! Load assignments: the endpoints of a node as `ClusterLoadAssignment`s.
//!
//! A load assignment depends on nothing but the node and its endpoints. So a change of endpoints, the most frequent
//! change, needs this module alone ([`crate::derive_endpoints`]).

use std::{collections::BTreeMap, sync::Arc};

use evermesh_model::{Endpoint, Health, Locality, NodeListener, ResolvedNode};
use evermesh_proto::{
    Resource, ResourceKey, ResourceType, core,
    endpoint::{
        self, ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
    },
};

use crate::{names, scope::MeshScope, wire};

/// The load assignments of one node, one for each of its listeners, as [`crate::derive`] derives them.
///
/// Empty if the proxies find the endpoints themselves by DNS. A node that has no endpoints gets empty load assignments,
/// because a proxy does not start before it has those that it waits for.
pub fn load_assignments(
    node: &ResolvedNode,
    endpoints: &[Endpoint],
) -> Vec<(ResourceKey, Arc<Resource>)> {
    if !node
        .discovery
        .as_ref()
        .is_some_and(evermesh_model::Discovery::is_eds)
    {
        return Vec::new();
    }
    let localities = by_locality(endpoints);
    let mesh = MeshScope::new(&node.name.mesh);
    node.listeners
        .iter()
        .map(|listener| {
            let name = names::node_cluster(&node.name, listener.service_port());
            let key = mesh.key(ResourceType::Endpoint, Arc::clone(&name));
            let resource = load_assignment(name, node, listener, &localities);
            (key, Arc::new(resource))
        })
        .collect()
}

/// The endpoints of a node's listener for a cluster of another name. `None` if the node does not have the listener.
pub(crate) fn renamed_assignment(
    cluster: Arc<str>,
    node: &ResolvedNode,
    port: u16,
    endpoints: &[Endpoint],
) -> Option<Resource> {
    let mut listeners = node.listeners.iter();
    let listener = listeners.find(|listener| listener.port == port)?;
    let localities = by_locality(endpoints);
    Some(load_assignment(cluster, node, listener, &localities))
}

type Localities<'a> = BTreeMap<&'a Locality, Vec<&'a Endpoint>>;

fn by_locality(endpoints: &[Endpoint]) -> Localities<'_> {
    let mut localities = Localities::new();
    for endpoint in endpoints {
        localities
            .entry(&endpoint.locality)
            .or_default()
            .push(endpoint);
    }
    localities
}

fn load_assignment(
    name: Arc<str>,
    node: &ResolvedNode,
    listener: &NodeListener,
    localities: &Localities<'_>,
) -> Resource {
    let assignment = ClusterLoadAssignment {
        cluster_name: name.to_string(),
        endpoints: localities
            .iter()
            .filter_map(|(locality, endpoints)| locality_endpoints(locality, endpoints, listener))
            .collect(),
        ..Default::default()
    };
    Resource::encode(name, &assignment).with_origins([wire::origin(&node.object)])
}

/// The endpoints that a listener has in one locality; `None` if it has none. The weight of the locality is the number of
/// healthy endpoints, at least 1, so that every endpoint gets the same share. Proxyless gRPC clients ignore a locality of
/// weight 0, and refuse an assignment that has no other.
fn locality_endpoints(
    Locality { region, zone }: &Locality,
    endpoints: &[&Endpoint],
    listener: &NodeListener,
) -> Option<LocalityLbEndpoints> {
    let endpoints = endpoints.iter();
    let endpoints = endpoints.filter_map(|it| Some((*it, it.ports.of(listener.port)?)));
    let endpoints: Vec<(&Endpoint, u16)> = endpoints.collect();
    if endpoints.is_empty() {
        return None;
    }
    let healthy = endpoints
        .iter()
        .filter(|(endpoint, _)| endpoint.health == Health::Healthy)
        .count();
    Some(LocalityLbEndpoints {
        locality: Some(core::Locality {
            region: region.to_string(),
            zone: zone.to_string(),
            ..Default::default()
        }),
        load_balancing_weight: Some(wire::uint32(
            u32::try_from(healthy).unwrap_or(u32::MAX).max(1),
        )),
        lb_endpoints: endpoints
            .iter()
            .map(|(endpoint, port)| lb_endpoint(endpoint, *port))
            .collect(),
        ..Default::default()
    })
}

fn lb_endpoint(endpoint: &Endpoint, port: u16) -> LbEndpoint {
    let Endpoint {
        locality: _,
        address,
        ports: _,
        health,
    } = endpoint;
    let health = match health {
        Health::Healthy => core::HealthStatus::Healthy,
        Health::Draining => core::HealthStatus::Draining,
    };
    LbEndpoint {
        health_status: health.into(),
        host_identifier: Some(HostIdentifier::Endpoint(static_endpoint(
            address.to_string(),
            port,
        ))),
        ..Default::default()
    }
}

/// An endpoint at an address; in a DNS cluster, at a name.
pub(crate) fn static_endpoint(host: String, port: u16) -> endpoint::Endpoint {
    endpoint::Endpoint {
        address: Some(wire::address(host, port)),
        ..Default::default()
    }
}
