//! Kubernetes Secrets that replace certificates and authorities of ACM.
//!
//! The private key of a Secret must not reach a log, a debug page or a problem. [`Pem`] therefore shows nothing of its
//! text by `Debug` and `Serialize`.

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};

use crate::{ObjectRef, SecretName};

/// A Kubernetes Secret to which a mesh maps an ARN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResolvedSecret {
    /// The name of the Secret.
    pub name: SecretName,
    /// The meshes that map an ARN to the Secret, ascending.
    pub meshes: Vec<ObjectRef>,
    /// The certificate and its key; absent if the Secret contains none, or if no mesh maps the ARN of a certificate to
    /// the Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<KeyPair>,
    /// The certificates of the authorities in `ca.crt`; absent if the Secret contains none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorities: Option<Pem>,
}

/// A certificate chain with the private key of its first certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyPair {
    /// `tls.crt`
    pub chain: Pem,
    /// `tls.key`
    pub private_key: Pem,
}

/// PEM text whose contents are neither printed nor serialised.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem(Arc<str>);

impl Pem {
    /// Wraps a text. The caller guarantees that it is PEM.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text. It may be a private key: do not print it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// Text that [`Pem`] shows instead of its own.
const REDACTED: &str = "<redacted>";

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Serialize for Pem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_key_is_not_printed() {
        let secret = ResolvedSecret {
            name: SecretName {
                namespace: "shop".into(),
                name: "front".into(),
            },
            meshes: Vec::new(),
            certificate: Some(KeyPair {
                chain: Pem::new("chain"),
                private_key: Pem::new("key-bytes"),
            }),
            authorities: Some(Pem::new("authorities")),
        };
        let text = format!("{secret:?} {secret:#?}");
        assert!(
            text.contains("shop") && !text.contains("key-bytes"),
            "{text}"
        );
    }
}
