//! Source of objects from a folder of manifests (`--config`), an alternative to a Kubernetes cluster.
//!
//! Input: every `.yaml`, `.yml` and `.json` file at any depth below the folder; hidden files and folders are skipped.
//! Output: objects and problems, first all of them and then each change.
//!
//! ```text
//!  kernel events ──► watch ──► pending: when to read which path
//!                      └─────► folder: list and read files ──► document: parse ──► catalog: what changed ──► engine
//! ```
//!
//! - A change is sent 1 to 2 ms after its writer closed the file ([`pending`]).
//! - Only changed files are read, only changed documents are parsed, only changed objects are sent.
//! - An object that cannot be read keeps its last good version ([`catalog`]).
//!
//! All of this runs on a blocking thread, not on the threads of the async runtime.

mod addresses;
mod catalog;
mod document;
mod folder;
mod links;
mod pending;
mod texts;
mod watch;
mod yaml;

pub(crate) use self::document::is_mesh_version;
pub use self::{
    texts::{FolderTexts, ManifestObject, ProblemPlace},
    yaml::TextSpan,
};

use std::{
    panic,
    path::{self, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{SyncSender, sync_channel},
    },
};

use tokio::{runtime::Handle, sync::mpsc::Sender, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use self::{
    folder::Folder,
    watch::{FolderWatcher, Wake},
};
use super::{ChangeBatch, SourceChange};

/// Size in bytes above which a file is rejected without reading it: three times a dump of 5,000 objects.
const MAX_FILE_SIZE: u64 = 32 * 1024 * 1024;

/// Events of the kernel that may wait for the thread: as many as the kernel queues by default.
const QUEUED_EVENTS: usize = 16_384;

/// Sends the folder's objects and every change until `shutdown` or until the receiver is dropped.
///
/// A folder that does not exist is reported as a problem, and read when it appears. [`SourceChange::Synced`] follows the
/// first complete read.
pub async fn run(folder: PathBuf, changes: Sender<ChangeBatch>, shutdown: CancellationToken) {
    let (wake, woken) = sync_channel(QUEUED_EVENTS);
    let stop = StopOnDrop {
        is_stopped: Arc::default(),
        wake: wake.clone(),
    };
    let mut thread = spawn_blocking({
        let (runtime, shutdown) = (Handle::current(), shutdown.clone());
        let is_stopped = Arc::clone(&stop.is_stopped);
        move || {
            let send = |batch| {
                runtime.block_on(async {
                    tokio::select! {
                        sent = changes.send(batch) => sent.is_ok(),
                        () = shutdown.cancelled() => false,
                    }
                })
            };
            let watcher = FolderWatcher::new(absolute(&folder), MAX_FILE_SIZE, (wake, woken), send);
            watcher.run(&is_stopped);
        }
    });
    let ended = tokio::select! {
        ended = &mut thread => ended,
        () = shutdown.cancelled() => {
            drop(stop);
            thread.await
        }
    };
    if let Err(error) = ended
        && let Ok(panic) = error.try_into_panic()
    {
        panic::resume_unwind(panic);
    }
}

/// Reads the folder once and returns the changes that [`run`] would send first.
pub fn read_once(folder: &Path) -> Vec<SourceChange> {
    let root = absolute(folder);
    let mut reader = Folder::new(root.clone(), MAX_FILE_SIZE);
    match root.read_dir() {
        Ok(_) => reader.read_all(&root),
        Err(error) => reader.reject_folder(&root, &error),
    }
    reader.changes()
}

/// The absolute path, because the kernel's events have absolute paths. Falls back to the given path if the process has no
/// working directory; the folder is then reported as missing.
fn absolute(folder: &Path) -> PathBuf {
    path::absolute(folder).unwrap_or_else(|_| folder.to_owned())
}

/// Stops the watcher's thread, also when the future of [`run`] is dropped.
struct StopOnDrop {
    is_stopped: Arc<AtomicBool>,
    wake: SyncSender<Wake>,
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.is_stopped.store(true, Relaxed);
        // An error means that the thread has ended already, or that events wake it.
        let _ = self.wake.try_send(Wake::Stop);
    }
}
