//! The certificates and keys of one API server, created at its start.
//!
//! Use them for tests only: every user of the machine can read the scratch folder and become an administrator.

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

/// The cluster IP of the Service `kubernetes`: the first address of the range.
const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// The folder with the files of one API server, and its certificate authority.
#[derive(Debug)]
pub struct Pki {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    /// Creates the authority, the certificates of the server and of an administrator, and the key for service accounts.
    pub fn create(dir: &Path) -> Result<Self> {
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

        let accounts = KeyPair::generate()?;
        fs::write(dir.join("accounts.key"), accounts.serialize_pem())?;
        fs::write(dir.join("accounts.pub"), accounts.public_key_pem())?;
        let pki = Self {
            dir: dir.to_owned(),
            issuer,
        };
        // The group to which RBAC grants everything.
        pki.client("admin", "admin", "system:masters")?;
        Ok(pki)
    }

    /// Creates a client certificate for `user` in `group`, as `NAME.crt` and `NAME.key`.
    pub fn client(&self, name: &str, user: &str, group: &str) -> Result<()> {
        let mut client = CertificateParams::default();
        client
            .distinguished_name
            .push(DnType::OrganizationName, group);
        client
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ClientAuth);
        sign(&self.dir, name, &mut client, user, &self.issuer)
    }

    /// Creates a server certificate for an address, as `NAME.crt` and `NAME.key`.
    pub fn server(&self, name: &str, address: Ipv4Addr) -> Result<()> {
        let mut server = CertificateParams::default();
        server
            .subject_alt_names
            .push(SanType::IpAddress(address.into()));
        server
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ServerAuth);
        sign(&self.dir, name, &mut server, name, &self.issuer)
    }

    /// The path of a file: `ca.crt`, `accounts.key`, `accounts.pub`, `NAME.crt` or `NAME.key`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

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
