//! The resources and views that are served, and the streams that watch them.
//!
//! [`Store::commit`] is the only way in. A dispatcher then marks the changed IDs in the signals of the streams that
//! watch them, and the streams read the newest resources. One mutex protects the state; resource bodies are
//! reference-counted and never copied under it. The store does not know the xDS protocol.
//!
//! ```text
//! commit ──▶ slots, views ──▶ inbox ──dispatch──▶ Signal of each watching stream
//!                 ▲                                          │ wakes
//!                 └────────────── StoreReader ◀── Connection ┘
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    sync::Arc,
    task::Waker,
};

use evermesh_proto::resource::{ProxyView, Resource, ResourceKey, ResourceType};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::{metrics::XdsMetrics, signal::Signal};

/// The resources and views of all clients, shared by the writer and all streams.
#[derive(Debug, Default)]
pub struct Store {
    state: Mutex<State>,
    changed: Notify,
    metrics: XdsMetrics,
}

/// One atomic change of the store: a stream sees all of it or nothing.
#[derive(Debug, Default)]
pub struct StoreCommit {
    /// New and changed resources with their keys.
    pub upserts: Vec<(ResourceKey, Arc<Resource>)>,
    /// Keys of removed resources.
    pub removals: Vec<ResourceKey>,
    /// New, changed and removed (`None`) views by name. Clients of a removed view keep their configuration and receive
    /// nothing until the view returns.
    pub views: Vec<(Arc<str>, Option<Arc<ProxyView>>)>,
}

/// Index of the slot of a key. Reused after the resource was removed and no stream watches the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ResourceId(u32);

/// Index of an open stream. Reused after the stream was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StreamId(u32);

#[derive(Debug, Default)]
struct State {
    ready: bool,
    ids: HashMap<ResourceKey, ResourceId>,
    slots: Vec<Slot>,
    free_slots: Vec<ResourceId>,
    views: BTreeMap<Arc<str>, ViewSlot>,
    streams: Vec<Option<Arc<Signal>>>,
    free_streams: Vec<StreamId>,
    /// Resources and views that were committed and not yet dispatched to streams.
    inbox: BTreeSet<ResourceId>,
    inbox_views: BTreeSet<Arc<str>>,
}

#[derive(Debug)]
struct Slot {
    key: ResourceKey,
    resource: Option<Arc<Resource>>,
    watchers: BTreeSet<StreamId>,
}

#[derive(Debug, Default)]
struct ViewSlot {
    view: Option<Arc<ProxyView>>,
    watchers: BTreeSet<StreamId>,
}

impl Store {
    /// Creates an empty store that is not ready.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Applies a change and wakes the dispatcher. The first commit, even an empty one, makes the store ready.
    pub fn commit(&self, commit: StoreCommit) {
        let StoreCommit {
            upserts,
            removals,
            views,
        } = commit;
        let mut state = self.state.lock();
        state.ready = true;
        for (key, resource) in upserts {
            state.upsert(&key, resource);
        }
        for key in removals {
            state.remove(&key);
        }
        for (name, view) in views {
            state.set_view(name, view);
        }
        let wake = !(state.inbox.is_empty() && state.inbox_views.is_empty());
        drop(state);
        self.metrics.commits.add(1);
        if wake {
            self.changed.notify_one();
        }
    }

    /// Whether anything was committed yet. Streams are not answered before.
    pub fn is_ready(&self) -> bool {
        self.state.lock().ready
    }

    /// Every resource with its key, ordered by key.
    pub fn resources(&self) -> Vec<(ResourceKey, Arc<Resource>)> {
        let state = self.state.lock();
        let mut all: Vec<_> = state
            .slots
            .iter()
            .filter_map(|slot| Some((slot.key.clone(), Arc::clone(slot.resource.as_ref()?))))
            .collect();
        drop(state);
        all.sort_by(|(left, _), (right, _)| left.cmp(right));
        all
    }

    /// Every view with its name, ordered by name.
    pub fn views(&self) -> Vec<(Arc<str>, Arc<ProxyView>)> {
        let state = self.state.lock();
        let views = state.views.iter();
        views
            .filter_map(|(name, slot)| Some((Arc::clone(name), slot.view.clone()?)))
            .collect()
    }

    /// The newest version of a resource.
    pub fn get(&self, key: &ResourceKey) -> Option<Arc<Resource>> {
        let state = self.state.lock();
        let id = state.ids.get(key)?;
        state.slot(*id).resource.clone()
    }

    /// The newest version of a view.
    pub fn view(&self, name: &str) -> Option<Arc<ProxyView>> {
        self.state.lock().views.get(name)?.view.clone()
    }

