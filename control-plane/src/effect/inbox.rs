//! Changes that the status writer has not taken yet.
//!
//! The engine and the streams leave state here instead of events: the newest version of each committed resource and
//! view, and the resources that each proxy answered. However long the writer takes, and whatever proxies send, the inbox
//! holds at most one entry for each resource and view, [`PROXY_LIMIT`] proxies, and [`ANSWER_LIMIT`] answers of each.
//! Beyond these limits the answers are dropped, and the writer reads all answers of the proxy again, or those of every
//! connected proxy.
//!
//! An answer is recorded on the thread that serves the proxy, so it costs one push, however many objects it concerns.

use std::{collections::BTreeMap, mem, sync::Arc};

use evermesh_proto::{ProxyView, Resource, ResourceKey};
use evermesh_xds::{Delivery, ProxyId};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Proxies with answers in the inbox.
const PROXY_LIMIT: usize = 100_000;
/// Answers of one proxy in the inbox. A proxy with more is likely to be new, and all its answers are to be read.
const ANSWER_LIMIT: usize = 16;

/// The inbox of the status writer.
#[derive(Debug, Default)]
pub struct EffectInbox {
    changes: Mutex<EffectChanges>,
    /// Notified by the first change after a [`Self::take`], so that the writer wakes once for all of them.
    filled: Notify,
}

/// Everything that the status of an object may depend on and that changed since the last [`EffectInbox::take`].
#[derive(Debug, Default)]
pub(crate) struct EffectChanges {
    /// Resources that are new or have changed, in their newest version, and removed ones (`None`).
    pub(super) resources: BTreeMap<ResourceKey, Option<Arc<Resource>>>,
    /// New and changed views by name, in their newest version, and removed ones (`None`).
    pub(super) views: BTreeMap<Arc<str>, Option<Arc<ProxyView>>>,
    pub(super) answers: AnsweringProxies,
}

/// Proxies that ACKed or NACKed resources.
#[derive(Debug, Default)]
pub(super) struct AnsweringProxies {
    pub(super) proxies: BTreeMap<ProxyId, AnsweredResources>,
    /// Whether proxies were dropped, so that any proxy may have answered any resource.
    pub(super) is_incomplete: bool,
}

/// The resources that a proxy answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AnsweredResources {
    These(Vec<Arc<Resource>>),
    Any,
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
        self.record(|changes| {
            changes.resources.extend(upserts.chain(removals));
            changes.views.extend(views);
        });
    }

    /// Records that a proxy answered a resource.
    pub fn answered(&self, delivery: &Delivery) {
        self.record(|changes| changes.answers.add(delivery.proxy, &delivery.resource));
    }

    fn record(&self, record: impl FnOnce(&mut EffectChanges)) {
        let mut changes = self.changes.lock();
        let was_empty = changes.is_empty();
        record(&mut changes);
        let is_first = was_empty && !changes.is_empty();
        drop(changes);
        if is_first {
            self.filled.notify_one();
        }
    }

    /// Waits until something was recorded since the last wait. What was recorded may have been taken meanwhile.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Takes everything that was recorded so far.
    pub(super) fn take(&self) -> EffectChanges {
        mem::take(&mut *self.changes.lock())
    }
}

impl EffectChanges {
    fn is_empty(&self) -> bool {
        let AnsweringProxies {
            proxies,
            is_incomplete,
        } = &self.answers;
        self.resources.is_empty() && self.views.is_empty() && proxies.is_empty() && !is_incomplete
    }
}

impl AnsweringProxies {
    fn add(&mut self, proxy: ProxyId, resource: &Arc<Resource>) {
        if self.is_incomplete {
            return;
        }
        let none = || AnsweredResources::These(Vec::new());
        let answered = self.proxies.entry(proxy).or_insert_with(none);
        answered.add(resource);
        if self.proxies.len() > PROXY_LIMIT {
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

impl AnsweredResources {
    fn add(&mut self, resource: &Arc<Resource>) {
        let Self::These(resources) = self else { return };
        if resources.iter().any(|it| Arc::ptr_eq(it, resource)) {
            return;
        }
        if resources.len() < ANSWER_LIMIT {
            resources.push(Arc::clone(resource));
        } else {
            *self = Self::Any;
        }
    }
}

#[cfg(test)]
mod tests {
    use evermesh_proto::ResourceType;
    use evermesh_xds::DeliveryOutcome;
    use futures::FutureExt as _;

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
        // Each version is a resource of its own, so the inbox has lost count.
        let answers = [(ProxyId(1), AnsweredResources::Any)];
        assert_eq!(changes.answers.proxies, answers.into());
        assert_eq!((changes.resources.len(), changes.views.len()), (1, 1));
        let newest = changes.resources[&key].as_ref().unwrap();
        assert_eq!(newest.body[..], [99]);
        inbox.committed(Vec::new(), vec![key.clone()], Vec::new());
        assert!(inbox.take().resources[&key].is_none());
        assert!(inbox.take().resources.is_empty());
    }

    #[test]
    fn repeated_answer_is_kept_once_and_many_answers_of_a_proxy_become_any() {
        let inbox = EffectInbox::default();
        let first = resource(0);
        inbox.answered(&answer(1, &first));
        inbox.answered(&answer(1, &first));
        let others = (1..).take(ANSWER_LIMIT - 1).map(resource);
        let resources: Vec<_> = [first].into_iter().chain(others).collect();
        for resource in &resources[1..] {
            inbox.answered(&answer(1, resource));
        }
        let these = AnsweredResources::These(resources);
        assert_eq!(inbox.changes.lock().answers.proxies[&ProxyId(1)], these);
        inbox.answered(&answer(1, &resource(255)));
        let answers = inbox.take().answers;
        assert_eq!(answers.proxies[&ProxyId(1)], AnsweredResources::Any);
    }

    #[test]
    fn answers_of_too_many_proxies_are_dropped_until_the_inbox_is_taken() {
        let inbox = EffectInbox::default();
        let resource = resource(0);
        for proxy in (0..).take(PROXY_LIMIT) {
            inbox.answered(&answer(proxy, &resource));
        }
        assert!(!inbox.changes.lock().answers.is_incomplete);
        for proxy in (0..).take(2 * PROXY_LIMIT) {
            inbox.answered(&answer(proxy, &resource));
        }
        let answers = inbox.take().answers;
        assert!(answers.is_incomplete);
        assert!(answers.proxies.is_empty());
        inbox.answered(&answer(1, &resource));
        assert!(!inbox.take().answers.is_incomplete);
    }

    #[test]
    fn only_the_first_change_after_a_look_wakes_the_writer() {
        let inbox = EffectInbox::default();
        let is_woken = || inbox.filled().now_or_never().is_some();
        assert!(!is_woken());
        for _ in 0..2 {
            inbox.answered(&answer(1, &resource(0)));
            assert!(is_woken());
            inbox.answered(&answer(2, &resource(0)));
            inbox.committed(Vec::new(), Vec::new(), Vec::new());
            assert!(!is_woken());
            inbox.take();
        }
    }
}
