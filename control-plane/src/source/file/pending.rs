//! Decides when a path is read after the kernel reported an event about it.
//!
//! | event | read |
//! |---|---|
//! | closed after writing, renamed into place, link created | at once |
//! | content modified, created without content | when the writer closes the file, however long this takes |
//! | created with content, attributes changed | after [`SETTLE`] without an event |
//! | removed, renamed away | after [`SETTLE`] |
//! | renamed to another manifest | the old path at once |
//!
//! A removal waits because editors, git and package managers remove a file and write it again, and its routes must not
//! disappear in between. The last event of a path decides, except that only a closed, removed or replaced file ends the
//! wait for a writer. The kernel reports every write and the end of each writer (`inotify(7)`), so a file with content and
//! without a write is a link. If events were lost, waiting paths are read as if their attributes had changed.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use notify::{
    EventKind,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode},
};

/// Time without an event after which a removal, or a change without a writer, is taken as final.
pub(super) const SETTLE: Duration = Duration::from_millis(200);

/// The meaning of an event for its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EventHint {
    /// The content is complete.
    Finished,
    /// A writer has the file open.
    Open,
    /// The path is gone.
    Removed,
    /// More events may follow.
    Unfinished,
    /// The content did not change.
    Unchanged,
}

impl EventHint {
    /// The hint of an event. Reads the attributes of a path that was just created: a symbolic link is finished, because
    /// no write follows, and an empty file has a writer.
    pub(super) fn of(kind: EventKind, path: &Path) -> Self {
        match kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Create(CreateKind::Folder)
            | EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both)) => {
                Self::Finished
            }
            EventKind::Create(_) => match path.symlink_metadata() {
                Ok(metadata) if metadata.is_symlink() => Self::Finished,
                Ok(metadata) if metadata.is_file() && metadata.len() == 0 => Self::Open,
                _ => Self::Unfinished,
            },
            EventKind::Modify(ModifyKind::Data(_)) => Self::Open,
            EventKind::Access(_) => Self::Unchanged,
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => Self::Removed,
            EventKind::Any | EventKind::Other | EventKind::Modify(_) => Self::Unfinished,
        }
    }
}

/// The time at which a path is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    At(Instant),
    /// When its writer closes it.
    OnClose(Writer),
}

/// A writer that has a file open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Writer {
    since: Instant,
    is_reported: bool,
}

/// Paths to read.
#[derive(Debug, Default)]
pub(super) struct PendingPaths(BTreeMap<PathBuf, Due>);

impl PendingPaths {
    /// Schedules a path, and replaces an earlier schedule.
    pub(super) fn set(&mut self, path: PathBuf, at: Instant) {
        self.0.insert(path, Due::At(at));
    }

    /// Schedules a path, and replaces an earlier schedule unless the path waits for its writer.
    pub(super) fn set_if_closed(&mut self, path: PathBuf, at: Instant) {
        let due = self.0.entry(path).or_insert(Due::At(at));
        if let Due::At(_) = due {
            *due = Due::At(at);
        }
    }

    /// Schedules a path unless it is scheduled already.
    pub(super) fn set_if_none(&mut self, path: PathBuf, at: Instant) {
        self.0.entry(path).or_insert(Due::At(at));
    }

    /// Schedules a path that does not exist any more, and so has no writer, unless it is scheduled already.
    pub(super) fn set_missing(&mut self, path: PathBuf, at: Instant) {
        let due = self.0.entry(path).or_insert(Due::At(at));
        if let Due::OnClose(_) = due {
            *due = Due::At(at);
        }
    }

    /// Lets a path wait for its writer.
    pub(super) fn set_open(&mut self, path: PathBuf, since: Instant) {
        let due = self.0.entry(path).or_insert(Due::At(since));
        if let Due::At(_) = due {
            let is_reported = false;
            *due = Due::OnClose(Writer { since, is_reported });
        }
    }

    /// Schedules the paths that wait for a writer, because the event of its end may be lost.
    pub(super) fn forget_writers(&mut self, at: Instant) {
        for due in self.0.values_mut() {
            if let Due::OnClose(_) = due {
                *due = Due::At(at);
            }
        }
    }