    /// The number of streams that watch each key, in the order of `keys`. As many clients will answer a change of it.
    pub fn watchers<'k>(&self, keys: impl IntoIterator<Item = &'k ResourceKey>) -> Vec<usize> {
        let state = self.state.lock();
        let ids = keys.into_iter().map(|key| state.ids.get(key));
        ids.map(|id| id.map_or(0, |id| state.slot(*id).watchers.len()))
            .collect()
    }

    /// Counters of the server that serves this store.
    pub fn metrics(&self) -> &XdsMetrics {
        &self.metrics
    }

    /// Dispatches commits to streams, for ever. [`serve`](crate::serve) runs it; a caller that mounts
    /// [`routes`](crate::routes) itself spawns it once, on the runtime of the streams.
    pub async fn dispatch(&self) {
        loop {
            self.changed.notified().await;
            self.flush();
        }
    }

    /// Dispatches everything that was committed so far.
    pub fn flush(&self) {
        let wakers = self.state.lock().dispatch();
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn open_stream(self: &Arc<Self>) -> StreamHandle {
        let signal = Arc::<Signal>::default();
        let id = self.state.lock().open_stream(Arc::clone(&signal));
        StreamHandle {
            store: Arc::clone(self),
            signal,
            id,
            is_trusted: false,
        }
    }

    /// Ends every open stream.
    pub fn close_streams(&self) {
        let signals: Vec<_> = self
            .state
            .lock()
            .streams
            .iter()
            .flatten()
            .cloned()
            .collect();
        let wakers = signals.iter().filter_map(|signal| signal.close());
        wakers.for_each(Waker::wake);
    }
}

impl State {
    fn slot(&self, id: ResourceId) -> &Slot {
        &self.slots[id.0 as usize]
    }

    fn slot_mut(&mut self, id: ResourceId) -> &mut Slot {
        &mut self.slots[id.0 as usize]
    }

    /// Finds the slot of a key or allocates one.
    fn intern(&mut self, key: &ResourceKey) -> ResourceId {
        if let Some(id) = self.ids.get(key) {
            return *id;
        }
        let slot = Slot {
            key: key.clone(),
            resource: None,
            watchers: BTreeSet::new(),
        };
        let id = if let Some(id) = self.free_slots.pop() {
            *self.slot_mut(id) = slot;
            id
        } else {
            self.slots.push(slot);
            ResourceId::new(self.slots.len() - 1)
        };
        self.ids.insert(key.clone(), id);
        id
    }

    /// Frees a slot that has neither a resource nor a watcher. The slot stays, for another key, but keeps no name: a client
    /// may have chosen it.
    fn release(&mut self, id: ResourceId) {
        let slot = &mut self.slots[id.0 as usize];
        if slot.resource.is_none()
            && slot.watchers.is_empty()
            && self.ids.remove(&slot.key).is_some()
        {
            slot.key.name = Arc::default();
            slot.key.scope = None;
            self.free_slots.push(id);
        }
    }

    fn upsert(&mut self, key: &ResourceKey, resource: Arc<Resource>) {
        let id = self.intern(key);
        let slot = self.slot_mut(id);
        let current = slot.resource.as_ref();
        if !current.is_some_and(|current| Arc::ptr_eq(current, &resource)) {
            slot.resource = Some(resource);
            self.inbox.insert(id);
        }
    }

    fn remove(&mut self, key: &ResourceKey) {
        let Some(&id) = self.ids.get(key) else { return };
        if self.slot_mut(id).resource.take().is_some() {
            self.inbox.insert(id);
            self.release(id);
        }
    }

    fn set_view(&mut self, name: Arc<str>, view: Option<Arc<ProxyView>>) {
        let slot = self.views.entry(Arc::clone(&name)).or_default();
        if slot.view == view {
            return;
        }
        slot.view = view;
        self.drop_view_if_unused(&name);
        self.inbox_views.insert(name);
    }

    fn drop_view_if_unused(&mut self, name: &str) {
        let unused = self
            .views
            .get(name)
            .is_some_and(|slot| slot.view.is_none() && slot.watchers.is_empty());
        if unused {
            self.views.remove(name);
        }
    }

    fn open_stream(&mut self, signal: Arc<Signal>) -> StreamId {
        if let Some(id) = self.free_streams.pop() {
            self.streams[id.0 as usize] = Some(signal);
            return id;
        }
        self.streams.push(Some(signal));
        StreamId::new(self.streams.len() - 1)
    }

    /// Marks the inbox in the signals of the watching streams. Returns the wakers of those that sleep.
    fn dispatch(&mut self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for id in mem::take(&mut self.inbox) {
            let slot = self.slot(id);
            for stream in &slot.watchers {
                if let Some(signal) = &self.streams[stream.0 as usize] {
                    wakers.extend(signal.mark_resource(slot.key.kind, id));
                }
            }
        }
        for name in mem::take(&mut self.inbox_views) {
            let Some(slot) = self.views.get(&name) else {
                continue;
            };
            for stream in &slot.watchers {
                if let Some(signal) = &self.streams[stream.0 as usize] {
                    wakers.extend(signal.mark_view());
                }
            }
        }
        wakers
    }
}

