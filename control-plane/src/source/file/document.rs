//! The text of a manifest file as documents, and the documents as objects.
//!
//! In: bytes, and what the same file held before. Out: a [`Manifest`], in which every document and every object
//! whose text did not change is the very one of before, so that nobody further on looks at it again.
//!
//! Must not read files, and must not let one bad document stop its neighbours.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use evermesh_ingest::{
    admission,
    object::{self, Object, ParsedDocument},
};
use evermesh_model::{ObjectRef, Problem, Reason, Severity};
use serde_json::Value;
use serde_saphyr::Error as YamlError;

/// Nodes of one document with its aliases expanded. A dump of 5,000 App Mesh objects has half a million.
const MAX_NODES: usize = 2_000_000;
/// Nodes that aliases may add to one document. People use them to repeat a handful of lines.
const MAX_ALIASED_NODES: usize = 100_000;

/// The groups whose every document may have been an object of ours, even if its kind is misspelt.
const OUR_GROUPS: [&str; 2] = ["appmesh.k8s.aws/", "evermesh.dev/"];

/// How a file is written, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Yaml,
    Json,
}

/// What a file held when it was last read as a whole.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    /// Its documents, with their numbers from 1.
    pub(super) documents: Vec<(usize, Arc<Document>)>,
}

/// One document of a file.
#[derive(Debug)]
pub(super) struct Document {
    fingerprint: u64,
    /// Its objects, and in a list the index of each.
    pub(super) items: Vec<(Option<usize>, Arc<Item>)>,
    /// Why nothing could be read in it.
    pub(super) refusal: Option<ManifestError>,
}

/// One object as it is written.
#[derive(Debug)]
pub(super) struct Item {
    /// Equal for equal content, whatever the file and the formatting.
    pub(super) fingerprint: u64,
    /// The object, if it is fit to be told.
    pub(super) object: Option<(ObjectRef, Object)>,
    /// Which object it is, as far as that could be read.
    pub(super) id: Option<ObjectRef>,
    /// What is wrong with it.
    pub(super) problems: Vec<Problem>,
    /// Whether it may be any object: then none of the file's objects can be said to be gone.
    pub(super) is_opaque: bool,
}

