//! Endpoints of a node to `ClusterLoadAssignment`s.
//!
//! Must not look at anything but the node and its endpoints: it is the short cut for the most frequent change.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_model::{Endpoint, Health, Locality, NodeListener, ResolvedNode, ServicePort};
use evermesh_proto::{
    Resource, ResourceKey, ResourceType, core,
    endpoint::{
        self, ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
    },
};

use crate::{names, wire};

/// The load assignments of one node, one for each of its listeners: exactly what [`crate::derive`] makes of the
/// same endpoints. None if the endpoints are not ours to serve.
///
/// Without endpoints there still is an assignment, an empty one: a proxy that waits for it would not start.
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
    let mut localities: BTreeMap<&Locality, Vec<&Endpoint>> = BTreeMap::new();
    for endpoint in endpoints {
        localities
            .entry(&endpoint.locality)
            .or_default()
            .push(endpoint);
    }
    let origin = [wire::origin(&node.object)];
    node.listeners
        .iter()
        .map(|listener| {
            let name = names::node_cluster(&node.name, port(listener));
            let assignment = ClusterLoadAssignment {
                cluster_name: name.to_string(),
                endpoints: localities
                    .iter()
                    .map(|(locality, endpoints)| locality_endpoints(locality, endpoints, listener))
                    .collect(),
                ..Default::default()
            };
            let key = ResourceKey {
                kind: ResourceType::Endpoint,
                name: Arc::clone(&name),
                scope: None,
            };
            let resource = Resource::encode(name, &assignment).with_origins(origin.clone());
            (key, Arc::new(resource))
        })
        .collect()
}

/// Port and protocol of a listener.
pub(crate) fn port(listener: &NodeListener) -> ServicePort {
    ServicePort {
        port: listener.port,
        protocol: listener.protocol,
    }
}

/// The weight is the number of endpoints that take requests, so that each gets the same share; gRPC clients ignore
/// a locality whose weight is zero, and refuse an assignment in which none has one.
fn locality_endpoints(
    Locality { region, zone }: &Locality,
    endpoints: &[&Endpoint],
    listener: &NodeListener,
) -> LocalityLbEndpoints {
    let healthy = endpoints
        .iter()
        .filter(|endpoint| endpoint.health == Health::Healthy)
        .count();
    LocalityLbEndpoints {
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
            .map(|endpoint| lb_endpoint(endpoint, listener.port))
            .collect(),
        ..Default::default()
    }
}

fn lb_endpoint(endpoint: &Endpoint, port: u16) -> LbEndpoint {
    let Endpoint {
        locality: _,
        address,
        target_ports,
        health,
    } = endpoint;
    let port = target_ports.get(&port).copied().unwrap_or(port);
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

/// One host of a cluster that is written out.
pub(crate) fn static_endpoint(host: String, port: u16) -> endpoint::Endpoint {
    endpoint::Endpoint {
        address: Some(wire::address(host, port)),
        ..Default::default()
    }
}
