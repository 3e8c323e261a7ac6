//! The clusters that a caller has for itself, because its client policies say how it calls a node.
//!
//! Callers without a policy share the cluster of a node. A policy that applies replaces it, in the view of this caller,
//! by a cluster of the same name and the scope of the caller, so routes stay as they are. Backends of one caller may reach
//! the same node with different policies. Then the first backend by host name gets this name, and the others get names of
//! their own, which their routes have to contain.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evermesh_model::{
    CertificateSource, ClientTls, NodeListener, PeerValidation, ResolvedMesh, ResolvedNode,
    ResourceName, RouteTarget, ServiceName,
};
use evermesh_proto::{ResourceKey, ResourceType};

use super::{ProxySecrets, SecretDirection, TargetTls, shared_trust, stored_key};
use crate::{
    cluster, names, route,
    scope::{EncodedResources, ProxyScope},
    service::{ReachableClusters, TargetCluster},
    wire,
};

/// The resources that a caller has for itself because of its client policies.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct CallerClusters {
    /// The clusters, and the secrets with the paths of files.
    pub(crate) resources: EncodedResources,
    /// The load assignments of clusters that do not have the name of the shared one.
    pub(crate) assignments: Vec<RenamedAssignment>,
    /// The own clusters by host name of the backend.
    own: BTreeMap<Arc<str>, OwnClusters>,
}

/// A load assignment under another name than that of the shared cluster.
#[derive(Debug, PartialEq)]
pub(crate) struct RenamedAssignment {
    pub(crate) name: Arc<str>,
    pub(crate) node: ResourceName,
    /// The port of the node's listener.
    pub(crate) port: u16,
}

/// A backend to which a caller has routes of its own, because the names of its clusters are not all those of the shared
/// ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RenamedBackend {
    pub(crate) caller: ResourceName,
    pub(crate) service: ServiceName,
}

/// Own clusters by the name of the shared cluster that they replace.
type OwnClusters = BTreeMap<Arc<str>, OwnCluster>;

#[derive(Debug, Clone, PartialEq)]
struct OwnCluster {
    name: Arc<str>,
    /// The keys of the secrets to which the cluster refers.
    secrets: BTreeSet<ResourceKey>,
}

/// The names of clusters in the routes of one service: those of the shared clusters, or other names of one caller.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ClusterNames<'a>(Option<&'a OwnClusters>);

impl ClusterNames<'_> {
    pub(crate) fn of(self, target: &RouteTarget) -> Arc<str> {
        let shared = route::target_cluster(target);
        match self.0.and_then(|own| own.get(&shared)) {
            Some(own) => Arc::clone(&own.name),
            None => shared,
        }
    }

    /// Whether all names are those of the shared clusters.
    pub(crate) fn are_shared(self) -> bool {
        self.0
            .is_none_or(|own| own.iter().all(|(shared, own)| *shared == own.name))
    }
}

impl CallerClusters {
    /// The names of the clusters by which this caller reaches the targets of a service.
    pub(crate) fn names<'a>(own: Option<&'a Self>, service: &str) -> ClusterNames<'a> {
        ClusterNames(own.and_then(|it| it.own.get(service)))
    }

    /// Whether the caller has own clusters for a service of this host name.
    #[cfg(test)]
    pub(crate) fn calls(&self, hostname: &str) -> bool {
        self.own.contains_key(hostname)
    }

    /// The host names of the backends that are [`RenamedBackend`]s.
    pub(crate) fn renamed(&self) -> impl Iterator<Item = &Arc<str>> {
        let backends = self.own.keys();
        backends.filter(|backend| !Self::names(Some(self), backend).are_shared())
    }

    /// The keys by which the caller reaches a target of a service: those of its own cluster, if it has one, or of the
    /// shared one.
    pub(crate) fn target_keys(
        own: Option<&Self>,
        scope: &ProxyScope,
        service: &str,
        target: &TargetCluster,
    ) -> Vec<ResourceKey> {
        let TargetCluster {
            cluster,
            node: _,
            port: _,
            eds,
            trust,
        } = target;
        let own = own.and_then(|it| it.own.get(service)?.get(cluster));
        let shared = |kind| scope.shared_key(kind, Arc::clone(cluster));
        let mut keys: Vec<ResourceKey> = match own {
            None => std::iter::once(shared(ResourceType::Cluster))
                .chain(trust.clone().map(stored_key))
                .collect(),
            Some(own) => std::iter::once(scope.key(ResourceType::Cluster, Arc::clone(&own.name)))
                .chain(own.secrets.iter().cloned())
                .collect(),
        };
        if *eds {
            keys.push(match own.filter(|own| own.name != *cluster) {
                Some(own) => scope.key(ResourceType::Endpoint, Arc::clone(&own.name)),
                None => shared(ResourceType::Endpoint),
            });
        }
        keys
    }
}

