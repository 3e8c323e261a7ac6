//! A folder of manifests: the embedded alternative to a cluster.
//!
//! In: every `.yaml`, `.yml` and `.json` file at any depth below a folder, but for hidden ones. Out: their objects
//! and their problems, once as a whole and then change by change.
//!
//! - A change is told within a millisecond or two of its writer closing the file; [`pending`] has the rule.
//! - Only files that changed are read, only documents that changed are parsed, only objects that changed are told.
//! - What cannot be read keeps its last good version; [`catalog`] has the rule.
//!
//! Must not do any of this on the threads of the runtime.

mod catalog;
mod document;
mod folder;
mod pending;
mod watch;

use std::{
    panic,
    path::{self, Path, PathBuf},
    sync::mpsc::{self as std_mpsc, Sender as StdSender},
};

use evermesh_ingest::object::Object;
use evermesh_model::{ObjectRef, Problem};
use tokio::{runtime::Handle, sync::mpsc::Sender, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use self::{
    folder::Folder,
    watch::{Wake, Watch},
};
use super::{Batch, Change};

/// Three times a dump of 5,000 objects.
pub const DEFAULT_MAX_FILE_SIZE: u64 = 32 * 1024 * 1024;

/// Which folder to read, and how.
#[derive(Debug, Clone)]
pub struct FileOptions {
    /// The folder.
    pub folder: PathBuf,
    /// A larger file is refused unread.
    pub max_file_size: u64,
}

impl FileOptions {
    /// The folder with the limits that suit everyone.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            max_file_size: DEFAULT_MAX_FILE_SIZE,
        }
    }
}

/// Tells what is in the folder, and what changes, until `shutdown` or until nobody listens.
///
/// A folder that does not exist is a problem and is waited for; [`Change::Synced`] comes when it was read.
pub async fn run(options: FileOptions, changes: Sender<Batch>, shutdown: CancellationToken) {
    let (wake, woken) = std_mpsc::channel();
    let stop = StopOnDrop(wake.clone());
    let mut thread = spawn_blocking({
        let (runtime, shutdown) = (Handle::current(), shutdown.clone());
        move || {
            let tell = |batch| {
                runtime.block_on(async {
                    tokio::select! {
                        sent = changes.send(batch) => sent.is_ok(),
                        () = shutdown.cancelled() => false,
                    }
                })
            };
            let FileOptions {
                folder,
                max_file_size,
            } = options;
            Watch::new(absolute(&folder), max_file_size, (wake, woken), tell).run();
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

/// Reads the folder once, as [`run`] would at its start.
pub fn read_once(folder: &Path) -> (Vec<(ObjectRef, Object)>, Vec<Problem>) {
    let root = absolute(folder);
    let mut reader = Folder::new(root.clone(), DEFAULT_MAX_FILE_SIZE);
    match root.read_dir() {
        Ok(_) => reader.read_all(&root),
        Err(error) => reader.refuse_folder(&root, &error),
    }
    let (mut objects, mut found) = (Vec::new(), Vec::new());
    for change in reader.changes() {
        match change {
            Change::Object { object, value } => objects.extend(value.map(|value| (object, value))),
            Change::Problems { problems, .. } => found.extend(problems),
            Change::CloudMap { .. } | Change::Synced(_) => {}
        }
    }
    (objects, found)
}

/// Events name absolute paths. Without a working directory there are none, and the folder will not be found.
fn absolute(folder: &Path) -> PathBuf {
    path::absolute(folder).unwrap_or_else(|_| folder.to_owned())
}

/// Ends the thread even if the future that waits for it is dropped.
struct StopOnDrop(StdSender<Wake>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.send(Wake::Stop);
    }
}
