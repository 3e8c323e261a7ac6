//! The resources and objects of one view: what its proxies are asked about, and which objects an answer concerns.

use std::{collections::HashMap, ops::Range, sync::Arc};

use evermesh_proto::{ProxyView, ResourceKey, ResourceType};

use crate::effect::index::{ResourceIndex, ServedResource};

/// The resources that a view lists, in the order of the view, and the objects from which they were derived.
#[derive(Debug)]
pub(super) struct ViewPlan {
    view: Arc<ProxyView>,
    resources: Vec<PlannedResource>,
    objects: Vec<Arc<str>>,
}

#[derive(Debug)]
pub(super) struct PlannedResource {
    /// The version in the store, if there is one.
    pub(super) served: Option<ServedResource>,
    /// Positions of the origins in [`ViewPlan::objects`].
    pub(super) objects: Box<[usize]>,
}

impl ViewPlan {
    pub(super) fn new<'i>(view: Arc<ProxyView>, index: &'i ResourceIndex) -> Self {
        let mut objects: Vec<Arc<str>> = Vec::new();
        let mut positions: HashMap<&str, usize> = HashMap::with_capacity(view.keys().len());
        let mut position = |origin: &'i Arc<str>| {
            let new = || {
                objects.push(Arc::clone(origin));
                objects.len() - 1
            };
            *positions.entry(origin).or_insert_with(new)
        };
        let resources = view.keys().iter().map(|key| {
            let served = index.get(key);
            let origins = served.into_iter().flat_map(|it| it.resource.origins.iter());
            PlannedResource {
                objects: origins.map(&mut position).collect(),
                served: served.cloned(),
            }
        });
        Self {
            resources: resources.collect(),
            objects,
            view,
        }
    }

    /// Number of keys of the view.
    pub(super) fn len(&self) -> usize {
        self.resources.len()
    }

    /// The names of the objects, as in [`Resource::origins`](evermesh_proto::Resource::origins).
    pub(super) fn objects(&self) -> &[Arc<str>] {
        &self.objects
    }

    pub(super) fn key(&self, position: usize) -> &ResourceKey {
        &self.view.keys()[position]
    }

    pub(super) fn resource(&self, position: usize) -> &PlannedResource {
        &self.resources[position]
    }

    /// The positions of the resources of one type.
    pub(super) fn of_type(&self, kind: ResourceType) -> Range<usize> {
        let keys = self.view.keys();
        let start = keys.partition_point(|key| key.kind < kind);
        start..start + self.view.of_type(kind).len()
    }

    /// The position of the resource that has this type and name for the view.
    pub(super) fn position(&self, kind: ResourceType, name: &str) -> Option<usize> {
        let keys = self.view.keys();
        let found = keys.binary_search_by(|key| (key.kind, key.name.as_ref()).cmp(&(kind, name)));
        found.ok()
    }

    /// Takes the newest version of a resource, if it was derived from the same objects as the last one. Returns its
    /// position.
    pub(super) fn update(
        &mut self,
        key: &ResourceKey,
        newest: Option<&ServedResource>,
    ) -> Result<usize, OutdatedPlan> {
        let position = self.position(key.kind, &key.name).ok_or(OutdatedPlan)?;
        if self.key(position) != key {
            return Err(OutdatedPlan);
        }
        let planned = &mut self.resources[position];
        let last = planned.served.as_ref().map(|it| &it.resource.origins);
        if last != newest.map(|it| &it.resource.origins) {
            return Err(OutdatedPlan);
        }
        planned.served = newest.cloned();
        Ok(position)
    }
}

/// The plan does not fit to the view or to the origins of a resource any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutdatedPlan;
