//! A pod as an instance of a Cloud Map service: its id and its attributes, as App Mesh's controller had them.
//!
//! Must not differ from that: others read the same registry, and what the old controller registered is to be known
//! again.

use std::{collections::BTreeMap, net::IpAddr};

use evermesh_ingest::registration::{NodeRegistration, PodRegistration};

/// The attributes of an instance.
pub(super) type Attributes = BTreeMap<String, String>;

const IPV4: &str = "AWS_INSTANCE_IPV4";
const IPV6: &str = "AWS_INSTANCE_IPV6";
const PORT: &str = "AWS_INSTANCE_PORT";
const POD: &str = "k8s.io/pod";
const NAMESPACE: &str = "k8s.io/namespace";
const MESH: &str = "appmesh.k8s.aws/mesh";
const NODE: &str = "appmesh.k8s.aws/virtualNode";
const REGION: &str = "REGION";
const ZONE: &str = "AVAILABILITY_ZONE";
const HEALTH: &str = "AWS_INIT_HEALTH_STATUS";

/// What Cloud Map's own attributes begin with.
const RESERVED: &str = "AWS_";

/// The id of a pod's instance.
pub(super) fn id(pod: &PodRegistration) -> String {
    pod.ip.to_string()
}

/// The attributes of a pod's instance. A later one replaces an earlier one of the same name.
pub(super) fn attributes(node: &NodeRegistration, pod: &PodRegistration) -> Attributes {
    let mut attributes = pod.labels.clone();
    attributes.extend(node.attributes.clone());
    let mut set = |name: &str, value: &str| {
        attributes.insert(name.to_owned(), value.to_owned());
    };
    let address = match pod.ip {
        IpAddr::V4(_) => IPV4,
        IpAddr::V6(_) => IPV6,
    };
    set(address, &pod.ip.to_string());
    if let Some(port) = node.port {
        set(PORT, &port.to_string());
    }
    set(POD, &pod.object.name);
    set(NAMESPACE, &pod.object.namespace);
    set(MESH, &node.name.mesh);
    set(NODE, &node.name.name);
    if let Some(region) = &pod.region {
        set(REGION, region);
    }
    if let Some(zone) = &pod.zone {
        set(ZONE, zone);
    }
    set(HEALTH, if pod.ready { "HEALTHY" } else { "UNHEALTHY" });
    attributes
}

/// Whether an instance carries the names of this node.
pub(super) fn is_of(node: &NodeRegistration, attributes: &Attributes) -> bool {
    attributes.get(MESH).map(String::as_str) == Some(&*node.name.mesh)
        && attributes.get(NODE).map(String::as_str) == Some(&*node.name.name)
}

/// Whether an instance is this pod's: an address may have been another's before.
pub(super) fn is_of_pod(
    node: &NodeRegistration,
    pod: &PodRegistration,
    attributes: &Attributes,
) -> bool {
    is_of(node, attributes)
        && attributes.get(POD).map(String::as_str) == Some(&*pod.object.name)
        && attributes.get(NAMESPACE).map(String::as_str) == Some(&*pod.object.namespace)
}

/// Whether an instance has the attributes that it should have. The first health is of no matter later, and what Cloud
/// Map added is its own.
pub(super) fn is_same(wanted: &Attributes, listed: &Attributes) -> bool {
    let is_listed = |(name, value): (&String, &String)| listed.get(name) == Some(value);
    let is_wanted = |name: &String| wanted.contains_key(name) || name.starts_with(RESERVED);
    wanted
        .iter()
        .filter(|(name, _)| *name != HEALTH)
        .all(is_listed)
        && listed.keys().all(is_wanted)
}
