//! The cluster of the control plane: discovery, keepalive, TLS and the bearer token.

use std::net::IpAddr;

use evermesh_proto::{
    cluster::{
        Cluster, UpstreamConnectionOptions,
        cluster::{ClusterDiscoveryType, DiscoveryType},
    },
    core::{
        DataSource, Http2ProtocolOptions, KeepaliveSettings, TcpKeepalive, TransportSocket,
        data_source::Specifier, transport_socket::ConfigType,
    },
    hcm::{HttpFilter, http_filter},
    matcher::{StringMatcher, string_matcher::MatchPattern},
    pack,
    pb::envoy::extensions::{
        filters::http::{lua::v3::Lua, upstream_codec::v3::UpstreamCodec},
        upstreams::http::v3::{
            HttpProtocolOptions,
            http_protocol_options::{
                ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
            },
        },
    },
    tls::{
        CertificateValidationContext, CommonTlsContext, SubjectAltNameMatcher, TlsCertificate,
        UpstreamTlsContext, common_tls_context::ValidationContextType,
        subject_alt_name_matcher::SanType,
    },
};

use super::{HostPort, duration, endpoints, uint32};

/// The name of the cluster. Its statistics are excluded, so that sums over all clusters of a proxy
/// (`envoy_cluster_upstream_rq`) count only the traffic of the mesh; `control_plane.connected_state` shows the connection.
pub(super) const CONTROL_PLANE: &str = "evermesh_control_plane";

/// TLS to the control plane. The certificate must be valid for the host of the control plane's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPlaneTls {
    /// The authorities that sign the control plane's certificate.
    pub authority: Authority,
    /// The client certificate of the proxy, if it has one.
    pub identity: Option<ClientCertificateFiles>,
}

/// Certificates of certificate authorities, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authority {
    /// The path of a file on the host of the proxy.
    File(String),
    /// The certificates themselves.
    Inline(String),
}

/// A client certificate and its key, as PEM files on the host of the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificateFiles {
    /// The certificate, followed by the intermediate certificates.
    pub chain: String,
    /// The private key.
    pub key: String,
}

/// Makes the cluster. Envoy resolves a host name periodically and thereby finds new replicas. HTTP/2 pings detect a lost
/// peer within 15 seconds; TCP keepalive does so if a proxy in between answers the pings.
pub(super) fn cluster(
    xds: &HostPort,
    tls: Option<&ControlPlaneTls>,
    token: Option<&str>,
) -> Cluster {
    let discovery = if xds.host.parse::<IpAddr>().is_ok() {
        DiscoveryType::Static
    } else {
        DiscoveryType::StrictDns
    };
    let http2 = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(
            ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions {
                    connection_keepalive: Some(KeepaliveSettings {
                        interval: Some(duration(10)),
                        timeout: Some(duration(5)),
                        ..Default::default()
                    }),
                    ..Default::default()
                })),
            },
        )),
        http_filters: token.map(bearer).unwrap_or_default(),
        ..Default::default()
    };
    Cluster {
        name: CONTROL_PLANE.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery.into())),
        connect_timeout: Some(duration(1)),
        load_assignment: Some(endpoints(CONTROL_PLANE, super::socket(xds))),
        typed_extension_protocol_options: [(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
            pack(&http2),
        )]
        .into(),
        transport_socket: tls.map(|tls| transport_socket(xds, tls)),
        upstream_connection_options: Some(UpstreamConnectionOptions {
            tcp_keepalive: Some(TcpKeepalive {
                keepalive_probes: Some(uint32(3)),
                keepalive_time: Some(uint32(10)),
                keepalive_interval: Some(uint32(2)),
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Filters that send the contents of the file as `authorization: Bearer` at the start of every stream. The kubelet
/// replaces the token before it expires. Envoy's own mechanisms either read the file once or, as `file_based_metadata`
/// of the Google gRPC client, need TLS.
fn bearer(file: &str) -> Vec<HttpFilter> {
    let source = format!(
        "function envoy_on_request(request)
  local file, problem = io.open({file:?}, \"r\")
  if not file then
    request:logErr(\"cannot read the control plane's token: \" .. problem)
    return
  end
  local token = file:read(\"*a\"):gsub(\"%s+$\", \"\")
  file:close()
  request:headers():replace(\"authorization\", \"Bearer \" .. token)
end
"
    );
    let lua = Lua {
        default_source_code: Some(DataSource {
            specifier: Some(Specifier::InlineString(source)),
            ..Default::default()
        }),
        ..Default::default()
    };
    let filter = |name: &str, config| HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    };
    vec![
        filter("envoy.filters.http.lua", pack(&lua)),
        filter(
            "envoy.filters.http.upstream_codec",
            pack(&UpstreamCodec::default()),
        ),
    ]
}

fn transport_socket(xds: &HostPort, tls: &ControlPlaneTls) -> TransportSocket {
    let file = |name: &str| DataSource {
        specifier: Some(Specifier::Filename(name.to_owned())),
        ..Default::default()
    };
    let authority = match &tls.authority {
        Authority::File(name) => file(name),
        Authority::Inline(pem) => DataSource {
            specifier: Some(Specifier::InlineString(pem.clone())),
            ..Default::default()
        },
    };
    let is_address = xds.host.parse::<IpAddr>().is_ok();
    let name = SubjectAltNameMatcher {
        san_type: if is_address {
            SanType::IpAddress.into()
        } else {
            SanType::Dns.into()
        },
        matcher: Some(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(xds.host.clone())),
            ..Default::default()
        }),
        ..Default::default()
    };
    let certificates = tls.identity.iter().map(|files| TlsCertificate {
        certificate_chain: Some(file(&files.chain)),
        private_key: Some(file(&files.key)),
        ..Default::default()
    });
    let context = UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            alpn_protocols: vec!["h2".to_owned()],
            tls_certificates: certificates.collect(),
            validation_context_type: Some(ValidationContextType::ValidationContext(
                CertificateValidationContext {
                    trusted_ca: Some(authority),
                    match_typed_subject_alt_names: vec![name],
                    ..Default::default()
                },
            )),
            ..Default::default()
        }),
        // SNI allows only host names (RFC 6066, section 3).
        sni: if is_address {
            String::new()
        } else {
            xds.host.clone()
        },
        ..Default::default()
    };
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(ConfigType::TypedConfig(pack(&context))),
    }
}
