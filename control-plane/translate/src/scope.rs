//! Scopes and views: which resources a proxy gets, and which of them it has for itself.
//!
//! Listeners, routes and clusters of the application have one name in every proxy, and contents that differ by proxy.
//! Their keys carry the proxy as scope. The clusters and load assignments of nodes are the same for all callers; their
//! keys have no scope. A caller whose client policy applies to a node has a cluster for itself instead ([`crate::tls`]).

use std::sync::Arc;

use evermesh_model::ResourceName;
use evermesh_proto::{ProxyView, Resource, ResourceKey, ResourceType};

/// Resources that one derivation made, with their keys.
pub(crate) type EncodedResources = Vec<(ResourceKey, Arc<Resource>)>;

/// The scope of the resources that only one proxy has: the name of its view (`mesh/shop/virtualNode/color_ns`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProxyScope(Arc<str>);

impl ProxyScope {
    pub(crate) fn new(proxy: &ResourceName) -> Self {
        Self(proxy.to_string().into())
    }

    pub(crate) fn name(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    pub(crate) fn key(&self, kind: ResourceType, name: Arc<str>) -> ResourceKey {
        ResourceKey {
            kind,
            name,
            scope: Some(self.name()),
        }
    }

    /// Adds the key under which only this proxy gets the resource.
    pub(crate) fn scoped(&self, resource: Resource) -> (ResourceKey, Arc<Resource>) {
        let key = self.key(resource.kind, Arc::clone(&resource.name));
        (key, Arc::new(resource))
    }
}

/// The view of a proxy with its own resources and further keys.
pub(crate) fn view<'a>(
    own: &'a EncodedResources,
    others: impl IntoIterator<Item = &'a ResourceKey>,
) -> ProxyView {
    let own = own.iter().map(|(key, _)| key);
    ProxyView::new(own.chain(others).cloned().collect())
}
