//! TLS of listeners and clients: certificates, trusted authorities and client policies.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The TLS mode of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum TlsMode {
    /// Accepts only plaintext connections.
    Disabled,
    /// Accepts plaintext and TLS connections.
    Permissive,
    /// Accepts only TLS connections.
    Strict,
}

/// The certificate of a listener. Exactly one field is required.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerCertificate {
    /// Certificate in AWS Certificate Manager. The annotation `evermesh.dev/acm-secrets` of the Mesh names the Kubernetes
    /// Secret that replaces it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acm: Option<AcmCertificate>,
    /// Certificate and private key in files of the proxy's container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileCertificate>,
    /// Certificate that the proxy fetches from its secret discovery service (SDS), such as SPIRE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sds: Option<SdsSecret>,
}

/// A certificate in AWS Certificate Manager (ACM).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcmCertificate {
    /// ARN of the certificate.
    #[serde(rename = "certificateARN")]
    pub certificate_arn: String,
}

/// A certificate and its private key in files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileCertificate {
    /// Path of the PEM certificate chain in the proxy's container; 1 to 255 characters. The file must exist when the
    /// proxy starts; it is read again when it is replaced.
    #[schemars(length(min = 1, max = 255))]
    pub certificate_chain: String,
    /// Path of the PEM private key in the proxy's container; 1 to 255 characters.
    #[schemars(length(min = 1, max = 255))]
    pub private_key: String,
}

/// A secret of the proxy's secret discovery service (SDS).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SdsSecret {
    /// Name of the secret.
    pub secret_name: String,
}

/// The validation of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsValidation {
    /// Trusted certificate authorities.
    pub trust: TlsTrust,
    /// Subject alternative names (SANs) of which the certificate must have one. Default: for clients, the host name of
    /// service discovery; for listeners, any name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_alternative_names: Option<SubjectAlternativeNames>,
}

/// Trusted certificate authorities. Exactly one field is required.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsTrust {
    /// Authorities in AWS Private CA. The annotation `evermesh.dev/acm-secrets` of the Mesh names the Kubernetes Secrets
    /// that replace them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acm: Option<AcmTrust>,
    /// Authorities in a file of the proxy's container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileTrust>,
    /// Authorities that the proxy fetches from its secret discovery service (SDS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sds: Option<SdsSecret>,
}

/// Authorities in AWS Private CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcmTrust {
    /// ARNs of 1 to 3 authorities.
    #[serde(rename = "certificateAuthorityARNs")]
    #[schemars(length(min = 1, max = 3))]
    pub certificate_authority_arns: Vec<String>,
}

/// Authorities in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileTrust {
    /// Path of the PEM certificates of the authorities in the proxy's container; 1 to 255 characters. The file must exist
    /// when the proxy starts; it is read again when it is replaced.
    #[schemars(length(min = 1, max = 255))]
    pub certificate_chain: String,
}

/// Subject alternative names (SANs) of which a certificate must have one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubjectAlternativeNames {
    /// Matches of the names.
    pub r#match: SubjectAlternativeNameMatchers,
}

/// Matches of subject alternative names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubjectAlternativeNameMatchers {
    /// Host names or URIs (such as SPIFFE IDs) of which the certificate must have one.
    pub exact: Vec<String>,
}

/// The connections of a client to a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientPolicy {
    /// TLS of the connections. Default: TLS if the listener of the target offers it. Only a certificate of ACM is then
    /// validated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientPolicyTls>,
}

/// TLS of connections to a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientPolicyTls {
    /// Whether TLS is required. With `true`, a listener without TLS cannot be reached; with `false`, it is called in
    /// plaintext. A listener with TLS is validated in both cases. Default: `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforce: Option<bool>,
    /// Ports of the called nodes' listeners to which the policy applies, each 1 to 65535. Other listeners are called as
    /// without a policy. Default: all ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(inner(range(min = 1, max = 65535)))]
    pub ports: Option<Vec<u16>>,
    /// Certificate of the client, for services that require one. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<ClientCertificate>,
    /// Validation of the certificate of the service.
    pub validation: TlsValidation,
}

/// The certificate of a client. Exactly one field is required.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientCertificate {
    /// Certificate and private key in files of the proxy's container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileCertificate>,
    /// Certificate that the proxy fetches from its secret discovery service (SDS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sds: Option<SdsSecret>,
}

/// Defaults for backends without settings of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendDefaults {
    /// Client policy for backends without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_policy: Option<ClientPolicy>,
}
