//! One stage of the translation: a pure function of a key and what it reads, run again only for keys that read
//! something that changed.
//!
//! Whatever the function looks up goes through [`TrackedReads`], which keeps a list: so a reader cannot be forgotten, and
//! nothing else has to say what depends on what. Walking all keys and comparing their inputs by pointer, as
//! ingest does, took most of a turn with thousands of nodes.
//!
//! Must not know what is derived.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evermesh_model::{ResourceName, ServiceName};

/// Something that can be read: an object of the graph, or what an earlier stage made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dependency {
    Mesh(Arc<str>),
    Node(ResourceName),
    Endpoints(ResourceName),
    Service(ServiceName),
    Router(ResourceName),
    Gateway(ResourceName),
    /// Whether some gateway leads to a service.
    Targeted(ServiceName),
    ReachableClusters(ServiceName),
    NodeServiceRoutes(ServiceName),
    GatewayServiceRoutes(ServiceName),
    NodeIngress(ResourceName),
    NodeEgress(ResourceName),
}

/// What one run of a stage's function has read.
#[derive(Debug, Default)]
pub(crate) struct TrackedReads(Vec<Dependency>);

impl TrackedReads {
    /// Looks up a value; that it is not there is worth as much as what it is.
    pub(crate) fn get<K: Ord + Clone, T>(
        &mut self,
        map: &BTreeMap<K, Arc<T>>,
        key: &K,
        read: fn(K) -> Dependency,
    ) -> Option<Arc<T>> {
        self.0.push(read(key.clone()));
        map.get(key).cloned()
    }
}

/// An output that is not what it was.
#[derive(Debug)]
pub(crate) struct OutputChange<K, T> {
    pub(crate) key: K,
    pub(crate) before: Option<Arc<T>>,
    pub(crate) after: Option<Arc<T>>,
}

/// What a stage has made, by key, and who reads what.
#[derive(Debug)]
pub(crate) struct DerivationStage<K, T> {
    outputs: BTreeMap<K, Arc<T>>,
    reads: BTreeMap<K, Vec<Dependency>>,
    readers: BTreeMap<Dependency, BTreeSet<K>>,
}

impl<K, T> Default for DerivationStage<K, T> {
    fn default() -> Self {
        Self {
            outputs: BTreeMap::new(),
            reads: BTreeMap::new(),
            readers: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone, T: PartialEq> DerivationStage<K, T> {
    /// What it has made.
    pub(crate) const fn outputs(&self) -> &BTreeMap<K, Arc<T>> {
        &self.outputs
    }

    /// Derives the output of every key that `key_of` a changed object gives, and of every key that read something in
    /// `changed`. `derive` answers `None` when the key is gone. An output that comes out equal to the last keeps
    /// its pointer and is no change.
    pub(crate) fn update(
        &mut self,
        changed: &BTreeSet<Dependency>,
        key_of: impl Fn(&Dependency) -> Option<&K>,
        derive: impl Fn(&K, &mut TrackedReads) -> Option<T>,
    ) -> Vec<OutputChange<K, T>> {
        let mut affected: BTreeSet<K> = changed.iter().filter_map(&key_of).cloned().collect();
        for read in changed {
            affected.extend(self.readers.get(read).into_iter().flatten().cloned());
        }
        affected
            .into_iter()
            .filter_map(|key| {
                let mut reads = TrackedReads::default();
                let fresh = derive(&key, &mut reads);
                // Its own object calls for it anyway; so nothing stays of a key whose object is gone.
                reads.0.retain(|read| key_of(read) != Some(&key));
                self.set_dependencies(&key, reads.0);
                self.store(key, fresh)
            })
            .collect()
    }

    /// Makes `key` a reader of `reads` and of nothing else.
    fn set_dependencies(&mut self, key: &K, reads: Vec<Dependency>) {
        let before = if reads.is_empty() {
            self.reads.remove(key)
        } else {
            self.reads.insert(key.clone(), reads.clone())
        };
        if before.as_ref() == Some(&reads) {
            return;
        }
        for read in before.into_iter().flatten() {
            if let Some(keys) = self.readers.get_mut(&read) {
                keys.remove(key);
                if keys.is_empty() {
                    self.readers.remove(&read);
                }
            }
        }
        for read in reads {
            self.readers.entry(read).or_default().insert(key.clone());
        }
    }

    fn store(&mut self, key: K, fresh: Option<T>) -> Option<OutputChange<K, T>> {
        let before = self.outputs.get(&key).cloned();
        if before.as_deref() == fresh.as_ref() {
            return None;
        }
        let after = fresh.map(Arc::new);
        match &after {
            Some(output) => self.outputs.insert(key.clone(), Arc::clone(output)),
            None => self.outputs.remove(&key),
        };
        Some(OutputChange { key, before, after })
    }
}
