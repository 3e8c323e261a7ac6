//! Which object of which file counts, and what the engine has been told.
//!
//! In: files as they are read. Out: the [`SourceChange`]s between what was told last and what holds now.
//! The last good version of an object stays in force while its file, its document or itself cannot be read; an
//! object in several files counts in the first of them, and the next takes over when that one lets go.
//!
//! Must not touch the file system.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use evermesh_model::{FieldPath, ObjectRef, Problem, Reason};

use super::document::{Item, Manifest, ManifestError};
use crate::source::SourceChange;

/// All files of the folder, by path.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    files: BTreeMap<Arc<str>, File>,
    /// The files that hold an object; the first counts.
    holders: BTreeMap<ObjectRef, BTreeSet<Arc<str>>>,
    /// What the engine knows, with the origins.
    told_objects: BTreeMap<ObjectRef, (Arc<Item>, Arc<str>)>,
    told_problems: BTreeMap<Arc<str>, Vec<Problem>>,
    /// What may differ from it by now.
    touched_objects: BTreeSet<ObjectRef>,
    touched_files: BTreeSet<Arc<str>>,
}

#[derive(Debug, Default)]
struct File {
    manifest: Manifest,
    held: BTreeMap<ObjectRef, Held>,
    /// Why the file could not be read the last time.
    refusal: Option<ManifestError>,
}

/// An object that a file holds.
#[derive(Debug, Clone)]
struct Held {
    place: Place,
    /// Its last good version.
    item: Arc<Item>,
}

/// The document, from 1, and in a list the index.
type Place = (usize, Option<usize>);

impl Catalog {
    /// What the file held when it was last read as a whole.
    pub(super) fn manifest(&self, path: &str) -> Option<&Manifest> {
        self.files.get(path).map(|file| &file.manifest)
    }

    /// The file was read as a whole.
    pub(super) fn put(&mut self, path: &Arc<str>, manifest: Manifest) {
        let file = self.files.entry(Arc::clone(path)).or_default();
        let held = held(&manifest, &file.held);
        let before = mem::replace(&mut file.held, held);
        file.manifest = manifest;
        file.refusal = None;
        for object in before
            .keys()
            .filter(|object| !file.held.contains_key(object))
        {
            let_go(&mut self.holders, object, path);
            self.touched_objects.insert(object.clone());
        }
        for object in file.held.keys() {
            let holders = self.holders.entry(object.clone()).or_default();
            holders.insert(Arc::clone(path));
            self.touched_objects.insert(object.clone());
        }
        self.touched_files.insert(Arc::clone(path));
    }

    /// The file could not be read; what it held stays.
    pub(super) fn refuse(&mut self, path: &Arc<str>, refusal: ManifestError) {
        self.files.entry(Arc::clone(path)).or_default().refusal = Some(refusal);
        self.touched_files.insert(Arc::clone(path));
    }

    /// The file is gone, and what it held with it.
    pub(super) fn remove(&mut self, path: &Arc<str>) {
        let file = self.files.remove(path).unwrap_or_default();
        for object in file.held.into_keys() {
            let_go(&mut self.holders, &object, path);
            self.touched_objects.insert(object);
        }
        self.touched_files.insert(Arc::clone(path));
    }

    /// What the engine is to be told now.
    pub(super) fn changes(&mut self) -> Vec<SourceChange> {
        let mut changes = Vec::new();
        for object in mem::take(&mut self.touched_objects) {
            if let Some(holders) = self.holders.get(&object) {
                // Whoever holds it too may count now, or not any more.
                self.touched_files.extend(holders.iter().cloned());
            }
            changes.extend(self.object_change(object));
        }
        for path in mem::take(&mut self.touched_files) {
            let problems = self.problems(&path);
            let told = self.told_problems.get(&path).map_or(&[][..], Vec::as_slice);
            if problems == told {
                continue;
            }
            if problems.is_empty() {
                self.told_problems.remove(&path);
            } else {
                self.told_problems
                    .insert(Arc::clone(&path), problems.clone());
            }
            changes.push(SourceChange::Problems {
                origin: path,
                problems,
            });
        }
        changes
    }

    fn object_change(&mut self, object: ObjectRef) -> Option<SourceChange> {
        let Some((path, held)) = self.first(&object) else {
            return self
                .told_objects
                .remove(&object)
                .map(|_| SourceChange::Object {
                    object,
                    origin: None,
                    value: None,
                });
        };
        let origin: Arc<str> = format!("{path}#{}", held.place.0).into();
        let item = match self.told_objects.get(&object) {
            Some((told, place)) if told.fingerprint == held.item.fingerprint => {
                if *place == origin {
                    return None;
                }
                // It only moved: whoever has the one told before sees that nothing else changed.
                Arc::clone(told)
            }
            _ => Arc::clone(&held.item),
        };
        let value = item.object.clone().map(|(_, value)| value);
        let told = (item, Arc::clone(&origin));
        self.told_objects.insert(object.clone(), told);
        Some(SourceChange::Object {
            object,
            origin: Some(origin),
            value,
        })
    }

