//! A node's references, followed.
//!
//! Must not read what is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evermesh_model::{
    Discovery, Kind, NodeBackend, ObjectRef, Protocol, Reason, ResolvedNode, ServiceName,
    problem::FieldPath,
};

use super::UnresolvedNode;
use crate::{
    IngestSettings,
    name_index::{IndexEntry, Lookup, Name, NameIndex},
    slices,
    stage::{Problems, WithProblems},
};

/// What a draft's references lead to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NodeLookups {
    discovery: Option<Discovery>,
    backends: Vec<Lookup<ServiceName>>,
}

/// Follows the references: the backends, and the DNS name where it means a Service of this cluster.
pub(crate) fn look_up(
    draft: &UnresolvedNode,
    services: &NameIndex<ServiceName>,
    with_slices: &BTreeSet<ObjectRef>,
    settings: IngestSettings,
) -> NodeLookups {
    let is_from_slices = draft.slices.unwrap_or(settings.endpoint_slices);
    let discovery = match draft.discovery.clone() {
        Some(Discovery::Dns { hostname, .. }) if is_from_slices => {
            slices::find_service(&hostname, &draft.object.namespace, with_slices)
                .map(|service| Discovery::Slices {
                    namespace: service.namespace,
                    service: service.name,
                })
                .or_else(|| draft.discovery.clone())
        }
        Some(Discovery::CloudMap {
            service,
            attributes,
            own_pods: _,
        }) => Some(Discovery::CloudMap {
            service,
            attributes,
            own_pods: is_from_slices && draft.selects_pods,
        }),
        other => other,
    };
    NodeLookups {
        discovery,
        backends: draft
            .backends
            .iter()
            .map(|(_, reference)| services.look_up(reference, &draft.name.mesh))
            .collect(),
    }
}

/// Puts a draft and what its references lead to together.
pub(crate) fn resolve(draft: &UnresolvedNode, finds: &NodeLookups) -> WithProblems<ResolvedNode> {
    let mut problems = Problems::of(&draft.object);
    let field = |index: usize| FieldPath::spec().field("backends").index(index);
    let mut backends: Vec<(Arc<str>, usize, &IndexEntry<ServiceName>)> = Vec::new();
    for ((index, reference), found) in draft.backends.iter().zip(&finds.backends) {
        match found {
            Ok(face) => backends.push((face.name.folded().1, *index, face)),
            Err(miss) => miss.report(
                reference,
                Kind::VirtualService,
                field(*index).field("virtualService"),
                "the node cannot call it",
                &mut problems,
            ),
        }
    }
    backends.sort_by(|one, other| (&one.0, one.1).cmp(&(&other.0, other.1)));
    backends.dedup_by(|later, first| {
        let is_same = later.0 == first.0;
        if is_same {
            problems.add(
                field(later.1),
                Reason::DuplicateBackend,
                format!(
                    "`{}` is listed as spec.backends[{}] already: remove one of the two",
                    first.0, first.1
                ),
            );
        }
        is_same
    });
    if draft.local_ports.is_none() {
        leave_out_conflicts(&mut backends, &mut problems);
    }
    let local_ports = draft.local_ports.as_ref().map(|local| {
        let faces = backends.iter().map(|(_, _, face)| *face);
        local.resolve(faces, &mut problems)
    });
    let mut backends: Vec<NodeBackend> = backends
        .into_iter()
        .map(|(_, _, face)| NodeBackend {
            service: Arc::clone(&face.name.hostname),
        })
        .collect();
    backends.sort_by(|one, other| one.service.cmp(&other.service));
    let node = ResolvedNode {
        name: draft.name.clone(),
        object: draft.object.clone(),
        listeners: draft.listeners.clone(),
        discovery: finds.discovery.clone(),
        backends,
        local_ports,
    };
    WithProblems::new(Some(node), problems)
}

/// Of backends that share a port, those stay that the first leaves room for.
fn leave_out_conflicts(
    backends: &mut Vec<(Arc<str>, usize, &IndexEntry<ServiceName>)>,
    problems: &mut Problems<'_>,
) {
    let mut taken: BTreeMap<u16, (Protocol, Arc<str>)> = BTreeMap::new();
    backends.retain(|(hostname, index, face)| {
        let conflict = face.ports.iter().find_map(|wanted| {
            let (protocol, owner) = taken.get(&wanted.port)?;
            (!protocol.is_http() || !wanted.protocol.is_http()).then_some((wanted, protocol, owner))
        });
        if let Some((wanted, protocol, owner)) = conflict {
            problems.add(
                FieldPath::spec().field("backends").index(*index),
                Reason::PortConflict,
                format!(
                    "`{hostname}` speaks {} on port {} and `{owner}` speaks {protocol} on it; nothing but the port tells TCP connections apart, so this backend is left out: give one of them another port",
                    wanted.protocol, wanted.port
                ),
            );
            return false;
        }
        for port in &face.ports {
            taken.insert(port.port, (port.protocol, Arc::clone(hostname)));
        }
        true
    });
}
