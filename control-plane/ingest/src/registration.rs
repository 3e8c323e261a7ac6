//! Which pods belong into Cloud Map, and for which virtual nodes.
//!
//! In: virtual nodes, pods and Kubernetes nodes as the API has them, and the graph, which says what is served. Out: a
//! [`NodeRegistration`] for each node with `awsCloudMap`, by the Cloud Map service that it shares with others.
//! A node that the graph does not have is nobody's business here: what is registered for it stays as it is.
//!
//! Must not know what Cloud Map holds.

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

/// The condition of a pod that waits until Cloud Map knows it.
pub const READINESS_GATE: &str = "conditions.appmesh.k8s.aws/aws-cloudmap-healthy";
/// The annotation that names a node's Cloud Map service.
pub const SERVICE_ARN: &str = "cloudMapServiceARN";

/// The objects that registration looks at: three pointers.
#[derive(Debug, Clone, Default)]
pub struct RegistrationSnapshot {
    /// `VirtualNode`
    pub virtual_nodes: ObjectMap<v1beta2::VirtualNode>,
    /// `Pod`, by namespace
    pub pods: ObjectsByOwner<v1::Pod>,
    /// `Node`: their labels are regions and zones
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
    /// Whether these are the same pointers.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.virtual_nodes, &other.virtual_nodes)
            && Arc::ptr_eq(&self.pods, &other.pods)
            && Arc::ptr_eq(&self.nodes, &other.nodes)
    }

    /// The Cloud Map service that a virtual node names, if it names one.
    pub fn service(&self, node: &ObjectRef) -> Option<CloudMapService> {
        service(self.virtual_nodes.get(node)?)
    }
}

/// A virtual node whose pods are registered in Cloud Map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRegistration {
    /// Its names in the mesh: what marks its instances.
    pub name: ResourceName,
    /// The object.
    pub object: ObjectRef,
    /// The object's `metadata.uid`.
    pub uid: String,
    /// Whether it is being deleted: it has no pods then.
    pub terminating: bool,
    /// The port of its first listener.
    pub port: Option<u16>,
    /// Attributes of its own, which each of its instances has.
    pub attributes: BTreeMap<String, String>,
    /// What the object says its Cloud Map service is.
    pub service_arn: Option<String>,
    /// Its pods that have an address and are there to stay, ascending by name.
    pub pods: Vec<PodRegistration>,
}

/// A pod as Cloud Map is to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRegistration {
    /// The object.
    pub object: ObjectRef,
    /// `metadata.uid`
    pub uid: String,
    /// The first of its addresses.
    pub ip: IpAddr,
    /// Whether its containers are ready.
    pub ready: bool,
    /// `metadata.labels`
    pub labels: Labels,
    /// The region of its Kubernetes node.
    pub region: Option<String>,
    /// The zone of its Kubernetes node.
    pub zone: Option<String>,
    /// Its readiness gate [`READINESS_GATE`], if it has it.
    pub gate: Option<GateState>,
}

/// What the condition [`READINESS_GATE`] of a pod says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GateState {
    /// Nothing yet.
    Unset,
    /// The pod may be ready.
    Open,
    /// It may not, for this reason.
    Closed(String),
}

/// The nodes whose pods belong into Cloud Map by service, ascending.
pub fn registrations(
    objects: &RegistrationSnapshot,
    graph: &Graph,
) -> BTreeMap<CloudMapService, Vec<NodeRegistration>> {
    let mut gated = BTreeSet::new();
    let mut registrants: BTreeMap<_, Vec<NodeRegistration>> = BTreeMap::new();
    for (name, node) in &*graph.nodes {
        let Some(Discovery::CloudMap { service, .. }) = &node.discovery else {
            continue;
        };
        let Some(object) = objects.virtual_nodes.get(&node.object) else {
            continue;
        };
        let mut registrant = registrant(name.clone(), &node.object, object);
        if !registrant.terminating {
            registrant.pods = pods(objects, &node.object, object);
        }
        for pod in &mut registrant.pods {
            // A condition has one author: two nodes that select one pod would take turns.
            if !gated.insert(pod.object.clone()) {
                pod.gate = None;
            }
        }
        let users = registrants.entry(service.clone()).or_default();
        users.push(registrant);
    }
    registrants
}

/// A node that is being deleted and is not in the graph (any more). `last_name` is what it was called when it was.
pub fn terminating_node(
    objects: &RegistrationSnapshot,
    node: &ObjectRef,
    last_name: Option<ResourceName>,
) -> Option<(CloudMapService, NodeRegistration)> {
    let object = objects.virtual_nodes.get(node)?;
    let service = service(object)?;
    let by_default = || {
        let mesh = object.spec.mesh_ref.as_ref().map(|mesh| mesh.name.as_str());
        let name = admission::aws_name(node, object.spec.aws_name.as_deref());
        ResourceName::new(mesh.unwrap_or_default(), ProxyKind::VirtualNode, name)
    };
    let name = last_name.unwrap_or_else(by_default);
    let registrant = registrant(name, node, object);
    registrant.terminating.then_some((service, registrant))
}

fn service(node: &v1beta2::VirtualNode) -> Option<CloudMapService> {
    let discovery = node.spec.service_discovery.as_ref()?;
    let cloud_map = discovery.aws_cloud_map.as_ref()?;
    Some(CloudMapService {
        namespace: cloud_map.namespace_name.as_str().into(),
        service: cloud_map.service_name.as_str().into(),
    })
}

fn registrant(
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
        terminating: node.metadata.deletion_timestamp.is_some(),
        port: listeners.first().map(|listener| listener.port_mapping.port),
        attributes: attributes
            .map(|attribute| (attribute.key.clone(), attribute.value.clone()))
            .collect(),
        service_arn: annotations.and_then(|all| all.get(SERVICE_ARN)).cloned(),
        pods: Vec::new(),
    }
}

/// The pods of a node. Without a selector it has none.
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
    let condition = |name: &str| conditions.iter().find(|it| it.type_ == name);
    let spec = pod.spec.as_ref();
    let gates = spec.and_then(|spec| spec.readiness_gates.as_deref());
    let has_gate =
        |gates: &[v1::PodReadinessGate]| gates.iter().any(|it| it.condition_type == READINESS_GATE);
    let node = spec.and_then(|spec| spec.node_name.as_deref());
    let node = node.and_then(|name| nodes.get(&ObjectRef::new(Kind::Node, "", name)));
    let locality = node.map(|node| pods::locality(node)).unwrap_or_default();
    let told = |word: &str| (!word.is_empty()).then(|| word.to_owned());
    Some(PodRegistration {
        object: object.clone(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        ip: status.pod_ip.as_deref()?.parse().ok()?,
        ready: pods::has_ready_containers(status),
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        region: told(&locality.region),
        zone: told(&locality.zone),
        gate: gates
            .is_some_and(has_gate)
            .then(|| match condition(READINESS_GATE) {
                None => GateState::Unset,
                Some(it) if it.status == "True" => GateState::Open,
                Some(it) => GateState::Closed(it.reason.clone().unwrap_or_default()),
            }),
    })
}
