//! What is served: resources in slots by id, views by name, and who watches what.
//!
//! In: [`Store::commit`], the only writer. Out: marks in the signals of the streams concerned, and the
//! newest resources for whoever reads. One short lock; a body is never copied under it.
//! Must not know the protocol: a stream is an id with a signal.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    sync::Arc,
    task::Waker,
};

use evermesh_proto::resource::{ResourceKey, Resource, ProxyView};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::{metrics::XdsMetrics, signal::Signal};

/// Everything that is served to every client. XdsServerState by the one that commits and all streams.
#[derive(Debug, Default)]
pub struct Store {
    state: Mutex<State>,
    changed: Notify,
    metrics: XdsMetrics,
}

/// One change of what is served. Streams see all of it or nothing.
#[derive(Debug, Default)]
pub struct StoreCommit {
    /// Resources that are new or have a new content, each with the key it is found under.
    pub upserts: Vec<(ResourceKey, Arc<Resource>)>,
    /// Resources that are gone.
    pub removals: Vec<ResourceKey>,
    /// Views that are new, changed, or gone (`None`). The clients of a view that is gone keep what they
    /// have and wait for it to come back.
    pub views: Vec<(Arc<str>, Option<Arc<ProxyView>>)>,
}

/// The place of a key among all that are served or watched. Reused when nobody needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ResourceId(u32);

/// The place of a stream among all that are open. Reused when it is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StreamId(u32);

#[derive(Debug, Default)]
struct State {
    ready: bool,
    ids: HashMap<ResourceKey, ResourceId>,
    slots: Vec<Slot>,
    free_slots: Vec<ResourceId>,
    views: BTreeMap<Arc<str>, Followed>,
    streams: Vec<Option<Arc<Signal>>>,
    free_streams: Vec<StreamId>,
    /// What was committed and not yet passed on to the streams.
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
struct Followed {
    view: Option<Arc<ProxyView>>,
    followers: BTreeSet<StreamId>,
}

impl Store {
    /// An empty store, not ready.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Applies a change and tells the streams concerned. The first commit, even an empty one, makes the
    /// store ready.
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

    /// Whether there was a commit.
    pub fn is_ready(&self) -> bool {
        self.state.lock().ready
    }

    /// Every resource with its key, in the order of keys.
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

    /// Every view with its name, in the order of names.
    pub fn views(&self) -> Vec<(Arc<str>, Arc<ProxyView>)> {
        let state = self.state.lock();
        let views = state.views.iter();
        views
            .filter_map(|(name, followed)| Some((Arc::clone(name), followed.view.clone()?)))
            .collect()
    }

    /// The resource under this key.
    pub fn get(&self, key: &ResourceKey) -> Option<Arc<Resource>> {
        let state = self.state.lock();
        let id = state.ids.get(key)?;
        state.slot(*id).resource.clone()
    }

    /// The view of this name.
    pub fn view(&self, name: &str) -> Option<Arc<ProxyView>> {
        self.state.lock().views.get(name)?.view.clone()
    }

    /// How many streams watch each of these, in their order: as many ack_statuses will come when it changes.
    pub fn watchers<'k>(&self, keys: impl IntoIterator<Item = &'k ResourceKey>) -> Vec<usize> {
        let state = self.state.lock();
        let ids = keys.into_iter().map(|key| state.ids.get(key));
        ids.map(|id| id.map_or(0, |id| state.slot(*id).watchers.len()))
            .collect()
    }

    /// What the server did so far.
    pub fn metrics(&self) -> &XdsMetrics {
        &self.metrics
    }

    /// Passes commits on to streams, for ever: one task, in the runtime of the streams. The server's
    /// [`serve`](crate::serve) runs it; whoever mounts [`routes`](crate::routes) itself spawns it.
    pub async fn dispatch(&self) {
        loop {
            self.changed.notified().await;
            self.flush();
        }
    }

