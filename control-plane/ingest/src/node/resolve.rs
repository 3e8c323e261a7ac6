//! Resolution of a node's references.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use evermesh_model::{
    Discovery, Kind, NodeBackend, ObjectRef, Protocol, Reason, ResolvedNode, ServiceName,
    ServicePort, problem::FieldPath,
};

use super::UnresolvedNode;
use crate::{
    IngestSettings,
    backend_group::{self, GroupIndex, GroupLookup},
    name_index::{IndexEntry, Lookup, Name, NameIndex, UnresolvedRef},
    seniority::Contender as _,
    slices,
    stage::{Problems, WithProblems},
    tls::ClientPolicyResult,
};

/// The results of looking up a node's references.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NodeLookups {
    discovery: Option<Discovery>,
    backends: Vec<Lookup<ServiceName>>,
    groups: Vec<GroupLookup>,
}

/// A backend with the service that its reference names.
struct FoundBackend<'a> {
    /// The host name of the service in lower case.
    hostname: Arc<str>,
    source: BackendSource,
    entry: &'a IndexEntry<ServiceName>,
    tls: &'a ClientPolicyResult,
}

/// The field that names a backend. A listed backend takes precedence over a member of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum BackendSource {
    /// This item of `spec.backends`.
    Listed(usize),
    /// A member of this item of `spec.backendGroups`.
    Group(usize),
}

impl BackendSource {
    fn field(self) -> FieldPath {
        match self {
            Self::Listed(index) => FieldPath::spec().field("backends").index(index),
            Self::Group(index) => FieldPath::spec().field("backendGroups").index(index),
        }
    }

    const fn is_listed(self) -> bool {
        matches!(self, Self::Listed(_))
    }
}

/// Looks up the backends and the members of backend groups, and the Kubernetes Service to which the DNS name refers, if any.
pub(crate) fn look_up(
    unresolved: &UnresolvedNode,
    (services, groups): (&NameIndex<ServiceName>, &GroupIndex),
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
    let (object, mesh) = (&unresolved.object, &unresolved.name.mesh);
    let backends = unresolved.backends.listed.iter();
    let named = unresolved.backends.groups.iter();
    NodeLookups {
        discovery,
        backends: backends
            .map(|backend| services.look_up(&backend.service, mesh))
            .collect(),
        groups: named
            .map(|group| backend_group::look_up(group, object, mesh, groups, services))
            .collect(),
    }
}

/// Combines a node with the results of its lookups.
pub(crate) fn resolve(
    unresolved: &UnresolvedNode,
    lookups: &NodeLookups,
) -> WithProblems<ResolvedNode> {
    let mut problems = Problems::of(&unresolved.object);
    let mut backends = listed_backends(unresolved, lookups, &mut problems);
    backends.extend(members_of_groups(unresolved, lookups, &mut problems));
    backends
        .sort_by(|one, other| (&one.hostname, one.source).cmp(&(&other.hostname, other.source)));
    backends.dedup_by(|later, first| {
        let is_same = later.hostname == first.hostname;
        if is_same && later.source.is_listed() {
            problems.add(
                later.source.field(),
                Reason::DuplicateBackend,
                format!(
                    "`{}` is already listed as {}; remove one of the two",
                    first.hostname,
                    first.source.field()
                ),
            );
        }
        is_same
    });
    // Not earlier: a service whose own policy is refused may be a member of a group too, with the policy of the defaults.
    backends.retain(|found| found.tls.is_ok());
    if unresolved.local_ports.is_none() {
        leave_out_conflicts(&mut backends, &mut problems);
    }
    let local_ports = unresolved.local_ports.as_ref().map(|local| {
        let entries = backends
            .iter()
            .map(|found| (found.entry, found.source.is_listed()));
        local.resolve(entries, &mut problems)
    });
    let mut backends: Vec<NodeBackend> = backends
        .into_iter()
        .map(|found| NodeBackend {
            service: Arc::clone(&found.entry.name.hostname),
            tls: found.tls.clone().ok().flatten(),
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
        forwards_client_address: unresolved.forwards_client_address,
    };
    WithProblems::new(Some(node), problems)
}

/// The items of `spec.backends` whose services exist.
fn listed_backends<'a>(
    unresolved: &'a UnresolvedNode,
    lookups: &'a NodeLookups,
    problems: &mut Problems<'_>,
) -> Vec<FoundBackend<'a>> {
    let mut backends = Vec::new();
    for (backend, found) in unresolved.backends.listed.iter().zip(&lookups.backends) {
        let source = BackendSource::Listed(backend.index);
        match found {
            Ok(entry) => backends.push(FoundBackend {
                hostname: entry.name.folded().1,
                source,
                entry,
                tls: &backend.tls,
            }),
            Err(error) => error.report(
                &backend.service,
                Kind::VirtualService,
                source.field().field("virtualService"),
                "the node cannot call it",
                problems,
            ),
        }
    }
    backends
}

