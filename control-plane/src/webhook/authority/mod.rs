//! Our own certificate authority: what is in force, and what takes its place when.
//!
//! [`CertificateMaterial`] is what the Secret holds. [`renew`] looks at it and the time and says what it should be.
//! A certificate is renewed when a third of its life is left. An authority is renewed in two steps: the next
//! one is trusted [`TRUSTED_BEFORE_USE`] before anything is signed by it, and the last one stays trusted
//! until it expires, so that at no time the API server meets a certificate that it does not trust yet, or
//! a replica that has not heard yet one that it does not trust any more.
//!
//! Must not do I/O, nor know the time by itself.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{extensions::GeneralName, prelude::X509Certificate};

const DAY: Duration = Duration::from_hours(24);
const AUTHORITY_LIFE: Duration = Duration::from_hours(24 * 3650);
const SERVING_LIFE: Duration = Duration::from_hours(24 * 90);
/// For how long a next authority is trusted before it signs anything.
const TRUSTED_BEFORE_USE: Duration = DAY;
/// For clocks that are behind.
const BACKDATED: Duration = Duration::from_hours(1);

/// A certificate and its key, as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CertificatePair {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// What the replicas share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CertificateMaterial {
    /// The authority that signs.
    pub(super) authority: CertificatePair,
    /// The one that will.
    pub(super) next_authority: Option<CertificatePair>,
    /// Whom the API server is to trust: the authority that signs, the next one, then those before.
    pub(super) bundle: String,
    /// What is served.
    pub(super) serving: CertificatePair,
}

/// A certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error("a certificate could not be made")]
pub(super) struct CertificateError(#[from] rcgen::Error);

/// What the material should be at this time, for a server of these names; none if it is good as it is.
/// Without any, or with some that cannot be read or has expired, everything is made anew.
pub(super) fn renew(
    material: Option<&CertificateMaterial>,
    names: &BTreeSet<String>,
    now: SystemTime,
) -> Result<Option<CertificateMaterial>, CertificateError> {
    let Some(current) = material.filter(|material| material.is_usable(now)) else {
        return create(names, now).map(Some);
    };
    let mut renewed = current.clone();
    renewed.renew_authority(now)?;
    let is_sound = fits(&renewed.serving) && signed_by(&renewed.serving, &renewed.authority);
    if !is_sound || !serves(&renewed.serving, names) || is_aging(&renewed.serving, now) {
        renewed.serving = serving(&renewed.authority, names, now)?;
    }
    Ok((renewed != *current).then_some(renewed))
}

fn create(
    names: &BTreeSet<String>,
    now: SystemTime,
) -> Result<CertificateMaterial, CertificateError> {
    let authority = authority(now)?;
    Ok(CertificateMaterial {
        serving: serving(&authority, names, now)?,
        bundle: authority.certificate.clone(),
        next_authority: None,
        authority,
    })
}

impl CertificateMaterial {
    /// Whether the authority can sign, now and for a while.
    fn is_usable(&self, now: SystemTime) -> bool {
        is_alive(&self.authority.certificate, now) && fits(&self.authority)
    }

    fn renew_authority(&mut self, now: SystemTime) -> Result<(), CertificateError> {
        let was_trusted_long_enough = |next: &CertificatePair| {
            let since = life(&next.certificate).map(|(from, _)| from + BACKDATED);
            since.is_some_and(|since| since + TRUSTED_BEFORE_USE <= now) && fits(next)
        };
        match self.next_authority.take() {
            Some(next) if was_trusted_long_enough(&next) => {
                self.authority = next;
            }
            Some(next) if is_alive(&next.certificate, now) && fits(&next) => {
                self.next_authority = Some(next);
            }
            // A next one that nobody can read is as good as none.
            _ if is_aging(&self.authority, now) => self.next_authority = Some(authority(now)?),
            _ => {}
        }
        self.bundle = self.trusted(now);
        Ok(())
    }

    /// The bundle: whoever signs, whoever will, and whoever did and has not expired.
    fn trusted(&self, now: SystemTime) -> String {
        let next = self.next_authority.as_ref();
        let mut bundle = vec![self.authority.certificate.clone()];
        bundle.extend(next.map(|next| next.certificate.clone()));
        for before in split(&self.bundle) {
            if !bundle.contains(&before) && is_alive(&before, now) {
                bundle.push(before);
            }
        }
        bundle.concat()
    }
}

/// The certificates of a bundle, each as PEM.
fn split(bundle: &str) -> impl Iterator<Item = String> {
    const END: &str = "-----END CERTIFICATE-----";
    bundle.split_inclusive(END).filter_map(|certificate| {
        let certificate = certificate.trim();
        (!certificate.is_empty()).then(|| format!("{certificate}\n"))
    })
}

fn authority(now: SystemTime) -> Result<CertificatePair, CertificateError> {
    let key = KeyPair::generate()?;
    let mut params = params("Evermesh webhook authority", now, AUTHORITY_LIFE);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    Ok(CertificatePair {
        certificate: normal(&params.self_signed(&key)?.pem()),
        key: key.serialize_pem(),
    })
}

fn serving(
    authority: &CertificatePair,
    names: &BTreeSet<String>,
    now: SystemTime,
) -> Result<CertificatePair, CertificateError> {
    let issuer_key = KeyPair::from_pem(&authority.key)?;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, issuer_key)?;
    let key = KeyPair::generate()?;
    let mut params = params("Evermesh webhooks", now, SERVING_LIFE);
    let names: Vec<String> = names.iter().cloned().collect();
    params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(CertificatePair {
        certificate: normal(&params.signed_by(&key, &issuer)?.pem()),
        key: key.serialize_pem(),
    })
}

