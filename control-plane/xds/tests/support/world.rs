//! A store with one view, `node`, that tests change.

use std::{ops::Deref, sync::Arc};

use bytes::Bytes;
use evermesh_proto::resource::{ProxyView, Resource, ResourceKey, ResourceType};
use evermesh_xds::{Store, StoreCommit};
use prost::Message;

use super::Named;

pub fn key(kind: ResourceType, name: &str) -> ResourceKey {
    ResourceKey {
        kind,
        name: name.into(),
        scope: None,
    }
}

pub fn resource(kind: ResourceType, name: &str, content: &str) -> Arc<Resource> {
    Arc::new(needing(kind, name, content, &[]))
}

pub fn needing(kind: ResourceType, name: &str, content: &str, needs: &[&str]) -> Resource {
    let message = Named {
        name: name.into(),
        content: content.into(),
    };
    let body = Bytes::from(message.encode_to_vec());
    let needs: Vec<Arc<str>> = needs.iter().map(|need| Arc::from(*need)).collect();
    Resource::from_encoded(kind, name.into(), body).with_needs(needs)
}

pub fn upsert(kind: ResourceType, name: &str, content: &str) -> (ResourceKey, Arc<Resource>) {
    (key(kind, name), resource(kind, name, content))
}

/// The changes of one commit to come.
#[derive(Default)]
pub struct Change {
    commit: StoreCommit,
    gone: Vec<ResourceKey>,
}

impl Change {
    #[must_use]
    pub fn put(self, kind: ResourceType, name: &str, content: &str) -> Self {
        self.put_needing(kind, name, content, &[])
    }

    #[must_use]
    pub fn put_needing(
        mut self,
        kind: ResourceType,
        name: &str,
        content: &str,
        needs: &[&str],
    ) -> Self {
        let resource = Arc::new(needing(kind, name, content, needs));
        self.commit.upserts.push((key(kind, name), resource));
        self
    }

    #[must_use]
    pub fn remove(mut self, kind: ResourceType, name: &str) -> Self {
        self.gone.push(key(kind, name));
        self
    }
}

/// The store and its one view.
pub struct World {
    pub store: Arc<Store>,
}

impl World {
    /// A store that is not ready: no commit, no view.
    pub fn new() -> Self {
        Self {
            store: Store::new(),
        }
    }

    /// A store with these.
    pub fn with(resources: &[(ResourceType, &str, &str)]) -> Self {
        let world = Self::new();
        world.set(resources);
        world
    }

    /// Sets the view to these, all new.
    pub fn set(&self, resources: &[(ResourceType, &str, &str)]) {
        let mut change = Change::default();
        for (kind, name, content) in resources {
            change = change.put(*kind, name, content);
        }
        let keys = resources.iter().map(|(kind, name, _)| key(*kind, name));
        let view = ProxyView::new(keys.collect());
        change.commit.views = vec![("node".into(), Some(Arc::new(view)))];
        self.apply(change.commit);
    }

    /// Commits a change, with the view that follows from it.
    pub fn commit(&self, mut change: Change) {
        let mut keys = self.keys();
        keys.retain(|key| !change.gone.contains(key));
        keys.extend(change.commit.upserts.iter().map(|(key, _)| key.clone()));
        change.commit.removals = change.gone;
        change.commit.views = vec![("node".into(), Some(Arc::new(ProxyView::new(keys))))];
        self.apply(change.commit);
    }

    /// Commits, and passes it on.
    pub fn apply(&self, commit: StoreCommit) {
        self.store.commit(commit);
        self.store.flush();
    }

    /// An empty commit.
    pub fn commit_nothing(&self) {
        self.apply(StoreCommit::default());
    }

    /// Changes one resource without touching the view.
    pub fn update(&self, kind: ResourceType, name: &str, content: &str) {
        self.apply(StoreCommit {
            upserts: vec![upsert(kind, name, content)],
            ..StoreCommit::default()
        });
    }

    /// Adds one to the view.
    pub fn add(&self, kind: ResourceType, name: &str, content: &str) {
        self.commit(Change::default().put(kind, name, content));
    }

    /// Removes one from the store and the view.
    pub fn remove(&self, kind: ResourceType, name: &str) {
        self.commit(Change::default().remove(kind, name));
    }

    pub fn keys(&self) -> Vec<ResourceKey> {
        let view = self.store.view("node").unwrap_or_default();
        view.keys().to_vec()
    }
}

impl Deref for World {
    type Target = Arc<Store>;

    fn deref(&self) -> &Arc<Store> {
        &self.store
    }
}
