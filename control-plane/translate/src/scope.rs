//! Which resources a proxy sees, and which of them are its own.
//!
//! Listeners, routes and local clusters have the same names in every proxy and other contents: they belong to one
//! view. Clusters of nodes and their load assignments are the same for all who call: they are shared.

use std::sync::Arc;

use evermesh_model::ResourceName;
use evermesh_proto::{ProxyView, Resource, ResourceKey, ResourceType};

use crate::{cluster, service::TargetCluster};

/// Resources that one step of the translation made.
pub(crate) type EncodedResources = Vec<(ResourceKey, Arc<Resource>)>;

/// The scope of one proxy: the name of its view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProxyScope(Arc<str>);

impl ProxyScope {
    pub(crate) fn new(proxy: &ResourceName) -> Self {
        Self(proxy.to_string().into())
    }

    /// The name of the view.
    pub(crate) fn name(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// The key of a resource that only this proxy sees.
    pub(crate) fn key(&self, kind: ResourceType, name: Arc<str>) -> ResourceKey {
        ResourceKey {
            kind,
            name,
            scope: Some(self.name()),
        }
    }

    /// A resource that only this proxy sees.
    pub(crate) fn scoped(&self, resource: Resource) -> (ResourceKey, Arc<Resource>) {
        let key = self.key(resource.kind, Arc::clone(&resource.name));
        (key, Arc::new(resource))
    }

    /// The keys of a cluster that all who call share: itself, and its load assignment if it needs one.
    pub(crate) fn target_keys(target: &TargetCluster) -> impl Iterator<Item = ResourceKey> {
        let assignment = target.eds.then(|| ResourceKey {
            kind: ResourceType::Endpoint,
            name: Arc::clone(&target.cluster),
            scope: None,
        });
        std::iter::once(cluster::shared_key(Arc::clone(&target.cluster))).chain(assignment)
    }
}

/// The view of a proxy that has these resources of its own, and lists these keys besides.
pub(crate) fn view<'a>(
    own: &'a EncodedResources,
    others: impl IntoIterator<Item = &'a ResourceKey>,
) -> ProxyView {
    let own = own.iter().map(|(key, _)| key);
    ProxyView::new(own.chain(others).cloned().collect())
}