fn params(name: &str, now: SystemTime, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + life).into();
    params.use_authority_key_identifier_extension = true;
    params
}

/// As [`split`] gives it, so that texts can be compared.
fn normal(pem: &str) -> String {
    pem.trim().replace("\r\n", "\n") + "\n"
}

fn with_certificate<T>(pem: &str, read: impl FnOnce(&X509Certificate<'_>) -> T) -> Option<T> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
    Some(read(&certificate))
}

/// From when to when a certificate is valid.
fn life(pem: &str) -> Option<(SystemTime, SystemTime)> {
    let at = |seconds: i64| {
        let since = Duration::from_secs(seconds.try_into().ok()?);
        SystemTime::UNIX_EPOCH.checked_add(since)
    };
    with_certificate(pem, |certificate| {
        let validity = certificate.validity();
        let from = at(validity.not_before.timestamp())?;
        Some((from, at(validity.not_after.timestamp())?))
    })?
}

fn is_alive(pem: &str, now: SystemTime) -> bool {
    life(pem).is_some_and(|(from, until)| from <= now && now < until)
}

/// Whether less than a third of the life is left, or nothing can be said of it.
fn is_aging(pair: &CertificatePair, now: SystemTime) -> bool {
    life(&pair.certificate).is_none_or(|(from, until)| {
        let whole = until.duration_since(from).unwrap_or_default();
        until.duration_since(now).unwrap_or_default() < whole / 3
    })
}

fn signed_by(serving: &CertificatePair, authority: &CertificatePair) -> bool {
    let verify = |serving: &X509Certificate<'_>| {
        let verified = with_certificate(&authority.certificate, |authority| {
            serving
                .verify_signature(Some(authority.public_key()))
                .is_ok()
        });
        verified == Some(true)
    };
    with_certificate(&serving.certificate, verify) == Some(true)
}

/// Whether the key is the certificate's.
fn fits(pair: &CertificatePair) -> bool {
    let Ok(key) = KeyPair::from_pem(&pair.key) else {
        return false;
    };
    let is_its_key = |certificate: &X509Certificate<'_>| {
        let public = &certificate.public_key().subject_public_key.data;
        **public == *key.public_key_raw()
    };
    with_certificate(&pair.certificate, is_its_key) == Some(true)
}

/// Whether the certificate is for exactly these names.
fn serves(serving: &CertificatePair, names: &BTreeSet<String>) -> bool {
    with_certificate(&serving.certificate, |certificate| {
        let Ok(Some(extension)) = certificate.subject_alternative_name() else {
            return false;
        };
        let found: BTreeSet<String> = extension
            .value
            .general_names
            .iter()
            .filter_map(name)
            .collect();
        found == *names
    }) == Some(true)
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from).ok();
            let v6 = || <[u8; 16]>::try_from(*bytes).map(IpAddr::from).ok();
            v4.or_else(v6).map(|address| address.to_string())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