/// Why a file or a document could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ManifestError {
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl ManifestError {
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

impl Manifest {
    /// Reads the text of a file, taking over from `previous` what did not change.
    pub(super) fn read(
        format: Format,
        bytes: &[u8],
        previous: &Self,
    ) -> Result<Self, ManifestError> {
        let text = str::from_utf8(bytes).map_err(|error| {
            ManifestError::new(
                Reason::InvalidYaml,
                format!(
                    "not UTF-8 at byte {}; save the file as UTF-8",
                    error.valid_up_to()
                ),
            )
        })?;
        let known = Known::of(previous);
        Ok(match format {
            Format::Yaml => Self::read_yaml(text, &known),
            Format::Json => Self::read_json(text, &known),
        })
    }

    fn read_yaml(text: &str, known: &Known) -> Self {
        let documents = split(text).into_iter().zip(1..).map(|(chunk, number)| {
            let fingerprint = fingerprint(chunk.text);
            let document = known.documents.get(&fingerprint).map_or_else(
                || Arc::new(Document::from_yaml(&chunk, fingerprint, known)),
                Arc::clone,
            );
            (number, document)
        });
        Self {
            documents: documents.collect(),
        }
    }

    /// `kubectl` also takes several JSON values one after the other.
    fn read_json(text: &str, known: &Known) -> Self {
        let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        let documents = values.zip(1..).map(|(value, number)| {
            let document = match value {
                Ok(value) => Document::from_value(value, None, known),
                Err(error) => Document::refused(0, Reason::InvalidYaml, error.to_string()),
            };
            (number, Arc::new(document))
        });
        Self {
            documents: documents.collect(),
        }
    }
}

impl Document {
    fn from_yaml(chunk: &Chunk<'_>, fingerprint: u64, known: &Known) -> Self {
        match serde_saphyr::from_str_with_options(chunk.text, limits()) {
            Ok(value) => Self::from_value(value, Some(fingerprint), known),
            Err(error) => {
                let place = serde_saphyr::render_options! { line_offset: chunk.lines_before };
                let words = error.render_with_options(place);
                if is_limit(&error) {
                    let words = format!("too large with its aliases expanded; split it: {words}");
                    return Self::refused(fingerprint, Reason::TooLarge, words);
                }
                Self::refused(fingerprint, Reason::InvalidYaml, words)
            }
        }
    }

    fn from_value(value: Value, fingerprint: Option<u64>, known: &Known) -> Self {
        let fingerprint = fingerprint.unwrap_or_else(|| self::fingerprint(&value));
        let items = unroll(value)
            .into_iter()
            .map(|(index, value)| (index, known.item(value)));
        Self {
            fingerprint,
            items: items.collect(),
            refusal: None,
        }
    }

    fn refused(fingerprint: u64, reason: Reason, message: String) -> Self {
        Self {
            fingerprint,
            items: Vec::new(),
            refusal: Some(ManifestError { reason, message }),
        }
    }

    /// Whether it may have held any object of the file.
    pub(super) fn is_opaque(&self) -> bool {
        self.refusal.is_some() || self.items.iter().any(|(_, item)| item.is_opaque)
    }
}

impl Item {
    fn read(value: Value, fingerprint: u64) -> Self {
        let is_ours = value["apiVersion"]
            .as_str()
            .is_some_and(|version| OUR_GROUPS.iter().any(|group| version.starts_with(group)));
        let ParsedDocument {
            object,
            id,
            mut problems,
        } = object::parse(value);
        let mut object = object;
        if let Some((_, value)) = &object {
            problems.extend(admission::validate(value));
        }
        let is_wrong = problems
            .iter()
            .any(|problem| problem.severity == Severity::Error);
        if is_wrong {
            object = None;
        }
        let is_opaque = object.is_none() && id.is_none() && (is_wrong || is_ours);
        Self {
            fingerprint,
            object,
            id,
            problems,
            is_opaque,
        }
    }
}

/// What the file held before, by content.
struct Known {
    documents: HashMap<u64, Arc<Document>>,
    items: HashMap<u64, Arc<Item>>,
}

impl Known {
    fn of(manifest: &Manifest) -> Self {
        let documents = manifest.documents.iter().map(|(_, document)| document);
        let items = documents.clone().flat_map(|document| &document.items);
        Self {
            items: items
                .map(|(_, item)| (item.fingerprint, Arc::clone(item)))
                .collect(),
            // A refusal names lines, and those move when an earlier document grows: it is read again.
            documents: documents
                .filter(|document| document.refusal.is_none())
                .map(|document| (document.fingerprint, Arc::clone(document)))
                .collect(),
        }
    }

    fn item(&self, value: Value) -> Arc<Item> {
        let fingerprint = fingerprint(&value);
        self.items
            .get(&fingerprint)
            .map_or_else(|| Arc::new(Item::read(value, fingerprint)), Arc::clone)
    }
}

/// Compared within one process only, so the standard hasher will do.
pub(super) fn fingerprint<T: Hash + ?Sized>(content: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

/// A list's items stand as if each were a document: they inherit nothing from the list.
fn unroll(value: Value) -> Vec<(Option<usize>, Value)> {
    match value {
        Value::Null => Vec::new(),
        Value::Object(mut fields)
            if fields
                .get("kind")
                .and_then(Value::as_str)
                .is_some_and(|kind| kind.ends_with("List"))
                && fields.get("items").is_some_and(Value::is_array) =>
        {
            match fields.remove("items") {
                Some(Value::Array(items)) => items
                    .into_iter()
                    .enumerate()
                    .map(|(index, item)| (Some(index), item))
                    .collect(),
                _ => Vec::new(),
            }
        }
        value => vec![(None, value)],
    }
}

/// A part of a YAML file.
struct Chunk<'a> {
    text: &'a str,
    lines_before: u64,
}

/// Splits a file into its documents, so that one which does not parse leaves the others readable. At the start
/// of a line `---` and `...` mean this and nothing else, in quotes and in block text too
/// (<https://yaml.org/spec/1.2.2/#914-explicit-documents>).
fn split(text: &str) -> Vec<Chunk<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut chunks = Vec::new();
    let (mut start, mut start_line) = (0, 0);
    let mut end = 0;
    let mut push = |start: usize, end: usize, lines_before| {
        let text = &text[start..end];
        if is_marker(text, "---") || !is_blank(text) {
            chunks.push(Chunk { text, lines_before });
        }
    };
    for (line, number) in text.split_inclusive('\n').zip(0..) {
        if is_marker(line, "---") {
            push(start, end, start_line);
            (start, start_line) = (end, number);
        }
        end += line.len();
        if is_marker(line, "...") {
            push(start, end, start_line);
            (start, start_line) = (end, number + 1);
        }
    }
    push(start, end, start_line);
    chunks
}

