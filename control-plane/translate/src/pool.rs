//! All resources, kept from turn to turn: only the parts whose pointers changed are looked at.
//!
//! Must not compute a resource.

use std::{collections::BTreeMap, iter::Peekable, sync::Arc};

use evermesh_proto::{Key, Resource};

use crate::scope::Part;

/// Every resource by key.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    resources: BTreeMap<Key, Arc<Resource>>,
}

impl Pool {
    /// Takes over what a stage made. `last` is what it made in the last turn; its parts and those of `now` come in
    /// ascending order of their owners. A key must have one owner.
    pub(crate) fn replace<'a, K: Ord + 'a>(
        &mut self,
        last: impl IntoIterator<Item = (&'a K, &'a Part)>,
        now: impl IntoIterator<Item = (&'a K, &'a Part)>,
    ) {
        let mut last = last.into_iter().peekable();
        for (owner, part) in now {
            while let Some((_, gone)) = last.next_if(|(passed, _)| *passed < owner) {
                self.remove(gone);
            }
            let before = advance(&mut last, owner);
            if before.is_some_and(|before| std::ptr::eq(before, part)) {
                continue;
            }
            for (key, _) in before.into_iter().flatten() {
                if !part.iter().any(|(kept, _)| kept == key) {
                    self.resources.remove(key);
                }
            }
            for (key, resource) in part {
                self.insert(key, resource);
            }
        }
        for (_, gone) in last {
            self.remove(gone);
        }
    }

    /// A copy of everything.
    pub(crate) fn all(&self) -> BTreeMap<Key, Arc<Resource>> {
        self.resources.clone()
    }

    /// An equal resource keeps its pointer, whatever else in its part changed.
    fn insert(&mut self, key: &Key, resource: &Arc<Resource>) {
        if self.resources.get(key).is_none_or(|held| held != resource) {
            self.resources.insert(key.clone(), Arc::clone(resource));
        }
    }

    fn remove(&mut self, part: &Part) {
        for (key, _) in part {
            self.resources.remove(key);
        }
    }
}

/// The part of `owner`, if it is next.
fn advance<'a, K: Ord + 'a>(
    walk: &mut Peekable<impl Iterator<Item = (&'a K, &'a Part)>>,
    owner: &K,
) -> Option<&'a Part> {
    walk.next_if(|(found, _)| *found == owner)
        .map(|(_, part)| part)
}
