//! Resolution of a node's references.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evermesh_model::{
    Discovery, Kind, NodeBackend, ObjectRef, Protocol, Reason, ResolvedNode, ServiceName,
    problem::FieldPath,
};

use super::{UnresolvedBackend, UnresolvedNode};
use crate::{
    IngestSettings,
    name_index::{IndexEntry, Lookup, Name, NameIndex},
    slices,
    stage::{Problems, WithProblems},
};

/// The results of looking up a node's references.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NodeLookups {
    discovery: Option<Discovery>,
    backends: Vec<Lookup<ServiceName>>,
}

/// A backend with the service that its reference names.
struct FoundBackend<'a> {
    /// The host name of the service in lower case.
    hostname: Arc<str>,
    backend: &'a UnresolvedBackend,
    entry: &'a IndexEntry<ServiceName>,
}

/// Looks up the backends, and the Kubernetes Service to which the DNS name refers, if any.
pub(crate) fn look_up(
    unresolved: &UnresolvedNode,
    services: &NameIndex<ServiceName>,
    services_with_slices: &BTreeSet<ObjectRef>,
    settings: IngestSettings,
) -> NodeLookups {
    let is_from_slices = unresolved
        .endpoint_slices
        .unwrap_or(settings.endpoint_slices);
    let discovery = match unresolved.discovery.clone() {
        Some(Discovery::Dns { hostname, .. }) if is_from_slices => slices::find_service(
            &hostname,
            &unresolved.object.namespace,
            services_with_slices,
        )
        .map(|service| Discovery::Slices {
            namespace: service.namespace,
            service: service.name,
            hostname,
        })
        .or_else(|| unresolved.discovery.clone()),
        Some(Discovery::CloudMap {
            service,
            attributes,
            own_pods: _,
        }) => Some(Discovery::CloudMap {
            service,
            attributes,
            own_pods: is_from_slices && unresolved.selects_pods,
        }),
        other => other,
    };
    NodeLookups {
        discovery,
        backends: unresolved
            .backends
            .iter()
            .map(|backend| services.look_up(&backend.service, &unresolved.name.mesh))
            .collect(),
    }
}

/// Combines a node with the results of its lookups.
pub(crate) fn resolve(
    unresolved: &UnresolvedNode,
    lookups: &NodeLookups,
) -> WithProblems<ResolvedNode> {
    let mut problems = Problems::of(&unresolved.object);
    let field = |index: usize| FieldPath::spec().field("backends").index(index);
    let mut backends: Vec<FoundBackend<'_>> = Vec::new();
    for (backend, found) in unresolved.backends.iter().zip(&lookups.backends) {
        match found {
            Ok(entry) => backends.push(FoundBackend {
                hostname: entry.name.folded().1,
                backend,
                entry,
            }),
            Err(error) => error.report(
                &backend.service,
                Kind::VirtualService,
                field(backend.index).field("virtualService"),
                "the node cannot call it",
                &mut problems,
            ),
        }
    }
    backends.sort_by(|one, other| {
        (&one.hostname, one.backend.index).cmp(&(&other.hostname, other.backend.index))
    });
    backends.dedup_by(|later, first| {
        let is_same = later.hostname == first.hostname;
        if is_same {
            problems.add(
                field(later.backend.index),
                Reason::DuplicateBackend,
                format!(
                    "`{}` is already listed as spec.backends[{}]; remove one of the two",
                    first.hostname, first.backend.index
                ),
            );
        }
        is_same
    });
    backends.retain(|found| found.backend.tls.is_ok());
    if unresolved.local_ports.is_none() {
        leave_out_conflicts(&mut backends, &mut problems);
    }
    let local_ports = unresolved.local_ports.as_ref().map(|local| {
        let entries = backends.iter().map(|found| found.entry);
        local.resolve(entries, &mut problems)
    });
    let mut backends: Vec<NodeBackend> = backends
        .into_iter()
        .map(|found| NodeBackend {
            service: Arc::clone(&found.entry.name.hostname),
            tls: found.backend.tls.clone().ok().flatten(),
        })
        .collect();
    backends.sort_by(|one, other| one.service.cmp(&other.service));
    let node = ResolvedNode {
        name: unresolved.name.clone(),
        object: unresolved.object.clone(),
        listeners: unresolved.listeners.clone(),
        discovery: lookups.discovery.clone(),
        backends,
        local_ports,
        access_log: unresolved.access_log.clone(),
    };
    WithProblems::new(Some(node), problems)
}

/// Removes backends whose ports conflict with those of a preceding backend.
fn leave_out_conflicts(backends: &mut Vec<FoundBackend<'_>>, problems: &mut Problems<'_>) {
    let mut taken: BTreeMap<u16, (Protocol, Arc<str>)> = BTreeMap::new();
    backends.retain(|found| {
        let FoundBackend {
            hostname,
            backend,
            entry,
        } = found;
        let conflict = entry.ports.iter().find_map(|wanted| {
            let (protocol, owner) = taken.get(&wanted.port)?;
            (!protocol.is_http() || !wanted.protocol.is_http()).then_some((wanted, protocol, owner))
        });
        if let Some((wanted, protocol, owner)) = conflict {
            problems.add(
                FieldPath::spec().field("backends").index(backend.index),
                Reason::PortConflict,
                format!(
                    "`{hostname}` uses {} on port {}, where `{owner}` uses {protocol}; only the port distinguishes TCP connections, so this backend is left out; give one of the two another port",
                    wanted.protocol, wanted.port
                ),
            );
            return false;
        }
        for port in &entry.ports {
            taken.insert(port.port, (port.protocol, Arc::clone(hostname)));
        }
        true
    });
}
