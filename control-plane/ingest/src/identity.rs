//! Which workloads may be which proxies: a pod may be the nodes and gateways whose `podSelector` selects it.
//!
//! In: pods, virtual nodes and gateways as the API has them, and the graph, which says what is served under which name.
//! Must not know how a workload shows who it is.

use std::{fmt, sync::Arc};

use evermesh_crds::v1beta2;
use evermesh_model::{Graph, ObjectRef, ProxyKind, ResourceName};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::LabelSelector};

use crate::{
    inputs::{self, Inputs, ObjectMap, ObjectsByOwner},
    membership::{Labels, selects},
};

/// The objects that say which pod is what: three pointers.
#[derive(Debug, Clone, Default)]
pub struct IdentitySnapshot {
    /// `VirtualNode`
    pub virtual_nodes: ObjectMap<v1beta2::VirtualNode>,
    /// `VirtualGateway`
    pub virtual_gateways: ObjectMap<v1beta2::VirtualGateway>,
    /// `Pod`, by namespace
    pub pods: ObjectsByOwner<Pod>,
}

impl From<&Inputs> for IdentitySnapshot {
    fn from(inputs: &Inputs) -> Self {
        Self {
            virtual_nodes: Arc::clone(&inputs.virtual_nodes),
            virtual_gateways: Arc::clone(&inputs.virtual_gateways),
            pods: Arc::clone(inputs.pods.by_owner()),
        }
    }
}

/// Somebody in a cluster, by what was proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkloadIdentity {
    /// One pod.
    Pod {
        /// Its namespace.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
        /// `metadata.uid`: another pod of this name is another one.
        uid: Arc<str>,
    },
    /// Any pod of a service account.
    Account {
        /// Its namespace.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
}

impl fmt::Display for WorkloadIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod {
                namespace, name, ..
            } => write!(f, "Pod {namespace}/{name}"),
            Self::Account { namespace, name } => write!(f, "ServiceAccount {namespace}/{name}"),
        }
    }
}

/// Why a workload may not be a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityMismatch {
    /// There is no such pod, or none of the account; it may be on its way.
    PodNotFound,
    /// There is no such node or gateway; it may be on its way.
    ProxyNotFound,
    /// The node or gateway selects others.
    NotSelected,
}

impl IdentitySnapshot {
    /// Whether a workload may be this proxy, as things are.
    pub fn may_act_as(
        &self,
        graph: &Graph,
        workload: &WorkloadIdentity,
        proxy: &ResourceName,
    ) -> Result<(), IdentityMismatch> {
        let pods = self.pods_of(workload)?;
        let (object, selector) = self
            .selector(graph, proxy)
            .ok_or(IdentityMismatch::ProxyNotFound)?;
        // Without a selector a node has no pods.
        let Some(selector) = selector else {
            return Err(IdentityMismatch::NotSelected);
        };
        let none = Labels::new();
        let is_selected = |(id, pod): &(&ObjectRef, &Arc<Pod>)| {
            let labels = pod.metadata.labels.as_ref().unwrap_or(&none);
            id.namespace == object.namespace && selects(selector, labels)
        };
        if pods.iter().any(is_selected) {
            Ok(())
        } else {
            Err(IdentityMismatch::NotSelected)
        }
    }

    fn pods_of(
        &self,
        workload: &WorkloadIdentity,
    ) -> Result<Vec<(&ObjectRef, &Arc<Pod>)>, IdentityMismatch> {
        let (WorkloadIdentity::Pod { namespace, .. } | WorkloadIdentity::Account { namespace, .. }) =
            workload;
        let there = self.pods.get(&inputs::namespace(namespace));
        let there = there.into_iter().flat_map(|pods| pods.iter());
        let is_it = |(id, pod): &(&ObjectRef, &Arc<Pod>)| match workload {
            WorkloadIdentity::Pod { name, uid, .. } => {
                id.name == *name && pod.metadata.uid.as_deref() == Some(uid)
            }
            WorkloadIdentity::Account { name, .. } => {
                let spec = pod.spec.as_ref();
                let account = spec.and_then(|spec| spec.service_account_name.as_deref());
                account == Some(name)
            }
        };
        let pods: Vec<_> = there.filter(is_it).collect();
        if pods.is_empty() {
            return Err(IdentityMismatch::PodNotFound);
        }
        Ok(pods)
    }

    /// The object that is served under a name, and whom it selects.
    fn selector<'a>(
        &'a self,
        graph: &'a Graph,
        proxy: &ResourceName,
    ) -> Option<(&'a ObjectRef, Option<&'a LabelSelector>)> {
        match proxy.kind {
            ProxyKind::VirtualNode => {
                let object = &graph.nodes.get(proxy)?.object;
                let node = self.virtual_nodes.get(object)?;
                Some((object, node.spec.pod_selector.as_ref()))
            }
            ProxyKind::VirtualGateway => {
                let object = &graph.gateways.get(proxy)?.object;
                let gateway = self.virtual_gateways.get(object)?;
                Some((object, gateway.spec.pod_selector.as_ref()))
            }
            ProxyKind::VirtualRouter => None,
        }
    }
}
