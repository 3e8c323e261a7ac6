//! Parses the bytes of a manifest file into documents, and documents into objects.
//!
//! Input: the bytes, and the [`Manifest`] that the same file held before. Output: the new [`Manifest`]. Documents and
//! objects whose content did not change are the same allocations (`Arc`) as before, so that later stages skip them. A
//! document that cannot be parsed does not affect the other documents of the file.

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

/// YAML nodes per document, with aliases expanded. A dump of 5,000 App Mesh objects has half a million.
const MAX_NODES: usize = 2_000_000;
/// YAML nodes that aliases may add to one document.
const MAX_ALIASED_NODES: usize = 100_000;

/// Documents per file, empty ones included. 32 MiB of manifests have fewer than 100,000 objects.
const MAX_DOCUMENTS: usize = 100_000;

/// Prefixes of the API versions of mesh objects. A document with such a version may be any object of the file, even if
/// its kind is misspelt.
const MESH_GROUPS: [&str; 2] = ["appmesh.k8s.aws/", "evermesh.dev/"];

/// The format of a file, by its extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Yaml,
    Json,
}

/// The documents of a file.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    /// Documents with their numbers, from 1.
    pub(super) documents: Vec<(usize, Arc<Document>)>,
}

/// One document of a file.
#[derive(Debug)]
pub(super) struct Document {
    fingerprint: u64,
    /// The objects; those of a `List` with their index.
    pub(super) items: Vec<(Option<usize>, Arc<Item>)>,
    /// The error, if the document could not be parsed.
    pub(super) error: Option<ManifestError>,
}

/// One object of a document.
#[derive(Debug)]
pub(super) struct Item {
    /// Hash of the content, independent of the file and of the formatting.
    pub(super) fingerprint: u64,
    /// The object, if it has no error.
    pub(super) object: Option<(ObjectRef, Object)>,
    /// Kind, namespace and name, if they could be read.
    pub(super) id: Option<ObjectRef>,
    pub(super) problems: Vec<Problem>,
    /// Whether the item may be any object. While a file has such an item, none of its earlier objects counts as deleted.
    pub(super) is_opaque: bool,
}

/// The reason why a file or a document could not be read.
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
    /// Parses the bytes of a file, and reuses the documents and items of `previous` that did not change.
    pub(super) fn parse(
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
        let known = KnownContent::of(previous);
        match format {
            Format::Yaml => Self::parse_yaml(text, &known),
            Format::Json => Self::parse_json(text, &known),
        }
    }

    fn parse_yaml(text: &str, known: &KnownContent) -> Result<Self, ManifestError> {
        let chunks = split(text)?;
        let documents = chunks.into_iter().zip(1..).map(|(chunk, number)| {
            let fingerprint = fingerprint(chunk.text);
            let document = known.documents.get(&fingerprint).map_or_else(
                || Arc::new(Document::from_yaml(&chunk, fingerprint, known)),
                Arc::clone,
            );
            (number, document)
        });
        Ok(Self {
            documents: documents.collect(),
        })
    }

    /// Parses one or more JSON values; `kubectl` accepts several in one file too.
    fn parse_json(text: &str, known: &KnownContent) -> Result<Self, ManifestError> {
        let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        let documents = values.zip(1..).map(|(value, number)| {
            let document = match value {
                Ok(value) => Document::from_value(value, None, known),
                Err(error) => Document::invalid(0, Reason::InvalidYaml, error.to_string()),
            };
            (number, Arc::new(document))
        });
        let documents: Vec<_> = documents.take(MAX_DOCUMENTS + 1).collect();
        if documents.len() > MAX_DOCUMENTS {
            return Err(too_many_documents());
        }
        Ok(Self { documents })
    }
}

impl Document {
    fn from_yaml(chunk: &Chunk<'_>, fingerprint: u64, known: &KnownContent) -> Self {
        match serde_saphyr::from_str_with_options(chunk.text, limits()) {
            Ok(value) => Self::from_value(value, Some(fingerprint), known),
            Err(error) => {
                let options = serde_saphyr::render_options! { line_offset: chunk.lines_before };
                let text = error.render_with_options(options);
                if is_limit(&error) {
                    let message = format!(
                        "the document is too large with its aliases expanded; split it: {text}"
                    );
                    return Self::invalid(fingerprint, Reason::TooLarge, message);
                }
                Self::invalid(fingerprint, Reason::InvalidYaml, text)
            }
        }
    }

