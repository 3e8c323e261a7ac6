//! Authorisation of proxies: a pod may identify itself as the nodes and gateways whose `podSelector` selects it.
//!
//! The inputs are pods, virtual nodes and virtual gateways ([`IdentitySnapshot`]) and the graph, which maps names to
//! objects. `control-plane/src/auth` authenticates the workload.

use std::{fmt, sync::Arc};

use evermesh_crds::v1beta2;
use evermesh_model::{Graph, Kind, ObjectRef, ProxyKind, ResourceName};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::LabelSelector};

use crate::{
    inputs::{self, Inputs, ObjectMap, ObjectsByOwner},
    membership::{Labels, selects},
};

/// The objects that determine which pod belongs to which node or gateway. A clone copies three pointers.
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

/// The authenticated identity of a client in the Kubernetes cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkloadIdentity {
    /// One pod, identified by a token that is bound to it.
    Pod {
        /// `metadata.namespace`
        namespace: Arc<str>,
        /// `metadata.name`
        name: Arc<str>,
        /// `metadata.uid`, which distinguishes a pod from earlier pods with the same name.
        uid: Arc<str>,
    },
    /// Any pod with a service account.
    Account {
        /// The namespace of the service account.
        namespace: Arc<str>,
        /// The name of the service account.
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

/// The reason why a workload may not act as a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityMismatch {
    /// The pod, or a pod with the service account, is not known (yet).
    PodNotFound,
    /// The node or gateway is not known (yet).
    ProxyNotFound,
    /// The node or gateway does not select the pod.
    NotSelected,
}

impl IdentitySnapshot {
    /// Returns whether a workload may act as a proxy of this node or gateway.
    ///
    /// # Errors
    ///
    /// With the reason. Except for [`IdentityMismatch::NotSelected`], the missing object may arrive later.
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
        // A node without a selector has no pods.
        let Some(selector) = selector else {
            return Err(IdentityMismatch::NotSelected);
        };
        let no_labels = Labels::new();
        let is_selected = |(id, pod): &(&ObjectRef, &Arc<Pod>)| {
            let labels = pod.metadata.labels.as_ref().unwrap_or(&no_labels);
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
        let in_namespace = |namespace: &Arc<str>| self.pods.get(&inputs::namespace(namespace));
        let pods: Vec<_> = match workload {
            WorkloadIdentity::Pod {
                namespace,
                name,
                uid,
            } => {
                let id = ObjectRef::new(Kind::Pod, Arc::clone(namespace), Arc::clone(name));
                let pod = in_namespace(namespace).and_then(|pods| pods.get_key_value(&id));
                let is_same =
                    |(_, pod): &(_, &Arc<Pod>)| pod.metadata.uid.as_deref() == Some(&**uid);
                pod.filter(is_same).into_iter().collect()
            }
            WorkloadIdentity::Account { namespace, name } => {
                let has_account = |(_, pod): &(_, &Arc<Pod>)| {
                    let spec = pod.spec.as_ref();
                    let account = spec.and_then(|spec| spec.service_account_name.as_deref());
                    account == Some(&**name)
                };
                let candidates = in_namespace(namespace).into_iter();
                let candidates = candidates.flat_map(|pods| pods.iter());
                candidates.filter(has_account).collect()
            }
        };
        if pods.is_empty() {
            return Err(IdentityMismatch::PodNotFound);
        }
        Ok(pods)
    }

    /// The object with this name and its `podSelector`.
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
