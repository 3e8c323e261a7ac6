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

use tokio::{runtime::Handle, sync::mpsc::Sender, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use self::{
    folder::Folder,
    watch::{FolderWatcher, Wake},
};
use super::{ChangeBatch, SourceChange};

/// Three times a dump of 5,000 objects. A larger file is refused unread.
const MAX_FILE_SIZE: u64 = 32 * 1024 * 1024;

/// Tells what is in the folder, and what changes, until `shutdown` or until nobody listens.
///
/// A folder that does not exist is a problem and is waited for; [`SourceChange::Synced`] comes when it was read.
pub async fn run(folder: PathBuf, changes: Sender<ChangeBatch>, shutdown: CancellationToken) {
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
            FolderWatcher::new(absolute(&folder), MAX_FILE_SIZE, (wake, woken), tell).run();
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
pub fn read_once(folder: &Path) -> Vec<SourceChange> {
    let root = absolute(folder);
    let mut reader = Folder::new(root.clone(), MAX_FILE_SIZE);
    match root.read_dir() {
        Ok(_) => reader.read_all(&root),
        Err(error) => reader.refuse_folder(&root, &error),
    }
    reader.changes()
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
