//! One turn: everything is walked, only what changed is derived again.
//!
//! The stages run in the order of the references, so that each finds what it refers to complete: meshes and
//! membership; nodes; routers with their routes; services; then the nodes' backends, the gateways and the
//! endpoints. What later stages may know of an object is its face (name and ports), and while the faces of
//! a kind stay the same, whatever refers to it is not even looked at.
//!
//! Must not convert anything itself.

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
    CloudMapService, CloudMapState, Endpoint, Graph, ObjectRef, Problem, Reason, ResolvedGateway,
    ResolvedNode, ResolvedRouter, ResolvedService, ResourceName, ServiceName, problem::FieldPath,
};

use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};

use self::{
    gateways::GatewayMemo, members::MemberMemo, nodes::NodeMemo, routers::RouterMemo,
    services::ServiceMemo,
};
use crate::{
    endpoints::EndpointMemo,
    inputs::{Inputs, ObjectMap, WeakObjectsByOwner},
    mesh::MeshIndex,
    name_index::{NameIndex, UniqueByName},
    stage::{CachedValue, KeyedStage, ProblemLists, Problems, StageOutput, WithProblems},
};

/// Drafts of a kind by name.
type UnresolvedByName<N, T> = Arc<UniqueByName<N, T>>;
/// Nodes or routers, for references to them.
type ResourceIndex = Arc<NameIndex<ResourceName>>;
/// Services, for references to them.
type ServiceIndex = Arc<NameIndex<ServiceName>>;
/// What a kind came to.
type SharedOutput<K, T> = Arc<StageOutput<K, T>>;

/// What a turn gives.
#[derive(Debug, Clone)]
pub struct BuildOutput {
    /// Everything that is served. The same pointer as in the last turn if nothing changed, and so for each
    /// value in it.
    pub graph: Arc<Graph>,
    /// Everything that is wrong, sorted, each once.
    pub problems: Arc<[Problem]>,
}

/// What the last turn saw and made. Start with the default.
#[derive(Debug, Default)]
pub struct BuildMemo {
    members: MemberMemo,
    nodes: NodeMemo,
    routers: RouterMemo,
    services: ServiceMemo,
    gateways: GatewayMemo,
    endpoints: EndpointMemo,
    all_endpoints: CachedValue<EndpointParts, StageOutput<ResourceName, Vec<Endpoint>>>,
    backend_groups: KeyedStage<ObjectRef, Arc<v1beta2::BackendGroup>, ()>,
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
);

type EndpointParts = (
    SharedOutput<ResourceName, ResolvedNode>,
    Arc<MeshIndex>,
    (WeakObjectsByOwner<EndpointSlice>, ObjectMap<Service>),
    (WeakObjectsByOwner<Pod>, ObjectMap<v1beta2::VirtualNode>),
    ObjectMap<Node>,
    BTreeMap<CloudMapService, Arc<CloudMapState>>,
);

/// Builds the graph of these inputs. The result depends on nothing else: the memo only saves work.
pub fn build(inputs: &Inputs, memo: &mut BuildMemo) -> BuildOutput {
    let mut findings = ProblemLists::new();
    let members = memo.members.update(inputs, &mut findings);
    let (drafts, node_faces) = memo.nodes.parse(inputs, &members, &mut findings);
    let (routers, router_faces) = memo
        .routers
        .update(inputs, &members, &node_faces, &mut findings);
    let (services, service_faces) = memo.services.update(
        inputs,
        &members,
        (&node_faces, &router_faces),
        &mut findings,
    );
    let nodes = memo.nodes.resolve(inputs, drafts, service_faces.clone());
    findings.extend(nodes.findings.iter().cloned());
    let gateways = memo
        .gateways
        .update(inputs, &members, &service_faces, &mut findings);
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
    findings.extend(endpoints.findings.iter().cloned());
    memo.backend_groups.update(
        &*inputs.backend_groups,
        |object, _| backend_group(object),
        &mut findings,
    );

    let parts = (
        Arc::clone(&members.meshes),
        nodes,
        services,
        routers,
        gateways,
        endpoints,
    );
    BuildOutput {
        graph: memo.graph.update(parts, assemble),
        problems: Arc::clone(&*memo.problems.update(findings, sorted)),
    }
}

fn assemble((meshes, nodes, services, routers, gateways, endpoints): &GraphParts) -> Graph {
    Graph {
        meshes: Arc::clone(&meshes.by_name),
        nodes: Arc::clone(&nodes.values),
        services: Arc::clone(&services.values),
        routers: Arc::clone(&routers.values),
        gateways: Arc::clone(&gateways.values),
        endpoints: Arc::clone(&endpoints.values),
    }
}

fn sorted(findings: &ProblemLists) -> Arc<[Problem]> {
    let all: BTreeSet<&Problem> = findings.iter().flat_map(|list| list.iter()).collect();
    all.into_iter().cloned().collect()
}

fn backend_group(object: &ObjectRef) -> WithProblems<()> {
    let mut problems = Problems::of(object);
    problems.add(
        FieldPath::root(),
        Reason::UnsupportedField,
        "backend groups are not served yet; list their virtual services in the spec.backends of each virtual node",
    );
    WithProblems::new(None, problems)
}