    /// Passes what was committed so far on to streams.
    pub fn flush(&self) {
        let wakers = self.state.lock().dispatch();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Registers a stream.
    pub(crate) fn open(self: &Arc<Self>) -> StreamHandle {
        let signal = Arc::<Signal>::default();
        let id = self.state.lock().open(Arc::clone(&signal));
        StreamHandle {
            store: Arc::clone(self),
            signal,
            id,
        }
    }

    /// Tells every open stream to end.
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

    /// The id of a key; a new one if there is none.
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

    /// Forgets a slot that is neither served nor watched.
    fn release(&mut self, id: ResourceId) {
        let slot = &self.slots[id.0 as usize];
        if slot.resource.is_none()
            && slot.watchers.is_empty()
            && self.ids.remove(&slot.key).is_some()
        {
            self.free_slots.push(id);
        }
    }

    fn upsert(&mut self, key: &ResourceKey, resource: Arc<Resource>) {
        let id = self.intern(key);
        let slot = self.slot_mut(id);
        let same = slot.resource.as_ref();
        if !same.is_some_and(|same| Arc::ptr_eq(same, &resource)) {
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
        let followed = self.views.entry(Arc::clone(&name)).or_default();
        if followed.view == view {
            return;
        }
        followed.view = view;
        self.drop_view_if_unused(&name);
        self.inbox_views.insert(name);
    }

    fn drop_view_if_unused(&mut self, name: &str) {
        let unused = self
            .views
            .get(name)
            .is_some_and(|followed| followed.view.is_none() && followed.followers.is_empty());
        if unused {
            self.views.remove(name);
        }
    }

    fn open(&mut self, signal: Arc<Signal>) -> StreamId {
        if let Some(id) = self.free_streams.pop() {
            self.streams[id.0 as usize] = Some(signal);
            return id;
        }
        self.streams.push(Some(signal));
        StreamId::new(self.streams.len() - 1)
    }

    /// Marks what was committed in the signals of the streams that watch it.
    fn dispatch(&mut self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for id in mem::take(&mut self.inbox) {
            for stream in &self.slot(id).watchers {
                if let Some(signal) = &self.streams[stream.0 as usize] {
                    wakers.extend(signal.mark_resource(id));
                }
            }
        }
        for name in mem::take(&mut self.inbox_views) {
            let Some(followed) = self.views.get(&name) else {
                continue;
            };
            for stream in &followed.followers {
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
        Self(u32::try_from(index).expect("resources are fewer than memory has room for"))
    }
}

impl StreamId {
    fn new(index: usize) -> Self {
        Self(u32::try_from(index).expect("streams are fewer than a machine has sockets"))
    }
}

/// An open stream's hold on the store. Dropping it closes the stream there; what it watches and follows
/// must be given back before.
#[derive(Debug)]
pub(crate) struct StreamHandle {
    store: Arc<Store>,
    signal: Arc<Signal>,
    id: StreamId,
}

impl StreamHandle {
    pub(crate) fn signal(&self) -> &Arc<Signal> {
        &self.signal
    }

    pub(crate) fn metrics(&self) -> &XdsMetrics {
        &self.store.metrics
    }

    /// Locks the store for reading a consistent state: every commit that can be read is also marked in
    /// this stream's signal, so a reader that takes the marks too never mixes two commits.
    pub(crate) fn read(&self) -> StoreReader<'_> {
        let mut state = self.store.state.lock();
        state.dispatch().into_iter().for_each(Waker::wake);
        StoreReader {
            state,
            stream: self.id,
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

/// The locked store as one stream sees it.
pub(crate) struct StoreReader<'a> {
    state: MutexGuard<'a, State>,
    stream: StreamId,
}

impl StoreReader<'_> {
    /// Follows a view: its changes are marked from now on. Returns what it is today.
    pub(crate) fn follow(&mut self, name: &Arc<str>) -> Option<Arc<ProxyView>> {
        let followed = self.state.views.entry(Arc::clone(name)).or_default();
        followed.followers.insert(self.stream);
        followed.view.clone()
    }

    /// Follows it no longer.
    pub(crate) fn unfollow(&mut self, name: &str) {
        if let Some(followed) = self.state.views.get_mut(name) {
            followed.followers.remove(&self.stream);
        }
        self.state.drop_view_if_unused(name);
    }

    /// Watches a key, whether there is a resource or not: its changes are marked from now on.
    pub(crate) fn watch(&mut self, key: &ResourceKey) -> (ResourceId, Option<Arc<Resource>>) {
        let id = self.state.intern(key);
        let stream = self.stream;
        let slot = self.state.slot_mut(id);
        slot.watchers.insert(stream);
        (id, slot.resource.clone())
    }

    /// Watches it no longer.
    pub(crate) fn unwatch(&mut self, id: ResourceId) {
        let stream = self.stream;
        self.state.slot_mut(id).watchers.remove(&stream);
        self.state.release(id);
    }

    /// A slot's key and resource.
    pub(crate) fn get(&self, id: ResourceId) -> (&ResourceKey, Option<&Arc<Resource>>) {
        let slot = self.state.slot(id);
        (&slot.key, slot.resource.as_ref())
    }
}