    /// The file and the document in which the object counts.
    fn first(&self, object: &ObjectRef) -> Option<(&Arc<str>, &Held)> {
        let path = self.holders.get(object)?.first()?;
        Some((path, self.files.get(path)?.held.get(object)?))
    }

    fn problems(&self, path: &Arc<str>) -> Vec<Problem> {
        let Some(file) = self.files.get(path) else {
            return Vec::new();
        };
        if let Some(ManifestError { reason, message }) = &file.refusal {
            return vec![Problem::of_origin(Arc::clone(path), *reason, message)];
        }
        let mut problems = Vec::new();
        for (number, document) in &file.manifest.documents {
            let origin: Arc<str> = format!("{path}#{number}").into();
            if let Some(ManifestError { reason, message }) = &document.refusal {
                problems.push(Problem::of_origin(Arc::clone(&origin), *reason, message));
            }
            for (index, item) in &document.items {
                problems.extend(item.problems.iter().map(|problem| {
                    let problem = problem.clone().with_origin(Arc::clone(&origin));
                    match index {
                        Some(index) if problem.object.is_none() => in_list(problem, *index),
                        _ => problem,
                    }
                }));
                problems.extend(self.duplicate(path, (*number, *index), item, &origin));
            }
        }
        problems
    }

    /// The problem of an object that counts elsewhere.
    fn duplicate(
        &self,
        path: &Arc<str>,
        place: Place,
        item: &Item,
        origin: &Arc<str>,
    ) -> Option<Problem> {
        let (object, _) = item.object.as_ref()?;
        let (first, held) = self.first(object)?;
        (first != path || held.place != place).then(|| {
            let message = format!(
                "the object is already in {first}#{}, which comes first and counts; remove one of them",
                held.place.0
            );
            Problem::new(object, FieldPath::root(), Reason::DuplicateObject, message)
                .with_origin(Arc::clone(origin))
        })
    }
}

/// What the file holds now: its good objects, the last good version of those that are wrong, and everything of
/// before while a part of it cannot be read, since that part may be the object that is missing.
fn held(manifest: &Manifest, before: &BTreeMap<ObjectRef, Held>) -> BTreeMap<ObjectRef, Held> {
    let mut held = BTreeMap::new();
    for (number, document) in &manifest.documents {
        for (index, item) in &document.items {
            let id = item.object.as_ref().map(|(object, _)| object);
            let (Some(object), good) = (id.or(item.id.as_ref()), id.is_some()) else {
                continue;
            };
            let last_good = || before.get(object).map(|held| Arc::clone(&held.item));
            let item = if good {
                Some(Arc::clone(item))
            } else {
                last_good()
            };
            if let Some(item) = item {
                held.entry(object.clone()).or_insert(Held {
                    place: (*number, *index),
                    item,
                });
            }
        }
    }
    if manifest
        .documents
        .iter()
        .any(|(_, document)| document.is_opaque())
    {
        for (object, last) in before {
            held.entry(object.clone()).or_insert_with(|| last.clone());
        }
    }
    held
}

fn let_go(
    holders: &mut BTreeMap<ObjectRef, BTreeSet<Arc<str>>>,
    object: &ObjectRef,
    path: &Arc<str>,
) {
    if let Some(files) = holders.get_mut(object) {
        files.remove(path);
        if files.is_empty() {
            holders.remove(object);
        }
    }
}

/// Says which item of a list is meant where no name does.
fn in_list(mut problem: Problem, index: usize) -> Problem {
    let item = FieldPath::root().field("items").index(index);
    problem.field = if problem.field.is_root() {
        item
    } else {
        item.field(problem.field.as_str())
    };
    problem
}

#[cfg(test)]
mod tests {
    use evermesh_ingest::object::Object;

    use super::*;
    use crate::source::file::document::Format;

    fn told(changes: Vec<SourceChange>) -> Vec<(String, Arc<evermesh_crds::v1beta2::Mesh>)> {
        let told = changes.into_iter().filter_map(|change| match change {
            SourceChange::Object {
                origin,
                value: Some(Object::Mesh(mesh)),
                ..
            } => Some((origin?.to_string(), mesh)),
            _ => None,
        });
        told.collect()
    }

    #[test]
    fn what_only_moved_is_the_one_that_was_told() {
        let text =
            b"apiVersion: appmesh.k8s.aws/v1beta2\nkind: Mesh\nmetadata: { name: m }\nspec: {}\n";
        let read = || Manifest::read(Format::Yaml, text, &Manifest::default()).unwrap();
        let mut catalog = Catalog::default();
        catalog.put(&"b.yaml".into(), read());
        let first = told(catalog.changes());
        catalog.put(&"a.yaml".into(), read());
        let second = told(catalog.changes());
        assert_eq!((&*first[0].0, &*second[0].0), ("b.yaml#1", "a.yaml#1"));
        assert!(Arc::ptr_eq(&first[0].1, &second[0].1));
        catalog.put(&"a.yaml".into(), read());
        assert!(catalog.changes().is_empty());
    }
}
