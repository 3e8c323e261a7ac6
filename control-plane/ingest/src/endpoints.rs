//! Derivation of endpoints from Cloud Map, `EndpointSlice`s and pods, for nodes whose endpoints the control plane serves.
//!
//! Changes of endpoints are the most frequent changes. [`endpoints()`] derives the endpoints of one node without a
//! rebuild; [`crate::build()`] runs the same derivation, memoised, for all nodes.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_crds::v1beta2;
use evermesh_model::{
    CloudMapService, CloudMapState, Discovery, Endpoint, FastEq, Graph, Kind, Locality, Memo,
    MemoInput, NodeListener, ObjectRef, Problem, Reason, ResolvedMesh, ResolvedNode, ResourceName,
    ServicePort, SharedMap, endpoint::CloudMapFailure, problem::FieldPath,
};
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};

use crate::{
    Inputs, cloud_map,
    inputs::{self, ObjectMap},
    pods::{self, OwnPods},
    slices,
    stage::StageOutput,
};

/// Derives the endpoints of one node, in ascending order: the same list that [`crate::build()`] puts into the graph.
///
/// Returns `None` if Envoy resolves the node's DNS name itself, or if nothing is known of its endpoints yet.
pub fn endpoints(
    node: &ResolvedNode,
    mesh: &ResolvedMesh,
    inputs: &Inputs,
) -> Option<Vec<Endpoint>> {
    let locality_of = |name: &str| {
        let node = inputs.nodes.get(&ObjectRef::new(Kind::Node, "", name));
        node.map(|node| pods::locality(node)).unwrap_or_default()
    };
    let sources = EndpointSources::of(node, inputs);
    is_known(node, &sources).then(|| derive(node, mesh, &sources, locality_of))
}

/// Returns whether the control plane serves the node's endpoints and knows them.
///
/// Before the first answer of Cloud Map the endpoints are unknown, not empty; proxies keep the endpoints that they have.
fn is_known(node: &ResolvedNode, sources: &EndpointSources) -> bool {
    match (&node.discovery, sources.cloud_map.as_deref()) {
        (Some(Discovery::Slices { .. }), _) => true,
        (Some(Discovery::CloudMap { .. }), Some(state)) => {
            let failed = matches!(state.failure, Some(CloudMapFailure::Unavailable(_)));
            !(failed && state.instances.is_empty()) || sources.selected().next().is_some()
        }
        (Some(Discovery::CloudMap { .. }), None) => sources.selected().next().is_some(),
        (Some(Discovery::Dns { .. }) | None, _) => false,
    }
}

/// The Cloud Map services that nodes of the graph use, with these nodes.
pub fn cloud_map_users(graph: &Graph) -> BTreeMap<CloudMapService, Vec<ResourceName>> {
    let mut users: BTreeMap<CloudMapService, Vec<ResourceName>> = BTreeMap::new();
    for (name, node) in &*graph.nodes {
        if let Some(Discovery::CloudMap { service, .. }) = &node.discovery {
            users.entry(service.clone()).or_default().push(name.clone());
        }
    }
    users
}

/// The inputs from which the endpoints of one node are derived.
#[derive(Debug, Clone, Default)]
struct EndpointSources {
    slices: Vec<Arc<EndpointSlice>>,
    service: Option<Arc<Service>>,
    cloud_map: Option<Arc<CloudMapState>>,
    /// The node's object, for its `podSelector`, and the pods of its namespace. Absent if the node's pods are not used.
    own_pods: Option<(Arc<v1beta2::VirtualNode>, ObjectMap<Pod>)>,
}

impl MemoInput for &EndpointSources {
    type Stored = EndpointSources;

    fn is_unchanged(&self, last: &EndpointSources) -> bool {
        let EndpointSources {
            slices,
            service,
            cloud_map,
            own_pods,
        } = *self;
        slices.fast_eq(&last.slices)
            && service.fast_eq(&last.service)
            && cloud_map.fast_eq(&last.cloud_map)
            && own_pods.fast_eq(&last.own_pods)
    }

    fn into_stored(self) -> EndpointSources {
        self.clone()
    }
}

impl EndpointSources {
    fn of(node: &ResolvedNode, inputs: &Inputs) -> Self {
        let mut sources = Self::default();
        match &node.discovery {
            Some(Discovery::Slices {
                namespace, service, ..
            }) => {
                let service =
                    ObjectRef::new(Kind::Service, Arc::clone(namespace), Arc::clone(service));
                sources.slices = inputs.endpoint_slices.of(&service).cloned().collect();
                sources.service = inputs.services.get(&service).cloned();
            }
            Some(Discovery::CloudMap {
                service, own_pods, ..
            }) => {
                sources.cloud_map = inputs.cloud_map.get(service).cloned();
                let object = inputs.virtual_nodes.get(&node.object).filter(|_| *own_pods);
                let namespace = inputs::namespace(&node.object.namespace);
                let pods = inputs.pods.by_owner().get(&namespace);
                sources.own_pods = object.cloned().zip(pods.cloned());
            }
            Some(Discovery::Dns { .. }) | None => {}
        }
        sources
    }

    /// The node's own pods; empty if they are not used.
    fn selected(&self) -> impl Iterator<Item = (&ObjectRef, &Pod)> {
        let own = self.own_pods.as_ref();
        let selector = own.and_then(|(node, _)| node.spec.pod_selector.as_ref());
        pods::selected(own.map(|(_, pods)| pods), selector)
    }
}