impl ResourceId {
    pub(crate) fn new(index: usize) -> Self {
        Self(u32::try_from(index).expect("the number of resources fits into 32 bits"))
    }
}

impl StreamId {
    fn new(index: usize) -> Self {
        Self(u32::try_from(index).expect("the number of streams fits into 32 bits"))
    }
}

/// An open stream's access to the store. Dropping it closes the stream; the owner must end all watches before.
#[derive(Debug)]
pub(crate) struct StreamHandle {
    store: Arc<Store>,
    signal: Arc<Signal>,
    id: StreamId,
    /// Whether the client gets confidential resources. For any other client they do not exist.
    is_trusted: bool,
}

impl StreamHandle {
    /// Gives the client access to confidential resources.
    pub(crate) fn trust(&mut self) {
        self.is_trusted = true;
    }

    /// The names of the confidential resources of a view that the client does not get.
    pub(crate) fn withheld(&self, view: &ProxyView) -> Vec<Arc<str>> {
        let secrets = view.of_type(ResourceType::Secret);
        if self.is_trusted || secrets.is_empty() {
            return Vec::new();
        }
        let state = self.store.state.lock();
        let is_confidential = |key: &&ResourceKey| {
            let resource = state.ids.get(*key).map(|id| &state.slot(*id).resource);
            resource.is_some_and(|it| it.as_ref().is_some_and(|it| it.confidential))
        };
        let withheld = secrets.iter().filter(is_confidential);
        withheld.map(|key| Arc::clone(&key.name)).collect()
    }

    pub(crate) fn signal(&self) -> &Arc<Signal> {
        &self.signal
    }

    pub(crate) fn metrics(&self) -> &XdsMetrics {
        &self.store.metrics
    }

    /// Locks the store for a consistent read.
    ///
    /// Dispatches the inbox first, so every commit that the reader can see is also marked in the stream's signal. A
    /// stream that takes its signal under the same lock never mixes two commits.
    pub(crate) fn read(&self) -> StoreReader<'_> {
        let mut state = self.store.state.lock();
        state.dispatch().into_iter().for_each(Waker::wake);
        StoreReader {
            state,
            stream: self.id,
            is_trusted: self.is_trusted,
        }
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        let mut state = self.store.state.lock();
        state.streams[self.id.0 as usize] = None;
        state.free_streams.push(self.id);
    }
}

/// The locked store, on behalf of one stream.
pub(crate) struct StoreReader<'a> {
    state: MutexGuard<'a, State>,
    stream: StreamId,
    is_trusted: bool,
}

impl StoreReader<'_> {
    /// Reads a view, and marks its changes in the stream's signal from now on.
    pub(crate) fn watch_view(&mut self, name: &Arc<str>) -> Option<Arc<ProxyView>> {
        let slot = self.state.views.entry(Arc::clone(name)).or_default();
        slot.watchers.insert(self.stream);
        slot.view.clone()
    }

    pub(crate) fn unwatch_view(&mut self, name: &str) {
        if let Some(slot) = self.state.views.get_mut(name) {
            slot.watchers.remove(&self.stream);
        }
        self.state.drop_view_if_unused(name);
    }

    /// Reads the resource of a key, if one exists, and marks its changes in the stream's signal from now on.
    pub(crate) fn watch(&mut self, key: &ResourceKey) -> (ResourceId, Option<Arc<Resource>>) {
        let id = self.state.intern(key);
        let stream = self.stream;
        self.state.slot_mut(id).watchers.insert(stream);
        (id, self.get(id).1.cloned())
    }

    pub(crate) fn unwatch(&mut self, id: ResourceId) {
        let stream = self.stream;
        self.state.slot_mut(id).watchers.remove(&stream);
        self.state.release(id);
    }

    pub(crate) fn get(&self, id: ResourceId) -> (&ResourceKey, Option<&Arc<Resource>>) {
        let slot = self.state.slot(id);
        let resource = slot.resource.as_ref();
        let is_visible = |it: &&Arc<Resource>| self.is_trusted || !it.confidential;
        (&slot.key, resource.filter(is_visible))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_stream_watches_any_more_are_not_kept() {
        let store = Store::new();
        let stream = store.open_stream();
        let (name, scope) = (Arc::<str>::from("name"), Arc::<str>::from("scope"));
        let key = ResourceKey {
            kind: ResourceType::Cluster,
            name: Arc::clone(&name),
            scope: Some(Arc::clone(&scope)),
        };
        let (id, _) = stream.read().watch(&key);
        drop(key);
        assert!(Arc::strong_count(&name) > 1);
        stream.read().unwatch(id);
        assert_eq!(Arc::strong_count(&name), 1);
        assert_eq!(Arc::strong_count(&scope), 1);

        let other = ResourceKey {
            kind: ResourceType::Route,
            name: "other".into(),
            scope: None,
        };
        let (reused, _) = stream.read().watch(&other);
        assert_eq!(reused, id);
        assert_eq!(stream.read().get(reused).0, &other);
        stream.read().unwatch(reused);
    }
}
