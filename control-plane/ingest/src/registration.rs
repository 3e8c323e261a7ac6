//! The pods that must be registered in Cloud Map.
//!
//! The inputs are virtual nodes, pods and Kubernetes nodes ([`RegistrationSnapshot`]) and the graph. The output of
//! [`registrations`] is a [`NodeRegistration`] for each virtual node of the graph with `awsCloudMap`, grouped by Cloud
//! Map service, because several nodes may share one. Instances of nodes that are not in the graph are not touched.
//! `control-plane/src/effect/registration` compares the result with Cloud Map and makes the calls.

pub(crate) mod rules;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use evermesh_crds::v1beta2;
use evermesh_model::{CloudMapService, Discovery, Graph, Kind, ObjectRef, ProxyKind, ResourceName};
use k8s_openapi::api::core::v1::{self, Node};

use crate::{
    admission,
    inputs::{self, Inputs, ObjectMap, ObjectsByOwner},
    membership::Labels,
    pods,
};

/// The readiness gate that keeps a pod unready until its instance is registered in Cloud Map.
pub const READINESS_GATE: &str = "conditions.appmesh.k8s.aws/aws-cloudmap-healthy";
/// The annotation of a virtual node with the ARN of its Cloud Map service.
pub const SERVICE_ARN: &str = "cloudMapServiceARN";

/// The objects on which registration depends. A clone copies three pointers.
#[derive(Debug, Clone, Default)]
pub struct RegistrationSnapshot {
    /// `VirtualNode`
    pub virtual_nodes: ObjectMap<v1beta2::VirtualNode>,
    /// `Pod`, by namespace
    pub pods: ObjectsByOwner<v1::Pod>,
    /// `Node`, whose labels contain region and zone
    pub nodes: ObjectMap<Node>,
}

impl From<&Inputs> for RegistrationSnapshot {
    fn from(inputs: &Inputs) -> Self {
        Self {
            virtual_nodes: Arc::clone(&inputs.virtual_nodes),
            pods: Arc::clone(inputs.pods.by_owner()),
            nodes: Arc::clone(&inputs.nodes),
        }
    }
}

impl RegistrationSnapshot {
    /// Returns whether both snapshots have the same pointers.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.virtual_nodes, &other.virtual_nodes)
            && Arc::ptr_eq(&self.pods, &other.pods)
            && Arc::ptr_eq(&self.nodes, &other.nodes)
    }

    /// The Cloud Map service of a virtual node, if it has one.
    pub fn service(&self, node: &ObjectRef) -> Option<CloudMapService> {
        service(self.virtual_nodes.get(node)?)
    }
}

/// A virtual node whose pods are registered in Cloud Map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRegistration {
    /// The name of the node, which is stored in the attributes of its instances.
    pub name: ResourceName,
    /// The `VirtualNode`.
    pub object: ObjectRef,
    /// `metadata.uid` of the `VirtualNode`.
    pub uid: String,
    /// Whether the mesh lets the node's namespace use the service. A node that may not has no pods, so that its instances
    /// are removed, and causes no service to be created.
    pub allowed: bool,
    /// Whether the node is being deleted. It then has no pods.
    pub terminating: bool,
    /// The port of the first listener.
    pub port: Option<u16>,
    /// `awsCloudMap.attributes`, which all instances of the node get.
    pub attributes: BTreeMap<String, String>,
    /// The annotation [`SERVICE_ARN`].
    pub service_arn: Option<String>,
    /// Pods with an address that are neither terminated nor being deleted, in ascending order of name.
    pub pods: Vec<PodRegistration>,
}

/// A pod that must be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRegistration {
    /// The `Pod`.
    pub object: ObjectRef,
    /// `metadata.uid`
    pub uid: String,
    /// `status.podIP`
    pub ip: IpAddr,
    /// Whether all containers are ready.
    pub ready: bool,
    /// `metadata.labels`
    pub labels: Labels,
    /// The region of the pod's Kubernetes node.
    pub region: Option<String>,
    /// The zone of the pod's Kubernetes node.
    pub zone: Option<String>,
    /// The state of [`READINESS_GATE`]; absent if the pod does not have the gate.
    pub gate: Option<GateState>,
}

/// The status of the condition [`READINESS_GATE`] of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GateState {
    /// The condition is not set.
    Unset,
    /// The condition is `True`: the pod may be ready.
    Open,
    /// The condition is not `True`: the pod is kept unready, for this reason.
    Closed(String),
}

