//! The certificate that somebody else puts into a folder, such as cert-manager by a mounted Secret.
//!
//! The folder is watched; what the kernel does not tell is found by looking again every [`SWEEP`]. A pair
//! that cannot be used is reported, and the last good one stays in use.
//!
//! Must not write anything.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::certificates::ServingCertificate;

const SWEEP: Duration = Duration::from_secs(10);

/// Follows the files of a folder.
pub(super) struct CertificateFiles {
    folder: PathBuf,
    certificates: Arc<ServingCertificate>,
    /// What is in use, or was refused.
    last: Option<(Vec<u8>, Vec<u8>)>,
}

impl CertificateFiles {
    pub(super) fn new(folder: PathBuf, certificates: Arc<ServingCertificate>) -> Self {
        Self {
            folder,
            certificates,
            last: None,
        }
    }

    pub(super) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let (wake, mut woken) = mpsc::channel(1);
        let watcher = self.watch(wake);
        if let Err(error) = &watcher {
            tracing::warn!(%error, folder = %self.folder.display(), "the folder cannot be watched and is looked at every {SWEEP:?}");
        }
        loop {
            self.look();
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                Some(()) = woken.recv() => {}
                () = tokio::time::sleep(SWEEP) => {}
            }
        }
    }

    fn watch(&self, wake: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
        let mut watcher = notify::recommended_watcher(move |_| {
            // One that waits stands for all.
            let _ = wake.try_send(());
        })?;
        // The folder, since the kubelet swaps a link in it and leaves the files alone.
        watcher.watch(&self.folder, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    }

    fn look(&mut self) {
        if let Err(error) = self.take() {
            let folder = self.folder.display();
            tracing::warn!(error = format!("{error:#}"), %folder, "no usable certificate: the last good one stays in use");
        }
    }

    fn take(&mut self) -> anyhow::Result<()> {
        let read = |name: &str| fs::read(self.folder.join(name)).with_context(|| name.to_owned());
        let pair = (read("tls.crt")?, read("tls.key")?);
        if self.last.as_ref() == Some(&pair) {
            return Ok(());
        }
        let (chain, key) = self.last.insert(pair);
        self.certificates.replace(chain, key)?;
        tracing::info!(folder = %self.folder.display(), "a new certificate is in use");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path, time::SystemTime};

    use super::*;
    use crate::webhook::authority::{self, CertificatePair};

    fn pair() -> CertificatePair {
        let names = BTreeSet::from(["webhook.test".to_owned()]);
        let made = authority::renew(None, &names, SystemTime::now());
        made.unwrap().unwrap().serving
    }

    /// As the kubelet does: a new folder, and a link that is swapped.
    fn write(folder: &Path, version: &str, pair: &CertificatePair) {
        let place = folder.join(version);
        fs::create_dir(&place).unwrap();
        fs::write(place.join("tls.crt"), &pair.certificate).unwrap();
        fs::write(place.join("tls.key"), &pair.key).unwrap();
        std::os::unix::fs::symlink(&place, folder.join("..new")).unwrap();
        fs::rename(folder.join("..new"), folder.join("..data")).unwrap();
    }

    async fn served(certificates: &ServingCertificate, pair: &CertificatePair) {
        let is_served = async {
            while !certificates.serves(pair.certificate.as_bytes()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let limit = SWEEP / 2;
        tokio::time::timeout(limit, is_served).await.unwrap();
    }

    #[tokio::test]
    async fn follows_the_files_and_keeps_the_last_good_pair() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path();
        let certificates = Arc::new(ServingCertificate::default());
        let (first, second) = (pair(), pair());
        write(place, "..1", &first);
        for name in ["tls.crt", "tls.key"] {
            std::os::unix::fs::symlink(format!("..data/{name}"), place.join(name)).unwrap();
        }
        let files = CertificateFiles::new(place.to_owned(), Arc::clone(&certificates));
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(files.run(shutdown.clone()));
        served(&certificates, &first).await;
        let broken = CertificatePair {
            certificate: second.certificate.clone(),
            key: first.key.clone(),
        };
        write(place, "..2", &broken);
        tokio::time::sleep(Duration::from_millis(200)).await;
        served(&certificates, &first).await;
        write(place, "..3", &second);
        served(&certificates, &second).await;
        shutdown.cancel();
        running.await.unwrap().unwrap();
    }
}
