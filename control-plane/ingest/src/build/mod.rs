//! One rebuild: runs all stages and assembles the graph.
//!
//! The stages run in the order of references, so that each stage can resolve the references of its objects: meshes and
//! membership; nodes; routers with their routes; services; then backends of nodes, gateways and endpoints.
//!
//! ```text
//! members ─► nodes (parse) ─► routers ─► services ─┬► nodes (resolve) ─► endpoints
//!    └─────► backend groups ───────────────────────┤
//!                                                  └► gateways
//! ```
//!
//! Later stages see only the index entries of an object (name and ports). While all entries of a kind stay equal, the
//! objects that refer to the kind are skipped. The conversions themselves are in the modules of the kinds.

mod backend_groups;
mod gateways;
mod members;
mod nodes;
mod routers;
mod services;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evermesh_crds::v1beta2;
use evermesh_model::{
    CloudMapService, CloudMapState, Endpoint, Graph, Problem, ResolvedGateway, ResolvedNode,
    ResolvedRouter, ResolvedSecret, ResolvedService, ResourceName, SecretName, ServiceName,
    SharedMap,
};

use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};

use self::{
    backend_groups::GroupMemo, gateways::GatewayMemo, members::MemberMemo, nodes::NodeMemo,
    routers::RouterMemo, services::ServiceMemo,
};
use crate::{
    endpoints::EndpointMemo,
    inputs::{Inputs, ObjectMap, WeakObjectsByOwner},
    mesh::MeshIndex,
    name_index::NameIndex,
    secrets::SecretMemo,
    stage::{CachedValue, ProblemLists, StageOutput},
    unique_names::UniqueByName,
};

/// The parsed objects of a kind by name.
type UnresolvedByName<N, T> = Arc<UniqueByName<N, T>>;
/// Index for references to nodes or routers.
type ResourceIndex = Arc<NameIndex<ResourceName>>;
/// Index for references to services.
type ServiceIndex = Arc<NameIndex<ServiceName>>;
type SharedOutput<K, T> = Arc<StageOutput<K, T>>;

/// The result of a rebuild.
#[derive(Debug, Clone)]
pub struct BuildOutput {
    /// The graph. Unchanged maps and values, and an unchanged graph as a whole, keep the pointers of the previous rebuild.
    pub graph: Arc<Graph>,
    /// All problems, sorted and without duplicates.
    pub problems: Arc<[Problem]>,
}

/// Inputs and outputs of the previous rebuild. Starts empty ([`Default`]).
#[derive(Debug, Default)]
pub struct BuildMemo {
    members: MemberMemo,
    nodes: NodeMemo,
    routers: RouterMemo,
    services: ServiceMemo,
    backend_groups: GroupMemo,
    gateways: GatewayMemo,
    endpoints: EndpointMemo,
    secrets: SecretMemo,
    all_endpoints: CachedValue<EndpointParts, StageOutput<ResourceName, Vec<Endpoint>>>,
    graph: CachedValue<GraphParts, Graph>,
    problems: CachedValue<ProblemLists, Arc<[Problem]>>,
}

type GraphParts = (
    Arc<MeshIndex>,
    SharedOutput<ResourceName, ResolvedNode>,
    SharedOutput<ServiceName, ResolvedService>,
    SharedOutput<ResourceName, ResolvedRouter>,
    SharedOutput<ResourceName, ResolvedGateway>,
    SharedOutput<ResourceName, Vec<Endpoint>>,
    SharedMap<SecretName, ResolvedSecret>,
);

type EndpointParts = (
    SharedOutput<ResourceName, ResolvedNode>,
    Arc<MeshIndex>,
    (WeakObjectsByOwner<EndpointSlice>, ObjectMap<Service>),
    (WeakObjectsByOwner<Pod>, ObjectMap<v1beta2::VirtualNode>),
    ObjectMap<Node>,
    BTreeMap<CloudMapService, Arc<CloudMapState>>,
);

/// Builds the graph of the inputs. The memo saves work but does not affect the result.
pub fn build(inputs: &Inputs, memo: &mut BuildMemo) -> BuildOutput {
    let mut problems = ProblemLists::new();
    let members = memo.members.update(inputs, &mut problems);
    let (unresolved, node_index) = memo.nodes.parse(inputs, &members, &mut problems);
    let (routers, router_index) = memo
        .routers
        .update(inputs, &members, &node_index, &mut problems);
    let (services, service_index) = memo.services.update(
        inputs,
        &members,
        (&node_index, &router_index),
        &mut problems,
    );
    let groups = memo.backend_groups.update(inputs, &members, &mut problems);
    let nodes = memo
        .nodes
        .resolve(inputs, unresolved, (service_index.clone(), groups));
    problems.extend(nodes.problems.iter().cloned());
    let gateways = memo
        .gateways
        .update(inputs, &members, &service_index, &mut problems);
    let parts = (
        Arc::clone(&nodes),
        Arc::clone(&members.meshes),
        (
            Arc::downgrade(inputs.endpoint_slices.by_owner()),
            Arc::clone(&inputs.services),
        ),
        (
            Arc::downgrade(inputs.pods.by_owner()),
            Arc::clone(&inputs.virtual_nodes),
        ),
        Arc::clone(&inputs.nodes),
        inputs.cloud_map.clone(),
    );
    let stage = &mut memo.endpoints;
    let endpoints = memo.all_endpoints.update(parts, |(nodes, meshes, ..)| {
        stage.update(&nodes.values, &meshes.by_name, inputs)
    });
    problems.extend(endpoints.problems.iter().cloned());
    let secrets = memo.secrets.update(&members.meshes, inputs, &mut problems);

    let parts = (
        Arc::clone(&members.meshes),
        nodes,
        services,
        routers,
        gateways,
        endpoints,
        secrets,
    );
    BuildOutput {
        graph: memo.graph.update(parts, assemble),
        problems: Arc::clone(&*memo.problems.update(problems, sorted)),
    }
}

fn assemble(
    (meshes, nodes, services, routers, gateways, endpoints, secrets): &GraphParts,
) -> Graph {
    Graph {
        meshes: Arc::clone(&meshes.by_name),
        nodes: Arc::clone(&nodes.values),
        services: Arc::clone(&services.values),
        routers: Arc::clone(&routers.values),
        gateways: Arc::clone(&gateways.values),
        endpoints: Arc::clone(&endpoints.values),
        secrets: Arc::clone(secrets),
    }
}

fn sorted(problems: &ProblemLists) -> Arc<[Problem]> {
    let all: BTreeSet<&Problem> = problems.iter().flat_map(|list| list.iter()).collect();
    all.into_iter().cloned().collect()
}
