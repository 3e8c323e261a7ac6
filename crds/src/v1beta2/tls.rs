//! TLS on both sides of a connection: certificates, whom to trust, and the policy of a client.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a listener treats TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum TlsMode {
    /// Only plain connections
    Disabled,
    /// Plain and TLS connections
    Permissive,
    /// Only TLS connections
    Strict,
}

/// A listener's certificate: exactly one of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerCertificate {
    /// A certificate in AWS Certificate Manager. Its private key never leaves AWS, so it cannot be
    /// served from here: move it to a file or to SDS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acm: Option<AcmCertificate>,
    /// A certificate in files of Envoy's container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileCertificate>,
    /// A certificate that Envoy asks its secret discovery service for, such as SPIRE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sds: Option<SdsSecret>,
}

/// A certificate in AWS Certificate Manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcmCertificate {
    /// The certificate's ARN.
    #[serde(rename = "certificateARN")]
    pub certificate_arn: String,
}

/// A certificate and its key in files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileCertificate {
    /// The path of the certificate chain in PEM, in Envoy's container; 1 to 255 characters.
    #[schemars(length(min = 1, max = 255))]
    pub certificate_chain: String,
    /// The path of the private key in PEM, in Envoy's container; 1 to 255 characters.
    #[schemars(length(min = 1, max = 255))]
    pub private_key: String,
}

/// Something that Envoy's secret discovery service knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SdsSecret {
    /// The name to ask for.
    pub secret_name: String,
}

/// Whom a server's certificate must come from, and for whom it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsValidation {
    /// The authorities that are trusted.
    pub trust: TlsTrust,
    /// The names of which the certificate must carry one. Default: on a client, the host name under
    /// which the service was found; on a listener, any name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject_alternative_names: Option<SubjectAlternativeNames>,
}

/// The authorities that are trusted: exactly one of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsTrust {
    /// Authorities in AWS Private CA. They cannot be read from here: move them to a file or to SDS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acm: Option<AcmTrust>,
    /// Authorities in a file of Envoy's container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileTrust>,
    /// Authorities that Envoy asks its secret discovery service for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sds: Option<SdsSecret>,
}

/// Authorities in AWS Private CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcmTrust {
    /// The authorities' ARNs, 1 to 3.
    #[serde(rename = "certificateAuthorityARNs")]
    #[schemars(length(min = 1, max = 3))]
    pub certificate_authority_arns: Vec<String>,
}

/// Authorities in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileTrust {
    /// The path of the authorities' certificates in PEM, in Envoy's container; 1 to 255 characters.
    #[schemars(length(min = 1, max = 255))]
    pub certificate_chain: String,
}

/// Names of which a certificate must carry one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubjectAlternativeNames {
    /// How they are compared.
    pub r#match: SubjectAlternativeNameMatchers,
}

/// How the names of a certificate are compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubjectAlternativeNameMatchers {
    /// Host names or URIs (such as SPIFFE IDs); the certificate must carry one of them.
    pub exact: Vec<String>,
}

/// How a client connects to a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientPolicy {
    /// TLS towards the service. Default: as its listener offers, without validation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientPolicyTls>,
}

/// TLS towards a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientPolicyTls {
    /// Whether TLS is a must: with `true` a service without TLS is not reached. Default: `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforce: Option<bool>,
    /// The ports on which the policy counts, each from 1 to 65535. Default: all ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(inner(range(min = 1, max = 65535)))]
    pub ports: Option<Vec<u16>>,
    /// The client's own certificate, for services that ask for one. Default: none is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<ClientCertificate>,
    /// How the service's certificate is validated.
    pub validation: TlsValidation,
}

/// A client's certificate: exactly one of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientCertificate {
    /// A certificate in files of Envoy's container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileCertificate>,
    /// A certificate that Envoy asks its secret discovery service for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sds: Option<SdsSecret>,
}

/// What a member of the mesh does towards services for which it does not say otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendDefaults {
    /// How it connects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_policy: Option<ClientPolicy>,
}
