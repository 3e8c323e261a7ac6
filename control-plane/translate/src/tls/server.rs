//! TLS of listeners (`DownstreamTlsContext`).

use evermesh_model::{Protocol, ServerTls};
use evermesh_proto::{
    core::TransportSocket,
    listener::FilterChain,
    tls::{CommonTlsContext, DownstreamTlsContext},
};

use super::{ProxySecrets, names, transport_socket, validation, validation_type};
use crate::wire;

/// The filter chains of a port, from the one for plaintext.
///
/// A port that accepts both has a chain for TLS and the one for plaintext. Which of them a connection gets is decided by
/// its first bytes, so the TLS inspector has to be on for the port ([`ServerTls::allows_plaintext`]).
pub(crate) fn filter_chains(
    plaintext: FilterChain,
    tls: Option<&ServerTls>,
    protocol: Protocol,
    secrets: &mut ProxySecrets,
) -> Vec<FilterChain> {
    let Some(tls) = tls else {
        return vec![plaintext];
    };
    let mut encrypted = FilterChain {
        transport_socket: Some(server_socket(tls, protocol, secrets)),
        ..plaintext.clone()
    };
    if !tls.allows_plaintext {
        return vec![encrypted];
    }
    let matches = encrypted.filter_chain_match.get_or_insert_default();
    "tls".clone_into(&mut matches.transport_protocol);
    let plaintext = FilterChain {
        name: format!("{}_plaintext", plaintext.name),
        ..plaintext
    };
    vec![encrypted, plaintext]
}

fn server_socket(
    tls: &ServerTls,
    protocol: Protocol,
    secrets: &mut ProxySecrets,
) -> TransportSocket {
    let ServerTls {
        allows_plaintext: _,
        certificate,
        client_validation,
    } = tls;
    let client_validation = client_validation
        .as_ref()
        .map(|it| validation(secrets.trust(&it.trust), names(it)));
    // Clients may use HTTP/2 on an `http` port, as without TLS.
    let alpn: &[&str] = if protocol.is_http() {
        &["h2", "http/1.1"]
    } else {
        &[]
    };
    transport_socket(&DownstreamTlsContext {
        require_client_certificate: client_validation.is_some().then(|| wire::bool(true)),
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_sds_secret_configs: vec![secrets.certificate(certificate)],
            validation_context_type: client_validation.map(validation_type),
            alpn_protocols: alpn.iter().map(ToString::to_string).collect(),
            ..Default::default()
        }),
        ..Default::default()
    })
}
