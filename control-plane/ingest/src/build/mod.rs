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
    directory::{ByName, Directory},
    endpoints::EndpointMemo,
    inputs::{Inputs, Objects, SeenByOwner},
    mesh::MeshIndex,
    stage::{Checked, Findings, Once, Problems, Stage, Turned},
};

/// Drafts of a kind by name.
type Drafts<N, T> = Arc<ByName<N, T>>;
/// Nodes or routers, for references to them.
type Faces = Arc<Directory<ResourceName>>;
/// Services, for references to them.
type ServiceFaces = Arc<Directory<ServiceName>>;
/// What a kind came to.
type Values<K, T> = Arc<Turned<K, T>>;

/// What a turn gives.
#[derive(Debug, Clone)]
pub struct Built {
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
    all_endpoints: Once<EndpointParts, Turned<ResourceName, Vec<Endpoint>>>,
    backend_groups: Stage<ObjectRef, Arc<v1beta2::BackendGroup>, ()>,
    graph: Once<GraphParts, Graph>,
    problems: Once<Findings, Arc<[Problem]>>,
}

type GraphParts = (
    Arc<MeshIndex>,
    Values<ResourceName, ResolvedNode>,
    Values<ServiceName, ResolvedService>,
    Values<ResourceName, ResolvedRouter>,
    Values<ResourceName, ResolvedGateway>,
    Values<ResourceName, Vec<Endpoint>>,
);

type EndpointParts = (
    Values<ResourceName, ResolvedNode>,
    Arc<MeshIndex>,
    (SeenByOwner<EndpointSlice>, Objects<Service>),
    (SeenByOwner<Pod>, Objects<v1beta2::VirtualNode>),
    Objects<Node>,
    BTreeMap<CloudMapService, Arc<CloudMapState>>,
);

/// Builds the graph of these inputs. The result depends on nothing else: the memo only saves work.
pub fn build(inputs: &Inputs, memo: &mut BuildMemo) -> Built {
    let mut findings = Findings::new();
    let members = memo.members.turn(inputs, &mut findings);
    let (drafts, node_faces) = memo.nodes.draft(inputs, &members, &mut findings);
    let (routers, router_faces) = memo
        .routers
        .turn(inputs, &members, &node_faces, &mut findings);
    let (services, service_faces) = memo.services.turn(
        inputs,
        &members,
        (&node_faces, &router_faces),
        &mut findings,
    );
    let nodes = memo.nodes.resolve(inputs, drafts, service_faces.clone());
    findings.extend(nodes.findings.iter().cloned());
    let gateways = memo
        .gateways
        .turn(inputs, &members, &service_faces, &mut findings);
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
    let endpoints = memo.all_endpoints.turn(parts, |(nodes, meshes, ..)| {
        stage.turn(&nodes.values, &meshes.by_name, inputs)
    });
    findings.extend(endpoints.findings.iter().cloned());
    memo.backend_groups.turn(
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
    Built {
        graph: memo.graph.turn(parts, assemble),
        problems: Arc::clone(&*memo.problems.turn(findings, sorted)),
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

fn sorted(findings: &Findings) -> Arc<[Problem]> {
    let all: BTreeSet<&Problem> = findings.iter().flat_map(|list| list.iter()).collect();
    all.into_iter().cloned().collect()
}

fn backend_group(object: &ObjectRef) -> Checked<()> {
    let mut problems = Problems::of(object);
    problems.add(
        FieldPath::root(),
        Reason::UnsupportedField,
        "backend groups are not served yet; list their virtual services in the spec.backends of each virtual node",
    );
    Checked::new(None, problems)
}
