//! Endpoints from the `EndpointSlice`s of Kubernetes Services.
//!
//! If a node's DNS name refers to a Service of this Kubernetes cluster, its endpoints come from the `EndpointSlice`s of
//! that Service instead of DNS. Proxies then learn of a pod as soon as it is ready, without resolver or cache.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use evermesh_model::{
    Endpoint, Health, IpFamilyPreference, Kind, Locality, ObjectRef, ServicePort,
};
use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint as SliceEndpoint, EndpointConditions, EndpointSlice},
};

/// Label with the name of the Service to which a slice belongs.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// The Service to which a slice belongs. `None` for slices of host names (`FQDN`), which would need a resolver.
pub(crate) fn owner(slice: &EndpointSlice) -> Option<ObjectRef> {
    if !["IPv4", "IPv6"].contains(&slice.address_type.as_str()) {
        return None;
    }
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    let namespace = slice.metadata.namespace.as_deref()?;
    Some(ObjectRef::new(Kind::Service, namespace, name.as_str()))
}

/// The Service to which a DNS name refers when a pod in `namespace` resolves it, if that Service has slices.
pub(crate) fn find_service(
    hostname: &str,
    namespace: &str,
    services_with_slices: &BTreeSet<ObjectRef>,
) -> Option<ObjectRef> {
    service(hostname, Some(namespace)).filter(|service| services_with_slices.contains(service))
}

/// The Service to which a DNS name refers, whether it exists or not.
///
/// The name may be `service`, `service.namespace` or `service.namespace.svc`, the last one with or without the cluster's
/// domain. `namespace` is that of `service` alone; without it, such a name refers to no Service.
pub(crate) fn service(hostname: &str, namespace: Option<&str>) -> Option<ObjectRef> {
    let hostname = hostname.strip_suffix('.').unwrap_or(hostname);
    let mut labels = hostname.split('.');
    let name = labels.next()?;
    let namespace = match (labels.next(), labels.next()) {
        (None, _) => namespace?,
        (Some(other), None | Some("svc")) => other,
        (Some(_), Some(_)) => return None,
    };
    Some(ObjectRef::new(
        Kind::Service,
        namespace.to_ascii_lowercase(),
        name.to_ascii_lowercase(),
    ))
}

/// The endpoints of a Service, in ascending order, without duplicate addresses. `locality_of` returns the location of a
/// Kubernetes node.
pub(crate) fn endpoints<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
    service: Option<&Service>,
    listeners: &[ServicePort],
    preference: Option<IpFamilyPreference>,
    locality_of: impl Fn(&str) -> Locality,
) -> Vec<Endpoint> {
    let family = family(slices.clone(), preference);
    let service_ports = service_ports(service);
    let mut by_address: BTreeMap<IpAddr, Endpoint> = BTreeMap::new();
    for slice in slices {
        let EndpointSlice {
            address_type,
            endpoints,
            metadata: _,
            ports: _,
        } = slice;
        if address_type != family {
            continue;
        }
        let target_ports = target_ports(slice, &service_ports, listeners);
        for endpoint in endpoints.iter().flatten() {
            let Some(endpoint) = read(endpoint, &target_ports, &locality_of) else {
                continue;
            };
            let known = by_address
                .entry(endpoint.address)
                .or_insert(endpoint.clone());
            // While the endpoint controller moves a pod between slices, both may contain it.
            if endpoint.health < known.health {
                *known = endpoint;
            }
        }
    }
    let mut endpoints: Vec<Endpoint> = by_address.into_values().collect();
    endpoints.sort();
    endpoints
}

/// The `addressType` to use. Without a preference, IPv4 is used if the Service has it, so that a pod with two addresses
/// is one endpoint.
fn family<'a>(
    mut slices: impl Iterator<Item = &'a EndpointSlice>,
    preference: Option<IpFamilyPreference>,
) -> &'static str {
    match preference {
        Some(IpFamilyPreference::Ipv4Only) => "IPv4",
        None if slices.any(|slice| slice.address_type == "IPv4") => "IPv4",
        Some(IpFamilyPreference::Ipv6Only) | None => "IPv6",
    }
}

/// Ports of the Service by name. Empty for a headless Service, which does not map ports.
fn service_ports(service: Option<&Service>) -> BTreeMap<&str, u16> {
    service
        .and_then(|service| service.spec.as_ref())
        .filter(|spec| spec.cluster_ip.as_deref() != Some("None"))
        .and_then(|spec| spec.ports.as_ref())
        .into_iter()
        .flatten()
        .filter_map(|port| {
            Some((
                port.name.as_deref().unwrap_or_default(),
                u16::try_from(port.port).ok()?,
            ))
        })
        .collect()
}

/// Maps the ports of listeners, which are ports of the Service, to the ports of the slice's pods, where the two differ.
fn target_ports(
    slice: &EndpointSlice,
    service_ports: &BTreeMap<&str, u16>,
    listeners: &[ServicePort],
) -> BTreeMap<u16, u16> {
    slice
        .ports
        .iter()
        .flatten()
        .filter(|port| port.protocol.as_deref().is_none_or(|it| it == "TCP"))
        .filter_map(|port| {
            let service_port = *service_ports.get(port.name.as_deref().unwrap_or_default())?;
            let target = u16::try_from(port.port?).ok()?;
            let is_listener = listeners.iter().any(|one| one.port == service_port);
            (is_listener && target != service_port).then_some((service_port, target))
        })
        .collect()
}

fn read(
    endpoint: &SliceEndpoint,
    target_ports: &BTreeMap<u16, u16>,
    locality_of: impl Fn(&str) -> Locality,
) -> Option<Endpoint> {
    let EndpointConditions {
        ready,
        serving,
        terminating,
    } = endpoint.conditions.clone().unwrap_or_default();
    // The API defines absent conditions as ready, serving and not terminating.
    let health = match (
        ready.unwrap_or(true),
        serving.unwrap_or(true),
        terminating.unwrap_or(false),
    ) {
        (true, _, _) => Health::Healthy,
        (false, true, true) => Health::Draining,
        (false, _, _) => return None,
    };
    // The API defines a meaning only for the first address.
    let address = endpoint.addresses.first()?.parse().ok()?;
    Some(Endpoint {
        locality: Locality {
            region: endpoint
                .node_name
                .as_deref()
                .map(|name| locality_of(name).region)
                .unwrap_or_default(),
            zone: endpoint.zone.as_deref().unwrap_or_default().into(),
        },
        address,
        target_ports: target_ports.clone(),
        health,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_names_resolve_to_services_with_slices() {
        let service = |namespace: &str, name: &str| ObjectRef::new(Kind::Service, namespace, name);
        let known = BTreeSet::from([service("shop", "color"), service("other", "tone")]);
        for (hostname, expected) in [
            ("color", Some(service("shop", "color"))),
            ("Color.", Some(service("shop", "color"))),
            ("tone", None),
            ("tone.other", Some(service("other", "tone"))),
            ("tone.other.svc", Some(service("other", "tone"))),
            (
                "tone.other.svc.cluster.local",
                Some(service("other", "tone")),
            ),
            (
                "tone.other.svc.k8s.example.com.",
                Some(service("other", "tone")),
            ),
            ("tone.other.com", None),
            ("example.com", None),
            ("a.tone.other.svc", None),
            ("", None),
            (".", None),
        ] {
            assert_eq!(
                find_service(hostname, "shop", &known),
                expected,
                "{hostname}"
            );
        }
    }
}
