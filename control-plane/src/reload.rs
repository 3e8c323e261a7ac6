//! Reloads certificates, keys and other small files when they change.
//!
//! [`WatchedFiles::reloader`] gives the contents of the files to a function each time they change. A reloader watches
//! the folders of its files and also reads the files every [`SWEEP`], because the kernel does not report every change,
//! for instance behind a symbolic link or on a network file system. Contents that the function rejects are reported to
//! [`CertificateHealth`], and the function must keep the last good ones in use.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow};
use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::certificate_health::{CertificateHealth, CertificateRole};

const SWEEP: Duration = Duration::from_secs(5);

/// Files that are loaded together, such as a certificate and its key.
#[derive(Debug)]
pub(crate) struct WatchedFiles {
    role: CertificateRole,
    /// Each file with the flag that names it.
    files: Vec<(&'static str, PathBuf)>,
    health: Arc<CertificateHealth>,
}

/// Contents of the files in the order of [`WatchedFiles::new`].
pub(crate) type WatchedContents = Vec<Vec<u8>>;

/// Takes new contents into use, or returns an error and leaves the last good ones in use.
type Apply = Box<dyn FnMut(&[Vec<u8>]) -> anyhow::Result<()> + Send>;

/// Applies the contents of files each time they change.
pub(crate) struct FileReloader {
    files: WatchedFiles,
    /// Contents that were applied or rejected last.
    last: Option<WatchedContents>,
    /// The error with which `last` was rejected.
    rejection: Option<String>,
    apply: Apply,
}

impl WatchedFiles {
    pub(crate) fn new(
        role: CertificateRole,
        files: Vec<(&'static str, PathBuf)>,
        health: &Arc<CertificateHealth>,
    ) -> Self {
        let health = Arc::clone(health);
        Self {
            role,
            files,
            health,
        }
    }

    pub(crate) fn read(&self) -> anyhow::Result<WatchedContents> {
        let read = |(flag, file): &(&'static str, PathBuf)| {
            fs::read(file).with_context(|| format!("{flag} {}", file.display()))
        };
        self.files.iter().map(read).collect()
    }

    /// Builds a reloader; `loaded` are contents that the caller already uses.
    pub(crate) fn reloader(
        self,
        loaded: Option<WatchedContents>,
        apply: impl FnMut(&[Vec<u8>]) -> anyhow::Result<()> + Send + 'static,
    ) -> FileReloader {
        FileReloader {
            files: self,
            last: loaded,
            rejection: None,
            apply: Box::new(apply),
        }
    }

    /// Calls `changed` for events in the folders of the files. Watches the folders, because the kubelet replaces a
    /// symbolic link in the folder of a mounted Secret and leaves the files alone.
    fn watch(
        &self,
        changed: impl Fn(notify::Result<Event>) + Send + 'static,
    ) -> notify::Result<RecommendedWatcher> {
        let mut watcher = notify::recommended_watcher(move |event| {
            if !is_reading(&event) {
                changed(event);
            }
        })?;
        let folders: BTreeSet<&Path> = self
            .files
            .iter()
            .filter_map(|(_, file)| file.parent())
            .collect();
        for folder in folders {
            let is_current = folder.as_os_str().is_empty();
            let folder = if is_current { Path::new(".") } else { folder };
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    }
}

impl FileReloader {
    /// Applies changed contents until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let role = self.files.role;
        let certificate = role.as_str();
        let health = Arc::clone(&self.files.health);
        let (wake, mut woken) = mpsc::channel(1);
        let watcher = self.files.watch(move |_| {
            // A full queue already holds a wake-up.
            let _ = wake.try_send(());
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, certificate, interval = ?SWEEP, "cannot watch the certificate files, polling them instead");
        }
        loop {
            match self.check() {
                Ok(is_new) => {
                    health.files_are_used(role);
                    if is_new {
                        tracing::info!(certificate, "loaded a new certificate");
                    }
                }
                Err(error) => {
                    health.files_are_rejected(role, format!("{error:#}"));
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(()) = woken.recv() => {}
                () = tokio::time::sleep(SWEEP) => {}
            }
        }
    }

    /// Reads the files and applies their contents if they differ from the last ones. Returns whether they were applied.
    ///
    /// # Errors
    /// A file cannot be read, or the contents were rejected, now or by an earlier call.
    pub(crate) fn check(&mut self) -> anyhow::Result<bool> {
        let contents = self.files.read()?;
        if self.last.as_ref() == Some(&contents) {
            return match &self.rejection {
                Some(error) => Err(anyhow!("{error}")),
                None => Ok(false),
            };
        }
        let applied = (self.apply)(self.last.insert(contents));
        self.rejection = applied.as_ref().err().map(|error| format!("{error:#}"));
        applied.map(|()| true)
    }
}

/// Whether an event reports that a file was read, as this process does after each event.
pub(crate) fn is_reading(event: &notify::Result<Event>) -> bool {
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

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    /// Longest time to wait for the kernel to report a change. Below [`SWEEP`], so that the sweep cannot hide a broken
    /// watch.
    const DEADLINE: Duration = Duration::from_secs(4);

    /// Writes the files as the kubelet does: into a new folder to which a symbolic link then points.
    fn write(folder: &Path, version: &str, (certificate, key): (&str, &str)) {
        let target = folder.join(version);
        fs::create_dir(&target).unwrap();
        fs::write(target.join("tls.crt"), certificate).unwrap();
        fs::write(target.join("tls.key"), key).unwrap();
        std::os::unix::fs::symlink(&target, folder.join("..new")).unwrap();
        fs::rename(folder.join("..new"), folder.join("..data")).unwrap();
    }

    /// A folder like a mounted Secret, with the contents `a` in both files.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "..1", ("a", "a"));
        for name in ["tls.crt", "tls.key"] {
            let link = folder.path().join(name);
            std::os::unix::fs::symlink(format!("..data/{name}"), link).unwrap();
        }
        folder
    }

    fn files(folder: &Path) -> WatchedFiles {
        let file = |name: &str| ("--flag", folder.join(name));
        let files = vec![file("tls.crt"), file("tls.key")];
        WatchedFiles::new(CertificateRole::Webhooks, files, &Arc::default())
    }

    /// Accepts a certificate and a key with equal contents.
    fn is_pair(contents: &[Vec<u8>]) -> anyhow::Result<()> {
        ensure!(contents[0] == contents[1], "not a pair");
        Ok(())
    }

    #[tokio::test]
    async fn every_change_of_the_files_is_applied() {
        let folder = folder();
        let (applied, mut changes) = mpsc::channel(8);
        let reloader = files(folder.path()).reloader(None, move |contents| {
            let result = is_pair(contents);
            let change = (contents[0].clone(), result.is_ok());
            applied.try_send(change).unwrap();
            result
        });
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(reloader.run(shutdown.clone()));
        let mut next = async || {
            let next = tokio::time::timeout(DEADLINE, changes.recv()).await;
            next.unwrap().unwrap()
        };
        assert_eq!(next().await, (b"a".to_vec(), true));
        write(folder.path(), "..2", ("b", "a"));
        assert_eq!(next().await, (b"b".to_vec(), false));
        write(folder.path(), "..3", ("b", "b"));
        assert_eq!(next().await, (b"b".to_vec(), true));
        shutdown.cancel();
        running.await.unwrap();
    }

    /// Files without links: reading them is an event of the watched folder.
    #[test]
    fn reading_the_files_is_no_change() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["tls.crt", "tls.key"] {
            fs::write(folder.path().join(name), "a").unwrap();
        }
        let files = files(folder.path());
        let (seen, events) = std::sync::mpsc::sync_channel(1 << 10);
        let _watcher = files.watch(move |event| seen.try_send(event.unwrap()).unwrap());
        files.read().unwrap();
        let last = folder.path().join("last");
        fs::write(&last, "").unwrap();
        // The kernel reports events in the order in which they happened.
        let first = events.recv_timeout(DEADLINE).unwrap();
        assert_eq!(first.paths, [last]);
    }

    #[test]
    fn unchanged_contents_are_not_applied_again() {
        let folder = folder();
        let files = files(folder.path());
        let loaded = files.read().unwrap();
        let mut reloader = files.reloader(Some(loaded), is_pair);
        assert!(!reloader.check().unwrap());
        write(folder.path(), "..2", ("b", "a"));
        reloader.check().unwrap_err();
        let error = format!("{:#}", reloader.check().unwrap_err());
        assert_eq!(
            error, "not a pair",
            "a rejection is an error until the files change"
        );
        write(folder.path(), "..3", ("b", "b"));
        assert!(reloader.check().unwrap());
        fs::remove_file(folder.path().join("tls.key")).unwrap();
        let error = format!("{:#}", reloader.check().unwrap_err());
        assert!(error.starts_with("--flag "), "{error}");
        assert!(error.contains("tls.key"), "{error}");
        fs::write(folder.path().join("tls.key"), "b").unwrap();
        assert!(
            !reloader.check().unwrap(),
            "the last good contents are back"
        );
    }
}
