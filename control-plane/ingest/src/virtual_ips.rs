//! The virtual IPs (`clusterIPs`) of Kubernetes Services, by which proxies distinguish services on one port.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use evermesh_model::{ObjectRef, SharedMap};
use k8s_openapi::api::core::v1::Service;

use crate::slices;

/// The virtual IPs of each Kubernetes Service.
pub(crate) type VirtualIps = SharedMap<ObjectRef, Vec<IpAddr>>;

/// The virtual IPs of a Kubernetes Service, ascending. Headless Services and those of type `ExternalName` have none.
pub(crate) fn of_service(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    // `clusterIPs` contains `clusterIP`; a manifest in a folder may have only the latter. Headless: `None`.
    let texts = spec
        .cluster_ip
        .iter()
        .chain(spec.cluster_ips.iter().flatten());
    let mut addresses: Vec<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// The virtual IPs of the Kubernetes Service to which the host name of a virtual service refers, ascending.
///
/// A name without a namespace has none, because it refers to another Service in each namespace.
pub(crate) fn find(hostname: &str, known: &BTreeMap<ObjectRef, Arc<Vec<IpAddr>>>) -> Vec<IpAddr> {
    slices::service(hostname, None)
        .and_then(|service| known.get(&service))
        .map(|addresses| addresses.to_vec())
        .unwrap_or_default()
}
