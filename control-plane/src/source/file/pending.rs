//! Decides when a path is read after the kernel reported an event about it.
//!
//! | event | read |
//! |---|---|
//! | closed after writing, renamed into place, link created | at once |
//! | created, modified | when the writer closes the file, or after [`SETTLE`] without an event |
//! | removed, renamed away | after [`SETTLE`] |
//! | renamed to another manifest | the old path at once |
//!
//! A removal waits because editors, git and package managers remove a file and write it again, and its routes must not
//! disappear in between. The last event of a path decides.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use notify::{
    EventKind,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode},
};

/// Time without an event after which an unfinished write or a removal is taken as final.
pub(super) const SETTLE: Duration = Duration::from_millis(200);

/// The meaning of an event for its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EventHint {
    /// The content is complete.
    Finished,
    /// More events may follow.
    Unfinished,
    /// The content did not change.
    Unchanged,
}

impl EventHint {
    /// `is_link` is called for a path that was just created. A new link is finished, because no write follows.
    pub(super) fn of(kind: EventKind, is_link: impl FnOnce() -> bool) -> Self {
        match kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Create(CreateKind::Folder)
            | EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => {
                Self::Finished
            }
            EventKind::Create(_) if is_link() => Self::Finished,
            EventKind::Access(_) => Self::Unchanged,
            EventKind::Any
            | EventKind::Other
            | EventKind::Create(_)
            | EventKind::Modify(_)
            | EventKind::Remove(_) => Self::Unfinished,
        }
    }
}

/// Paths to read, each with the time at which it is due.
#[derive(Debug, Default)]
pub(super) struct PendingPaths(BTreeMap<PathBuf, Instant>);

impl PendingPaths {
    /// Schedules a path, and replaces an earlier schedule.
    pub(super) fn set(&mut self, path: PathBuf, at: Instant) {
        self.0.insert(path, at);
    }

    /// Schedules a path unless it is scheduled already.
    pub(super) fn set_if_none(&mut self, path: PathBuf, at: Instant) {
        self.0.entry(path).or_insert(at);
    }

    pub(super) fn contains(&self, path: &Path) -> bool {
        self.0.contains_key(path)
    }

    /// The earliest time at which a path is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.0.values().min().copied()
    }

    /// Removes and returns the paths that are due.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<PathBuf> {
        let due = self.0.extract_if(.., |_, at| *at <= now);
        due.map(|(path, _)| path).collect()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
