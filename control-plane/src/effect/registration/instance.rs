//! Instance ID and attributes of a pod in Cloud Map.
//!
//! Both are those of App Mesh's controller. They must not change: other programs read the same registry, and Evermesh
//! has to recognise the instances that the controller registered.

use std::{collections::BTreeMap, net::IpAddr};

use evermesh_ingest::registration::{NodeRegistration, PodRegistration};

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

/// Prefix of the attributes that Cloud Map defines.
const RESERVED: &str = "AWS_";

/// The ID of a pod's instance: its IP address.
pub(super) fn id(pod: &PodRegistration) -> String {
    pod.ip.to_string()
}

/// The attributes of a pod's instance. Of several with the same name the last one wins: pod labels, then the node's
/// attributes, then those that this function sets.
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

/// Whether an instance belongs to this node, by mesh and node name.
pub(super) fn is_of(node: &NodeRegistration, attributes: &Attributes) -> bool {
    attributes.get(MESH).map(String::as_str) == Some(&*node.name.mesh)
        && attributes.get(NODE).map(String::as_str) == Some(&*node.name.name)
}

/// Whether an instance belongs to this pod. Its IP address may have belonged to an earlier pod.
pub(super) fn is_of_pod(
    node: &NodeRegistration,
    pod: &PodRegistration,
    attributes: &Attributes,
) -> bool {
    is_of(node, attributes)
        && attributes.get(POD).map(String::as_str) == Some(&*pod.object.name)
        && attributes.get(NAMESPACE).map(String::as_str) == Some(&*pod.object.namespace)
}

/// Whether a listed instance has the wanted attributes. `AWS_INIT_HEALTH_STATUS` matters only at registration, and
/// attributes that Cloud Map added are ignored.
pub(super) fn is_same(wanted: &Attributes, listed: &Attributes) -> bool {
    let is_listed = |(name, value): (&String, &String)| listed.get(name) == Some(value);
    let is_wanted = |name: &String| wanted.contains_key(name) || name.starts_with(RESERVED);
    wanted
        .iter()
        .filter(|(name, _)| *name != HEALTH)
        .all(is_listed)
        && listed.keys().all(is_wanted)
}
