//! A certificate that vouches for itself, in files.

use std::{fs, net::IpAddr};

use anyhow::Result;
use rcgen::{CertificateParams, KeyPair, SanType};
use tempfile::TempDir;

use crate::tools;

/// The files, which are gone when this is dropped. Anybody may read them.
#[derive(Debug)]
pub struct SelfSigned(TempDir);

impl SelfSigned {
    /// Makes one for this address.
    pub fn new(address: IpAddr) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(SanType::IpAddress(address));
        let key = KeyPair::generate()?;
        let dir = tools::scratch("certificate")?;
        let certificate = params.self_signed(&key)?;
        fs::write(dir.path().join("tls.crt"), certificate.pem())?;
        fs::write(dir.path().join("tls.key"), key.serialize_pem())?;
        Ok(Self(dir))
    }

    /// The file with the certificate, in PEM.
    pub fn certificate(&self) -> String {
        self.0.path().join("tls.crt").display().to_string()
    }

    /// The file with its key, in PEM.
    pub fn key(&self) -> String {
        self.0.path().join("tls.key").display().to_string()
    }
}
