//! Decides which version of which object is in force, over all files.
//!
//! Input: the manifests of files as they are read. Output: the [`SourceChange`]s since the last call.
//!
//! - While a file, a document or an object cannot be read, the last good version of the object stays in force.
//! - An object that several files contain is taken from the first file by path. When that file no longer contains it, the
//!   next file takes over.

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
    /// Files that contain each object; the first one takes precedence.
    holders: BTreeMap<ObjectRef, BTreeSet<Arc<str>>>,
    /// Objects that were sent to the engine, with their origins.
    sent_objects: BTreeMap<ObjectRef, (Arc<Item>, Arc<str>)>,
    /// Problems that were sent to the engine, by origin.
    sent_problems: BTreeMap<Arc<str>, Vec<Problem>>,
    /// Objects and files that may differ from what was sent.
    touched_objects: BTreeSet<ObjectRef>,
    touched_files: BTreeSet<Arc<str>>,
}

#[derive(Debug, Default)]
struct File {
    manifest: Manifest,
    /// Last good versions of the file's objects.
    objects: BTreeMap<ObjectRef, FileObject>,
    /// The error of the last attempt to read the file.
    error: Option<ManifestError>,
}

/// The last good version of an object of a file.
#[derive(Debug, Clone)]
struct FileObject {
    position: Position,
    item: Arc<Item>,
}

/// The document number, from 1, and the index in a `List`.
type Position = (usize, Option<usize>);

impl Catalog {
    /// The manifest from the last successful read of a file.
    pub(super) fn manifest(&self, path: &str) -> Option<&Manifest> {
        self.files.get(path).map(|file| &file.manifest)
    }

    /// Stores the manifest of a file that was read successfully.
    pub(super) fn put(&mut self, path: &Arc<str>, manifest: Manifest) {
        let file = self.files.entry(Arc::clone(path)).or_default();
        let objects = last_good_objects(&manifest, &file.objects);
        let before = mem::replace(&mut file.objects, objects);
        file.manifest = manifest;
        file.error = None;
        for object in before
            .keys()
            .filter(|object| !file.objects.contains_key(object))
        {
            remove_holder(&mut self.holders, object, path);
            self.touched_objects.insert(object.clone());
        }
        for object in file.objects.keys() {
            let holders = self.holders.entry(object.clone()).or_default();
            holders.insert(Arc::clone(path));
            self.touched_objects.insert(object.clone());
        }
        self.touched_files.insert(Arc::clone(path));
    }

    /// Records that a file could not be read. Its objects stay.
    pub(super) fn reject(&mut self, path: &Arc<str>, error: ManifestError) {
        self.files.entry(Arc::clone(path)).or_default().error = Some(error);
        self.touched_files.insert(Arc::clone(path));
    }

    /// Removes a file and its objects.
    pub(super) fn remove(&mut self, path: &Arc<str>) {
        let file = self.files.remove(path).unwrap_or_default();
        for object in file.objects.into_keys() {
            remove_holder(&mut self.holders, &object, path);
            self.touched_objects.insert(object);
        }
        self.touched_files.insert(Arc::clone(path));
    }

