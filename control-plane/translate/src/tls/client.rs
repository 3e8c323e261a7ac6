//! TLS of calls to a node (`UpstreamTlsContext`).

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use evermesh_model::{
    CertificateSource, ClientTls, NodeListener, Protocol, ResolvedNode, ServerTls,
};
use evermesh_proto::{
    core::TransportSocket,
    tls::{
        CommonTlsContext, SdsSecretConfig, UpstreamTlsContext,
        common_tls_context::CombinedCertificateValidationContext,
    },
};

use super::{ProxySecrets, names, secret, transport_socket, validation, validation_type};
use crate::names as resource_names;

/// The longest server name that Envoy accepts, in bytes.
const LONGEST_SERVER_NAME: usize = 255;

/// TLS of the connections of one cluster to its endpoints.
#[derive(Debug)]
pub(crate) struct TargetTls {
    /// Sent as SNI; empty if none is sent.
    server_name: String,
    certificate: Option<SdsSecretConfig>,
    validation: Option<CombinedCertificateValidationContext>,
}

impl TargetTls {
    /// TLS of callers without a client policy: used if the listener offers it. The server's certificate is validated
    /// only if it is stored, because the authorities are known then. `None` for plaintext.
    pub(crate) fn without_policy(node: &ResolvedNode, listener: &NodeListener) -> Option<Self> {
        listener.tls.as_ref()?;
        Some(Self {
            server_name: server_name(node),
            certificate: None,
            validation: shared_trust(listener)
                .map(|trust| validation(secret::from_ads(&trust), [])),
        })
    }

    /// TLS of a caller with a client policy.
    pub(crate) fn with_policy(
        policy: &ClientTls,
        node: &ResolvedNode,
        secrets: &mut ProxySecrets,
    ) -> Self {
        let ClientTls {
            enforce: _,
            ports: _,
            certificate,
            validation: server,
        } = policy;
        let discovered =
            resource_names::discovery_name(node).filter(|_| server.subject_names.is_empty());
        Self {
            server_name: server_name(node),
            certificate: certificate.as_ref().map(|it| secrets.certificate(it)),
            validation: Some(validation(
                secrets.trust(&server.trust),
                names(server).chain(discovered.as_deref()),
            )),
        }
    }

    /// The transport socket of a cluster for this protocol.
    pub(crate) fn to_socket(&self, protocol: Protocol) -> TransportSocket {
        let Self {
            server_name,
            certificate,
            validation,
        } = self;
        transport_socket(&UpstreamTlsContext {
            sni: server_name.clone(),
            common_tls_context: Some(CommonTlsContext {
                tls_certificate_sds_secret_configs: certificate.iter().cloned().collect(),
                validation_context_type: validation.clone().map(validation_type),
                alpn_protocols: alpn(protocol).map(ToOwned::to_owned).into_iter().collect(),
                ..Default::default()
            }),
            ..Default::default()
        })
    }
}

/// The protocol that a cluster or health check asks for in the handshake.
pub(crate) const fn alpn(protocol: Protocol) -> Option<&'static str> {
    match protocol {
        Protocol::Http => Some("http/1.1"),
        Protocol::Http2 | Protocol::Grpc => Some("h2"),
        Protocol::Tcp => None,
    }
}

/// The name of the stored secret by which callers without a policy validate the server: that of the authorities in the
/// Kubernetes Secret of its certificate.
pub(crate) fn shared_trust(listener: &NodeListener) -> Option<Arc<str>> {
    match &listener.tls {
        Some(ServerTls {
            certificate: CertificateSource::Stored(secret),
            ..
        }) => Some(resource_names::stored_trust(std::slice::from_ref(secret))),
        Some(_) | None => None,
    }
}

/// The discovery name for SNI, which has no IP addresses (RFC 6066, section 3). Empty if there is none.
fn server_name(node: &ResolvedNode) -> String {
    resource_names::discovery_name(node)
        .filter(|name| name.len() <= LONGEST_SERVER_NAME && name.parse::<IpAddr>().is_err())
        .map(Cow::into_owned)
        .unwrap_or_default()
}
