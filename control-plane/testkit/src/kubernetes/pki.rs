//! The certificates and keys of an API server, made anew for each.
//!
//! Must not be used for anything but tests: whoever can read the scratch folder is an administrator.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// The first address of the range of cluster IPs, which is the API server's own.
const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// The files of one API server.
#[derive(Debug)]
pub(super) struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// Writes an authority, what it signed and the keys of service accounts into `dir`.
    pub(super) fn create(dir: &Path) -> Result<Self> {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority
            .distinguished_name
            .push(DnType::CommonName, "kubernetes");
        let key = KeyPair::generate()?;
        fs::write(dir.join("ca.crt"), authority.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(authority, key);

        let names = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
        ];
        let mut server = CertificateParams::new(names.map(str::to_owned))?;
        for address in [Ipv4Addr::LOCALHOST, CLUSTER_IP] {
            server
                .subject_alt_names
                .push(SanType::IpAddress(address.into()));
        }
        server
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ServerAuth);
        sign(dir, "server", &mut server, "kube-apiserver", &issuer)?;

        let mut admin = CertificateParams::default();
        // The one group that RBAC never refuses.
        admin
            .distinguished_name
            .push(DnType::OrganizationName, "system:masters");
        admin
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ClientAuth);
        sign(dir, "admin", &mut admin, "admin", &issuer)?;

        let accounts = KeyPair::generate()?;
        fs::write(dir.join("accounts.key"), accounts.serialize_pem())?;
        fs::write(dir.join("accounts.pub"), accounts.public_key_pem())?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// One of the files: `ca.crt`, `server.crt`, `server.key`, `admin.crt`, `admin.key`, `accounts.key`, `accounts.pub`.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// Writes a certificate and its key as `name`.crt and `name`.key.
fn sign(
    dir: &Path,
    name: &str,
    params: &mut CertificateParams,
    common_name: &str,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<()> {
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.key_usages.push(KeyUsagePurpose::DigitalSignature);
    let key = KeyPair::generate()?;
    fs::write(
        dir.join(format!("{name}.crt")),
        params.signed_by(&key, issuer)?.pem(),
    )?;
    fs::write(dir.join(format!("{name}.key")), key.serialize_pem())?;
    Ok(())
}