fn is_marker(text: &str, marker: &str) -> bool {
    text.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Whether there are only empty lines, comments and directives.
fn is_blank(text: &str) -> bool {
    text.lines()
        .map(str::trim_start)
        .all(|line| line.is_empty() || line.starts_with(['#', '%']))
}

/// Against files made to exhaust memory: an alias may stand for much, a nesting may be deep.
fn limits() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 2 * MAX_NODES,
            max_nodes: MAX_NODES,
            enforce_alias_anchor_ratio: false, // the number of aliased nodes is what costs
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_ALIASED_NODES,
        },
        with_snippet: false, // the message is one line of a list of problems
        emit_comments: false,
    }
}

fn is_limit(error: &YamlError) -> bool {
    match error {
        YamlError::Budget { .. }
        | YamlError::AliasReplayLimitExceeded { .. }
        | YamlError::AliasExpansionLimitExceeded { .. }
        | YamlError::AliasReplayStackDepthExceeded { .. } => true,
        YamlError::AliasError { error, .. } | YamlError::WithSnippet { error, .. } => {
            is_limit(error)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<(&str, u64)> {
        split(text)
            .into_iter()
            .map(|chunk| (chunk.text, chunk.lines_before))
            .collect()
    }

    #[test]
    fn splits_at_markers_only() {
        assert_eq!(texts("a: 1"), [("a: 1", 0)]);
        assert_eq!(
            texts("# c\n---\na: 1\n--- # next\nb: |\n  ---\n---c\n"),
            [("---\na: 1\n", 1), ("--- # next\nb: |\n  ---\n---c\n", 3)]
        );
        assert_eq!(
            texts("a: 1\n...\n%YAML 1.2\n---\nb: 2"),
            [("a: 1\n...\n", 0), ("---\nb: 2", 3)]
        );
        assert_eq!(texts("\u{feff}\n# nothing\n"), []);
        assert_eq!(texts("---\n---\na: 1\r\n---\r\n").len(), 3);
    }

    #[test]
    fn keeps_what_did_not_change() {
        let read = |text: &str, previous: &Manifest| {
            Manifest::read(Format::Yaml, text.as_bytes(), previous).unwrap()
        };
        let first = read("a: 1\n---\nb: 2\n", &Manifest::default());
        let second = read("b: 3\n---\nb: 2\n", &first);
        assert!(Arc::ptr_eq(&first.documents[1].1, &second.documents[1].1));
        let third = read("---\n{\"b\": 2}\n", &second);
        assert!(Arc::ptr_eq(
            &second.documents[1].1.items[0].1,
            &third.documents[0].1.items[0].1
        ));
    }

    #[test]
    fn an_error_names_the_line_of_the_file() {
        let text = "a: 1\n---\nb: 2\n---\nc: [\n";
        let manifest = Manifest::read(Format::Yaml, text.as_bytes(), &Manifest::default()).unwrap();
        let refusal = manifest.documents[2].1.refusal.as_ref().unwrap();
        assert_eq!(refusal.reason, Reason::InvalidYaml);
        assert!(refusal.message.contains("line 5"), "{}", refusal.message);
    }

    #[test]
    fn several_json_values_are_several_documents() {
        let read = |text: &str| {
            Manifest::read(Format::Json, text.as_bytes(), &Manifest::default()).unwrap()
        };
        assert_eq!(read("{} {}\n").documents.len(), 2);
        let broken = read("{} {");
        assert!(broken.documents[1].1.is_opaque());
        assert!(
            !read(" ")
                .documents
                .iter()
                .any(|(_, document)| document.is_opaque())
        );
    }
}
