//! A store with one view, `node`, and shorthands to change it.

use std::{ops::Deref, sync::Arc};

use bytes::Bytes;
use evermesh_proto::{
    EncodedPart,
    resource::{ProxyView, Resource, ResourceKey, ResourceType},
};
use evermesh_xds::{Store, StoreCommit};
use prost::Message;

use super::NamedMessage;

pub fn key(kind: ResourceType, name: &str) -> ResourceKey {
    ResourceKey {
        kind,
        name: name.into(),
        scope: None,
    }
}

/// A resource that needs these clusters.
pub fn resource(kind: ResourceType, name: &str, content: &str, needs: &[&str]) -> Arc<Resource> {
    let message = NamedMessage {
        name: name.into(),
        content: content.into(),
        ..NamedMessage::default()
    };
    let body = Bytes::from(message.encode_to_vec());
    let needs: Vec<Arc<str>> = needs.iter().map(|need| Arc::from(*need)).collect();
    Arc::new(Resource::from_encoded(kind, name.into(), body).with_needs(needs))
}

/// A resource that consists of a base, with its content and needed clusters, and parts: name, content and needed
/// clusters of each. The origin of a part is its name, that of the base is `base`.
pub fn resource_of_parts(
    kind: ResourceType,
    name: &str,
    (content, needs): (&str, &[&str]),
    parts: &[(&str, &str, &[&str])],
) -> Arc<Resource> {
    let encode = |part: &str, message: &NamedMessage, needs: &[&str]| EncodedPart {
        body: Bytes::from(message.encode_to_vec()),
        name: part.into(),
        needs: needs.iter().map(|need| Arc::from(*need)).collect(),
        origins: [part.into()].into(),
    };
    let message = NamedMessage {
        name: name.into(),
        content: content.into(),
        ..NamedMessage::default()
    };
    let base = encode("base", &message, needs);
    let parts = parts.iter().map(|(part, content, needs)| {
        let message = NamedMessage {
            parts: vec![format!("{part}={content}")],
            ..NamedMessage::default()
        };
        encode(part, &message, needs)
    });
    Arc::new(Resource::from_parts(kind, name.into(), base, parts))
}

pub fn upsert(kind: ResourceType, name: &str, content: &str) -> (ResourceKey, Arc<Resource>) {
    (key(kind, name), resource(kind, name, content, &[]))
}

/// A commit under construction. [`TestStore::commit`] derives the view from it.
#[derive(Default)]
pub struct Change {
    upserts: Vec<(ResourceKey, Arc<Resource>)>,
    removals: Vec<ResourceKey>,
    unlisted: Vec<ResourceKey>,
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
        let resource = resource(kind, name, content, needs);
        self.upserts.push((key(kind, name), resource));
        self
    }

    /// Puts a resource of parts whose base has the content `base`.
    #[must_use]
    pub fn put_parts(
        self,
        kind: ResourceType,
        name: &str,
        parts: &[(&str, &str, &[&str])],
    ) -> Self {
        self.put_parts_on(kind, name, ("base", &[]), parts)
    }

    /// See [`resource_of_parts`].
    #[must_use]
    pub fn put_parts_on(
        mut self,
        kind: ResourceType,
        name: &str,
        base: (&str, &[&str]),
        parts: &[(&str, &str, &[&str])],
    ) -> Self {
        let resource = resource_of_parts(kind, name, base, parts);
        self.upserts.push((key(kind, name), resource));
        self
    }

    #[must_use]
    pub fn remove(mut self, kind: ResourceType, name: &str) -> Self {
        self.removals.push(key(kind, name));
        self
    }

    /// Removes a resource from the view and leaves it in the store.
    #[must_use]
    pub fn unlist(mut self, kind: ResourceType, name: &str) -> Self {
        self.unlisted.push(key(kind, name));
        self
    }
}

/// The store and its one view. Each method commits and dispatches, so that streams see the change at once.
pub struct TestStore {
    pub store: Arc<Store>,
}

impl TestStore {
    /// A store without a commit, which is not ready, and without a view.
    pub fn new() -> Self {
        Self {
            store: Store::new(),
        }
    }

    /// A store whose view lists these resources.
    pub fn with(resources: &[(ResourceType, &str, &str)]) -> Self {
        let store = Self::new();
        store.replace_all(resources);
        store
    }

    /// Puts these resources into the store and makes the view list exactly them.
    pub fn replace_all(&self, resources: &[(ResourceType, &str, &str)]) {
        let upserts = resources
            .iter()
            .map(|(kind, name, content)| upsert(*kind, name, content));
        let keys = resources.iter().map(|(kind, name, _)| key(*kind, name));
        self.apply(StoreCommit {
            upserts: upserts.collect(),
            views: vec![("node".into(), Some(ProxyView::new(keys.collect()).into()))],
            ..StoreCommit::default()
        });
    }

    /// Commits a change together with the view that follows from it.
    pub fn commit(&self, change: Change) {
        let view = self.store.view("node").unwrap_or_default();
        let mut keys = view.keys().to_vec();
        keys.retain(|key| !change.removals.contains(key) && !change.unlisted.contains(key));
        keys.extend(change.upserts.iter().map(|(key, _)| key.clone()));
        self.apply(StoreCommit {
            upserts: change.upserts,
            removals: change.removals,
            views: vec![("node".into(), Some(ProxyView::new(keys).into()))],
        });
    }

    pub fn apply(&self, commit: StoreCommit) {
        self.store.commit(commit);
        self.store.flush();
    }

    /// Changes one resource without touching the view.
    pub fn update(&self, kind: ResourceType, name: &str, content: &str) {
        self.apply(StoreCommit {
            upserts: vec![upsert(kind, name, content)],
            ..StoreCommit::default()
        });
    }

    /// Adds one resource to the store and the view.
    pub fn add(&self, kind: ResourceType, name: &str, content: &str) {
        self.commit(Change::default().put(kind, name, content));
    }

    /// Removes one resource from the store and the view.
    pub fn remove(&self, kind: ResourceType, name: &str) {
        self.commit(Change::default().remove(kind, name));
    }
}

impl Deref for TestStore {
    type Target = Arc<Store>;

    fn deref(&self) -> &Arc<Store> {
        &self.store
    }
}
