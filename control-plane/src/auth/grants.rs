//! The open streams of workloads, and the end of those whose workload may no longer act as the proxy.
//!
//! In: authorized streams, and the engine's snapshots. Out: the [`Revocation`] of each stream.
//!
//! A new snapshot costs a comparison of pointers: of the pods of the namespaces in which a pod changed, and, if a node or
//! gateway changed, of those that streams use. Only the streams of what has changed are checked again, so a change of one
//! pod costs the check of its streams, whatever the number of others.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::{Arc, Weak},
};

use evermesh_crds::v1beta2;
use evermesh_ingest::identity::{IdentityMismatch, WorkloadIdentity};
use evermesh_model::{ObjectRef, ResourceName};
use evermesh_xds::Revocation;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tonic::Status;

use super::{SnapshotReceiver, denial::StreamDenial};
use crate::engine::EngineSnapshot;

/// The streams that were authorized by the pods of their workloads.
#[derive(Default)]
pub(super) struct StreamGrants(Mutex<State>);

#[derive(Default)]
struct State {
    /// The snapshot by which every grant was checked last.
    checked: Arc<EngineSnapshot>,
    grants: BTreeMap<GrantId, Grant>,
    by_proxy: BTreeMap<ResourceName, BTreeSet<GrantId>>,
    by_workload: BTreeMap<WorkloadKey, BTreeSet<GrantId>>,
    /// Grants that were added since `checked`, by a snapshot that may be newer.
    added: BTreeSet<GrantId>,
    last_id: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct GrantId(u64);

/// The right of one stream.
struct Grant {
    workloads: Vec<WorkloadIdentity>,
    proxy: ResourceName,
    revoke: oneshot::Sender<Status>,
}

/// The pods of a workload.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum WorkloadKey {
    /// Namespace and name.
    Pod(Arc<str>, Arc<str>),
    /// Namespace and name of the service account.
    Account(Arc<str>, Arc<str>),
}

/// A stream that lost its right.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RevokedStream {
    pub(super) proxy: ResourceName,
    pub(super) workloads: Vec<WorkloadIdentity>,
    pub(super) mismatch: IdentityMismatch,
}

/// Removes a grant when its stream ends.
struct GrantGuard {
    all: Weak<StreamGrants>,
    id: GrantId,
}

impl StreamGrants {
    /// Checks a stream by the newest snapshot, and keeps it under check until the revocation is dropped.
    pub(super) fn admit(
        self: &Arc<Self>,
        snapshots: &SnapshotReceiver,
        workloads: &[WorkloadIdentity],
        proxy: &ResourceName,
    ) -> Result<Revocation, IdentityMismatch> {
        // Under the lock, so that a newer snapshot is checked after the stream was added.
        let mut state = self.0.lock();
        let now = Arc::clone(&snapshots.borrow());
        may_act_as(&now, workloads, proxy)?;
        let (revoke, revoked) = oneshot::channel();
        let id = state.insert(Grant {
            workloads: workloads.to_vec(),
            proxy: proxy.clone(),
            revoke,
        });
        let guard = GrantGuard {
            all: Arc::downgrade(self),
            id,
        };
        Ok(Box::pin(async move {
            let _guard = guard;
            match revoked.await {
                Ok(status) => status,
                // Not reached: a grant is dropped with its guard, or after its status was sent.
                Err(_closed) => std::future::pending().await,
            }
        }))
    }

    /// Checks the streams that a new snapshot concerns, and ends those that lost their right.
    pub(super) fn check(&self, now: &Arc<EngineSnapshot>) -> Vec<RevokedStream> {
        let mut state = self.0.lock();
        let last = std::mem::replace(&mut state.checked, Arc::clone(now));
        let mut revoked = Vec::new();
        let mut concerned = state.concerned(&last, now);
        concerned.append(&mut state.added);
        for id in concerned {
            let Some(grant) = state.grants.get(&id) else {
                continue;
            };
            let result = may_act_as(now, &grant.workloads, &grant.proxy);
            // Nothing is served while the node or gateway is gone. It may come back, and then this check runs again.
            let Err(mismatch @ (IdentityMismatch::PodNotFound | IdentityMismatch::NotSelected)) =
                result
            else {
                continue;
            };
            if let Some(grant) = state.remove(id) {
                // An error means that the stream ends anyway.
                let _ = grant
                    .revoke
                    .send(StreamDenial::IdentityMismatch(mismatch).status());
                revoked.push(RevokedStream {
                    proxy: grant.proxy,
                    workloads: grant.workloads,
                    mismatch,
                });
            }
        }
        revoked
    }
}

impl Drop for GrantGuard {
    fn drop(&mut self) {
        if let Some(all) = self.all.upgrade() {
            all.0.lock().remove(self.id);
        }
    }
}

impl State {
    fn insert(&mut self, grant: Grant) -> GrantId {
        self.last_id += 1;
        let id = GrantId(self.last_id);
        let of_proxy = self.by_proxy.entry(grant.proxy.clone()).or_default();
        of_proxy.insert(id);
        for workload in &grant.workloads {
            let of_workload = self.by_workload.entry(WorkloadKey::of(workload));
            of_workload.or_default().insert(id);
        }
        self.grants.insert(id, grant);
        self.added.insert(id);
        id
    }