    fn from_value(value: Value, fingerprint: Option<u64>, known: &KnownContent) -> Self {
        let fingerprint = fingerprint.unwrap_or_else(|| self::fingerprint(&value));
        let items = unroll(value)
            .into_iter()
            .map(|(index, value)| (index, known.item(value)));
        Self {
            fingerprint,
            items: items.collect(),
            error: None,
        }
    }

    fn invalid(fingerprint: u64, reason: Reason, message: String) -> Self {
        Self {
            fingerprint,
            items: Vec::new(),
            error: Some(ManifestError { reason, message }),
        }
    }

    /// Whether the document may contain any object; see [`Item::is_opaque`].
    pub(super) fn is_opaque(&self) -> bool {
        self.error.is_some() || self.items.iter().any(|(_, item)| item.is_opaque)
    }
}

impl Item {
    fn parse(value: Value, fingerprint: u64) -> Self {
        let is_mesh_object = value["apiVersion"]
            .as_str()
            .is_some_and(|version| MESH_GROUPS.iter().any(|group| version.starts_with(group)));
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
        let is_opaque = object.is_none() && id.is_none() && (is_wrong || is_mesh_object);
        Self {
            fingerprint,
            object,
            id,
            problems,
            is_opaque,
        }
    }
}

/// Documents and items of the file's previous manifest, by fingerprint.
struct KnownContent {
    documents: HashMap<u64, Arc<Document>>,
    items: HashMap<u64, Arc<Item>>,
}

impl KnownContent {
    fn of(manifest: &Manifest) -> Self {
        let documents = manifest.documents.iter().map(|(_, document)| document);
        let items = documents.clone().flat_map(|document| &document.items);
        Self {
            items: items
                .map(|(_, item)| (item.fingerprint, Arc::clone(item)))
                .collect(),
            // An error contains line numbers, which change when an earlier document grows, so the document is parsed
            // again.
            documents: documents
                .filter(|document| document.error.is_none())
                .map(|document| (document.fingerprint, Arc::clone(document)))
                .collect(),
        }
    }

    fn item(&self, value: Value) -> Arc<Item> {
        let fingerprint = fingerprint(&value);
        self.items
            .get(&fingerprint)
            .map_or_else(|| Arc::new(Item::parse(value, fingerprint)), Arc::clone)
    }
}

/// A hash for comparison within one process; the standard hasher is enough for that.
pub(super) fn fingerprint<T: Hash + ?Sized>(content: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

/// The items of a `List`, each as if it were a document of its own, or the value itself.
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

/// The text of one document of a YAML file.
struct Chunk<'a> {
    text: &'a str,
    lines_before: u64,
}

/// Splits a file into documents before parsing, so that a document that does not parse leaves the others readable. `---`
/// and `...` at the start of a line always separate documents, also in quotes and in block scalars
/// (<https://yaml.org/spec/1.2.2/#914-explicit-documents>).
fn split(text: &str) -> Result<Vec<Chunk<'_>>, ManifestError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut chunks = Vec::new();
    let (mut start, mut start_line) = (0, 0);
    let mut end = 0;
    let mut push = |start: usize, end: usize, lines_before| {
        let text = &text[start..end];
        if is_marker(text, "---") || !is_blank(text) {
            chunks.push(Chunk { text, lines_before });
        }
        if chunks.len() > MAX_DOCUMENTS {
            return Err(too_many_documents());
        }
        Ok(())
    };
    for (line, number) in text.split_inclusive('\n').zip(0..) {
        if is_marker(line, "---") {
            push(start, end, start_line)?;
            (start, start_line) = (end, number);
        }
        end += line.len();
        if is_marker(line, "...") {
            push(start, end, start_line)?;
            (start, start_line) = (end, number + 1);
        }
    }
    push(start, end, start_line)?;
    Ok(chunks)
}

fn too_many_documents() -> ManifestError {
    let message =
        format!("the file has more than {MAX_DOCUMENTS} documents; split it into several files");
    ManifestError::new(Reason::TooLarge, message)
}

