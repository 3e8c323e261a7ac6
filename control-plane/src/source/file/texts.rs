//! The texts of a folder, to show where its problems are.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use evermesh_model::{FieldPath, Kind, Problem, Reason};
use serde_json::Value;

use super::{
    MAX_FILE_SIZE, absolute,
    document::{self, Format},
    folder::{self, Folder},
    yaml::{self, DocumentPlaces, TextSpan},
};

/// The files of a folder and, of those that were asked for, the places of their documents.
#[derive(Debug)]
pub struct FolderTexts {
    files: BTreeMap<Arc<str>, (Format, String)>,
    located: BTreeMap<(Arc<str>, usize), LocatedDocument>,
}

/// The place of a problem.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProblemPlace {
    /// Path of the file below the folder.
    pub file: Arc<str>,
    /// The text at fault, if it could be found.
    pub span: Option<TextSpan>,
}

/// A document with the places of its nodes, or the place at which it could not be read.
#[derive(Debug, Default)]
struct LocatedDocument {
    value: Value,
    places: DocumentPlaces,
    error: Option<TextSpan>,
}

/// An object of a file.
#[derive(Debug)]
pub struct ManifestObject {
    /// File and document, as in [`Problem::origin`].
    pub origin: Arc<str>,
    /// The index in a `List`.
    pub index: Option<usize>,
    pub value: Value,
}

impl ManifestObject {
    /// The field of the object in its document.
    pub fn field(&self) -> FieldPath {
        let root = FieldPath::root();
        self.index
            .map_or(root.clone(), |index| root.field("items").index(index))
    }
}

impl FolderTexts {
    /// Reads all manifests of a folder; those that cannot be read are left out.
    pub fn read(root: &Path) -> Self {
        let root = absolute(root);
        let mut folder = Folder::new(root.clone(), MAX_FILE_SIZE);
        let files = folder.contents(&root).into_iter();
        let files = files.filter_map(|(name, bytes)| {
            let format = folder::format_of(Path::new(&*name))?;
            Some((name, (format, String::from_utf8(bytes).ok()?)))
        });
        Self {
            files: files.collect(),
            located: BTreeMap::new(),
        }
    }

    /// Every object of the folder, in the order of the files.
    pub fn objects(&self) -> Vec<ManifestObject> {
        let mut objects = Vec::new();
        for (name, (format, text)) in &self.files {
            for (number, value) in document::values(*format, text) {
                let origin: Arc<str> = format!("{name}#{number}").into();
                let of_document = document::objects(value).into_iter();
                objects.extend(of_document.map(|(index, value)| ManifestObject {
                    origin: Arc::clone(&origin),
                    index,
                    value,
                }));
            }
        }
        objects
    }

    /// The place of a problem; `None` if it has no file.
    pub fn locate(&mut self, problem: &Problem) -> Option<ProblemPlace> {
        let origin = problem.origin.as_deref()?;
        let numbered = origin.rsplit_once('#').and_then(|(file, number)| {
            let (file, _) = self.files.get_key_value(file)?;
            Some((Arc::clone(file), number.parse::<usize>().ok()?))
        });
        let Some((file, number)) = numbered else {
            let (file, _) = self.files.get_key_value(origin)?;
            let (file, span) = (Arc::clone(file), None);
            return Some(ProblemPlace { file, span });
        };
        let (format, text) = self.files.get(&file)?;
        let document = self
            .located
            .entry((Arc::clone(&file), number))
            .or_insert_with(|| LocatedDocument::read(*format, text, number));
        let span = document.find(problem);
        Some(ProblemPlace { file, span })
    }

    /// The text of a line, from 1. `None` for a line of a document with a Secret, which may be secret.
    pub fn line(&self, file: &str, line: u64) -> Option<&str> {
        let (format, text) = self.files.get(file)?;
        let is_secret = document::texts(*format, text)
            .into_iter()
            .any(|(part, before)| {
                let lines = before + 1..=before + part.lines().count() as u64;
                lines.contains(&line) && part.contains("Secret")
            });
        let line = usize::try_from(line).ok()?.checked_sub(1)?;
        text.lines().nth(line).filter(|_| !is_secret)
    }
}

impl LocatedDocument {
    fn read(format: Format, text: &str, number: usize) -> Self {
        let texts = document::texts(format, text);
        let Some((text, lines_before)) = number.checked_sub(1).and_then(|at| texts.get(at)) else {
            return Self::default();
        };
        match yaml::read_with_places(text, *lines_before) {
            Ok((value, places)) => Self {
                value,
                places,
                error: None,
            },
            Err(error) => Self {
                error: Some(TextSpan {
                    line: error.line,
                    column: error.column,
                    width: 1,
                }),
                ..Self::default()
            },
        }
    }

    fn find(&self, problem: &Problem) -> Option<TextSpan> {
        if self.error.is_some() {
            return self.error;
        }
        let prefers_key = matches!(problem.reason, Reason::UnknownField | Reason::DuplicateKey);
        let item = self.item(problem);
        let of_object = item.unwrap_or_default();
        let field = problem.field.as_str();
        let field = match (of_object.as_str(), field) {
            (above, "") => join(above, "metadata.name"),
            (above, field) => join(above, field),
        };
        self.places
            .find(&field, prefers_key)
            .or_else(|| self.places.find(&join(&of_object, "kind"), false))
    }

    /// The path of the item of a `List` that has the problem's object.
    fn item(&self, problem: &Problem) -> Option<String> {
        let object = problem.object.as_ref()?;
        let items = self.value["items"].as_array()?;
        let is_object = |item: &Value| {
            let metadata = &item["metadata"];
            let kind = Kind::find(
                item["apiVersion"].as_str().unwrap_or_default(),
                item["kind"].as_str().unwrap_or_default(),
            );
            let namespace = metadata["namespace"].as_str().unwrap_or("default");
            kind == Some(object.kind)
                && metadata["name"].as_str() == Some(&*object.name)
                && (!object.kind.is_namespaced() || namespace == &*object.namespace)
        };
        let index = items.iter().position(is_object)?;
        Some(format!("items[{index}]"))
    }
}

fn join(above: &str, field: &str) -> String {
    match above {
        "" => field.to_owned(),
        above => format!("{above}.{field}"),
    }
}
