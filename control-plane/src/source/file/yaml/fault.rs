//! Faults of a text that has a value nevertheless: places that `kubectl` refuses or silently settles, or that readers of
//! YAML read differently.

use std::fmt::Write as _;

use evermesh_model::{FieldPath, Problem, Reason, problem::PROBLEMS_PER_OBJECT};

use super::scalar::{self, Scalar};

/// Longest text that a message repeats, in characters.
const MAX_SHOWN: usize = 40;

/// A step from a value to one that it contains.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in super::super) enum PathStep {
    Field(String),
    Index(usize),
}

/// A place of a document that needs a person's decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in super::super) struct TextFault {
    /// The way to the field from the root of the document.
    pub(in super::super) path: Vec<PathStep>,
    /// The line in the file, from 1; unknown for JSON.
    pub(in super::super) line: Option<u64>,
    pub(in super::super) kind: TextFaultKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in super::super) enum TextFaultKind {
    /// A mapping has the key twice.
    DuplicateKey,
    /// A key before `<<` is also in the mapping that `<<` names.
    OverriddenByMerge,
    /// `<<` in a mapping with keys that are not text; `kubectl` takes either value, by chance.
    MergeOfTypedKeys,
    /// A key that JSON cannot have.
    KeyNotText,
    /// Infinity, or not a number.
    NotFinite,
    /// A tag that `kubectl` ignores or decodes, or that does not fit its value.
    Tag,
    /// A plain scalar that YAML 1.2 reads differently.
    Ambiguous { text: String },
    /// The same for a key.
    AmbiguousKey { text: String, key: String },
}

/// The faults of a document: at most [`PROBLEMS_PER_OBJECT`] of each severity.
#[derive(Debug, Default)]
pub(super) struct TextFaults(pub(super) Vec<TextFault>);

impl TextFaults {
    pub(super) fn add(&mut self, fault: TextFault) {
        let severity = fault.reason().severity();
        let of_severity = self
            .0
            .iter()
            .filter(|it| it.reason().severity() == severity);
        if of_severity.count() < PROBLEMS_PER_OBJECT {
            self.0.push(fault);
        }
    }
}

impl TextFault {
    /// Whether the document has a value of its own in spite of the fault. `kubectl` refuses the document otherwise.
    pub(in super::super) fn has_value(&self) -> bool {
        !matches!(
            self.kind,
            TextFaultKind::KeyNotText
                | TextFaultKind::NotFinite
                | TextFaultKind::Tag
                | TextFaultKind::MergeOfTypedKeys
        )
    }

    /// The cause, which also says whether the object can be used.
    pub(in super::super) fn reason(&self) -> Reason {
        match self.kind {
            TextFaultKind::DuplicateKey => Reason::DuplicateKey,
            TextFaultKind::OverriddenByMerge
            | TextFaultKind::Ambiguous { .. }
            | TextFaultKind::AmbiguousKey { .. } => Reason::AmbiguousText,
            TextFaultKind::KeyNotText
            | TextFaultKind::NotFinite
            | TextFaultKind::Tag
            | TextFaultKind::MergeOfTypedKeys => Reason::InvalidYaml,
        }
    }

    fn message(&self, confidential: bool) -> String {
        let mut message = String::new();
        if let Some(line) = self.line {
            let _ = write!(message, "line {line}: ");
        }
        message + &self.kind.message(confidential)
    }

    /// The problem without an object. Its message repeats no text of a `confidential` object.
    pub(in super::super) fn problem(&self, confidential: bool) -> Problem {
        let reason = self.reason();
        Problem {
            object: None,
            origin: None,
            field: field_path(&self.path),
            reason,
            severity: reason.severity(),
            message: self.message(confidential),
        }
    }
}

impl TextFaultKind {
    fn message(&self, confidential: bool) -> String {
        match self {
            Self::DuplicateKey => {
                "the key is given twice, and kubectl would use only the last value; remove one of the two".to_owned()
            }
            Self::OverriddenByMerge => {
                "the key is given before `<<` and in the mapping that `<<` names: kubectl uses the value of the latter, other readers the former; write `<<` first, or remove one of the two".to_owned()
            }
            Self::MergeOfTypedKeys => {
                "`<<` joins mappings with keys that are numbers, true or false, and kubectl may use either value; put the keys in quotes".to_owned()
            }
            Self::KeyNotText => {
                "kubectl accepts text, integers, true and false as a key; put the key in quotes".to_owned()
            }
            Self::NotFinite => {
                "kubectl refuses infinity and `.nan`, because JSON has neither; write a number, or put the text in quotes".to_owned()
            }
            Self::Tag => {
                "the tag does not fit the value, or kubectl gives it no meaning; remove it, and put text in quotes".to_owned()
            }
            Self::Ambiguous { .. } | Self::AmbiguousKey { .. } if confidential => {
                "kubectl and YAML 1.2 read different values here; put the text in quotes".to_owned()
            }
            Self::Ambiguous { text } => {
                let (read, otherwise) = (scalar::resolve(text), scalar::resolve_core(text));
                let text = shorten(text);
                let remedy = match read {
                    Scalar::Text => format!("write \"{text}\" in quotes"),
                    _ => format!("write {} for that, or \"{text}\" in quotes for text", plain(read)),
                };
                format!(
                    "kubectl reads `{text}` as {}, YAML 1.2 as {}; {remedy}",
                    read.describe(),
                    otherwise.describe()
                )
            }
            Self::AmbiguousKey { text, key } => {
                let (text, key) = (shorten(text), shorten(key));
                format!(
                    "kubectl reads the key `{text}` as `{key}`; write \"{text}\" or \"{key}\" in quotes"
                )
            }
        }
    }
}

/// The notation that every reader takes for the value.
fn plain(value: Scalar) -> String {
    value.value("").to_string()
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The path as problems show it.
pub(super) fn field_path(steps: &[PathStep]) -> FieldPath {
    steps
        .iter()
        .fold(FieldPath::root(), |path, step| match step {
            PathStep::Index(index) => path.index(*index),
            PathStep::Field(name) if is_identifier(name) => path.field(name),
            PathStep::Field(name) => path.key(&shorten(name).escape_debug().to_string()),
        })
}

fn is_identifier(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_SHOWN
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}
