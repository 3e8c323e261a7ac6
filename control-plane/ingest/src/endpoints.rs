//! The endpoints of nodes that are ours to serve, from Cloud Map and from `EndpointSlice`s.
//!
//! [`endpoints`] is the short cut for one node; a turn of [`crate::build`] runs the same derivation for all
//! of them, memoised.
//!
//! Must not change anything else of the graph.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_model::{
    CloudMapService, CloudMapState, Discovery, Endpoint, Graph, Kind, Memo, Mesh, ObjectRef,
    Problem, ResourceName, ServicePort, VirtualNode, endpoint::CloudMapFailure,
};
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};

use crate::{Inputs, cloud_map, inputs::Objects, slices, stage::Turned};

/// The label of a Kubernetes node that tells its region.
const REGION_LABEL: &str = "topology.kubernetes.io/region";

/// The endpoints of one node from the newest inputs, ascending: exactly what [`crate::build`] puts into the
/// graph. None for a node whose endpoints are Envoy's to resolve, or of which nothing is known yet.
pub fn endpoints(node: &VirtualNode, mesh: &Mesh, inputs: &Inputs) -> Option<Vec<Endpoint>> {
    let region = |name: &str| {
        let node = inputs.nodes.get(&ObjectRef::new(Kind::Node, "", name))?;
        region(node)
    };
    let sources = Sources::of(node, inputs);
    is_known(node, &sources).then(|| derive(node, mesh, &sources, region))
}

/// Whether the endpoints are ours to serve and anything is known of them. Cloud Map that has never answered has
/// not said that there are none: a proxy that has some from before keeps them.
fn is_known(node: &VirtualNode, sources: &Sources) -> bool {
    match (&node.discovery, sources.cloud_map.as_deref()) {
        (Some(Discovery::Slices { .. }), _) => true,
        (Some(Discovery::CloudMap { .. }), Some(state)) => {
            let failed = matches!(state.failure, Some(CloudMapFailure::Unavailable(_)));
            !(failed && state.instances.is_empty())
        }
        (Some(Discovery::CloudMap { .. }), None) | (Some(Discovery::Dns { .. }) | None, _) => false,
    }
}

/// Which Cloud Map services the nodes of a graph use, and the nodes of each.
pub fn cloud_map_users(graph: &Graph) -> BTreeMap<CloudMapService, Vec<ResourceName>> {
    let mut users: BTreeMap<CloudMapService, Vec<ResourceName>> = BTreeMap::new();
    for (name, node) in &graph.nodes {
        if let Some(Discovery::CloudMap { service, .. }) = &node.discovery {
            users.entry(service.clone()).or_default().push(name.clone());
        }
    }
    users
}

/// What the endpoints of one node are made from.
struct Sources {
    slices: Vec<Arc<EndpointSlice>>,
    service: Option<Arc<Service>>,
    cloud_map: Option<Arc<CloudMapState>>,
}

impl Sources {
    fn of(node: &VirtualNode, inputs: &Inputs) -> Self {
        let mut sources = Self {
            slices: Vec::new(),
            service: None,
            cloud_map: None,
        };
        match &node.discovery {
            Some(Discovery::Slices { namespace, service }) => {
                let service =
                    ObjectRef::new(Kind::Service, Arc::clone(namespace), Arc::clone(service));
                sources.slices = inputs.endpoint_slices.of(&service).cloned().collect();
                sources.service = inputs.services.get(&service).cloned();
            }
            Some(Discovery::CloudMap { service, .. }) => {
                sources.cloud_map = inputs.cloud_map.get(service).cloned();
            }
            Some(Discovery::Dns { .. }) | None => {}
        }
        sources
    }
}

fn derive(
    node: &VirtualNode,
    mesh: &Mesh,
    sources: &Sources,
    region: impl Fn(&str) -> Option<Arc<str>>,
) -> Vec<Endpoint> {
    match &node.discovery {
        Some(Discovery::Slices { .. }) => {
            let listeners: Vec<ServicePort> = node
                .listeners
                .iter()
                .map(|listener| ServicePort {
                    port: listener.port,
                    protocol: listener.protocol,
                })
                .collect();
            slices::endpoints(
                sources.slices.iter().map(|slice| &**slice),
                sources.service.as_deref(),
                &listeners,
                mesh.ip_preference,
                region,
            )
        }
        Some(Discovery::CloudMap { attributes, .. }) => sources
            .cloud_map
            .as_ref()
            .map(|state| cloud_map::endpoints(state, attributes, mesh.ip_preference))
            .unwrap_or_default(),
        Some(Discovery::Dns { .. }) | None => Vec::new(),
    }
}