fn derive(
    node: &ResolvedNode,
    mesh: &ResolvedMesh,
    sources: &EndpointSources,
    locality_of: impl Fn(&str) -> Locality,
) -> Vec<Endpoint> {
    match &node.discovery {
        Some(Discovery::Slices { .. }) => slices::endpoints(
            sources.slices.iter().map(|slice| &**slice),
            sources.service.as_deref(),
            &listener_ports(node),
            mesh.ip_preference,
            locality_of,
        ),
        Some(Discovery::CloudMap { attributes, .. }) => cloud_map::endpoints(
            sources.cloud_map.as_deref(),
            attributes,
            mesh.ip_preference,
            OwnPods::of(sources.selected(), mesh.ip_preference, locality_of),
        ),
        Some(Discovery::Dns { .. }) | None => Vec::new(),
    }
}

/// The problems of a node whose Cloud Map service failed or is full, or of whose listeners one lacks endpoints.
fn problems(node: &ResolvedNode, sources: &EndpointSources) -> Vec<Problem> {
    match &node.discovery {
        Some(Discovery::CloudMap { service, .. }) => {
            let state = sources.cloud_map.as_deref();
            let problem = state.map(|state| cloud_map::problem(node, service, state));
            problem.into_iter().collect()
        }
        Some(Discovery::Slices {
            namespace, service, ..
        }) => {
            let missing = slices::missing_ports(
                sources.slices.iter().map(|slice| &**slice),
                sources.service.as_deref(),
                &listener_ports(node),
            );
            let missing = missing.into_iter().map(|port| {
                let message = format!(
                    "no EndpointSlice of Service {namespace}/{service} has a port for {port}, so the listener has no \
                     endpoints; add the port to the Service, or listen on one of its ports"
                );
                let field = FieldPath::spec().field("listeners");
                Problem::new(&node.object, field, Reason::ServicePortNotFound, message)
            });
            missing.collect()
        }
        Some(Discovery::Dns { .. }) | None => Vec::new(),
    }
}

/// Whether a listener of a node has no endpoint.
fn lacks_port(node: &ResolvedNode, endpoints: Option<&Arc<Vec<Endpoint>>>) -> bool {
    let has_port = |port| {
        let mut endpoints = endpoints.into_iter().flat_map(|endpoints| &**endpoints);
        endpoints.any(|endpoint| endpoint.ports.of(port).is_some())
    };
    let mut listeners = node.listeners.iter();
    listeners.any(|listener| !has_port(listener.port))
}

fn listener_ports(node: &ResolvedNode) -> Vec<ServicePort> {
    let listeners = node.listeners.iter();
    listeners.map(NodeListener::service_port).collect()
}

/// Region and zone of every Kubernetes node.
type NodeLocalities = SharedMap<ObjectRef, Locality>;

type Parts = (
    Arc<ResolvedNode>,
    Arc<ResolvedMesh>,
    EndpointSources,
    NodeLocalities,
);

/// Memo of the endpoint stage.
#[derive(Debug, Default)]
pub(crate) struct EndpointMemo {
    localities: Memo<ObjectRef, Arc<Node>, Locality>,
    endpoints: Memo<ResourceName, Parts, Vec<Endpoint>>,
    problems: Memo<ResourceName, (Arc<ResolvedNode>, EndpointSources), Arc<[Problem]>>,
}

impl EndpointMemo {
    /// Derives the endpoints of every node whose endpoints the control plane serves.
    pub(crate) fn update(
        &mut self,
        nodes: &BTreeMap<ResourceName, Arc<ResolvedNode>>,
        meshes: &BTreeMap<Arc<str>, Arc<ResolvedMesh>>,
        inputs: &Inputs,
    ) -> StageOutput<ResourceName, Vec<Endpoint>> {
        let localities = self
            .localities
            .update(&*inputs.nodes, |_, node| pods::locality(node));
        let served = nodes.iter().filter_map(|(name, node)| {
            let mesh = meshes.get(&name.mesh)?;
            let sources = EndpointSources::of(node, inputs);
            Some((name, node, mesh, sources))
        });
        let served: Vec<_> = served.collect();
        let known = served
            .iter()
            .filter(|(_, node, _, sources)| is_known(node, sources));
        let inputs =
            known.map(|(name, node, mesh, sources)| (*name, (*node, *mesh, sources, &localities)));
        let values = self
            .endpoints
            .update(inputs, |_, (node, mesh, sources, localities)| {
                derive(node, mesh, sources, |name| {
                    let locality = localities.get(&ObjectRef::new(Kind::Node, "", name));
                    locality
                        .map(|locality| (**locality).clone())
                        .unwrap_or_default()
                })
            });
        let troubled = served.iter().filter(|(name, node, _, sources)| {
            let cloud_map = sources.cloud_map.as_ref();
            cloud_map.is_some_and(|state| state.failure.is_some() || state.is_full)
                || (!sources.slices.is_empty() && lacks_port(node, values.get(*name)))
        });
        let inputs = troubled.map(|(name, node, _, sources)| (*name, (*node, sources)));
        let problems = self
            .problems
            .update(inputs, |_, (node, sources)| problems(node, sources).into());
        let problems = problems
            .values()
            .map(|problems| Arc::clone(&**problems))
            .collect();
        StageOutput { values, problems }
    }
}