    fn remove(&mut self, id: GrantId) -> Option<Grant> {
        let grant = self.grants.remove(&id)?;
        self.added.remove(&id);
        remove_from(&mut self.by_proxy, grant.proxy.clone(), id);
        for workload in &grant.workloads {
            remove_from(&mut self.by_workload, WorkloadKey::of(workload), id);
        }
        Some(grant)
    }

    /// The streams whose pods, node or gateway differ between two snapshots.
    fn concerned(&self, last: &EngineSnapshot, now: &EngineSnapshot) -> BTreeSet<GrantId> {
        let mut concerned = BTreeSet::new();
        for pod in changed_pods(last, now) {
            for key in WorkloadKey::of_pod(pod) {
                concerned.extend(self.by_workload.get(&key).into_iter().flatten());
            }
        }
        if has_changed_proxies(last, now) {
            for (proxy, streams) in &self.by_proxy {
                if Claim::of(last, proxy) != Claim::of(now, proxy) {
                    concerned.extend(streams);
                }
            }
        }
        concerned
    }
}

impl WorkloadKey {
    fn of(workload: &WorkloadIdentity) -> Self {
        match workload {
            WorkloadIdentity::Pod {
                namespace, name, ..
            } => Self::Pod(Arc::clone(namespace), Arc::clone(name)),
            WorkloadIdentity::Account { namespace, name } => {
                Self::Account(Arc::clone(namespace), Arc::clone(name))
            }
        }
    }

    fn of_pod((id, pod): (&ObjectRef, &Pod)) -> impl Iterator<Item = Self> {
        let account = pod.spec.as_ref().and_then(|spec| {
            let account = spec.service_account_name.as_deref()?;
            Some(Self::Account(Arc::clone(&id.namespace), account.into()))
        });
        let own = Self::Pod(Arc::clone(&id.namespace), Arc::clone(&id.name));
        [own].into_iter().chain(account)
    }
}

/// The objects that say which pods a proxy consists of; equal if they are the same objects in memory.
struct Claim<'a> {
    object: Option<&'a ObjectRef>,
    node: Option<&'a Arc<v1beta2::VirtualNode>>,
    gateway: Option<&'a Arc<v1beta2::VirtualGateway>>,
}

impl<'a> Claim<'a> {
    fn of(snapshot: &'a EngineSnapshot, proxy: &ResourceName) -> Self {
        let node = snapshot.graph.nodes.get(proxy).map(|node| &node.object);
        let gateway = || snapshot.graph.gateways.get(proxy).map(|it| &it.object);
        let object = node.or_else(gateway);
        let workloads = &snapshot.workloads;
        Self {
            object,
            node: object.and_then(|object| workloads.virtual_nodes.get(object)),
            gateway: object.and_then(|object| workloads.virtual_gateways.get(object)),
        }
    }
}

impl PartialEq for Claim<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.object == other.object
            && self.node.map(Arc::as_ptr) == other.node.map(Arc::as_ptr)
            && self.gateway.map(Arc::as_ptr) == other.gateway.map(Arc::as_ptr)
    }
}

fn has_changed_proxies(last: &EngineSnapshot, now: &EngineSnapshot) -> bool {
    let (nodes, gateways) = (
        &last.workloads.virtual_nodes,
        &last.workloads.virtual_gateways,
    );
    !(Arc::ptr_eq(&last.graph.nodes, &now.graph.nodes)
        && Arc::ptr_eq(&last.graph.gateways, &now.graph.gateways)
        && Arc::ptr_eq(nodes, &now.workloads.virtual_nodes)
        && Arc::ptr_eq(gateways, &now.workloads.virtual_gateways))
}

/// The pods of the last snapshot that the new one has not or has in another version.
fn changed_pods<'a>(
    last: &'a EngineSnapshot,
    now: &'a EngineSnapshot,
) -> impl Iterator<Item = (&'a ObjectRef, &'a Pod)> {
    let (last, now) = (&last.workloads.pods, &now.workloads.pods);
    let namespaces = (!Arc::ptr_eq(last, now)).then(|| last.iter());
    namespaces
        .into_iter()
        .flatten()
        .flat_map(|(namespace, pods)| {
            let current = now.get(namespace);
            let is_same = current.is_some_and(|current| Arc::ptr_eq(pods, current));
            let pods = (!is_same).then(|| pods.iter()).into_iter().flatten();
            pods.filter(move |(id, pod)| {
                let current = current.and_then(|current| current.get(*id));
                current.is_none_or(|current| !Arc::ptr_eq(pod, current))
            })
            .map(|(id, pod)| (id, &**pod))
        })
}

/// Whether one of the workloads is a pod of the proxy's node or gateway; if not, the reason for the last one.
pub(super) fn may_act_as(
    snapshot: &EngineSnapshot,
    workloads: &[WorkloadIdentity],
    proxy: &ResourceName,
) -> Result<(), IdentityMismatch> {
    let mut mismatch = IdentityMismatch::PodNotFound;
    for workload in workloads {
        match snapshot
            .workloads
            .may_act_as(&snapshot.graph, workload, proxy)
        {
            Ok(()) => return Ok(()),
            Err(other) => mismatch = other,
        }
    }
    Err(mismatch)
}

fn remove_from<K: Ord>(index: &mut BTreeMap<K, BTreeSet<GrantId>>, key: K, id: GrantId) {
    if let Entry::Occupied(mut ids) = index.entry(key) {
        ids.get_mut().remove(&id);
        if ids.get().is_empty() {
            ids.remove();
        }
    }
}

#[cfg(test)]
mod tests;
