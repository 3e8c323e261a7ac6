//! `VirtualNode` → [`ResolvedNode`].
//!
//! [`draft`] reads the object alone, [`find`] follows its references, [`resolve`] puts both together.
//!
//! Must not look for endpoints.

mod read;
mod resolve;

use std::sync::Arc;

use evermesh_crds::v1beta2;
use evermesh_model::{
    Discovery, NodeListener, ObjectRef, Reason, ResourceName, ServicePort, name::ProxyKind,
    problem::FieldPath,
};

use crate::{
    admission,
    local_ports::{self, UnresolvedLocalPorts},
    membership::Membership,
    name_index::{IndexEntry, Unresolved, UnresolvedRef},
    stage::{Problems, WithProblems},
};

use self::read::{read_backends, read_discovery, read_listeners};
pub(crate) use self::resolve::{NodeLookups, look_up, resolve};

/// A virtual node whose references are not followed yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UnresolvedNode {
    name: ResourceName,
    object: ObjectRef,
    listeners: Vec<NodeListener>,
    discovery: Option<Discovery>,
    /// What its mesh says of slices.
    slices: Option<bool>,
    /// Whether it says which pods are its own.
    selects_pods: bool,
    backends: Vec<(usize, UnresolvedRef)>,
    /// Where nothing is intercepted.
    local_ports: Option<UnresolvedLocalPorts>,
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
                .map(|listener| ServicePort {
                    port: listener.port,
                    protocol: listener.protocol,
                })
                .collect(),
        }
    }
}

/// Reads the object.
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
    let refusals = admission::virtual_node(object, &node.spec);
    let (mesh, name) =
        membership.place(mesh_ref.as_ref(), aws_name.as_deref(), refusals, problems)?;

    let spec = FieldPath::spec();
    if logging.is_some() {
        unsupported(spec.field("logging"), "no access log is written", problems);
    }
    if backend_groups
        .as_ref()
        .is_some_and(|groups| !groups.is_empty())
    {
        unsupported(
            spec.field("backendGroups"),
            "list their virtual services in spec.backends",
            problems,
        );
    }
    let listeners = listeners.as_deref().unwrap_or_default();
    let ports = listeners.iter().map(|it| it.port_mapping.port).collect();
    Some(UnresolvedNode {
        name: ResourceName::new(Arc::clone(&mesh.name), ProxyKind::VirtualNode, name),
        object: object.clone(),
        listeners: read_listeners(listeners, problems),
        discovery: service_discovery
            .as_ref()
            .and_then(|discovery| read_discovery(discovery, problems)),
        slices: mesh.endpoint_slices,
        selects_pods: pod_selector.is_some(),
        backends: read_backends(
            backends.as_deref().unwrap_or_default(),
            backend_defaults.as_ref(),
            problems,
        ),
        local_ports: local_ports::parse(&node.metadata, &ports, problems),
    })
}

/// A field of later work.
pub(crate) fn unsupported(field: FieldPath, advice: &str, problems: &mut Problems<'_>) {
    let message = format!("not served yet; {advice}");
    problems.add(field, Reason::UnsupportedField, message);
}
