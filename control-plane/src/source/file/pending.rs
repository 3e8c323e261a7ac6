//! When to look at a path that the kernel spoke of.
//!
//! In: events. Out: paths that are due. The rule:
//!
//! - A file that was closed after writing, renamed into place or linked is looked at **at once**.
//! - A file that is being written is looked at when its writer closes it, or has been silent for [`SETTLE`].
//! - A file that went is believed to be gone after [`SETTLE`]: editors, git and package managers remove a file
//!   and write it anew, and its routes must not flicker. If it was renamed to another manifest, it is gone at once.
//!
//! The last event of a path decides. Must not touch the file system.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use notify::{
    EventKind,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode},
};

/// How long a file may be open for writing, or away, before that is taken for what its owner wants.
pub(super) const SETTLE: Duration = Duration::from_millis(200);

/// What an event says of its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hint {
    /// It is as its owner wants it.
    Finished,
    /// There may be more to come.
    Unfinished,
    /// Nothing about its content.
    Nothing,
}

impl Hint {
    /// `is_link` tells of a path that has just been created whether it is a link: nobody writes to those.
    pub(super) fn of(kind: EventKind, is_link: impl FnOnce() -> bool) -> Self {
        match kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Create(CreateKind::Folder)
            | EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => {
                Self::Finished
            }
            EventKind::Create(_) if is_link() => Self::Finished,
            EventKind::Access(_) => Self::Nothing,
            EventKind::Any
            | EventKind::Other
            | EventKind::Create(_)
            | EventKind::Modify(_)
            | EventKind::Remove(_) => Self::Unfinished,
        }
    }
}

/// Paths to look at, and when.
#[derive(Debug, Default)]
pub(super) struct Pending(BTreeMap<PathBuf, Instant>);

impl Pending {
    /// Looks at the path at that time, whatever was planned.
    pub(super) fn set(&mut self, path: PathBuf, at: Instant) {
        self.0.insert(path, at);
    }

    /// Looks at the path at that time unless something is planned.
    pub(super) fn set_if_none(&mut self, path: PathBuf, at: Instant) {
        self.0.entry(path).or_insert(at);
    }

    /// Whether the path is to be looked at, be it later.
    pub(super) fn contains(&self, path: &Path) -> bool {
        self.0.contains_key(path)
    }

    /// When to look next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().min().copied()
    }

    /// The paths that are due.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<PathBuf> {
        let due = self.0.extract_if(.., |_, at| *at <= now);
        due.map(|(path, _)| path).collect()
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