/// A service that a caller calls, with its policy.
pub(crate) struct CalledService<'a> {
    pub(crate) reachable: Arc<ReachableClusters>,
    pub(crate) policy: Option<&'a ClientTls>,
}

/// The part of a client policy that decides how one listener is called. Absent if it is called as without a policy.
type EffectivePolicy<'a> = Option<(&'a Option<CertificateSource>, &'a PeerValidation)>;

/// The ways in which a caller calls one listener. A way without an own cluster uses the shared one.
type Ways<'a> = Vec<(EffectivePolicy<'a>, Option<OwnCluster>)>;

/// `services` are in ascending order of host name. `node_of` returns a node by name. `origin` is the object of the caller.
pub(crate) fn caller_clusters(
    caller: &ResourceName,
    origin: &Arc<str>,
    mesh: &ResolvedMesh,
    services: &[CalledService<'_>],
    mut node_of: impl FnMut(&ResourceName) -> Option<Arc<ResolvedNode>>,
) -> CallerClusters {
    let scope = ProxyScope::new(caller);
    let mut builder = ClusterBuilder {
        secrets: ProxySecrets::new(SecretDirection::Egress, scope.clone()),
        scope,
        origin,
        mesh,
        clusters: CallerClusters::default(),
    };
    let mut ways_by_cluster: BTreeMap<&str, Ways<'_>> = BTreeMap::new();
    for CalledService { reachable, policy } in services {
        for target in &reachable.clusters {
            let Some(node) = node_of(&target.node) else {
                continue;
            };
            let mut listeners = node.listeners.iter();
            let Some(listener) = listeners.find(|it| it.port == target.port) else {
                continue;
            };
            let policy = policy.filter(|policy| applies(policy, listener));
            let effective = policy.map(|it| (&it.certificate, &it.validation));
            let ways = ways_by_cluster.entry(&target.cluster).or_default();
            let own = if let Some((_, own)) = ways.iter().find(|(way, _)| *way == effective) {
                own.clone()
            } else {
                let name = match ways.as_slice() {
                    [] if effective.is_none() => None,
                    [] => Some(Arc::clone(&target.cluster)),
                    _ => Some(names::caller_cluster(&target.cluster, &reachable.hostname)),
                };
                let own = name.map(|name| builder.add(name, target, &node, listener, policy));
                ways.push((effective, own.clone()));
                own
            };
            if let Some(own) = own {
                let of_service = builder.clusters.own.entry(Arc::clone(&reachable.hostname));
                of_service
                    .or_default()
                    .insert(Arc::clone(&target.cluster), own);
            }
        }
    }
    let origins = std::slice::from_ref(origin);
    let files = builder.secrets.into_files(origins);
    builder.clusters.resources.extend(files);
    builder.clusters
}

/// Whether a listener is called as the policy says. The port of a policy is that of the target's listener. A policy that
/// is not enforced does not apply to a listener without TLS.
fn applies(policy: &ClientTls, listener: &NodeListener) -> bool {
    let ClientTls {
        enforce,
        ports,
        certificate: _,
        validation: _,
    } = policy;
    let covers_port = ports
        .as_ref()
        .is_none_or(|ports| ports.contains(&listener.port));
    covers_port && (*enforce || listener.tls.is_some())
}

struct ClusterBuilder<'a> {
    secrets: ProxySecrets,
    scope: ProxyScope,
    origin: &'a Arc<str>,
    mesh: &'a ResolvedMesh,
    clusters: CallerClusters,
}

impl ClusterBuilder<'_> {
    fn add(
        &mut self,
        name: Arc<str>,
        target: &TargetCluster,
        node: &ResolvedNode,
        listener: &NodeListener,
        policy: Option<&ClientTls>,
    ) -> OwnCluster {
        let tls = match policy {
            Some(policy) => Some(TargetTls::with_policy(policy, node, &mut self.secrets)),
            None => TargetTls::without_policy(node, listener),
        };
        let mut secrets = self.secrets.take_keys();
        if policy.is_none() {
            secrets.extend(shared_trust(listener).map(stored_key));
        }
        let cluster = cluster::node_cluster(&name, node, listener, self.mesh, tls.as_ref());
        let origins = vec![wire::origin(&node.object), Arc::clone(self.origin)];
        let cluster = cluster.with_origins(wire::sorted(origins));
        self.clusters.resources.push(self.scope.scoped(cluster));
        if target.eds && name != target.cluster {
            self.clusters.assignments.push(RenamedAssignment {
                name: Arc::clone(&name),
                node: target.node.clone(),
                port: target.port,
            });
        }
        OwnCluster { name, secrets }
    }
}
