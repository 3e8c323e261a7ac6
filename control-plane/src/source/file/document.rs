//! Parses the bytes of a manifest file into documents, and documents into objects.
//!
//! Input: the bytes, and the [`Manifest`] that the same file held before. Output: the new [`Manifest`]. Documents and
//! objects whose content did not change are the same allocations (`Arc`) as before, so that later stages skip them. A
//! document that cannot be parsed does not affect the other documents of the file. [`yaml`] decides what a text means.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    mem,
    sync::Arc,
};

use evermesh_ingest::{
    admission,
    object::{self, Object, ParsedDocument},
};
use evermesh_model::{Kind, ObjectRef, Problem, Reason, Severity};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::{
    addresses,
    yaml::{self, PathStep, ReadDocument, ReadError, TextFault},
};

/// Documents per file, empty ones included. 32 MiB of manifests have fewer than 100,000 objects.
const MAX_DOCUMENTS: usize = 100_000;

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
    has_faults: bool,
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

/// Whether an API version is one of mesh objects. A document with such a version may be any object of the file, even if
/// its kind is misspelt.
pub(crate) fn is_mesh_version(version: &str) -> bool {
    version.starts_with("appmesh.k8s.aws/") || version.starts_with("evermesh.dev/")
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
            let fingerprint = fingerprint(&(chunk.marker, chunk.text));
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
        let mut stream = serde_json::Deserializer::from_str(text);
        let mut documents = Vec::new();
        while stream.end().is_err() {
            let (document, is_last) = match yaml::read_json(&mut stream) {
                Ok(read) => (Document::from_read(read, None, known), false),
                Err(error) => {
                    let message = error.to_string();
                    (Document::invalid(0, Reason::InvalidYaml, message), true)
                }
            };
            documents.push((documents.len() + 1, Arc::new(document)));
            if documents.len() > MAX_DOCUMENTS {
                return Err(too_many_documents());
            }
            if is_last {
                break;
            }
        }
        Ok(Self { documents })
    }
}

impl Document {
    fn from_yaml(chunk: &Chunk<'_>, fingerprint: u64, known: &KnownContent) -> Self {
        match chunk.read() {
            Ok(read) => Self::from_read(read, Some(fingerprint), known),
            Err(error) if error.is_limit => {
                let message = format!(
                    "the document is too large with its aliases expanded; split it: {error}"
                );
                Self::invalid(fingerprint, Reason::TooLarge, message)
            }
            Err(error) => Self::invalid(fingerprint, Reason::InvalidYaml, error.to_string()),
        }
    }

    fn from_read(read: ReadDocument, fingerprint: Option<u64>, known: &KnownContent) -> Self {
        let ReadDocument { value, mut faults } = read;
        let fingerprint = fingerprint.unwrap_or_else(|| self::fingerprint(&value));
        let has_faults = !faults.is_empty();
        let items = match unroll(value) {
            Unrolled::Empty => Vec::new(),
            Unrolled::Object(value) => vec![(None, known.item(value, &faults))],
            Unrolled::List(values) => {
                if let Some(fault) = faults.iter().find(|fault| is_of_list(fault)) {
                    let problem = fault.problem(true);
                    let message = format!("{}: {}", problem.field, problem.message);
                    return Self::invalid(fingerprint, problem.reason, message);
                }
                let items = values.into_iter().enumerate().map(|(index, value)| {
                    let is_of_item = |fault: &mut TextFault| {
                        matches!(&fault.path[..], [_, PathStep::Index(at), ..] if *at == index)
                    };
                    let of_item = faults.extract_if(.., is_of_item).map(|mut fault| {
                        fault.path.drain(..2);
                        fault
                    });
                    let of_item: Vec<_> = of_item.collect();
                    (Some(index), known.item(value, &of_item))
                });
                items.collect()
            }
        };
        Self {
            fingerprint,
            items,
            error: None,
            has_faults,
        }
    }

    fn invalid(fingerprint: u64, reason: Reason, message: String) -> Self {
        Self {
            fingerprint,
            items: Vec::new(),
            error: Some(ManifestError { reason, message }),
            has_faults: false,
        }
    }

