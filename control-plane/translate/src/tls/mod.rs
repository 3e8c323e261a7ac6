//! TLS: the transport sockets of listeners and clusters, and the secrets to which they refer.
//!
//! A transport socket contains no key and no certificate, only names of secrets (`SdsSecretConfig`):
//!
//! ```text
//! file      a secret of this proxy, over ADS, that contains paths only; the proxy reads and watches the files
//! sds       a secret of the service behind the cluster `static_cluster_sds_unix_socket` of the bootstrap
//! stored    a secret with the contents of a Kubernetes Secret, over ADS, which all proxies share
//! ```
//!
//! So a renewed certificate changes neither listener nor cluster, and a certificate that is missing keeps neither of
//! them from being accepted: connections fail until it arrives.

mod caller;
mod client;
mod secret;
mod server;

use evermesh_model::PeerValidation;
use evermesh_proto::{
    core::{TransportSocket, transport_socket},
    matcher::{StringMatcher, string_matcher::MatchPattern},
    pack,
    tls::{
        CertificateValidationContext, SdsSecretConfig, SubjectAltNameMatcher,
        common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
        subject_alt_name_matcher::SanType,
    },
};
use prost::Name;

pub(crate) use self::{
    caller::{CalledService, CallerClusters, ClusterNames, RenamedBackend, caller_clusters},
    client::{TargetTls, alpn, shared_trust},
    secret::{ProxySecrets, SecretDirection, stored_key},
    server::filter_chains,
};

/// Validation with this trust. The certificate must have one of `names`; with none, any name is accepted.
fn validation<'a>(
    trust: SdsSecretConfig,
    names: impl IntoIterator<Item = &'a str>,
) -> CombinedCertificateValidationContext {
    CombinedCertificateValidationContext {
        default_validation_context: Some(CertificateValidationContext {
            match_typed_subject_alt_names: names.into_iter().map(subject_name).collect(),
            ..Default::default()
        }),
        validation_context_sds_secret_config: Some(trust),
        ..Default::default()
    }
}

fn names(validation: &PeerValidation) -> impl Iterator<Item = &str> {
    validation.subject_names.iter().map(AsRef::as_ref)
}

fn validation_type(validation: CombinedCertificateValidationContext) -> ValidationContextType {
    ValidationContextType::CombinedValidationContext(validation)
}

/// A match of a subject alternative name: an IP address, a URI, which contains a colon, or a DNS name. Envoy accepts a
/// wildcard in the certificate for a DNS name.
fn subject_name(name: &str) -> SubjectAltNameMatcher {
    let kind = if name.parse::<std::net::IpAddr>().is_ok() {
        SanType::IpAddress
    } else if name.contains(':') {
        SanType::Uri
    } else {
        SanType::Dns
    };
    SubjectAltNameMatcher {
        san_type: kind.into(),
        matcher: Some(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(name.to_owned())),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn transport_socket<M: Name>(context: &M) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(pack(context))),
    }
}
