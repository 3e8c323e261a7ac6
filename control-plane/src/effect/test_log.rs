//! The log of a test.

use std::{collections::BTreeMap, fs};

use serde_json::Value;
use tempfile::NamedTempFile;
use tracing::subscriber::DefaultGuard;

/// Collects the log lines of the current thread, from now until the end of this handle.
pub(super) struct TestLog {
    file: NamedTempFile,
    _subscriber: DefaultGuard,
}

impl TestLog {
    pub(super) fn start() -> Self {
        let file = NamedTempFile::new().unwrap();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_writer(file.reopen().unwrap())
            .finish();
        Self {
            file,
            _subscriber: tracing::subscriber::set_default(subscriber),
        }
    }

    /// Number of Evermesh's lines by cause: by text and the kind that they are about.
    pub(super) fn lines_by_cause(&self) -> BTreeMap<String, usize> {
        let mut lines = BTreeMap::new();
        for line in fs::read_to_string(self.file.path()).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            if line["target"].as_str().unwrap().starts_with("evermesh") {
                let cause = format!("{} {}", line["message"], line["kind"]);
                *lines.entry(cause).or_default() += 1;
            }
        }
        lines
    }
}