    /// Whether the document may contain any object; see [`Item::is_opaque`].
    pub(super) fn is_opaque(&self) -> bool {
        self.error.is_some() || self.items.iter().any(|(_, item)| item.is_opaque)
    }
}

impl Item {
    fn parse(value: Value, faults: &[TextFault], fingerprint: u64) -> Self {
        let is_mesh_object = value["apiVersion"].as_str().is_some_and(is_mesh_version);
        let is_secret = value["kind"] == Kind::Secret.as_str();
        let ParsedDocument {
            object,
            id,
            mut problems,
        } = object::parse(value);
        let mut object = object;
        if let Some((id, value)) = &object {
            problems.extend(admission::validate(value));
            problems.extend(addresses::problems(id, value));
        }
        let is_unknown = |problem: &Problem| problem.reason == Reason::UnknownKind;
        let is_unknown_kind = problems.iter().any(is_unknown);
        let of_text = faults.iter().map(|fault| Problem {
            object: id.clone(),
            ..fault.problem(is_secret)
        });
        // Other programs than Evermesh decide what the text of an object of an unknown kind means.
        problems.extend(of_text.filter(|it| !is_unknown_kind || it.severity == Severity::Error));
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
            // Errors and faults contain line numbers, which change when an earlier document grows, so the document is
            // parsed again.
            documents: documents
                .filter(|document| document.error.is_none() && !document.has_faults)
                .map(|document| (document.fingerprint, Arc::clone(document)))
                .collect(),
        }
    }

    fn item(&self, value: Value, faults: &[TextFault]) -> Arc<Item> {
        let fingerprint = if faults.is_empty() {
            fingerprint(&value)
        } else {
            fingerprint(&(&value, faults))
        };
        self.items.get(&fingerprint).map_or_else(
            || Arc::new(Item::parse(value, faults, fingerprint)),
            Arc::clone,
        )
    }
}

/// A hash for comparison within one process; the standard hasher is enough for that.
pub(super) fn fingerprint<T: Hash + ?Sized>(content: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

/// The objects of a document.
enum Unrolled {
    Empty,
    Object(Value),
    /// The items of a `List`, each as if it were a document of its own.
    List(Vec<Value>),
}

fn unroll(mut value: Value) -> Unrolled {
    if value.is_null() {
        return Unrolled::Empty;
    }
    let is_list = value["kind"]
        .as_str()
        .is_some_and(|kind| kind.ends_with("List"));
    match value.get_mut("items") {
        Some(Value::Array(items)) if is_list => Unrolled::List(mem::take(items)),
        _ => Unrolled::Object(value),
    }
}

/// The objects of a document, those of a `List` with their index.
pub(super) fn objects(value: Value) -> Vec<(Option<usize>, Value)> {
    match unroll(value) {
        Unrolled::Empty => Vec::new(),
        Unrolled::Object(value) => vec![(None, value)],
        Unrolled::List(items) => {
            let items = items.into_iter().enumerate();
            items.map(|(index, item)| (Some(index), item)).collect()
        }
    }
}

/// The values of a file's documents that can be read, with their numbers.
pub(super) fn values(format: Format, text: &str) -> Vec<(usize, Value)> {
    let mut values = Vec::new();
    match format {
        Format::Yaml => {
            let chunks = split(text).unwrap_or_default().into_iter().zip(1..);
            let read =
                chunks.filter_map(|(chunk, number)| Some((number, chunk.read().ok()?.value)));
            values.extend(read);
        }
        Format::Json => {
            let mut stream = serde_json::Deserializer::from_str(text);
            while stream.end().is_err()
                && let Ok(read) = yaml::read_json(&mut stream)
            {
                values.push((values.len() + 1, read.value));
            }
        }
    }
    values
}

/// The texts of a file's documents, with the number of lines before each.
pub(super) fn texts(format: Format, text: &str) -> Vec<(&str, u64)> {
    match format {
        Format::Yaml => {
            let chunks = split(text).unwrap_or_default().into_iter();
            chunks
                .map(|chunk| (chunk.text, chunk.lines_before))
                .collect()
        }
        Format::Json => {
            let mut stream = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
            let mut texts = Vec::new();
            let mut start = 0;
            while let Some(Ok(_)) = stream.next() {
                // The first document begins at the first line; a later one below the end of the one before it.
                let lines_before = text[..start].matches('\n').count() as u64;
                texts.push((&text[start..stream.byte_offset()], lines_before));
                start = stream.byte_offset();
            }
            texts.push((&text[start..], text[..start].matches('\n').count() as u64));
            texts
        }
    }
}

/// Whether a fault of a `List` is not one of a single item: `kubectl` refuses the list, or the list has a key twice.
fn is_of_list(fault: &TextFault) -> bool {
    let is_below_items = matches!(&fault.path[..], [PathStep::Field(field), PathStep::Index(_), ..] if field == "items");
    !fault.has_value() || (!is_below_items && fault.reason().severity() == Severity::Error)
}

/// The text of one document of a YAML file.
#[derive(Debug, PartialEq, Eq)]
struct Chunk<'a> {
    /// The text after `---`; `None` for the text before the first such line.
    marker: Option<&'a str>,
    text: &'a str,
    lines_before: u64,
}

