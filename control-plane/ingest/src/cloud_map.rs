//! Instances of a Cloud Map service as endpoints of a node.
//!
//! Must not ask Cloud Map: what it answered comes in as a [`CloudMapState`].

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use evermesh_model::{
    CloudMapService, CloudMapState, Endpoint, Health, Instance, IpFamilyPreference, Locality,
    Problem, Reason, ResolvedNode, endpoint::CloudMapFailure, problem::FieldPath,
};

use crate::pods::OwnPods;

/// The endpoints, ascending: the node's own pods, and instances at other addresses that have all of the node's
/// attributes. Of several with one address the first by id counts.
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
        // The cluster knows its pods first.
        if addresses.iter().flatten().any(|it| own.contains(it)) {
            continue;
        }
        let counts = attributes
            .iter()
            .all(|(key, value)| instance.attributes.get(key) == Some(value));
        if let Some(endpoint) = read(instance, preference).filter(|_| counts) {
            by_address.entry(endpoint.address).or_insert(endpoint);
        }
    }
    let mut endpoints: Vec<Endpoint> = by_address.into_values().collect();
    endpoints.sort();
    endpoints
}

/// One endpoint an instance, also where it has an address of each family.
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
        target_ports: BTreeMap::new(),
        health: Health::Healthy,
    })
}

/// What the user should know of the last call for this node.
pub(crate) fn problem(
    node: &ResolvedNode,
    service: &CloudMapService,
    state: &CloudMapState,
) -> Option<Problem> {
    let (reason, message) = match state.failure.as_ref()? {
        CloudMapFailure::NotFound(words) => (
            Reason::CloudMapNotFound,
            format!(
                "Cloud Map has no service `{}` in a namespace `{}` ({words}); create it, or correct the names",
                service.service, service.namespace
            ),
        ),
        CloudMapFailure::Unavailable(words) => (
            Reason::CloudMapUnavailable,
            format!(
                "Cloud Map did not answer for `{service}` ({words}); its last answer stays in force"
            ),
        ),
    };
    let field = FieldPath::spec().field("serviceDiscovery.awsCloudMap");
    Some(Problem::new(&node.object, field, reason, message))
}
