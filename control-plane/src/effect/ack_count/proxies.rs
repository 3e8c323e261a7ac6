//! The connected proxies by view, with their answers to everything that the view lists.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    sync::Arc,
    time::SystemTime,
};

use evermesh_proto::{ProxyView, ResourceKey, ResourceType};
use evermesh_xds::{ClientAnswer, ConnectedProxy, ProxyId};

use super::{
    object_answer::{ObjectAnswer, OpenAnswer},
    plan::ViewPlan,
};
use crate::effect::index::ResourceIndex;

/// A proxy that a sweep or an answer has shown.
#[derive(Debug)]
pub(super) struct KnownProxy {
    pub(super) node_id: Arc<str>,
    pub(super) view: Arc<str>,
    pub(super) since: SystemTime,
    pub(super) is_starting: bool,
    /// Whether the proxy gets private keys.
    pub(super) is_trusted: bool,
    /// Whether the proxy lacked an answer when it was starting.
    pub(super) is_awaited: bool,
    pub(super) answers: KnownAnswers,
}

/// The answers of a proxy when they were read last. Positions are those of the plan of its view.
#[derive(Debug, Default)]
pub(super) struct KnownAnswers {
    /// Whether each resource concerns the proxy.
    is_concerned: Vec<bool>,
    /// Number of resources of each object that concern the proxy.
    pub(super) concerning: Vec<u32>,
    /// The answers other than an ACK of all parts of the newest version, by the position of the resource.
    open: BTreeMap<usize, OpenAnswer>,
    /// Names of the private keys that the proxy does not get.
    pub(super) withheld: Vec<Arc<str>>,
}

impl KnownAnswers {
    /// The answers of a proxy that was not asked yet.
    pub(super) fn unread(plan: Option<&ViewPlan>) -> Self {
        Self {
            is_concerned: vec![false; plan.map_or(0, ViewPlan::len)],
            concerning: vec![0; plan.map_or(0, |plan| plan.objects().len())],
            ..Self::default()
        }
    }

    /// These resources and those whose concern depends on them: a proxy may subscribe to routes that a listener names,
    /// and to endpoints of a cluster. Without those that the proxy has ACKed.
    pub(super) fn with_dependent(
        &self,
        mut positions: BTreeSet<usize>,
        plan: &ViewPlan,
    ) -> Vec<usize> {
        for (naming, named) in [
            (ResourceType::Cluster, ResourceType::Endpoint),
            (ResourceType::Listener, ResourceType::Route),
        ] {
            if positions.iter().any(|it| plan.key(*it).kind == naming) {
                let is_acked = |it: &usize| self.is_concerned[*it] && !self.open.contains_key(it);
                positions.extend(plan.of_type(named).filter(|it| !is_acked(it)));
            }
        }
        positions.into_iter().collect()
    }

    /// Records whether a resource concerns the proxy. Returns the objects that the proxy began or ceased to use.
    pub(super) fn set_concerned<'p>(
        &mut self,
        position: usize,
        is_concerned: bool,
        plan: &'p ViewPlan,
    ) -> Vec<(&'p Arc<str>, bool)> {
        let mut changed = Vec::new();
        if mem::replace(&mut self.is_concerned[position], is_concerned) == is_concerned {
            return changed;
        }
        for object in &plan.resource(position).objects {
            let concerning = &mut self.concerning[*object];
            let did_use = *concerning > 0;
            *concerning = if is_concerned {
                *concerning + 1
            } else {
                *concerning - 1
            };
            let uses = *concerning > 0;
            if uses != did_use {
                changed.push((&plan.objects()[*object], uses));
            }
        }
        changed
    }

    /// Records the answer to a resource. Returns whether it is open, or was.
    pub(super) fn set_open(
        &mut self,
        position: usize,
        answer: Option<ClientAnswer>,
        plan: &ViewPlan,
    ) -> bool {
        let served = plan.resource(position).served.as_ref();
        let open = answer.zip(served).and_then(|(answer, served)| {
            OpenAnswer::new(answer, plan.key(position), served, &self.withheld)
        });
        match open {
            Some(open) => {
                self.open.insert(position, open);
                true
            }
            None => self.open.remove(&position).is_some(),
        }
    }
}

impl KnownProxy {
    /// The answers for these objects that are not an ACK of everything, by the position of the object.
    pub(super) fn exceptions(
        &self,
        objects: &BTreeSet<usize>,
        plan: &ViewPlan,
        is_starting: bool,
    ) -> BTreeMap<usize, ObjectAnswer> {
        let mut answers: BTreeMap<usize, ObjectAnswer> = BTreeMap::new();
        for (position, open) in &self.answers.open {
            let key = plan.key(*position);
            for object in &plan.resource(*position).objects {
                if !objects.contains(object) {
                    continue;
                }
                let acked = || ObjectAnswer::acked(&self.node_id);
                let answer = answers.entry(*object).or_insert_with(acked);
                let (origin, withheld) = (&plan.objects()[*object], &self.answers.withheld);
                answer.add(open, key, origin, withheld, is_starting);
            }
        }
        answers.retain(|_, answer| !answer.is_acked());
        answers
    }
}