/// The members of the node's backend groups that exist.
fn members_of_groups<'a>(
    unresolved: &'a UnresolvedNode,
    lookups: &'a NodeLookups,
    problems: &mut Problems<'_>,
) -> Vec<FoundBackend<'a>> {
    let mut backends = Vec::new();
    let groups = unresolved.backends.groups.iter().zip(&lookups.groups);
    for (index, (group, found)) in groups.enumerate() {
        let source = BackendSource::Group(index);
        let members = match found {
            Ok(members) => members,
            Err(error) => {
                error.report(
                    &UnresolvedRef::Object(group.clone()),
                    Kind::BackendGroup,
                    source.field(),
                    "the node cannot call its virtual services",
                    problems,
                );
                continue;
            }
        };
        for member in members {
            match &member.found {
                Ok(entry) => backends.push(FoundBackend {
                    hostname: entry.name.folded().1,
                    source,
                    entry,
                    tls: &unresolved.backends.group_tls,
                }),
                Err(error) => error.report(
                    &member.reference,
                    Kind::VirtualService,
                    source.field(),
                    &format!("the node cannot call this member of `{group}`"),
                    problems,
                ),
            }
        }
    }
    backends
}

/// Removes backends whose ports conflict with those of a preceding backend. Listed backends precede members of groups,
/// and older virtual services precede younger ones.
fn leave_out_conflicts(backends: &mut Vec<FoundBackend<'_>>, problems: &mut Problems<'_>) {
    backends.sort_by(|one, other| {
        (!one.source.is_listed(), one.entry.seniority())
            .cmp(&(!other.source.is_listed(), other.entry.seniority()))
    });
    let mut taken: BTreeMap<u16, TakenPort<'_>> = BTreeMap::new();
    backends.retain(|found| {
        let FoundBackend { source, entry, .. } = found;
        let conflict = entry.ports.iter().find_map(|port| {
            let owner = taken.get(&port.port)?.conflict(port.protocol, entry)?;
            Some((port, owner))
        });
        if let Some((ServicePort { port, protocol }, owner)) = conflict {
            problems.add(
                source.field(),
                Reason::PortConflict,
                format!(
                    "`{}` uses {protocol} on port {port}, where `{}` uses {}; neither the port nor virtual IPs of Kubernetes Services distinguish their connections, so this backend is left out; give one of the two another port, or each the host name of a Kubernetes Service with a virtual IP of its own",
                    entry.name.hostname, owner.hostname, owner.protocol
                ),
            );
            return false;
        }
        for port in &entry.ports {
            let taken = taken.entry(port.port).or_default();
            taken.take(port.protocol, entry);
        }
        true
    });
}

/// The connections on one port that the backends of a node receive.
///
/// All HTTP backends receive connections to any address, because `Host` distinguishes them. A TCP backend receives those
/// to its virtual IPs, or to any address if it has none.
#[derive(Default)]
struct TakenPort<'a> {
    to_any_address: Option<PortOwner<'a>>,
    by_address: BTreeMap<IpAddr, PortOwner<'a>>,
}

#[derive(Clone, Copy)]
struct PortOwner<'a> {
    protocol: Protocol,
    hostname: &'a str,
}

impl<'a> TakenPort<'a> {
    /// The owner of connections that this backend would receive as well.
    fn conflict(
        &self,
        protocol: Protocol,
        entry: &IndexEntry<ServiceName>,
    ) -> Option<PortOwner<'a>> {
        let any = self
            .to_any_address
            .iter()
            .filter(|_| takes_any_address(protocol, entry));
        let addresses = entry.virtual_ips.iter();
        let same = addresses.filter_map(|address| self.by_address.get(address));
        any.chain(same)
            .find(|owner| !(protocol.is_http() && owner.protocol.is_http()))
            .copied()
    }

    fn take(&mut self, protocol: Protocol, entry: &'a IndexEntry<ServiceName>) {
        let owner = PortOwner {
            protocol,
            hostname: &entry.name.hostname,
        };
        if takes_any_address(protocol, entry) {
            self.to_any_address = Some(owner);
        }
        let addresses = entry.virtual_ips.iter();
        self.by_address
            .extend(addresses.map(|address| (*address, owner)));
    }
}

const fn takes_any_address(protocol: Protocol, entry: &IndexEntry<ServiceName>) -> bool {
    protocol.is_http() || entry.virtual_ips.is_empty()
}
