//! The objects of one kind by their name in the mesh, of which each may have only one holder.
//!
//! To sort all objects takes longer than the rest of a rebuild for one changed object. So the memo sorts them only if an
//! object was added or removed, or has another name or age. Otherwise it replaces the versions of the changed objects.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_model::{ObjectRef, Problem, SharedMap, memo::apply_differences, problem::FieldPath};

use crate::{name_index::Name, seniority::Contender};

/// The objects of one kind by name. If two objects have the same name, the younger one is left out with a problem.
#[derive(Debug, PartialEq)]
pub(crate) struct UniqueByName<N: Ord, T> {
    pub(crate) values: SharedMap<N, T>,
    pub(crate) problems: Arc<[Problem]>,
}

/// A parsed object whose references were not looked up.
pub(crate) trait Unresolved: Contender {
    /// The type of the object's name.
    type Name: Name;
    fn name(&self) -> &Self::Name;
}

impl<N: Name, T: Unresolved<Name = N>> UniqueByName<N, T> {
    /// Indexes objects by name. Of two objects with the same name, the older one takes precedence.
    pub(crate) fn new(unresolved: &BTreeMap<ObjectRef, Arc<T>>) -> Self {
        let mut sorted: Vec<_> = unresolved
            .iter()
            .map(|(object, unresolved)| (unresolved.name().folded(), object, unresolved))
            .collect();
        sorted.sort_by(|(one, _, older), (other, _, younger)| {
            (one, older.seniority()).cmp(&(other, younger.seniority()))
        });
        let mut values: Vec<(N, Arc<T>)> = Vec::with_capacity(sorted.len());
        let mut problems = Vec::new();
        let mut last = None;
        for (folded, object, unresolved) in sorted {
            match &last {
                Some((taken, owner)) if *taken == folded => problems.push(Problem::new(
                    object,
                    FieldPath::spec().field("awsName"),
                    N::DUPLICATE,
                    format!(
                        "awsName `{}` is already used in mesh `{}` by `{owner}`, which takes precedence; choose another awsName",
                        unresolved.name().text(),
                        unresolved.name().mesh(),
                    ),
                )),
                _ => {
                    values.push((unresolved.name().clone(), Arc::clone(unresolved)));
                    last = Some((folded, object));
                }
            }
        }
        Self {
            values: Arc::new(values.into_iter().collect()),
            problems: problems.into(),
        }
    }
}

/// The objects of one kind as of the last rebuild, and their index.
#[derive(Debug)]
pub(crate) struct UniqueByNameMemo<T: Unresolved> {
    objects: SharedMap<ObjectRef, T>,
    index: Arc<UniqueByName<T::Name, T>>,
    /// Number of times that all objects were sorted.
    #[cfg(test)]
    sorts: usize,
}

impl<T: Unresolved> Default for UniqueByNameMemo<T> {
    fn default() -> Self {
        Self {
            objects: Arc::default(),
            index: Arc::new(UniqueByName {
                values: Arc::default(),
                problems: Arc::default(),
            }),
            #[cfg(test)]
            sorts: 0,
        }
    }
}

impl<T: Unresolved + PartialEq> UniqueByNameMemo<T> {
    /// The index of the objects. It keeps its pointer while it stays equal.
    pub(crate) fn update(
        &mut self,
        objects: &SharedMap<ObjectRef, T>,
    ) -> Arc<UniqueByName<T::Name, T>> {
        let last = std::mem::replace(&mut self.objects, Arc::clone(objects));
        if Arc::ptr_eq(&last, objects) {
            return Arc::clone(&self.index);
        }
        if let Some(replacements) = replacements(&last, objects) {
            self.replace(replacements);
        } else {
            #[cfg(test)]
            {
                self.sorts += 1;
            }
            let fresh = UniqueByName::new(objects);
            if *self.index != fresh {
                self.index = Arc::new(fresh);
            }
        }
        Arc::clone(&self.index)
    }

