//! The thread that watches the folder and sends its changes.
//!
//! Input: inotify events and timers. Output: batches. Every folder below the root is watched before it is listed. A sweep
//! every [`SWEEP_INTERVAL`] compares modification times and sizes, and thereby finds changes for which the kernel sends
//! no event: on network file systems, after a queue overflow, or beyond the limit of watches. The sweep also finds those
//! whose events found the thread's own queue full.
//!
//! A root that disappears is opened again when it comes back; its last known objects stay in force.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Component, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    time::{Duration, Instant},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{CreateKind, ModifyKind, RenameMode},
};
use tracing::{info, warn};

use super::{
    folder::{Folder, format_of, is_hidden},
    pending::{EventHint, PendingPaths, SETTLE},
};
use crate::{
    reload::is_reading,
    source::{ChangeBatch, SourceChange, SourceName},
};

/// Interval at which the folder is compared with the files that were read.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Interval at which a missing root is looked for.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// Time after a root came back during which missing files do not count as removed.
const REFILL_TIME: Duration = Duration::from_secs(2);
/// Symbolic link that the kubelet replaces to update all files of a `ConfigMap` or Secret at once.
const KUBELET_DATA: &str = "..data";

/// A message to the thread.
pub(super) enum Wake {
    /// An inotify event and the time at which it arrived.
    Event(Instant, notify::Result<Event>),
    Stop,
}

/// State of the thread. `T` sends a batch and returns whether the receiver still exists.
pub(super) struct FolderWatcher<T> {
    root: PathBuf,
    folder: Folder,
    pending: PendingPaths,
    next_sweep: Instant,
    /// The root with all links resolved; `None` while the root does not exist.
    resolved_root: Option<PathBuf>,
    /// Symbolic links in the path of the root. When one is replaced the root is another folder.
    links: BTreeSet<PathBuf>,
    watcher: Option<RecommendedWatcher>,
    wake: SyncSender<Wake>,
    woken: Receiver<Wake>,
    /// Whether the queue of events was full since the last sweep.
    has_lost_events: Arc<AtomicBool>,
    is_synced: bool,
    send: T,
}

impl<T: FnMut(ChangeBatch) -> bool> FolderWatcher<T> {
    pub(super) fn new(
        root: PathBuf,
        max_file_size: u64,
        (wake, woken): (SyncSender<Wake>, Receiver<Wake>),
        send: T,
    ) -> Self {
        Self {
            folder: Folder::new(root.clone(), max_file_size),
            root,
            pending: PendingPaths::default(),
            next_sweep: Instant::now(),
            resolved_root: None,
            links: BTreeSet::new(),
            watcher: None,
            wake,
            woken,
            has_lost_events: Arc::default(),
            is_synced: false,
            send,
        }
    }

    /// Runs until `is_stopped` is set, or until the receiver of batches is gone. Needs a [`Wake::Stop`] to notice the
    /// former while it waits.
    pub(super) fn run(mut self, is_stopped: &AtomicBool) {
        let mut noticed = Some(Instant::now());
        while let Some(at) = noticed {
            let has_read = !is_stopped.load(Relaxed) && self.read_due();
            if !(has_read && self.send_changes(at)) {
                return;
            }
            noticed = self.wait();
        }
    }

