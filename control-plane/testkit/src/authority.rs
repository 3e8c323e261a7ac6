//! A certificate authority, and the certificates that it signs.

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

/// A certificate authority with a new key.
#[derive(Debug)]
pub struct TestAuthority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its private key, both PEM.
#[derive(Debug, Clone)]
pub struct TestCertificate {
    pub chain: String,
    pub key: String,
}

impl TestAuthority {
    /// # Errors
    ///
    /// If no key can be made.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // A certificate with the name of its issuer counts as self-signed.
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            pem,
        })
    }

    /// The certificate of the authority.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Signs a new certificate for these names.
    ///
    /// # Errors
    ///
    /// If no key can be made.
    pub fn sign(&self, names: impl IntoIterator<Item = SanType>) -> Result<TestCertificate> {
        let mut params = CertificateParams::default();
        // Tells authorities of the same name apart.
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names.extend(names);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(TestCertificate {
            chain: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}
