//! The connected proxies, their views, and the proxies whose views list a resource.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::SystemTime,
};

use evermesh_proto::{ProxyView, ResourceKey};
use evermesh_xds::{ConnectedProxy, ProxyId};

/// A proxy that a sweep or an answer has shown.
#[derive(Debug)]
pub(super) struct KnownProxy {
    pub(super) id: ProxyId,
    pub(super) node_id: Arc<str>,
    pub(super) view: Arc<str>,
    pub(super) since: SystemTime,
    pub(super) is_starting: bool,
    /// Whether the proxy lacked an answer when it was starting.
    pub(super) is_awaited: bool,
}

impl KnownProxy {
    pub(super) fn new(proxy: ConnectedProxy, is_starting: bool) -> Self {
        let ConnectedProxy {
            id,
            node_id,
            view,
            since,
            is_trusted: _,
        } = proxy;
        Self {
            id,
            node_id,
            view,
            since,
            is_starting,
            is_awaited: false,
        }
    }
}

/// Known proxies by view, and views by the resources that they list.
#[derive(Debug, Default)]
pub(super) struct ProxyIndex {
    known: BTreeMap<ProxyId, KnownProxy>,
    by_view: HashMap<Arc<str>, BTreeSet<ProxyId>>,
    /// Every view of the store.
    views: HashMap<Arc<str>, Arc<ProxyView>>,
    /// The names of the views that list a resource without scope. Only one view lists a scoped resource.
    listing: HashMap<ResourceKey, BTreeSet<Arc<str>>>,
}

impl ProxyIndex {
    pub(super) fn get(&self, id: ProxyId) -> Option<&KnownProxy> {
        self.known.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ProxyId) -> Option<&mut KnownProxy> {
        self.known.get_mut(&id)
    }

    pub(super) fn insert(&mut self, proxy: KnownProxy) {
        let of_view = self.by_view.entry(Arc::clone(&proxy.view)).or_default();
        of_view.insert(proxy.id);
        self.known.insert(proxy.id, proxy);
    }

    pub(super) fn remove(&mut self, id: ProxyId) {
        let Some(proxy) = self.known.remove(&id) else {
            return;
        };
        if let Some(of_view) = self.by_view.get_mut(&proxy.view) {
            of_view.remove(&id);
            if of_view.is_empty() {
                self.by_view.remove(&proxy.view);
            }
        }
    }

    /// The known proxies that are not among those connected.
    pub(super) fn gone(&self, connected: &BTreeSet<ProxyId>) -> Vec<ProxyId> {
        let known = self.known.keys();
        known
            .filter(|id| !connected.contains(id))
            .copied()
            .collect()
    }

    pub(super) fn view(&self, name: &str) -> Option<&Arc<ProxyView>> {
        self.views.get(name)
    }

    pub(super) fn with_view(&self, name: &str) -> BTreeSet<ProxyId> {
        self.by_view.get(name).cloned().unwrap_or_default()
    }

    /// The known proxies whose views list a resource.
    pub(super) fn listing(&self, key: &ResourceKey) -> BTreeSet<ProxyId> {
        if let Some(view) = &key.scope {
            return self.with_view(view);
        }
        let views = self.listing.get(key).into_iter().flatten();
        let proxies = views.filter_map(|view| self.by_view.get(view));
        proxies.flatten().copied().collect()
    }

    pub(super) fn set_view(&mut self, name: &Arc<str>, view: Option<Arc<ProxyView>>) {
        let shared = |view: &ProxyView| -> Vec<ResourceKey> {
            let keys = view.keys().iter();
            keys.filter(|key| key.scope.is_none()).cloned().collect()
        };
        for key in self.views.remove(name).iter().flat_map(|view| shared(view)) {
            if let Some(names) = self.listing.get_mut(&key) {
                names.remove(name);
                if names.is_empty() {
                    self.listing.remove(&key);
                }
            }
        }
        if let Some(view) = view {
            for key in shared(&view) {
                self.listing
                    .entry(key)
                    .or_default()
                    .insert(Arc::clone(name));
            }
            self.views.insert(Arc::clone(name), view);
        }
    }
}