impl Chunk<'_> {
    fn read(&self) -> Result<ReadDocument, ReadError> {
        let marker = self.marker.map_or("", str::trim);
        if !marker.is_empty() && !marker.starts_with('#') {
            return Err(ReadError {
                line: self.lines_before,
                column: 1,
                message: "kubectl refuses a line that begins with `---` and has other text; begin the document on the next line".to_owned(),
                is_limit: false,
            });
        }
        if let Some(marker) = self.marker {
            yaml::check_characters(marker, self.lines_before.saturating_sub(1))?;
        } else if self.text.trim_start().starts_with('{') {
            // `kubectl` takes a file that begins with a brace for JSON, and reads it as YAML if it is not.
            let mut stream = serde_json::Deserializer::from_str(self.text);
            if IgnoredAny::deserialize(&mut stream).is_ok() {
                let mut stream_again = serde_json::Deserializer::from_str(self.text);
                let read = yaml::read_json(&mut stream_again);
                let read = read.and_then(|read| stream.end().map(|()| read));
                return read.map_err(|error| ReadError {
                    line: error.line() as u64,
                    column: error.column(),
                    message: error.to_string(),
                    is_limit: false,
                });
            }
        }
        yaml::read_yaml(self.text, self.lines_before)
    }
}

/// Splits a file into documents before parsing, so that a document that does not parse leaves the others readable. As for
/// `kubectl`, each line that begins with `---` begins a document, also in quotes and in block scalars.
fn split<'t>(text: &'t str) -> Result<Vec<Chunk<'t>>, ManifestError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut chunks = Vec::new();
    let mut push = |chunk: Chunk<'t>| {
        if chunk.marker.is_some() || !is_blank(chunk.text) {
            chunks.push(chunk);
        }
        if chunks.len() > MAX_DOCUMENTS {
            return Err(too_many_documents());
        }
        Ok(())
    };
    let (mut marker, mut start, mut lines_before) = (None, 0, 0);
    let mut end = 0;
    for (line, number) in text.split_inclusive('\n').zip(1..) {
        if let Some(rest) = line.strip_prefix("---") {
            push(Chunk {
                marker,
                text: &text[start..end],
                lines_before,
            })?;
            (marker, start, lines_before) = (Some(rest), end + line.len(), number);
        }
        end += line.len();
    }
    push(Chunk {
        marker,
        text: &text[start..],
        lines_before,
    })?;
    Ok(chunks)
}

/// Whether the text has only empty lines and comments.
fn is_blank(text: &str) -> bool {
    text.lines()
        .map(str::trim_start)
        .all(|line| line.is_empty() || line.starts_with('#'))
}

fn too_many_documents() -> ManifestError {
    let message =
        format!("the file has more than {MAX_DOCUMENTS} documents; split it into several files");
    ManifestError::new(Reason::TooLarge, message)
}

#[cfg(test)]
mod tests;
