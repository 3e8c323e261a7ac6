//! Certificates and private keys as PEM (RFC 7468): parsed, checked and encoded again, so that nothing else that an entry
//! may contain is served.
//!
//! Errors are the rest of a sentence that begins with the name of a Secret. They contain no part of an entry.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use evermesh_model::{KeyPair, Pem};
use rustls::{
    RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

/// Characters of base64 in a line of PEM.
const LINE: usize = 64;

/// Decodes base64, which may contain line breaks.
pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    let text: String = text
        .chars()
        .filter(|it| !it.is_ascii_whitespace())
        .collect();
    STANDARD.decode(text).ok()
}

/// The certificates of an entry.
pub(crate) fn certificates(text: &[u8], entry: &str) -> Result<Pem, String> {
    Ok(encode_certificates(&read_certificates(text, entry)?))
}

/// The certificate chain and the private key of its first certificate.
pub(crate) fn key_pair(chain: &[u8], key: &[u8]) -> Result<KeyPair, String> {
    let chain = read_certificates(chain, "tls.crt")?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_error| no_key(key))?;
    let label = match &key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    let pair = KeyPair {
        chain: encode_certificates(&chain),
        private_key: Pem::new(encode(label, key.secret_der())),
    };
    match CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()) {
        Ok(_) => Ok(pair),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err("has a tls.key that does not belong to the first certificate in tls.crt".to_owned())
        }
        Err(_) => Err("has a tls.key that is not a valid RSA or ECDSA key".to_owned()),
    }
}

fn no_key(text: &[u8]) -> String {
    let is_encrypted = text.windows(9).any(|word| word == b"ENCRYPTED");
    if is_encrypted {
        "has a tls.key that is encrypted (decrypt it with `openssl pkey`)".to_owned()
    } else {
        "has a tls.key without a private key in PEM (-----BEGIN PRIVATE KEY-----)".to_owned()
    }
}

fn read_certificates(text: &[u8], entry: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let invalid = |_| format!("has an entry {entry} with an invalid certificate");
    let all = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|_error| format!("has an entry {entry} that is not valid PEM"))?;
    if all.is_empty() {
        return Err(format!(
            "has an entry {entry} without a certificate in PEM (-----BEGIN CERTIFICATE-----)"
        ));
    }
    let mut store = RootCertStore::empty();
    for certificate in &all {
        store.add(certificate.clone()).map_err(invalid)?;
    }
    Ok(all)
}

fn encode_certificates(all: &[CertificateDer<'_>]) -> Pem {
    let text: String = all.iter().map(|one| encode("CERTIFICATE", one)).collect();
    Pem::new(text)
}

fn encode(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for start in (0..base64.len()).step_by(LINE) {
        let end = base64.len().min(start + LINE);
        text.push_str(&base64[start..end]);
        text.push('\n');
    }
    text + "-----END " + label + "-----\n"
}
