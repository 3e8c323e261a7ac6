//! Changes that the status writer has not taken yet.
//!
//! The engine and the streams leave state here instead of events: the newest version of each committed resource and
//! view, and the proxies that answered for each object. However long the writer takes, and whatever proxies send, the
//! inbox holds at most one entry for each resource and view, and [`ANSWER_LIMIT`] answers. Beyond that limit the answers
//! are dropped, and the writer reads those of every connected proxy again.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use evermesh_proto::{ProxyView, Resource, ResourceKey};
use evermesh_xds::{Delivery, ProxyId};
use parking_lot::Mutex;

/// Pairs of a proxy and an object in the inbox. 1,000 proxies that answer for 100 objects each fit.
const ANSWER_LIMIT: usize = 100_000;

/// The inbox of the status writer.
#[derive(Debug, Default)]
pub struct EffectInbox(Mutex<EffectChanges>);

/// Everything that the status of an object may depend on and that changed since the last [`EffectInbox::take`].
#[derive(Debug, Default)]
pub(crate) struct EffectChanges {
    /// Resources that are new or have changed, in their newest version, and removed ones (`None`).
    pub(super) resources: BTreeMap<ResourceKey, Option<Arc<Resource>>>,
    /// New and changed views by name, in their newest version, and removed ones (`None`).
    pub(super) views: BTreeMap<Arc<str>, Option<Arc<ProxyView>>>,
    pub(super) answers: AnsweredObjects,
}

/// Proxies that ACKed or NACKed a resource, by the object from which it was derived.
#[derive(Debug, Default)]
pub(super) struct AnsweredObjects {
    /// Proxies by object, which is named as in [`Resource::origins`].
    pub(super) proxies: BTreeMap<Arc<str>, BTreeSet<ProxyId>>,
    /// Whether answers were dropped, so that any proxy may have answered for any object.
    pub(super) is_incomplete: bool,
    /// Number of pairs in `proxies`.
    count: usize,
}

impl EffectInbox {
    /// Records a commit of the engine.
    pub fn committed(
        &self,
        upserts: Vec<(ResourceKey, Arc<Resource>)>,
        removals: Vec<ResourceKey>,
        views: Vec<(Arc<str>, Option<Arc<ProxyView>>)>,
    ) {
        let upserts = upserts.into_iter().map(|(key, it)| (key, Some(it)));
        let removals = removals.into_iter().map(|key| (key, None));
        let mut changes = self.0.lock();
        changes.resources.extend(upserts.chain(removals));
        changes.views.extend(views);
    }

    /// Records that a proxy answered a resource.
    pub fn answered(&self, delivery: &Delivery) {
        let mut changes = self.0.lock();
        for origin in delivery.resource.origins.iter() {
            changes.answers.add(origin, delivery.proxy);
        }
    }

    /// Takes everything that was recorded so far.
    pub(super) fn take(&self) -> EffectChanges {
        mem::take(&mut *self.0.lock())
    }
}

impl AnsweredObjects {
    fn add(&mut self, origin: &Arc<str>, proxy: ProxyId) {
        if self.is_incomplete {
            return;
        }
        let proxies = self.proxies.entry(Arc::clone(origin)).or_default();
        self.count += usize::from(proxies.insert(proxy));
        if self.count > ANSWER_LIMIT {
            *self = Self::incomplete();
        }
    }

    pub(super) fn incomplete() -> Self {
        Self {
            is_incomplete: true,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use evermesh_proto::ResourceType;
    use evermesh_xds::DeliveryOutcome;

    use super::*;

    fn resource(version: u8) -> Arc<Resource> {
        let resource =
            Resource::from_encoded(ResourceType::Cluster, "a".into(), vec![version].into());
        Arc::new(resource.with_origins([Arc::from("Route/n/r")]))
    }

    fn answer(proxy: u64, resource: &Arc<Resource>) -> Delivery {
        Delivery {
            proxy: ProxyId(proxy),
            view: "view".into(),
            resource: Arc::clone(resource),
            outcome: DeliveryOutcome::Acked,
        }
    }

    #[test]
    fn repeated_commits_and_answers_of_a_resource_take_the_room_of_one() {
        let key = ResourceKey {
            kind: ResourceType::Cluster,
            name: "a".into(),
            scope: None,
        };
        let inbox = EffectInbox::default();
        for version in 0..100 {
            let resource = resource(version);
            let views = vec![("view".into(), None)];
            inbox.committed(
                vec![(key.clone(), Arc::clone(&resource))],
                Vec::new(),
                views,
            );
            inbox.answered(&answer(1, &resource));
        }
        let changes = inbox.take();
        assert_eq!(
            changes.answers.proxies,
            [("Route/n/r".into(), [ProxyId(1)].into())].into()
        );
        assert_eq!(changes.answers.count, 1);
        assert_eq!((changes.resources.len(), changes.views.len()), (1, 1));
        let newest = changes.resources[&key].as_ref().unwrap();
        assert_eq!(newest.body[..], [99]);
        inbox.committed(Vec::new(), vec![key.clone()], Vec::new());
        assert!(inbox.take().resources[&key].is_none());
        assert!(inbox.take().resources.is_empty());
    }

    #[test]
    fn answers_beyond_the_limit_are_dropped_until_the_inbox_is_taken() {
        let inbox = EffectInbox::default();
        let resource = resource(0);
        for proxy in (0..).take(ANSWER_LIMIT) {
            inbox.answered(&answer(proxy, &resource));
        }
        assert!(!inbox.0.lock().answers.is_incomplete);
        for proxy in (0..).take(2 * ANSWER_LIMIT) {
            inbox.answered(&answer(proxy, &resource));
        }
        let answers = inbox.take().answers;
        assert!(answers.is_incomplete);
        assert!(answers.proxies.is_empty());
        inbox.answered(&answer(1, &resource));
        assert!(!inbox.take().answers.is_incomplete);
    }
}
