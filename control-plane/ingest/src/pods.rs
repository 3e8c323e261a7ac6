//! The pods of a virtual node as endpoints: selection, addresses, readiness and location.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use evermesh_model::{Endpoint, EndpointPorts, Health, IpFamilyPreference, Locality, ObjectRef};
use k8s_openapi::{
    api::core::v1::{Node, Pod, PodStatus},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

use crate::{
    inputs::ObjectMap,
    membership::{Labels, selects},
    registration::READINESS_GATE,
};

const REGION_LABEL: &str = "topology.kubernetes.io/region";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// The pods of a namespace that a `podSelector` selects. Without a selector, no pod is selected.
pub(crate) fn selected<'a>(
    namespace: Option<&'a ObjectMap<Pod>>,
    selector: Option<&'a LabelSelector>,
) -> impl Iterator<Item = (&'a ObjectRef, &'a Pod)> {
    let unlabelled = Labels::new();
    let pods = namespace.zip(selector).into_iter();
    pods.flat_map(|(pods, selector)| pods.iter().map(move |pod| (selector, pod)))
        .filter(move |(selector, (_, pod))| {
            let labels = pod.metadata.labels.as_ref().unwrap_or(&unlabelled);
            selects(selector, labels)
        })
        .map(|(_, (object, pod))| (object, &**pod))
}

/// Region and zone of a Kubernetes node, from its topology labels.
pub(crate) fn locality(node: &Node) -> Locality {
    let label = |key: &str| node.metadata.labels.as_ref()?.get(key);
    let label = |key: &str| label(key).map_or_else(Arc::default, |value| value.as_str().into());
    Locality {
        region: label(REGION_LABEL),
        zone: label(ZONE_LABEL),
    }
}

/// Returns whether all containers of a pod have terminated.
pub(crate) fn has_terminated(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// Returns whether a condition of a pod is `True`.
fn holds(status: &PodStatus, condition: &str) -> bool {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let found = conditions.iter().find(|found| found.type_ == condition);
    found.is_some_and(|found| found.status == "True")
}

pub(crate) fn has_ready_containers(status: &PodStatus) -> bool {
    holds(status, "ContainersReady")
}

/// The pods of a node as endpoints.
#[derive(Debug, Default)]
pub(crate) struct OwnPods {
    /// Ready and draining pods by address.
    pub(crate) endpoints: BTreeMap<IpAddr, Endpoint>,
    /// All addresses of all pods, including pods that are not ready.
    pub(crate) addresses: BTreeSet<IpAddr>,
}

impl OwnPods {
    /// Collects the endpoints. `locality_of` returns the location of a Kubernetes node.
    pub(crate) fn of<'a>(
        pods: impl Iterator<Item = (&'a ObjectRef, &'a Pod)>,
        preference: Option<IpFamilyPreference>,
        locality_of: impl Fn(&str) -> Locality,
    ) -> Self {
        let mut own = Self::default();
        for (_, pod) in pods {
            let Some(status) = pod.status.as_ref().filter(|status| !has_terminated(status)) else {
                continue;
            };
            let addresses = addresses(status);
            own.addresses.extend(&addresses);
            let Some((address, health)) =
                preferred(&addresses, preference).zip(health(pod, status))
            else {
                continue;
            };
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            let endpoint = Endpoint {
                locality: node.map(&locality_of).unwrap_or_default(),
                address,
                ports: EndpointPorts::Same,
                health,
            };
            own.endpoints.insert(address, endpoint);
        }
        own
    }
}

fn addresses(status: &PodStatus) -> Vec<IpAddr> {
    let all = status.pod_ips.as_deref().unwrap_or_default();
    let all = all.iter().map(|address| address.ip.as_str());
    let all = all.chain(status.pod_ip.as_deref());
    all.filter_map(|address| address.parse().ok()).collect()
}

/// The address of the preferred family. Without a preference, IPv4 is used before IPv6, as for Cloud Map instances.
fn preferred(addresses: &[IpAddr], preference: Option<IpFamilyPreference>) -> Option<IpAddr> {
    let first = |is_ipv4: bool| {
        addresses
            .iter()
            .find(|address| address.is_ipv4() == is_ipv4)
            .copied()
    };
    match preference {
        Some(IpFamilyPreference::Ipv4Only) => first(true),
        Some(IpFamilyPreference::Ipv6Only) => first(false),
        None => first(true).or_else(|| first(false)),
    }
}

/// The health of a pod; `None` if it is not ready.
///
/// The readiness gate for Cloud Map is ignored, because callers that get the pod from this control plane need not wait
/// for Cloud Map. A pod is draining from the moment at which its deletion timestamp is set.
fn health(pod: &Pod, status: &PodStatus) -> Option<Health> {
    let gates = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.readiness_gates.as_ref());
    let mut gates = gates
        .into_iter()
        .flatten()
        .map(|gate| &*gate.condition_type);
    let is_ready = has_ready_containers(status)
        && gates.all(|condition| condition == READINESS_GATE || holds(status, condition));
    let is_leaving = pod.metadata.deletion_timestamp.is_some();
    is_ready.then_some(if is_leaving {
        Health::Draining
    } else {
        Health::Healthy
    })
}
