//! Passages that break a rule of the text check for a reason.

use crate::Finding;

/// A passage that may break the rules.
struct Exception {
    path: &'static str,
    /// A part of the passage.
    text: &'static str,
    reason: &'static str,
}

const EXCEPTIONS: &[Exception] = &[];

/// The exceptions, and which of them were needed.
pub(crate) struct Exceptions {
    used: Vec<bool>,
}

impl Exceptions {
    pub(crate) fn new() -> Self {
        Self {
            used: vec![false; EXCEPTIONS.len()],
        }
    }

    /// Whether an exception covers the passage.
    pub(crate) fn allow(&mut self, path: &str, text: &str) -> bool {
        let found = EXCEPTIONS
            .iter()
            .position(|it| it.path == path && text.contains(it.text));
        if let Some(at) = found {
            self.used[at] = true;
        }
        found.is_some()
    }

    /// A finding for each exception that nothing needs.
    pub(crate) fn unused(&self) -> impl Iterator<Item = Finding> {
        let exceptions = EXCEPTIONS.iter().zip(&self.used);
        exceptions
            .filter(|(_, used)| !**used)
            .map(|(it, _)| Finding {
                path: it.path.to_owned(),
                line: 0,
                message: format!(
                    "the exception for `{}` ({}) is not needed any more; delete it",
                    it.text, it.reason
                ),
            })
    }
}