fn is_marker(text: &str, marker: &str) -> bool {
    text.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Whether the text has only empty lines, comments and directives.
fn is_blank(text: &str) -> bool {
    text.lines()
        .map(str::trim_start)
        .all(|line| line.is_empty() || line.starts_with(['#', '%']))
}

/// Limits against files that would exhaust memory by nested aliases or deep nesting.
fn limits() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 2 * MAX_NODES,
            max_nodes: MAX_NODES,
            enforce_alias_anchor_ratio: false, // `max_total_replayed_events` limits the cost
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_ALIASED_NODES,
        },
        with_snippet: false, // a problem's message has one line
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
            .unwrap()
            .into_iter()
            .map(|chunk| (chunk.text, chunk.lines_before))
            .collect()
    }

    #[test]
    fn files_are_split_only_at_markers() {
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
    fn unchanged_documents_and_items_are_reused() {
        let parse = |text: &str, previous: &Manifest| {
            Manifest::parse(Format::Yaml, text.as_bytes(), previous).unwrap()
        };
        let first = parse("a: 1\n---\nb: 2\n", &Manifest::default());
        let second = parse("b: 3\n---\nb: 2\n", &first);
        assert!(Arc::ptr_eq(&first.documents[1].1, &second.documents[1].1));
        let third = parse("---\n{\"b\": 2}\n", &second);
        assert!(Arc::ptr_eq(
            &second.documents[1].1.items[0].1,
            &third.documents[0].1.items[0].1
        ));
    }

    #[test]
    fn error_has_the_line_number_of_the_file() {
        let text = "a: 1\n---\nb: 2\n---\nc: [\n";
        let manifest =
            Manifest::parse(Format::Yaml, text.as_bytes(), &Manifest::default()).unwrap();
        let error = manifest.documents[2].1.error.as_ref().unwrap();
        assert_eq!(error.reason, Reason::InvalidYaml);
        assert!(error.message.contains("line 5"), "{}", error.message);
    }

    /// Puts every special character at every place of a Secret, in YAML and in JSON.
    #[test]
    fn message_about_a_broken_secret_contains_no_part_of_its_key() {
        const KEY: &str = "MIGHAgEAMBMGByqGSM49AgEG";
        let yaml = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: a}}\nstringData:\n  tls.key: |\n    {KEY}\n    {KEY}\n"
        );
        let json = format!(
            r#"{{"apiVersion":"v1","kind":"Secret","metadata":{{"name":"a"}},"data":{{"tls.key":"{KEY}"}}}}"#
        );
        let mut messages = 0;
        for (format, text) in [(Format::Yaml, yaml), (Format::Json, json)] {
            let places = 0..=text.len();
            for (at, character) in
                places.flat_map(|at| "\"'\t\n*&{}[]%!|>-:,#@`\\".chars().map(move |it| (at, it)))
            {
                let broken = format!("{}{character}{}", &text[..at], &text[at..]);
                let manifest =
                    Manifest::parse(format, broken.as_bytes(), &Manifest::default()).unwrap();
                for (_, document) in &manifest.documents {
                    let errors = document.error.iter().map(|it| it.message.clone());
                    let items = document.items.iter();
                    let problems = items.flat_map(|(_, item)| &item.problems);
                    for text in errors.chain(problems.map(ToString::to_string)) {
                        messages += 1;
                        assert!(
                            !text.contains(&KEY[..12]) && !text.contains(&KEY[12..]),
                            "{text}"
                        );
                    }
                }
            }
        }
        assert!(messages > 1000, "{messages}");
    }

    #[test]
    fn file_with_too_many_documents_is_rejected_whether_they_are_empty_or_not() {
        for (format, document) in [
            (Format::Yaml, "---\n"),
            (Format::Yaml, "a: 1\n...\n"),
            (Format::Json, "{}\n"),
        ] {
            let parse = |count: usize| {
                let text = document.repeat(count);
                Manifest::parse(format, text.as_bytes(), &Manifest::default())
            };
            let manifest = parse(MAX_DOCUMENTS).unwrap();
            assert_eq!(manifest.documents.len(), MAX_DOCUMENTS, "{document}");
            let error = parse(MAX_DOCUMENTS + 1).unwrap_err();
            assert_eq!(error.reason, Reason::TooLarge, "{document}");
        }
    }

    #[test]
    fn several_json_values_are_several_documents() {
        let parse = |text: &str| {
            Manifest::parse(Format::Json, text.as_bytes(), &Manifest::default()).unwrap()
        };
        assert_eq!(parse("{} {}\n").documents.len(), 2);
        let broken = parse("{} {");
        assert!(broken.documents[1].1.is_opaque());
        assert!(
            !parse(" ")
                .documents
                .iter()
                .any(|(_, document)| document.is_opaque())
        );
    }
}