/// Returns the nodes whose pods must be registered, by Cloud Map service.
pub fn registrations(
    objects: &RegistrationSnapshot,
    graph: &Graph,
) -> BTreeMap<CloudMapService, Vec<NodeRegistration>> {
    let mut gated = BTreeSet::new();
    let mut registrations: BTreeMap<_, Vec<NodeRegistration>> = BTreeMap::new();
    for (name, node) in &*graph.nodes {
        let Some(Discovery::CloudMap { service, .. }) = &node.discovery else {
            continue;
        };
        let Some(object) = objects.virtual_nodes.get(&node.object) else {
            continue;
        };
        let mut registration = registration(name.clone(), &node.object, object);
        let mesh = graph.meshes.get(&name.mesh);
        registration.allowed =
            mesh.is_some_and(|mesh| rules::allows(mesh, service, &node.object.namespace));
        if registration.allowed && !registration.terminating {
            registration.pods = pods(objects, &node.object, object);
        }
        for pod in &mut registration.pods {
            // Only one node writes the condition. Two nodes that select the same pod would overwrite each other.
            if !gated.insert(pod.object.clone()) {
                pod.gate = None;
            }
        }
        let nodes = registrations.entry(service.clone()).or_default();
        nodes.push(registration);
    }
    registrations
}

/// Returns the registration of a node that is being deleted and no longer in the graph. `last_name` is its name in the
/// last graph that contained it; without one, the name is derived from the object.
pub fn terminating_node(
    objects: &RegistrationSnapshot,
    node: &ObjectRef,
    last_name: Option<ResourceName>,
) -> Option<(CloudMapService, NodeRegistration)> {
    let object = objects.virtual_nodes.get(node)?;
    let service = service(object)?;
    let default_name = || {
        let mesh = object.spec.mesh_ref.as_ref().map(|mesh| mesh.name.as_str());
        let name = admission::aws_name(node, object.spec.aws_name.as_deref());
        ResourceName::new(mesh.unwrap_or_default(), ProxyKind::VirtualNode, name)
    };
    let name = last_name.unwrap_or_else(default_name);
    let registration = registration(name, node, object);
    registration.terminating.then_some((service, registration))
}

fn service(node: &v1beta2::VirtualNode) -> Option<CloudMapService> {
    let discovery = node.spec.service_discovery.as_ref()?;
    let cloud_map = discovery.aws_cloud_map.as_ref()?;
    Some(CloudMapService {
        namespace: cloud_map.namespace_name.as_str().into(),
        service: cloud_map.service_name.as_str().into(),
    })
}

fn registration(
    name: ResourceName,
    object: &ObjectRef,
    node: &v1beta2::VirtualNode,
) -> NodeRegistration {
    let listeners = node.spec.listeners.as_deref().unwrap_or_default();
    let discovery = node.spec.service_discovery.as_ref();
    let cloud_map = discovery.and_then(|discovery| discovery.aws_cloud_map.as_ref());
    let attributes = cloud_map.and_then(|cloud_map| cloud_map.attributes.as_deref());
    let attributes = attributes.unwrap_or_default().iter();
    let annotations = node.metadata.annotations.as_ref();
    NodeRegistration {
        name,
        object: object.clone(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        allowed: true,
        terminating: node.metadata.deletion_timestamp.is_some(),
        port: listeners.first().map(|listener| listener.port_mapping.port),
        attributes: attributes
            .map(|attribute| (attribute.key.clone(), attribute.value.clone()))
            .collect(),
        service_arn: annotations.and_then(|all| all.get(SERVICE_ARN)).cloned(),
        pods: Vec::new(),
    }
}

/// The pods of a node; empty without a `podSelector`.
fn pods(
    objects: &RegistrationSnapshot,
    object: &ObjectRef,
    node: &v1beta2::VirtualNode,
) -> Vec<PodRegistration> {
    let namespace = objects.pods.get(&inputs::namespace(&object.namespace));
    pods::selected(namespace, node.spec.pod_selector.as_ref())
        .filter_map(|(id, pod)| read(id, pod, &objects.nodes))
        .collect()
}

fn read(object: &ObjectRef, pod: &v1::Pod, nodes: &ObjectMap<Node>) -> Option<PodRegistration> {
    let status = pod.status.as_ref()?;
    if pods::has_terminated(status) || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let condition = |name: &str| conditions.iter().find(|condition| condition.type_ == name);
    let spec = pod.spec.as_ref();
    let gates = spec.and_then(|spec| spec.readiness_gates.as_deref());
    let has_gate = |gates: &[v1::PodReadinessGate]| {
        gates
            .iter()
            .any(|gate| gate.condition_type == READINESS_GATE)
    };
    let node = spec.and_then(|spec| spec.node_name.as_deref());
    let node = node.and_then(|name| nodes.get(&ObjectRef::new(Kind::Node, "", name)));
    let locality = node.map(|node| pods::locality(node)).unwrap_or_default();
    let non_empty = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Some(PodRegistration {
        object: object.clone(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        ip: status.pod_ip.as_deref()?.parse().ok()?,
        ready: pods::has_ready_containers(status),
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        region: non_empty(&locality.region),
        zone: non_empty(&locality.zone),
        gate: gates
            .is_some_and(has_gate)
            .then(|| match condition(READINESS_GATE) {
                None => GateState::Unset,
                Some(condition) if condition.status == "True" => GateState::Open,
                Some(condition) => GateState::Closed(condition.reason.clone().unwrap_or_default()),
            }),
    })
}