    /// Changes since the last call.
    pub(super) fn changes(&mut self) -> Vec<SourceChange> {
        let mut changes = Vec::new();
        for object in mem::take(&mut self.touched_objects) {
            if let Some(holders) = self.holders.get(&object) {
                // The problem of a duplicate may appear or disappear in every file that contains the object.
                self.touched_files.extend(holders.iter().cloned());
            }
            changes.extend(self.object_change(object));
        }
        for path in mem::take(&mut self.touched_files) {
            let problems = self.problems(&path);
            let sent = self.sent_problems.get(&path).map_or(&[][..], Vec::as_slice);
            if problems == sent {
                continue;
            }
            if problems.is_empty() {
                self.sent_problems.remove(&path);
            } else {
                self.sent_problems
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
        let Some((path, first)) = self.first(&object) else {
            return self
                .sent_objects
                .remove(&object)
                .map(|_| SourceChange::Object {
                    object,
                    origin: None,
                    value: None,
                });
        };
        let origin: Arc<str> = format!("{path}#{}", first.position.0).into();
        let item = match self.sent_objects.get(&object) {
            Some((sent, sent_origin)) if sent.fingerprint == first.item.fingerprint => {
                if *sent_origin == origin {
                    return None;
                }
                // Only the origin changed: send the same allocation, so that the engine sees an unchanged object.
                Arc::clone(sent)
            }
            _ => Arc::clone(&first.item),
        };
        let value = item.object.clone().map(|(_, value)| value);
        let sent = (item, Arc::clone(&origin));
        self.sent_objects.insert(object.clone(), sent);
        Some(SourceChange::Object {
            object,
            origin: Some(origin),
            value,
        })
    }

    /// The file that takes precedence for an object, and its version of the object.
    fn first(&self, object: &ObjectRef) -> Option<(&Arc<str>, &FileObject)> {
        let path = self.holders.get(object)?.first()?;
        Some((path, self.files.get(path)?.objects.get(object)?))
    }

    fn problems(&self, path: &Arc<str>) -> Vec<Problem> {
        let Some(file) = self.files.get(path) else {
            return Vec::new();
        };
        if let Some(ManifestError { reason, message }) = &file.error {
            return vec![Problem::of_origin(Arc::clone(path), *reason, message)];
        }
        let mut problems = Vec::new();
        for (number, document) in &file.manifest.documents {
            let origin: Arc<str> = format!("{path}#{number}").into();
            if let Some(ManifestError { reason, message }) = &document.error {
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

    /// The problem of an object for which another document takes precedence.
    fn duplicate(
        &self,
        path: &Arc<str>,
        position: Position,
        item: &Item,
        origin: &Arc<str>,
    ) -> Option<Problem> {
        let (object, _) = item.object.as_ref()?;
        let (first_path, first) = self.first(object)?;
        (first_path != path || first.position != position).then(|| {
            let message = format!(
                "`{first_path}#{}` contains the same object and takes precedence because it comes first; remove one of the two",
                first.position.0
            );
            Problem::new(object, FieldPath::root(), Reason::DuplicateObject, message)
                .with_origin(Arc::clone(origin))
        })
    }
}

/// The objects of a file that are in force: valid ones, and the last good version of invalid ones. While a document cannot
/// be parsed all earlier objects stay, because the document may contain any of them.
fn last_good_objects(
    manifest: &Manifest,
    before: &BTreeMap<ObjectRef, FileObject>,
) -> BTreeMap<ObjectRef, FileObject> {
    let mut objects = BTreeMap::new();
    for (number, document) in &manifest.documents {
        for (index, item) in &document.items {
            let id = item.object.as_ref().map(|(object, _)| object);
            let (Some(object), good) = (id.or(item.id.as_ref()), id.is_some()) else {
                continue;
            };
            let last_good = || before.get(object).map(|last| Arc::clone(&last.item));
            let item = if good {
                Some(Arc::clone(item))
            } else {
                last_good()
            };
            if let Some(item) = item {
                objects.entry(object.clone()).or_insert(FileObject {
                    position: (*number, *index),
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
            objects
                .entry(object.clone())
                .or_insert_with(|| last.clone());
        }
    }
    objects
}

fn remove_holder(
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

/// Adds the index in a `List` to the field path of a problem whose object is unknown.
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

    fn meshes(changes: Vec<SourceChange>) -> Vec<(String, Arc<evermesh_crds::v1beta2::Mesh>)> {
        let meshes = changes.into_iter().filter_map(|change| match change {
            SourceChange::Object {
                origin,
                value: Some(Object::Mesh(mesh)),
                ..
            } => Some((origin?.to_string(), mesh)),
            _ => None,
        });
        meshes.collect()
    }

    #[test]
    fn object_that_moved_to_another_file_keeps_its_allocation() {
        let text =
            b"apiVersion: appmesh.k8s.aws/v1beta2\nkind: Mesh\nmetadata: { name: m }\nspec: {}\n";
        let parse = || Manifest::parse(Format::Yaml, text, &Manifest::default()).unwrap();
        let mut catalog = Catalog::default();
        catalog.put(&"b.yaml".into(), parse());
        let first = meshes(catalog.changes());
        catalog.put(&"a.yaml".into(), parse());
        let second = meshes(catalog.changes());
        assert_eq!((&*first[0].0, &*second[0].0), ("b.yaml#1", "a.yaml#1"));
        assert!(Arc::ptr_eq(&first[0].1, &second[0].1));
        catalog.put(&"a.yaml".into(), parse());
        assert!(catalog.changes().is_empty());
    }
}
