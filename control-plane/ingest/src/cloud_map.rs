//! Conversion of Cloud Map instances to endpoints.
//!
//! The source `control-plane/src/source/cloud_map` calls Cloud Map and delivers its answers as [`CloudMapState`].

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use evermesh_model::{
    CloudMapService, CloudMapState, Endpoint, EndpointPorts, Health, Instance, IpFamilyPreference,
    Locality, Problem, Reason, ResolvedNode, endpoint::CloudMapFailure, problem::FieldPath,
};

use crate::pods::OwnPods;

/// The endpoints in ascending order: the node's own pods, and the instances at other addresses that have all of the
/// node's attributes. Of several instances with the same address, the one with the smallest ID is used.
pub(crate) fn endpoints(
    state: Option<&CloudMapState>,
    attributes: &BTreeMap<Arc<str>, Arc<str>>,
    preference: Option<IpFamilyPreference>,
    own: OwnPods,
) -> Vec<Endpoint> {
    let OwnPods {
        endpoints: mut by_address,
        addresses: own,
    } = own;
    for instance in state.into_iter().flat_map(|state| &state.instances) {
        let addresses = [instance.ipv4.map(IpAddr::V4), instance.ipv6.map(IpAddr::V6)];
        // The Kubernetes cluster knows the state of its own pods before Cloud Map does.
        if addresses
            .iter()
            .flatten()
            .any(|address| own.contains(address))
        {
            continue;
        }
        let has_attributes = attributes
            .iter()
            .all(|(key, value)| instance.attributes.get(key) == Some(value));
        if let Some(endpoint) = read(instance, preference).filter(|_| has_attributes) {
            by_address.entry(endpoint.address).or_insert(endpoint);
        }
    }
    let mut endpoints: Vec<Endpoint> = by_address.into_values().collect();
    endpoints.sort();
    endpoints
}

/// Converts an instance to one endpoint, even if it has an address of each IP family.
fn read(instance: &Instance, preference: Option<IpFamilyPreference>) -> Option<Endpoint> {
    let ipv4 = instance.ipv4.map(IpAddr::V4);
    let ipv6 = instance.ipv6.map(IpAddr::V6);
    let attribute = |key: &str| instance.attributes.get(key).cloned().unwrap_or_default();
    Some(Endpoint {
        locality: Locality {
            region: attribute("REGION"),
            zone: attribute("AVAILABILITY_ZONE"),
        },
        address: match preference {
            Some(IpFamilyPreference::Ipv4Only) => ipv4?,
            Some(IpFamilyPreference::Ipv6Only) => ipv6?,
            None => ipv4.or(ipv6)?,
        },
        ports: EndpointPorts::Same,
        health: Health::Healthy,
    })
}

/// The problem of a node whose service has a state with a failure, or with as many instances as an answer can hold.
pub(crate) fn problem(
    node: &ResolvedNode,
    service: &CloudMapService,
    state: &CloudMapState,
) -> Problem {
    let (reason, message) = match &state.failure {
        None => (
            Reason::CloudMapLimit,
            format!(
                "Cloud Map returned {} instances of service `{service}`, and one answer holds no more; others get no requests; divide the instances among several services",
                state.instances.len()
            ),
        ),
        Some(CloudMapFailure::NotFound(message)) => (
            Reason::CloudMapNotFound,
            format!(
                "Cloud Map has no service `{}` in namespace `{}` ({message}); create it, or correct the names",
                service.service, service.namespace
            ),
        ),
        Some(CloudMapFailure::Unavailable(message)) => (
            Reason::CloudMapUnavailable,
            format!(
                "Cloud Map did not answer for service `{service}` ({message}); {}",
                if state.instances.is_empty() {
                    "no instance is known"
                } else {
                    "the last known endpoints stay in force"
                }
            ),
        ),
    };
    let field = FieldPath::spec().field("serviceDiscovery.awsCloudMap");
    Problem::new(&node.object, field, reason, message)
}