/// Known proxies by view, views by the resources that they list, and the plans of views with proxies.
#[derive(Debug, Default)]
pub(super) struct ProxyIndex {
    known: BTreeMap<ProxyId, KnownProxy>,
    by_view: HashMap<Arc<str>, ProxiesOfView>,
    /// Every view of the store.
    views: HashMap<Arc<str>, Arc<ProxyView>>,
    /// The names of the views that list a resource without scope. Only one view lists a scoped resource.
    listing: HashMap<ResourceKey, BTreeSet<Arc<str>>>,
}

/// The proxies of a view, at least one.
#[derive(Debug, Default)]
struct ProxiesOfView {
    ids: BTreeSet<ProxyId>,
    /// Absent while the store does not have the view.
    plan: Option<ViewPlan>,
}

impl ProxyIndex {
    pub(super) fn get(&self, id: ProxyId) -> Option<&KnownProxy> {
        self.known.get(&id)
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = (ProxyId, &mut KnownProxy)> {
        self.known.iter_mut().map(|(id, proxy)| (*id, proxy))
    }

    /// A proxy and the plan of its view.
    pub(super) fn with_plan(&mut self, id: ProxyId) -> Option<(&mut KnownProxy, &ViewPlan)> {
        let proxy = self.known.get_mut(&id)?;
        let plan = self.by_view.get(&proxy.view)?.plan.as_ref()?;
        Some((proxy, plan))
    }

    pub(super) fn insert(
        &mut self,
        proxy: ConnectedProxy,
        is_starting: bool,
        index: &ResourceIndex,
    ) {
        let ConnectedProxy {
            id,
            node_id,
            view,
            since,
            is_trusted,
        } = proxy;
        let of_view = self.by_view.entry(Arc::clone(&view)).or_default();
        of_view.ids.insert(id);
        if of_view.plan.is_none() {
            let view = self.views.get(&view).cloned();
            of_view.plan = view.map(|view| ViewPlan::new(view, index));
        }
        let proxy = KnownProxy {
            node_id,
            view,
            since,
            is_starting,
            is_trusted,
            is_awaited: false,
            answers: KnownAnswers::unread(of_view.plan.as_ref()),
        };
        self.known.insert(id, proxy);
    }

    pub(super) fn remove(&mut self, id: ProxyId) {
        let Some(proxy) = self.known.remove(&id) else {
            return;
        };
        if let Some(of_view) = self.by_view.get_mut(&proxy.view) {
            of_view.ids.remove(&id);
            if of_view.ids.is_empty() {
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

    pub(super) fn with_view(&self, name: &str) -> BTreeSet<ProxyId> {
        let of_view = self.by_view.get(name);
        of_view.map_or_else(BTreeSet::new, |it| it.ids.clone())
    }

    /// Takes the newest version of a resource into the plans of the views that list it. Calls `on_update` with the
    /// position of the resource and the proxies of each view, and returns the views whose plans are outdated.
    pub(super) fn update_plans(
        &mut self,
        key: &ResourceKey,
        index: &ResourceIndex,
        mut on_update: impl FnMut(usize, &BTreeSet<ProxyId>),
    ) -> Vec<Arc<str>> {
        let newest = index.get(key);
        let listing = self.listing.get(key).into_iter().flatten();
        let mut outdated = Vec::new();
        for name in key.scope.iter().chain(listing) {
            let Some(ProxiesOfView {
                ids,
                plan: Some(plan),
            }) = self.by_view.get_mut(name)
            else {
                continue;
            };
            match plan.update(key, newest) {
                Ok(position) => on_update(position, ids),
                Err(_) => outdated.push(Arc::clone(name)),
            }
        }
        outdated
    }

    /// Makes the plan of a view anew. The answers of its proxies become unread.
    pub(super) fn renew_plan(&mut self, name: &str, index: &ResourceIndex) {
        let Some(of_view) = self.by_view.get_mut(name) else {
            return;
        };
        let view = self.views.get(name).cloned();
        of_view.plan = view.map(|view| ViewPlan::new(view, index));
        for id in &of_view.ids {
            if let Some(proxy) = self.known.get_mut(id) {
                proxy.answers = KnownAnswers::unread(of_view.plan.as_ref());
            }
        }
    }

    pub(super) fn set_view(&mut self, name: &Arc<str>, view: Option<Arc<ProxyView>>) {
        let shared = |view: &ProxyView| -> Vec<ResourceKey> {
            let keys = view.keys().iter();
            let is_own = |key: &ResourceKey| key.scope.as_ref() == Some(name);
            keys.filter(|key| !is_own(key)).cloned().collect()
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
