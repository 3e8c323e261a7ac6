//! A stage of the derivation: a pure function of a key, run again only for keys that read something that changed.
//!
//! The function looks up its inputs through [`TrackedReads`], which records them as [`Dependency`]s. So the stage knows
//! which keys a changed input affects, and no other code has to state dependencies. An output that equals the previous
//! one keeps its pointer and is not a change, so later stages do not run for it.
//!
//! Walking all keys and comparing their inputs by pointer, as ingest does, took most of an update with thousands of
//! nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evermesh_model::{ResourceName, SecretName, ServiceName};

use crate::tls::RenamedBackend;

/// An input of a stage: an object of the graph, or the output of an earlier stage.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dependency {
    Mesh(Arc<str>),
    Node(ResourceName),
    Endpoints(ResourceName),
    Service(ServiceName),
    Router(ResourceName),
    Gateway(ResourceName),
    /// Whether a route of some gateway targets the service.
    GatewayTarget(ServiceName),
    Reachable(ServiceName),
    /// The clusters of a [`Self::Reachable`]. In contrast to the rest, they do not change with weights.
    Targets(ServiceName),
    /// The own clusters of a node or gateway.
    CallerClusters(ResourceName),
    /// Whether the backend is one.
    RenamedBackend(RenamedBackend),
    CallerRoutes(RenamedBackend),
    NodeRoutes(ServiceName),
    GatewayRoutes(ServiceName),
    Ingress(ResourceName),
    Egress(ResourceName),
    Secret(SecretName),
    /// Whether a view lists the secret of this name.
    StoredSecret(Arc<str>),
}

/// Looks up the inputs of one run of a stage's function and records them.
#[derive(Debug, Default)]
pub(crate) struct TrackedReads(Vec<Dependency>);

impl TrackedReads {
    /// Looks up a value. An absent value is recorded too, because the output depends on its absence.
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

/// An output that is new, changed or removed.
#[derive(Debug)]
pub(crate) struct OutputChange<K, T> {
    pub(crate) key: K,
    pub(crate) before: Option<Arc<T>>,
    pub(crate) after: Option<Arc<T>>,
}

/// The outputs of a stage by key, and the dependencies in both directions.
#[derive(Debug)]
pub(crate) struct DerivationStage<K, T> {
    outputs: BTreeMap<K, Arc<T>>,
    reads: BTreeMap<K, Vec<Dependency>>,
    readers: BTreeMap<Dependency, BTreeSet<K>>,
    /// The number of times that the function of the stage ran.
    #[cfg(test)]
    pub(crate) runs: usize,
}

impl<K, T> Default for DerivationStage<K, T> {
    fn default() -> Self {
        Self {
            outputs: BTreeMap::new(),
            reads: BTreeMap::new(),
            readers: BTreeMap::new(),
            #[cfg(test)]
            runs: 0,
        }
    }
}

impl<K: Ord + Clone, T: PartialEq> DerivationStage<K, T> {
    pub(crate) const fn outputs(&self) -> &BTreeMap<K, Arc<T>> {
        &self.outputs
    }

    /// Runs `derive` for each affected key and returns the outputs that changed.
    ///
    /// A key is affected if `key_of` returns it for something in `changed`, or if its last run read something in
    /// `changed`. `derive` returns `None` for a key that does not exist any more.
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
        #[cfg(test)]
        {
            self.runs += affected.len();
        }
        affected
            .into_iter()
            .filter_map(|key| {
                let mut reads = TrackedReads::default();
                let fresh = derive(&key, &mut reads);
                // Reads of the key's own object are not recorded, because `key_of` covers them. So nothing remains
                // recorded for a key whose object was removed.
                reads.0.retain(|read| key_of(read) != Some(&key));
                self.set_dependencies(&key, reads.0);
                self.store(key, fresh)
            })
            .collect()
    }

    /// Replaces the recorded dependencies of `key`.
    fn set_dependencies(&mut self, key: &K, reads: Vec<Dependency>) {
        if self.reads.get(key).map_or(&[][..], Vec::as_slice) == reads {
            return;
        }
        let before = if reads.is_empty() {
            self.reads.remove(key)
        } else {
            self.reads.insert(key.clone(), reads.clone())
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    type MeshStage = DerivationStage<Arc<str>, Vec<Arc<str>>>;

    fn mesh_of(read: &Dependency) -> Option<&Arc<str>> {
        match read {
            Dependency::Mesh(name) => Some(name),
            _ => None,
        }
    }

    /// Runs the stage for the mesh `m`, which reads itself and these secrets, or does not exist.
    fn update(stage: &mut MeshStage, secrets: Option<&[&str]>) -> usize {
        let changed = BTreeSet::from([Dependency::Mesh("m".into())]);
        let outputs = stage.update(&changed, mesh_of, |name, reads| {
            reads.get(&BTreeMap::<_, Arc<()>>::new(), name, Dependency::Mesh);
            let secrets: Vec<Arc<str>> = secrets?.iter().map(|&name| name.into()).collect();
            for name in &secrets {
                reads.get(
                    &BTreeMap::<_, Arc<()>>::new(),
                    name,
                    Dependency::StoredSecret,
                );
            }
            Some(secrets)
        });
        outputs.len()
    }

    #[test]
    fn dependencies_are_those_of_the_last_run() {
        let mut stage = MeshStage::default();
        update(&mut stage, Some(&["a", "b"]));
        update(&mut stage, Some(&["b", "c"]));
        let read: Vec<_> = stage.readers.keys().cloned().collect();
        assert_eq!(
            read,
            ["b", "c"].map(|name| Dependency::StoredSecret(name.into()))
        );
        update(&mut stage, None);
        assert!(stage.outputs.is_empty());
        assert!(stage.reads.is_empty(), "{:?}", stage.reads);
        assert!(stage.readers.is_empty(), "{:?}", stage.readers);
    }

    #[test]
    fn equal_output_is_not_a_change() {
        let mut stage = MeshStage::default();
        assert_eq!(update(&mut stage, Some(&["a"])), 1);
        let before = Arc::clone(&stage.outputs["m"]);
        assert_eq!(update(&mut stage, Some(&["a"])), 0);
        assert!(Arc::ptr_eq(&before, &stage.outputs["m"]));
        assert_eq!(update(&mut stage, Some(&["b"])), 1);
    }
}
