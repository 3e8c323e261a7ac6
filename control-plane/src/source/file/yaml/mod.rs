//! Reads one YAML or JSON document with the value that `kubectl` gives to it, or refuses it.
//!
//! `kubectl apply -f` decides what a manifest means, and its reader is neither YAML 1.1 nor YAML 1.2. A document for
//! which this reader has a value and no fault means the same to `kubectl`. Where the meaning is a matter of the reader,
//! the document has a [`TextFault`]. What `kubectl` refuses is refused, and so is some text that it accepts: directives,
//! text after `...`, aliases as keys, control characters and line breaks other than LF and CRLF.
//!
//! `testdata/kubectl.json` has texts with what `kubectl` made of them; `testdata/kubectl.go` is the program that wrote it.

mod fault;
mod json;
mod places;
mod read;
mod scalar;
mod strict;

pub use self::places::TextSpan;
pub(super) use self::{
    fault::{PathStep, TextFault},
    json::read_json,
    places::{DocumentPlaces, read_with_places},
    read::read_yaml,
    strict::check_characters,
};

use serde_json::Value;

/// A document that has a value.
#[derive(Debug)]
pub(super) struct ReadDocument {
    pub(super) value: Value,
    pub(super) faults: Vec<TextFault>,
}

/// The reason why a document has no value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub(super) struct ReadError {
    /// The place in the file, from 1.
    pub(super) line: u64,
    pub(super) column: usize,
    pub(super) message: String,
    /// Whether a limit was exceeded.
    pub(super) is_limit: bool,
}
