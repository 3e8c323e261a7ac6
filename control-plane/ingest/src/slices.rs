//! Endpoints from the `EndpointSlice`s of Kubernetes Services.
//!
//! If a node's DNS name refers to a Service of this Kubernetes cluster, its endpoints come from the `EndpointSlice`s of
//! that Service instead of DNS. Proxies then learn of a pod as soon as it is ready, without resolver or cache.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use evermesh_model::{
    Endpoint, EndpointPorts, Health, IpFamilyPreference, Kind, Locality, ObjectRef, ServicePort,
};
use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint as SliceEndpoint, EndpointConditions, EndpointPort, EndpointSlice},
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

/// The endpoints of a Service, in ascending order. `locality_of` returns the location of a Kubernetes node.
///
/// The ports of a slice are those of its endpoints alone: the slices of a Service have different ports if its pods have
/// different numbers for a named `targetPort`.
pub(crate) fn endpoints<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
    service: Option<&Service>,
    listeners: &[ServicePort],
    preference: Option<IpFamilyPreference>,
    locality_of: impl Fn(&str) -> Locality,
) -> Vec<Endpoint> {
    let family = family(slices.clone(), preference);
    let ports = ServicePorts::of(service);
    // The keys are addresses, ports of listeners and ports of endpoints.
    let mut found: BTreeMap<(IpAddr, u16, u16), (Locality, Health)> = BTreeMap::new();
    for slice in slices.filter(|slice| slice.address_type == family) {
        let of_slice = listeners
            .iter()
            .filter_map(|it| Some((it.port, ports.target(slice, it.port)?)));
        let of_slice: Vec<(u16, u16)> = of_slice.collect();
        for endpoint in slice.endpoints.iter().flatten() {
            let Some((address, locality, health)) = read(endpoint, &locality_of) else {
                continue;
            };
            for (listener, target) in &of_slice {
                // While the endpoint controller moves a pod between slices, both may contain it.
                let known = found.entry((address, *listener, *target));
                let known = known.or_insert_with(|| (locality.clone(), health));
                if health < known.1 {
                    *known = (locality.clone(), health);
                }
            }
        }
    }
    joined(found, listeners)
}

/// Endpoints at one address with the same health.
#[derive(Default)]
struct SameHealth {
    ports: Vec<BTreeMap<u16, u16>>,
    /// The listener whose port was added last.
    listener: u16,
    /// The number of ports of that listener.
    count: usize,
}

/// Joins the ports that an address has with the same health to one endpoint. Pods of a host's network may have one
/// address, and then a listener has several ports there, each of another endpoint.
fn joined(
    found: BTreeMap<(IpAddr, u16, u16), (Locality, Health)>,
    listeners: &[ServicePort],
) -> Vec<Endpoint> {
    let mut groups: BTreeMap<(Locality, IpAddr, Health), SameHealth> = BTreeMap::new();
    for ((address, listener, target), (locality, health)) in found {
        let group = groups.entry((locality, address, health)).or_default();
        if group.listener != listener {
            (group.listener, group.count) = (listener, 0);
        }
        if group.count == group.ports.len() {
            group.ports.push(BTreeMap::new());
        }
        group.ports[group.count].insert(listener, target);
        group.count += 1;
    }
    let is_same = |ports: &BTreeMap<u16, u16>| {
        let mut listeners = listeners.iter();
        listeners.all(|it| ports.get(&it.port) == Some(&it.port))
    };
    let endpoints = groups.into_iter().flat_map(|(key, of_key)| {
        let all = of_key.ports.into_iter();
        all.map(move |ports| (key.clone(), ports))
    });
    let endpoints = endpoints.map(|((locality, address, health), ports)| Endpoint {
        locality,
        address,
        ports: if is_same(&ports) {
            EndpointPorts::Same
        } else {
            EndpointPorts::Mapped(ports)
        },
        health,
    });
    let mut endpoints: Vec<Endpoint> = endpoints.collect();
    endpoints.sort();
    endpoints
}

/// The ports of listeners that no slice has, so that no pod of the Service can ever be their endpoint. None if the Service
/// has no slices.
pub(crate) fn missing_ports<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
    service: Option<&Service>,
    listeners: &[ServicePort],
) -> Vec<u16> {
    let ports = ServicePorts::of(service);
    let with_endpoints = slices.filter(|slice| slice.endpoints.iter().flatten().next().is_some());
    if with_endpoints.clone().next().is_none() {
        return Vec::new();
    }
    let listeners = listeners.iter().map(|listener| listener.port);
    let is_missing = |port: &u16| {
        let mut slices = with_endpoints.clone();
        slices.all(|slice| ports.target(slice, *port).is_none())
    };
    listeners.filter(is_missing).collect()
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

/// The TCP ports of a Service.
#[derive(Debug, Default)]
struct ServicePorts<'a> {
    /// The names of the ports, which are those of the ports of its slices.
    names: BTreeMap<u16, &'a str>,
    /// Whether the Service is headless. Its name resolves to the pods, so clients reach a port of the pods by its own
    /// number.
    is_headless: bool,
}

impl<'a> ServicePorts<'a> {
    /// Without an object, only the slices are known.
    fn of(service: Option<&'a Service>) -> Self {
        let Some(spec) = service.and_then(|service| service.spec.as_ref()) else {
            return Self::default();
        };
        let ports = spec.ports.iter().flatten();
        let ports = ports.filter(|port| is_tcp(port.protocol.as_deref()));
        let names = ports.filter_map(|port| {
            let name = port.name.as_deref().unwrap_or_default();
            Some((u16::try_from(port.port).ok()?, name))
        });
        Self {
            names: names.collect(),
            is_headless: spec.cluster_ip.as_deref() == Some("None"),
        }
    }

    /// The port at which the endpoints of a slice take what is sent to this port of the Service. `None` if they do not.
    ///
    /// A port without a number in the slice stands for all ports, and so does a headless Service without the port. A port
    /// that the Service lacks may be one of its pods.
    fn target(&self, slice: &EndpointSlice, port: u16) -> Option<u16> {
        let mut of_slice = slice.ports.iter().flatten();
        let mut find = |is_wanted: &dyn Fn(&EndpointPort) -> bool| {
            of_slice.find(|it| is_tcp(it.protocol.as_deref()) && is_wanted(it))
        };
        let Some(name) = self.names.get(&port) else {
            let has_number = |it: &EndpointPort| it.port.is_none_or(|it| it == i32::from(port));
            let is_target = self.is_headless || find(&has_number).is_some();
            return is_target.then_some(port);
        };
        let found = find(&|it| it.name.as_deref().unwrap_or_default() == *name)?;
        match found.port {
            Some(number) if !self.is_headless => u16::try_from(number).ok(),
            Some(_) | None => Some(port),
        }
    }
}

/// Whether a port takes TCP connections; the default of the API.
fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

/// The address, place and health of an endpoint; `None` if it takes nothing or has no IP address.
fn read(
    endpoint: &SliceEndpoint,
    locality_of: impl Fn(&str) -> Locality,
) -> Option<(IpAddr, Locality, Health)> {
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
    let locality = Locality {
        region: endpoint
            .node_name
            .as_deref()
            .map(|name| locality_of(name).region)
            .unwrap_or_default(),
        zone: endpoint.zone.as_deref().unwrap_or_default().into(),
    };
    Some((address, locality, health))
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
