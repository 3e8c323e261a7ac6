//! `VirtualNode` → [`ResolvedNode`].
//!
//! [`parse`] reads the object alone, [`look_up`] looks up its references, and [`resolve`] combines both. Endpoints are
//! derived later, in [`mod@crate::endpoints`].

mod read;
mod resolve;

use std::sync::Arc;

use evermesh_crds::v1beta2;
use evermesh_model::{
    AccessLogFile, Discovery, NodeListener, ObjectRef, ResourceName, name::ProxyKind,
};

use crate::{
    admission,
    local_ports::{self, UnresolvedLocalPorts},
    logging,
    membership::Membership,
    name_index::{IndexEntry, UnresolvedRef},
    registration::rules,
    seniority::{Contender, ObjectAge},
    stage::{Problems, WithProblems},
    tls::ClientPolicyResult,
    unique_names::Unresolved,
    values,
};

use self::read::{read_backends, read_discovery, read_listeners};
pub(crate) use self::resolve::{NodeLookups, look_up, resolve};

/// A parsed virtual node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UnresolvedNode {
    name: ResourceName,
    object: ObjectRef,
    age: ObjectAge,
    listeners: Vec<NodeListener>,
    discovery: Option<Discovery>,
    /// The mesh's setting for the use of `EndpointSlice`s.
    endpoint_slices: Option<bool>,
    /// Whether the node has a `podSelector`.
    selects_pods: bool,
    backends: UnresolvedBackends,
    /// Absent if the node's traffic is intercepted.
    local_ports: Option<UnresolvedLocalPorts>,
    access_log: Option<AccessLogFile>,
    forwards_client_address: bool,
}

/// The virtual services that a node may call, before they are looked up.
#[derive(Debug, Clone, PartialEq)]
struct UnresolvedBackends {
    listed: Vec<UnresolvedBackend>,
    /// `spec.backendGroups`
    groups: Vec<ObjectRef>,
    /// TLS of calls to members of groups.
    group_tls: ClientPolicyResult,
}

/// A parsed entry of `spec.backends`.
#[derive(Debug, Clone, PartialEq)]
struct UnresolvedBackend {
    /// The index in `spec.backends`.
    index: usize,
    service: UnresolvedRef,
    tls: ClientPolicyResult,
}

impl Contender for UnresolvedNode {
    fn object(&self) -> &ObjectRef {
        &self.object
    }

    fn age(&self) -> &ObjectAge {
        &self.age
    }
}

impl Unresolved for UnresolvedNode {
    type Name = ResourceName;

    fn name(&self) -> &ResourceName {
        &self.name
    }
}

impl UnresolvedNode {
    pub(crate) fn index_entry(&self) -> IndexEntry<ResourceName> {
        IndexEntry {
            name: self.name.clone(),
            object: self.object.clone(),
            ports: self
                .listeners
                .iter()
                .map(NodeListener::service_port)
                .collect(),
            virtual_ips: Vec::new(),
            age: self.age.clone(),
        }
    }
}

pub(crate) fn parse(
    object: &ObjectRef,
    node: &v1beta2::VirtualNode,
    membership: &Membership,
) -> WithProblems<UnresolvedNode> {
    let mut problems = Problems::of(object);
    let value = try_parse(node, membership, &mut problems);
    WithProblems::new(value, problems)
}

fn try_parse(
    node: &v1beta2::VirtualNode,
    membership: &Membership,
    problems: &mut Problems<'_>,
) -> Option<UnresolvedNode> {
    let object = problems.object();
    let v1beta2::VirtualNodeSpec {
        aws_name,
        pod_selector,
        listeners,
        service_discovery,
        backends,
        backend_groups,
        backend_defaults,
        logging,
        mesh_ref,
    } = &node.spec;
    let rejections = admission::virtual_node(object, &node.spec);
    let (mesh, name) =
        membership.mesh_and_name(mesh_ref.as_ref(), aws_name.as_deref(), rejections, problems)?;

    let listeners = listeners.as_deref().unwrap_or_default();
    let ports = listeners
        .iter()
        .map(|listener| listener.port_mapping.port)
        .collect();
    let discovery = service_discovery
        .as_ref()
        .and_then(|discovery| read_discovery(discovery, problems));
    if let Some(Discovery::CloudMap { service, .. }) = &discovery {
        rules::check(&mesh, service, problems);
    }
    Some(UnresolvedNode {
        name: ResourceName::new(Arc::clone(&mesh.name), ProxyKind::VirtualNode, name),
        object: object.clone(),
        age: ObjectAge::of(&node.metadata),
        listeners: read_listeners(listeners, &mesh, problems),
        discovery,
        endpoint_slices: mesh.endpoint_slices,
        selects_pods: pod_selector.is_some(),
        backends: read_backends(
            backends.as_deref().unwrap_or_default(),
            backend_groups.as_deref().unwrap_or_default(),
            backend_defaults.as_ref(),
            &mesh,
            problems,
        ),
        local_ports: local_ports::parse(&node.metadata, &ports, problems),
        access_log: logging::read(logging.as_ref(), problems),
        forwards_client_address: values::forwards_client_address(&node.metadata, problems),
    })
}
