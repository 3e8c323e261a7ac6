//! A self-signed certificate in files.

use std::{fs, net::IpAddr};

use anyhow::Result;
use rcgen::{CertificateParams, KeyPair, SanType};
use tempfile::TempDir;

use crate::tools;

/// A certificate and its key in PEM files that every user may read; the files are removed with this value.
#[derive(Debug)]
pub struct SelfSigned(TempDir);

impl SelfSigned {
    /// Creates a certificate for a server at this address.
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

    /// The path of the certificate.
    pub fn certificate(&self) -> String {
        self.0.path().join("tls.crt").display().to_string()
    }

    /// The path of the private key.
    pub fn key(&self) -> String {
        self.0.path().join("tls.key").display().to_string()
    }
}
