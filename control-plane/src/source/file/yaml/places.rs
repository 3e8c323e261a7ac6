//! Places of the nodes of a document in its file. Only `evermesh lint` reads a document with its places.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{ReadError, read};

/// A part of one line of a file, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TextSpan {
    /// The line, from 1.
    pub line: u64,
    /// The column, from 1.
    pub column: usize,
    /// The number of characters, at least 1.
    pub width: usize,
}

/// The places of a node's key and, if it is a scalar or an item of a list, of its value.
#[derive(Debug, Default)]
struct NodePlace {
    key: Option<TextSpan>,
    value: Option<TextSpan>,
}

/// The places of all nodes by their field paths.
#[derive(Debug, Default)]
pub(in super::super) struct DocumentPlaces(BTreeMap<String, NodePlace>);

impl DocumentPlaces {
    pub(super) fn add_key(&mut self, field: String, span: TextSpan) {
        self.0.entry(field).or_default().key = Some(span);
    }

    pub(super) fn add_value(&mut self, field: String, span: TextSpan) {
        self.0.entry(field).or_default().value = Some(span);
    }

    /// The place of a field, or of the nearest field above it that exists.
    pub(in super::super) fn find(&self, field: &str, prefers_key: bool) -> Option<TextSpan> {
        if let Some(place) = self.0.get(field) {
            return if prefers_key {
                place.key.or(place.value)
            } else {
                place.value.or(place.key)
            };
        }
        let mut above = field;
        loop {
            above = parent(above)?;
            if let Some(place) = self.0.get(above) {
                return place.key.or(place.value);
            }
        }
    }
}

/// The path of the node that contains a field.
fn parent(field: &str) -> Option<&str> {
    let end = if field.ends_with(']') {
        field.rfind('[')
    } else {
        field
            .rfind(['.', ']'])
            .map(|at| at + usize::from(field[at..].starts_with(']')))
    };
    field.get(..end?)
}

/// Reads a document with the places of its nodes.
pub(in super::super) fn read_with_places(
    text: &str,
    lines_before: u64,
) -> Result<(Value, DocumentPlaces), ReadError> {
    read::compose(text, lines_before, Some(DocumentPlaces::default()))
        .map(|(read, places)| (read.value, places.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_paths() {
        let text = "a:\n  b: [1, {c: xyz}]\n  \"d.e/f\": é\nd:\n- x: 1\n";
        let (_, places) = read_with_places(text, 10).unwrap();
        let find = |field: &str, prefers_key| {
            let span = places.find(field, prefers_key);
            span.map(|span| (span.line, span.column, span.width))
        };
        for (field, key, value) in [
            ("a", (11, 1, 1), (11, 1, 1)),
            ("a.b", (12, 3, 1), (12, 3, 1)),
            ("a.b[0]", (12, 7, 1), (12, 7, 1)),
            ("a.b[1].c", (12, 11, 1), (12, 14, 3)),
            ("a[d.e/f]", (13, 3, 7), (13, 12, 1)),
            ("a.d.e/f", (13, 3, 7), (13, 12, 1)),
            ("d[0].x", (15, 3, 1), (15, 6, 1)),
            ("d[0].missing", (15, 3, 1), (15, 3, 1)),
            ("a.b[7].c", (12, 3, 1), (12, 3, 1)),
            ("a.missing.deep[3].er", (11, 1, 1), (11, 1, 1)),
        ] {
            assert_eq!(find(field, true), Some(key), "{field}");
            assert_eq!(find(field, false), Some(value), "{field}");
        }
        assert_eq!(find("z", true), None);
    }
}
