//! TLS of listeners and of calls to backends.

use std::{collections::BTreeSet, fmt, sync::Arc};

use serde::{Serialize, Serializer};

/// TLS of a listener: App Mesh `tls` with the mode `STRICT` or `PERMISSIVE`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerTls {
    /// Whether plaintext connections are accepted too (`PERMISSIVE`).
    pub allows_plaintext: bool,
    /// The certificate of the listener.
    pub certificate: CertificateSource,
    /// The validation of client certificates, which clients then must present; not requested if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_validation: Option<PeerValidation>,
}

/// TLS of calls to a backend: App Mesh `clientPolicy.tls`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ClientTls {
    /// Whether a backend without TLS is not called at all. Without `enforce`, TLS is used if the listener of the target
    /// offers it.
    pub enforce: bool,
    /// The ports of listeners to which the policy applies; all ports if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<BTreeSet<u16>>,
    /// The certificate that the caller presents; none if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateSource>,
    /// The validation of the server's certificate.
    pub validation: PeerValidation,
}

/// The validation of the peer's certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PeerValidation {
    /// The trusted certificate authorities.
    pub trust: TrustSource,
    /// Subject alternative names (SANs) of which the certificate must have one. If empty: for callers, the name by which
    /// the target is discovered; for listeners, any name.
    pub subject_names: Vec<Arc<str>>,
}

/// The source of a certificate and its private key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum CertificateSource {
    /// PEM files in the container of the proxy.
    File {
        /// The path of the certificate chain.
        chain: Arc<str>,
        /// The path of the private key.
        private_key: Arc<str>,
    },
    /// A secret of the secret discovery service (SDS) that the proxy reaches by a Unix socket, such as SPIRE's agent.
    Sds(Arc<str>),
    /// A Kubernetes Secret that the control plane serves. Source: an ACM ARN that is mapped to it.
    Stored(SecretName),
}

/// The source of trusted certificate authorities.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum TrustSource {
    /// The path of a PEM file in the container of the proxy.
    File(Arc<str>),
    /// A secret of the secret discovery service (SDS) that the proxy reaches by a Unix socket.
    Sds(Arc<str>),
    /// The key `ca.crt` of Kubernetes Secrets that the control plane serves, 1 to 3. Source: ACM ARNs that are mapped to
    /// them.
    Stored(Vec<SecretName>),
}

/// The name of a Kubernetes Secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName {
    /// The namespace of the Secret.
    pub namespace: Arc<str>,
    /// The name in the namespace.
    pub name: Arc<str>,
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Serialize for SecretName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