    /// Waits for an event or until a path or a sweep is due. Returns the time of the event, or `None` to stop.
    fn wait(&mut self) -> Option<Instant> {
        let due = self
            .pending
            .next_due()
            .map_or(self.next_sweep, |at| at.min(self.next_sweep));
        let left = due.saturating_duration_since(Instant::now());
        match self.woken.recv_timeout(left) {
            Ok(Wake::Event(at, event)) => {
                self.handle_event(at, event);
                Some(at)
            }
            Err(RecvTimeoutError::Timeout) => Some(Instant::now()),
            Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    /// Handles all events that have arrived. Returns false to stop.
    fn drain(&mut self) -> bool {
        while let Ok(wake) = self.woken.try_recv() {
            match wake {
                Wake::Event(at, event) => self.handle_event(at, event),
                Wake::Stop => return false,
            }
        }
        true
    }

    fn handle_event(&mut self, at: Instant, event: notify::Result<Event>) {
        let event = match event {
            Ok(event) if event.need_rescan() => return self.rescan(at),
            Ok(event) => event,
            Err(error) => {
                warn!(%error, "the watch of the manifest folder failed; changes are noticed within 5 s");
                return self.rescan(at);
            }
        };
        let kind = event.kind;
        if kind == EventKind::Modify(ModifyKind::Name(RenameMode::Both)) {
            return self.handle_rename(at, &event.paths);
        }
        let is_gone = matches!(
            kind,
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
        );
        for path in event.paths {
            let hint = EventHint::of(kind, &path);
            let is_link_replaced = self.links.contains(&path) && hint != EventHint::Unchanged;
            if is_link_replaced || path == self.root && is_gone {
                self.resolved_root = None;
                self.next_sweep = at;
            } else if let Some(path) = path_to_read(&self.root, &path) {
                self.schedule(at, kind, hint, path);
            }
        }
    }

    /// Schedules a sweep because events were lost.
    fn rescan(&mut self, at: Instant) {
        self.pending.forget_writers(at + SETTLE);
        self.next_sweep = at;
    }

    fn schedule(&mut self, at: Instant, kind: EventKind, hint: EventHint, path: &Path) {
        match hint {
            EventHint::Unchanged => {}
            // The files of a new folder may still be being copied.
            EventHint::Finished if kind == EventKind::Create(CreateKind::Folder) => {
                self.schedule_differing(path, at + SETTLE);
            }
            EventHint::Finished => self.pending.set(path.to_owned(), at),
            EventHint::Open if format_of(path).is_none() => {}
            EventHint::Open => self.pending.set_open(path.to_owned(), at),
            EventHint::Removed => self.pending.set(path.to_owned(), at + SETTLE),
            EventHint::Unfinished => self.pending.set_if_closed(path.to_owned(), at + SETTLE),
        }
    }

    /// Schedules the old path of a rename at once if the new path is read too: the file was moved, not removed.
    fn handle_rename(&mut self, at: Instant, paths: &[PathBuf]) {
        let [from, to] = paths else { return };
        let is_read =
            path_to_read(&self.root, to).is_some() && (format_of(to).is_some() || to.is_dir());
        if is_read {
            for path in self.folder.below(from) {
                self.pending.set(path.clone(), at);
            }
        }
    }

    /// Reads everything that is due. Returns false to stop.
    fn read_due(&mut self) -> bool {
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
        let contents: Vec<_> = files
            .into_iter()
            .map(|path| self.folder.read(path))
            .collect();
        if !self.drain() {
            return false;
        }
        for contents in contents {
            // A file that was written while it was read may be incomplete. Its event has scheduled it again.
            if !self.pending.contains(&contents.path) {
                self.folder.apply(contents);
            }
        }
        true
    }

    /// Opens the root if it is new or was replaced; otherwise schedules the files that differ.
    fn sweep(&mut self, now: Instant) {
        if self.has_lost_events.swap(false, Relaxed) {
            self.pending.forget_writers(now + SETTLE);
        }
        for file in self.pending.slow_writers(now, SWEEP_INTERVAL) {
            warn!(file = %file.display(), "a manifest is still being written; its last version stays in force until the writer closes it");
        }
        match fs::canonicalize(&self.root) {
            Ok(resolved) if self.resolved_root.as_ref() == Some(&resolved) => {
                self.next_sweep = now + SWEEP_INTERVAL;
                self.schedule_differing(&self.root.clone(), now + SETTLE);
            }
            Ok(resolved) => self.open_root(resolved, now),
            Err(error) => self.lose_root(&error, now),
        }
    }

    fn open_root(&mut self, resolved: PathBuf, now: Instant) {
        if !resolved.is_dir() {
            return self.lose_root(&io::ErrorKind::NotADirectory.into(), now);
        }
        self.watcher = self.new_watcher();
        self.pending.forget_writers(now + SETTLE);
        self.watch_links();
        let was_lost = self.resolved_root.replace(resolved).is_none() && self.is_synced;
        let grace = if was_lost { REFILL_TIME } else { SETTLE };
        for path in self.find_differing(&self.root.clone(), now + grace) {
            let contents = self.folder.read(path);
            self.folder.apply(contents);
        }
        self.next_sweep = now + SWEEP_INTERVAL;
    }

    fn lose_root(&mut self, error: &io::Error, now: Instant) {
        self.resolved_root = None;
        self.watcher = None;
        self.pending.clear();
        self.folder.reject_folder(&self.root, error);
        self.next_sweep = now + RETRY_INTERVAL;
    }

    /// Schedules the files below a path that differ from what was read.
    fn schedule_differing(&mut self, path: &Path, at: Instant) {
        for file in self.find_differing(path, at) {
            self.pending.set_if_none(file, at);
        }
    }

    /// The files below a path that differ from what was read. Schedules missing files for `missing_at`.
    fn find_differing(&mut self, path: &Path, missing_at: Instant) -> Vec<PathBuf> {
        let watcher = &mut self.watcher;
        let listing = self.folder.list(path, &mut |folder| watch(watcher, folder));
        for file in self.folder.missing(path, &listing) {
            self.pending.set_missing(file, missing_at);
        }
        self.folder.differing(&listing)
    }

    fn new_watcher(&self) -> Option<RecommendedWatcher> {
        let wake = self.wake.clone();
        let has_lost_events = Arc::clone(&self.has_lost_events);
        let watcher = notify::recommended_watcher(move |event| {
            if !is_reading(&event) {
                let sent = wake.try_send(Wake::Event(Instant::now(), event));
                // The thread has stopped, or the queue is full and the next sweep finds the change.
                has_lost_events.fetch_or(sent.is_err(), Relaxed);
            }
        });
        watcher
            .inspect_err(|error| warn!(%error, "cannot watch the manifest folder; changes are noticed within 5 s"))
            .ok()
    }

    fn watch_links(&mut self) {
        let links = self.root.ancestors().filter(|path| path.is_symlink());
        self.links = links.map(Path::to_owned).collect();
        for parent in self.links.iter().filter_map(|link| link.parent()) {
            watch(&mut self.watcher, parent);
        }
    }

    /// Sends the changes, if there are any. Returns false if the receiver is gone.
    fn send_changes(&mut self, noticed: Instant) -> bool {
        let mut changes = self.folder.changes();
        if !self.is_synced && self.resolved_root.is_some() {
            self.is_synced = true;
            changes.push(SourceChange::Synced(SourceName::Files));
            info!(folder = %self.root.display(), "read the manifest folder");
        }
        changes.is_empty() || (self.send)(ChangeBatch::new(noticed, changes))
    }
}

fn watch(watcher: &mut Option<RecommendedWatcher>, folder: &Path) {
    if let Some(watcher) = watcher
        && let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive)
    {
        warn!(%error, folder = %folder.display(), "cannot watch a folder; changes in it are noticed within 5 s");
    }
}

/// The path to read after an event about `path`: the path itself, its folder if the kubelet replaced `..data`, or `None`
/// for hidden paths.
fn path_to_read<'a>(root: &Path, path: &'a Path) -> Option<&'a Path> {
    let below = path.strip_prefix(root).ok()?;
    let mut names = below.components().map(Component::as_os_str);
    match names.find(|name| is_hidden(name)) {
        None => (below != Path::new("")).then_some(path),
        Some(name) if name == KUBELET_DATA && names.next().is_none() => path.parent(),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn thread_stops_although_its_queue_has_no_room_for_the_request() {
        let folder = tempfile::tempdir().unwrap();
        let (wake, woken) = sync_channel(1);
        let event = Wake::Event(Instant::now(), Ok(Event::new(EventKind::Any)));
        assert!(wake.try_send(event).is_ok());
        assert!(wake.try_send(Wake::Stop).is_err());
        let is_stopped = AtomicBool::new(true);
        let send = |_| panic!("the thread has not stopped");
        FolderWatcher::new(folder.path().to_owned(), 1, (wake, woken), send).run(&is_stopped);
    }
}
