//! Reads the rows of `docs/fields.md`.

use std::fmt;

/// A row of the page: a leaf and what the page says of it.
pub(crate) struct Row {
    pub(crate) kind: String,
    pub(crate) path: String,
    /// Full names of Envoy fields.
    pub(crate) envoy: Vec<String>,
    /// Golden cases such as `ingest/testdata/node/bare`.
    pub(crate) cases: Vec<String>,
    /// Whether the page says that the field becomes nothing.
    pub(crate) has_no_effect: bool,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.path)
    }
}

/// All rows.
pub(crate) fn rows() -> Vec<Row> {
    let page = include_str!("../../../../docs/fields.md");
    let mut kind = "";
    let mut rows = Vec::new();
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            kind = heading;
        } else if line.starts_with("| `.") {
            rows.push(row(kind, line));
        }
    }
    rows
}

fn row(kind: &str, line: &str) -> Row {
    let cells: Vec<&str> = line.split(" | ").collect();
    let [field, becomes, proof, ..] = cells[..] else {
        panic!("not a row: {line}");
    };
    let mut cases = quoted(proof);
    cases.retain(|test| test.contains("/testdata/"));
    let mut envoy = quoted(becomes);
    envoy.retain(|name| name.starts_with("envoy."));
    Row {
        kind: kind.to_owned(),
        path: quoted(field).remove(0),
        envoy,
        cases,
        has_no_effect: becomes.starts_with("nothing"),
    }
}

/// The texts between backticks.
fn quoted(cell: &str) -> Vec<String> {
    let parts = cell.split('`').skip(1).step_by(2);
    parts.map(ToOwned::to_owned).collect()
}
