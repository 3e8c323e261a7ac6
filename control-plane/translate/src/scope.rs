//! Scopes and views: which resources a proxy gets, and which of them it has for itself.
//!
//! Listeners, routes and clusters of the application have one name in every proxy, and contents that differ by proxy.
//! Their keys carry the proxy as scope. The clusters and load assignments of nodes are the same for all callers; their
//! keys carry the mesh. A caller whose client policy applies to a node has a cluster for itself instead ([`crate::tls`]).

use std::sync::Arc;

use evermesh_model::ResourceName;
use evermesh_proto::{ProxyView, Resource, ResourceKey, ResourceType};

/// Resources that one derivation made, with their keys.
pub(crate) type EncodedResources = Vec<(ResourceKey, Arc<Resource>)>;

/// The scope of the resources that only one proxy has: the name of its view (`mesh/shop/virtualNode/color_ns`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProxyScope {
    name: Arc<str>,
    mesh: MeshScope,
}

impl ProxyScope {
    pub(crate) fn new(proxy: &ResourceName) -> Self {
        Self {
            name: proxy.to_string().into(),
            mesh: MeshScope::new(&proxy.mesh),
        }
    }

    pub(crate) fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    pub(crate) fn key(&self, kind: ResourceType, name: Arc<str>) -> ResourceKey {
        ResourceKey {
            kind,
            name,
            scope: Some(self.name()),
        }
    }

    /// The key of a resource that the proxies of the mesh share.
    pub(crate) fn shared_key(&self, kind: ResourceType, name: Arc<str>) -> ResourceKey {
        self.mesh.key(kind, name)
    }

    /// Adds the key under which only this proxy gets the resource.
    pub(crate) fn scoped(&self, resource: Resource) -> (ResourceKey, Arc<Resource>) {
        let key = self.key(resource.kind, Arc::clone(&resource.name));
        (key, Arc::new(resource))
    }
}

/// `mesh/shop`, the scope of the resources that all proxies of a mesh share: the beginning of the names of their views.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MeshScope(Arc<str>);

impl MeshScope {
    pub(crate) fn new(mesh: &str) -> Self {
        Self(format!("mesh/{mesh}").into())
    }

    pub(crate) fn key(&self, kind: ResourceType, name: Arc<str>) -> ResourceKey {
        ResourceKey {
            kind,
            name,
            scope: Some(Arc::clone(&self.0)),
        }
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

#[cfg(test)]
mod tests {
    use evermesh_model::ProxyKind;

    use super::*;

    #[test]
    fn proxy_may_list_the_shared_resources_of_its_own_mesh_only() {
        let node = |mesh: &str| ResourceName::new(mesh, ProxyKind::VirtualNode, "front");
        let key = ProxyScope::new(&node("a")).shared_key(ResourceType::Cluster, "c".into());
        let is_for = |mesh: &str| key.is_for(&ProxyScope::new(&node(mesh)).name());
        assert!(is_for("a"));
        assert!(!is_for("a_b"));
    }
}
