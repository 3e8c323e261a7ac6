//! Certificate authority of the webhooks and of xDS: creates and renews the authority and the serving certificate.
//!
//! In: the contents of the Secret ([`CertificateMaterial`]), the names of the server and the time. Out: new contents,
//! if any part must be renewed. The module does no I/O and takes the time as an argument.
//!
//! A certificate is renewed when a third of its lifetime is left. An authority is renewed in two steps, so that the API
//! server trusts the certificate of every replica at any time: the CA bundle contains the next authority for
//! [`TRUSTED_BEFORE_USE`] before that authority signs, and previous authorities until they expire. A sidecar keeps the
//! bundle with which its pod was created, so the first step takes as long as pods may live.

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

const AUTHORITY_LIFE: Duration = Duration::from_hours(24 * 3650);
const SERVING_LIFE: Duration = Duration::from_hours(24 * 90);
/// Time for which the CA bundle contains the next authority before that authority signs.
const TRUSTED_BEFORE_USE: Duration = Duration::from_hours(24 * 365);
/// Time by which `notBefore` lies in the past, for clocks that are behind.
const BACKDATED: Duration = Duration::from_hours(1);

/// A certificate and its private key, both as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CertificatePair {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// Contents of the Secret that the replicas share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CertificateMaterial {
    /// The authority that signs the serving certificate.
    pub(super) authority: CertificatePair,
    /// The authority that will sign next, once it has been trusted long enough.
    pub(super) next_authority: Option<CertificatePair>,
    /// CA bundle of the webhooks: the current authority, the next one, and previous ones that have not expired.
    pub(super) bundle: String,
    /// The certificate that the webhooks present.
    pub(super) serving: CertificatePair,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot create a certificate")]
pub(super) struct CertificateError(#[from] rcgen::Error);

/// Returns renewed material for a server with these names, or `None` if the material is valid as it is.
///
/// Material that is missing, cannot be parsed or has an expired authority is replaced completely.
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
    /// Whether the authority is valid now and has its key.
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
            // Replaces a next authority that cannot be parsed as well.
            _ if is_aging(&self.authority, now) => self.next_authority = Some(authority(now)?),
            _ => {}
        }
        self.bundle = self.trusted(now);
        Ok(())
    }

    /// CA bundle: the current authority, the next one, and previous ones that have not expired.
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

/// Splits a bundle into its certificates, each as PEM with one line feed at the end.
fn split(bundle: &str) -> impl Iterator<Item = String> {
    const END: &str = "-----END CERTIFICATE-----";
    bundle.split_inclusive(END).filter_map(|certificate| {
        let certificate = certificate.trim();
        (!certificate.is_empty()).then(|| format!("{certificate}\n"))
    })
}

fn authority(now: SystemTime) -> Result<CertificatePair, CertificateError> {
    let key = KeyPair::generate()?;
    let mut params = params("Evermesh authority", now, AUTHORITY_LIFE);
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
    let mut params = params("Evermesh", now, SERVING_LIFE);
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

/// Normalizes PEM to the form of [`split`], so that texts can be compared.
fn normal(pem: &str) -> String {
    pem.trim().replace("\r\n", "\n") + "\n"
}

fn with_certificate<T>(pem: &str, read: impl FnOnce(&X509Certificate<'_>) -> T) -> Option<T> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
    Some(read(&certificate))
}

/// `notBefore` and `notAfter` of a certificate.
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

/// Whether less than a third of the lifetime is left, or the certificate cannot be parsed.
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

/// Whether the certificate is for this key.
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

/// Whether the certificate is valid for these names. It may have more, which replicas with other settings need during a
/// rolling update.
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
        names.is_subset(&found)
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