fn problem(node: &VirtualNode, state: Option<&CloudMapState>) -> Option<Problem> {
    match (&node.discovery, state) {
        (Some(Discovery::CloudMap { service, .. }), Some(state)) => {
            cloud_map::problem(node, service, state)
        }
        _ => None,
    }
}

fn region(node: &Node) -> Option<Arc<str>> {
    let region = node.metadata.labels.as_ref()?.get(REGION_LABEL)?;
    Some(region.as_str().into())
}

/// The region of every Kubernetes node that tells one.
type Regions = BTreeMap<ObjectRef, Arc<Option<Arc<str>>>>;

type Input = (
    Arc<VirtualNode>,
    Arc<Mesh>,
    Vec<Arc<EndpointSlice>>,
    Option<Arc<Service>>,
    Option<Arc<CloudMapState>>,
    Arc<Regions>,
);

type FailedInput = (Arc<VirtualNode>, Arc<CloudMapState>);

/// The memory of the endpoint stage.
#[derive(Debug, Default)]
pub(crate) struct EndpointMemo {
    by_node: Memo<ObjectRef, Arc<Node>, Arc<Option<Arc<str>>>>,
    regions: Arc<Regions>,
    endpoints: Memo<ResourceName, Input, Arc<Vec<Endpoint>>>,
    problems: Memo<ResourceName, FailedInput, Arc<Arc<[Problem]>>>,
}

impl EndpointMemo {
    /// The endpoints of every node whose endpoints are ours to serve.
    pub(crate) fn turn(
        &mut self,
        nodes: &BTreeMap<ResourceName, Arc<VirtualNode>>,
        meshes: &BTreeMap<Arc<str>, Arc<Mesh>>,
        inputs: &Inputs,
    ) -> Turned<ResourceName, Vec<Endpoint>> {
        let regions = self.regions(&inputs.nodes);
        let served = nodes.iter().filter_map(|(name, node)| {
            node.discovery
                .as_ref()
                .filter(|discovery| discovery.is_eds())?;
            let mesh = Arc::clone(meshes.get(&name.mesh)?);
            let sources = Sources::of(node, inputs);
            Some((name, node, mesh, sources))
        });
        let served: Vec<_> = served.collect();
        let failed = served.iter().filter_map(|(name, node, _, sources)| {
            let state = sources.cloud_map.as_ref()?;
            state.failure.as_ref()?;
            Some(((*name).clone(), (Arc::clone(node), Arc::clone(state))))
        });
        let problems = self.problems.turn(failed, |_, (node, state)| {
            problem(node, Some(state)).into_iter().collect()
        });
        let findings = problems
            .into_values()
            .map(|problems| Arc::clone(&*problems))
            .collect();
        let known = served
            .into_iter()
            .filter(|(_, node, _, sources)| is_known(node, sources));
        let inputs = known.map(|(name, node, mesh, sources)| {
            let Sources {
                slices,
                service,
                cloud_map,
            } = sources;
            let regions = Arc::clone(&regions);
            (
                name.clone(),
                (Arc::clone(node), mesh, slices, service, cloud_map, regions),
            )
        });
        let values = self.endpoints.turn(
            inputs,
            |_, (node, mesh, slices, service, cloud_map, regions)| {
                let sources = Sources {
                    slices: slices.clone(),
                    service: service.clone(),
                    cloud_map: cloud_map.clone(),
                };
                derive(node, mesh, &sources, |name| {
                    let region = regions.get(&ObjectRef::new(Kind::Node, "", name))?;
                    (**region).clone()
                })
            },
        );
        Turned { values, findings }
    }

    fn regions(&mut self, nodes: &Objects<Node>) -> Arc<Regions> {
        let nodes = nodes
            .iter()
            .map(|(object, node)| (object.clone(), Arc::clone(node)));
        let fresh = self.by_node.turn(nodes, |_, node| region(node));
        crate::stage::keep(&mut self.regions, fresh)
    }
}