    /// The paths that have waited for a writer for `age` or longer, each once.
    pub(super) fn slow_writers(&mut self, now: Instant, age: Duration) -> Vec<&Path> {
        let mut slow = Vec::new();
        for (path, due) in &mut self.0 {
            if let Due::OnClose(writer) = due
                && writer.since + age <= now
                && !writer.is_reported
            {
                writer.is_reported = true;
                slow.push(path.as_path());
            }
        }
        slow
    }

    pub(super) fn contains(&self, path: &Path) -> bool {
        self.0.contains_key(path)
    }

    /// The earliest time at which a path is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.0.values().filter_map(|due| due.time()).min()
    }

    /// Removes and returns the paths that are due.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<PathBuf> {
        let due = self
            .0
            .extract_if(.., |_, due| due.time().is_some_and(|at| at <= now));
        due.map(|(path, _)| path).collect()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Due {
    fn time(self) -> Option<Instant> {
        match self {
            Self::At(at) => Some(at),
            Self::OnClose(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{DataChange, MetadataKind, RemoveKind};
    use tempfile::tempdir;

    use super::*;

    #[test]
    fn every_event_says_whether_the_content_is_complete() {
        let folder = tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (empty, full) = (file("empty", ""), file("full", "a: 1"));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&empty, &link).unwrap();
        let missing = folder.path().join("missing");

        let created = EventKind::Create(CreateKind::File);
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let opened = EventKind::Access(AccessKind::Open(AccessMode::Any));
        let modified = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let changed = EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any));
        let renamed = |mode| EventKind::Modify(ModifyKind::Name(mode));
        for (kind, path, hint) in [
            (created, &empty, EventHint::Open),
            (created, &full, EventHint::Unfinished),
            (created, &link, EventHint::Finished),
            (created, &missing, EventHint::Unfinished),
            (modified, &full, EventHint::Open),
            (changed, &full, EventHint::Unfinished),
            (opened, &full, EventHint::Unchanged),
            (closed, &full, EventHint::Finished),
            (renamed(RenameMode::To), &full, EventHint::Finished),
            (renamed(RenameMode::From), &missing, EventHint::Removed),
            (
                EventKind::Remove(RemoveKind::File),
                &missing,
                EventHint::Removed,
            ),
        ] {
            assert_eq!(EventHint::of(kind, path), hint, "{kind:?} {path:?}");
        }
    }

    type EndWriter = fn(&mut PendingPaths, PathBuf, Instant);

    #[test]
    fn path_with_a_writer_waits_for_its_end_or_its_removal() {
        let start = Instant::now();
        let late = start + Duration::from_hours(1);
        let path = PathBuf::from("a.yaml");
        let open = || {
            let mut pending = PendingPaths::default();
            pending.set(path.clone(), start);
            pending.set_open(path.clone(), start);
            pending.set_if_closed(path.clone(), start);
            pending.set_if_none(path.clone(), start);
            assert!(pending.contains(&path));
            assert_eq!(pending.next_due(), None);
            assert!(pending.take_due(late).is_empty());
            pending
        };
        for (name, end) in [
            ("closed", PendingPaths::set as EndWriter),
            ("missing", PendingPaths::set_missing),
            ("lost events", |pending, _, at| pending.forget_writers(at)),
        ] {
            let mut pending = open();
            end(&mut pending, path.clone(), late);
            assert_eq!(pending.next_due(), Some(late), "{name}");
            assert_eq!(pending.take_due(late), [&*path], "{name}");
            assert!(!pending.contains(&path), "{name}");
        }
    }

    #[test]
    fn slow_writer_is_reported_once() {
        let start = Instant::now();
        let age = Duration::from_secs(5);
        let mut pending = PendingPaths::default();
        pending.set_open("a.yaml".into(), start);
        pending.set_open("b.yaml".into(), start + age);
        pending.set("c.yaml".into(), start);
        assert!(pending.slow_writers(start, age).is_empty());
        assert_eq!(
            pending.slow_writers(start + age, age),
            [Path::new("a.yaml")]
        );
        // A further write is not a new writer.
        pending.set_open("a.yaml".into(), start + age);
        assert_eq!(
            pending.slow_writers(start + 2 * age, age),
            [Path::new("b.yaml")]
        );
    }
}
