//! A certificate authority, and folders with certificates as Kubernetes mounts them.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use evermesh_testkit::authority::{TestAuthority, TestCertificate};
use rcgen::SanType;

pub(crate) struct Authority(TestAuthority);

impl Authority {
    pub(crate) fn new() -> Self {
        Self(TestAuthority::new().unwrap())
    }

    pub(crate) fn pem(&self) -> &str {
        self.0.pem()
    }

    /// Signs a new certificate for a DNS name.
    pub(crate) fn sign(&self, name: &str) -> TestCertificate {
        let name = SanType::DnsName(name.try_into().unwrap());
        self.0.sign([name]).unwrap()
    }
}

/// A folder as the kubelet mounts a Secret. The files are links through the link `..data`, and the kubelet replaces all of
/// them at once by moving another link over that one.
pub(crate) struct SecretVolume {
    path: PathBuf,
    versions: AtomicU32,
}

impl SecretVolume {
    /// Mounts files in the folder `path`, which does not exist yet.
    pub(crate) fn mount(path: PathBuf, files: &[(&str, &str)]) -> Self {
        fs::create_dir(&path).unwrap();
        let volume = Self {
            path,
            versions: AtomicU32::new(0),
        };
        volume.replace(files);
        for (name, _) in files {
            let target = Path::new("..data").join(name);
            symlink(target, volume.path.join(name)).unwrap();
        }
        volume
    }

    /// Mounts `tls.crt`, `tls.key` and `ca.crt`.
    pub(crate) fn mount_certificate(
        path: PathBuf,
        certificate: &TestCertificate,
        ca: &str,
    ) -> Self {
        Self::mount(path, &files(certificate, ca))
    }

    pub(crate) fn replace_certificate(&self, certificate: &TestCertificate, ca: &str) {
        self.replace(&files(certificate, ca));
    }

    /// Replaces the contents of all files.
    pub(crate) fn replace(&self, files: &[(&str, &str)]) {
        let number = self.versions.fetch_add(1, Ordering::Relaxed);
        let version = format!("..version-{number}");
        let folder = self.path.join(&version);
        fs::create_dir(&folder).unwrap();
        for (name, contents) in files {
            fs::write(folder.join(name), contents).unwrap();
        }
        let draft = self.path.join("..data_tmp");
        symlink(&version, &draft).unwrap();
        fs::rename(draft, self.path.join("..data")).unwrap();
    }
}

fn files<'a>(certificate: &'a TestCertificate, ca: &'a str) -> [(&'static str, &'a str); 3] {
    [
        ("tls.crt", &certificate.chain),
        ("tls.key", &certificate.key),
        ("ca.crt", ca),
    ]
}