    fn replace(&mut self, replacements: Vec<(&Arc<T>, &Arc<T>)>) {
        let values = &self.index.values;
        let holds_name = |before: &Arc<T>| {
            let holder = values.get(before.name());
            holder.is_some_and(|holder| Arc::ptr_eq(holder, before))
        };
        let differences: Vec<_> = replacements
            .into_iter()
            .filter(|(before, _)| holds_name(before))
            .map(|(_, after)| (after.name().clone(), Some(Arc::clone(after))))
            .collect();
        if differences.is_empty() {
            return;
        }
        let mut values = Arc::clone(values);
        apply_differences(&mut values, differences);
        self.index = Arc::new(UniqueByName {
            values,
            problems: Arc::clone(&self.index.problems),
        });
    }
}

/// The old and the new version of each object that changed; `None` if the changes may decide otherwise who holds a name.
fn replacements<'a, T: Unresolved>(
    last: &'a BTreeMap<ObjectRef, Arc<T>>,
    now: &'a BTreeMap<ObjectRef, Arc<T>>,
) -> Option<Vec<(&'a Arc<T>, &'a Arc<T>)>> {
    if last.len() != now.len() {
        return None;
    }
    let both = last.values().zip(now.values());
    let changed = both.filter(|(before, after)| !Arc::ptr_eq(before, after));
    let changed = changed.map(|(before, after)| {
        let is_same = before.seniority() == after.seniority() && before.name() == after.name();
        is_same.then_some((before, after))
    });
    changed.collect()
}

#[cfg(test)]
mod tests {
    use evermesh_model::{Kind, ProxyKind, ResourceName};
    use k8s_openapi::{
        apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
        jiff::Timestamp,
    };

    use super::*;
    use crate::seniority::ObjectAge;

    /// An object with a name and a body.
    #[derive(Debug, PartialEq)]
    struct Named {
        object: ObjectRef,
        age: ObjectAge,
        name: ResourceName,
        body: u8,
    }

    impl Contender for Named {
        fn object(&self) -> &ObjectRef {
            &self.object
        }

        fn age(&self) -> &ObjectAge {
            &self.age
        }
    }

    impl Unresolved for Named {
        type Name = ResourceName;

        fn name(&self) -> &ResourceName {
            &self.name
        }
    }

    type Objects = SharedMap<ObjectRef, Named>;

    fn with(objects: &Objects, object: &str, uid: &str, name: &str, body: u8) -> Objects {
        let object = ObjectRef::new(Kind::VirtualNode, "n", object);
        let metadata = ObjectMeta {
            creation_timestamp: Some(Time(Timestamp::UNIX_EPOCH)),
            uid: Some(uid.to_owned()),
            ..ObjectMeta::default()
        };
        let named = Named {
            object: object.clone(),
            age: ObjectAge::of(&metadata),
            name: ResourceName::new("m", ProxyKind::VirtualNode, name),
            body,
        };
        let mut objects = Arc::clone(objects);
        Arc::make_mut(&mut objects).insert(object, Arc::new(named));
        objects
    }

    #[test]
    fn objects_are_sorted_only_if_names_or_ages_change() {
        let mut memo = UniqueByNameMemo::default();
        let mut update = |objects: &Objects| {
            let index = memo.update(objects);
            assert_eq!(*index, UniqueByName::new(objects));
            (index, memo.sorts)
        };
        let first = with(&Arc::default(), "a", "1", "x", 0);
        let first = with(&first, "b", "2", "x", 0);
        let first = with(&first, "c", "3", "y", 0);
        let (index, sorts) = update(&first);
        assert_eq!((index.values.len(), index.problems.len()), (2, 1));
        assert_eq!(sorts, 1);

        let holder = with(&first, "c", "3", "y", 1);
        let (of_holder, sorts) = update(&holder);
        assert_eq!(sorts, 1);
        let loser = with(&holder, "b", "2", "x", 1);
        let (of_loser, sorts) = update(&loser);
        assert_eq!(sorts, 1);
        assert!(Arc::ptr_eq(&of_holder, &of_loser));

        let older = with(&loser, "b", "0", "x", 1);
        assert_eq!(update(&older).1, 2);
        let renamed = with(&older, "a", "1", "z", 0);
        assert_eq!(update(&renamed).1, 3);
        let mut fewer = Arc::clone(&renamed);
        Arc::make_mut(&mut fewer).pop_last();
        assert_eq!(update(&fewer).1, 4);
        let added = with(&fewer, "d", "4", "y", 0);
        assert_eq!(update(&added).1, 5);
    }
}
