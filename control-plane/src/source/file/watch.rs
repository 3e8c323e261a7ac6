//! The thread that keeps a folder and the engine in step.
//!
//! In: the kernel's events, and the time. Out: batches.
//! Every folder below the root is watched before it is listed. What the kernel does not tell (network file
//! systems, a full queue, no watches left) a sweep finds every [`SWEEP`], by comparing times and sizes.
//! A root that vanishes is waited for; what it held stays.
//!
//! Must not parse: that is for [`Folder`].

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Component, Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender},
    time::{Duration, Instant},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode},
};
use tracing::{info, warn};

use super::{
    folder::{Folder, format_of, is_hidden},
    pending::{Hint, Pending, SETTLE},
};
use crate::source::{ChangeBatch, SourceChange, SourceName};

/// How often to look for what the kernel did not tell.
const SWEEP: Duration = Duration::from_secs(5);
/// How often to look for a root that is not there.
const RETRY: Duration = Duration::from_millis(200);
/// How long a root that came back may take to be filled before what it lacks is gone.
const RETURN: Duration = Duration::from_secs(2);
/// The link that the kubelet swaps to change all files of a `ConfigMap` or Secret at once.
const KUBELET_DATA: &str = "..data";

/// What wakes the thread.
pub(super) enum Wake {
    /// The kernel spoke.
    Event(Instant, notify::Result<Event>),
    /// Nobody listens any more.
    Stop,
}

/// The thread's state; `T` takes a batch and says whether to go on.
pub(super) struct FolderWatcher<T> {
    root: PathBuf,
    folder: Folder,
    pending: Pending,
    next_sweep: Instant,
    /// Where the root leads; none while it is not there.
    place: Option<PathBuf>,
    /// The links on the way to the root: when one is swapped, everything below is another folder.
    links: BTreeSet<PathBuf>,
    watcher: Option<RecommendedWatcher>,
    wake: Sender<Wake>,
    woken: Receiver<Wake>,
    is_synced: bool,
    tell: T,
}

impl<T: FnMut(ChangeBatch) -> bool> FolderWatcher<T> {
    pub(super) fn new(
        root: PathBuf,
        max_file_size: u64,
        (wake, woken): (Sender<Wake>, Receiver<Wake>),
        tell: T,
    ) -> Self {
        Self {
            folder: Folder::new(root.clone(), max_file_size),
            root,
            pending: Pending::default(),
            next_sweep: Instant::now(),
            place: None,
            links: BTreeSet::new(),
            watcher: None,
            wake,
            woken,
            is_synced: false,
            tell,
        }
    }

    /// Runs until it is told to stop, or nobody takes batches any more.
    pub(super) fn run(mut self) {
        let mut noticed = Some(Instant::now());
        while let Some(at) = noticed {
            if !(self.look() && self.tell_changes(at)) {
                return;
            }
            noticed = self.wait();
        }
    }

    /// Waits until there is something to do, and says since when there is.
    fn wait(&mut self) -> Option<Instant> {
        let due = self
            .pending
            .next()
            .map_or(self.next_sweep, |at| at.min(self.next_sweep));
        let left = due.saturating_duration_since(Instant::now());
        match self.woken.recv_timeout(left) {
            Ok(Wake::Event(at, event)) => {
                self.note(at, event);
                Some(at)
            }
            Err(RecvTimeoutError::Timeout) => Some(Instant::now()),
            Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    /// Notes all events that have arrived; false means stop.
    fn drain(&mut self) -> bool {
        while let Ok(wake) = self.woken.try_recv() {
            match wake {
                Wake::Event(at, event) => self.note(at, event),
                Wake::Stop => return false,
            }
        }
        true
    }

    fn note(&mut self, at: Instant, event: notify::Result<Event>) {
        let event = match event {
            Ok(event) if event.need_rescan() => return self.next_sweep = at,
            Ok(event) => event,
            Err(error) => {
                warn!(%error, "watching the folder of manifests failed; changes may take {SWEEP:?} to be noticed");
                return self.next_sweep = at;
            }
        };
        let kind = event.kind;
        if kind == EventKind::Modify(ModifyKind::Name(RenameMode::Both)) {
            return self.note_rename(at, &event.paths);
        }
        let is_gone = matches!(
            kind,
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
        );
        for path in event.paths {
            let hint = Hint::of(kind, || path.is_symlink());
            if self.links.contains(&path) && hint != Hint::Nothing || path == self.root && is_gone {
                self.place = None;
                self.next_sweep = at;
            } else if let Some(path) = visible(&self.root, &path) {
                self.note_path(at, kind, hint, path);
            }
        }
    }

    fn note_path(&mut self, at: Instant, kind: EventKind, hint: Hint, path: &Path) {
        match hint {
            Hint::Nothing => {}
            // What is being copied into a new folder is not finished yet.
            Hint::Finished if kind == EventKind::Create(CreateKind::Folder) => {
                self.compare(path, at + SETTLE);
            }
            Hint::Finished => self.pending.set(path.to_owned(), at),
            Hint::Unfinished => self.pending.set(path.to_owned(), at + SETTLE),
        }
    }

    /// What was renamed to where it counts again need not be waited for where it was.
    fn note_rename(&mut self, at: Instant, paths: &[PathBuf]) {
        let [from, to] = paths else { return };
        let counts = visible(&self.root, to).is_some() && (format_of(to).is_some() || to.is_dir());
        if counts {
            for path in self.folder.below(from) {
                self.pending.set(path.clone(), at);
            }
        }
    }

    /// Looks at everything that is due; false means stop.
    fn look(&mut self) -> bool {
        let now = Instant::now();
        if self.next_sweep <= now {
            self.sweep(now);
        }
        let (files, folders): (Vec<_>, Vec<_>) = self
            .pending
            .take_due(now)
            .into_iter()
            .partition(|path| format_of(path).is_some());
        let mut files: BTreeSet<_> = files.into_iter().collect();
        for folder in folders {
            files.extend(self.find_differing(&folder, now + SETTLE));
        }
        let readings: Vec<_> = files
            .into_iter()
            .map(|path| self.folder.read(path))
            .collect();
        if !self.drain() {
            return false;
        }
        for reading in readings {
            // Someone wrote while we read: it may be half of what they mean, and there is a next time.
            if !self.pending.contains(&reading.path) {
                self.folder.apply(reading);
            }
        }
        true
    }

    /// Opens the root if it is not, or not where it was; otherwise compares it with what was read.
    fn sweep(&mut self, now: Instant) {
        let place = fs::canonicalize(&self.root);
        match place {
            Ok(place) if self.place.as_ref() == Some(&place) => {
                self.next_sweep = now + SWEEP;
                self.compare(&self.root.clone(), now + SETTLE);
            }
            Ok(place) => self.open(place, now),
            Err(error) => self.lose(&error, now),
        }
    }

    fn open(&mut self, place: PathBuf, now: Instant) {
        if !place.is_dir() {
            return self.lose(&io::ErrorKind::NotADirectory.into(), now);
        }
        self.watcher = self.new_watcher();
        self.watch_links();
        let was_lost = self.place.replace(place).is_none() && self.is_synced;
        let grace = if was_lost { RETURN } else { SETTLE };
        for path in self.find_differing(&self.root.clone(), now + grace) {
            let reading = self.folder.read(path);
            self.folder.apply(reading);
        }
        self.next_sweep = now + SWEEP;
    }

    fn lose(&mut self, error: &io::Error, now: Instant) {
        self.place = None;
        self.watcher = None;
        self.pending.clear();
        self.folder.refuse_folder(&self.root, error);
        self.next_sweep = now + RETRY;
    }

    /// Plans to look at what differs from what was read below a path.
    fn compare(&mut self, path: &Path, at: Instant) {
        for file in self.find_differing(path, at) {
            self.pending.set_if_none(file, at);
        }
    }

    /// The files below a path that differ from what was read. Those that are missing are planned for.
    fn find_differing(&mut self, path: &Path, missing_at: Instant) -> Vec<PathBuf> {
        let watcher = &mut self.watcher;
        let listing = self.folder.list(path, &mut |folder| watch(watcher, folder));
        for file in self.folder.missing(path, &listing) {
            self.pending.set_if_none(file, missing_at);
        }
        self.folder.differing(&listing)
    }

    fn new_watcher(&self) -> Option<RecommendedWatcher> {
        let wake = self.wake.clone();
        let watcher = notify::recommended_watcher(move |event| {
            if !is_reading(&event) {
                // The thread that would be woken may have stopped.
                let _ = wake.send(Wake::Event(Instant::now(), event));
            }
        });
        watcher
            .inspect_err(|error| warn!(%error, "the folder of manifests cannot be watched; changes take up to {SWEEP:?} to be noticed"))
            .ok()
    }

    fn watch_links(&mut self) {
        let links = self.root.ancestors().filter(|path| path.is_symlink());
        self.links = links.map(Path::to_owned).collect();
        for parent in self.links.iter().filter_map(|link| link.parent()) {
            watch(&mut self.watcher, parent);
        }
    }

    fn tell_changes(&mut self, noticed: Instant) -> bool {
        let mut changes = self.folder.changes();
        if !self.is_synced && self.place.is_some() {
            self.is_synced = true;
            changes.push(SourceChange::Synced(SourceName::Files));
            info!(folder = %self.root.display(), "read the folder of manifests");
        }
        changes.is_empty() || (self.tell)(ChangeBatch::new(noticed, changes))
    }
}

fn watch(watcher: &mut Option<RecommendedWatcher>, folder: &Path) {
    if let Some(watcher) = watcher
        && let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive)
    {
        warn!(%error, folder = %folder.display(), "the folder cannot be watched; changes take up to {SWEEP:?} to be noticed");
    }
}

/// Our own reads among others.
fn is_reading(event: &notify::Result<Event>) -> bool {
    matches!(
        event,
        Ok(Event {
            kind: EventKind::Access(
                AccessKind::Open(_) | AccessKind::Read | AccessKind::Close(AccessMode::Read)
            ),
            ..
        })
    )
}

/// The path to look at when this one below the root changed, if it matters.
fn visible<'a>(root: &Path, path: &'a Path) -> Option<&'a Path> {
    let below = path.strip_prefix(root).ok()?;
    let mut names = below.components().map(Component::as_os_str);
    match names.find(|name| is_hidden(name)) {
        None => (below != Path::new("")).then_some(path),
        Some(name) if name == KUBELET_DATA && names.next().is_none() => path.parent(),
        Some(_) => None,
    }
}
