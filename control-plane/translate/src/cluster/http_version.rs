//! The HTTP version of connections to the endpoints (`HttpProtocolOptions`).

use evermesh_model::Protocol;
use evermesh_proto::{
    cluster::Cluster,
    core::{Http1ProtocolOptions, Http2ProtocolOptions},
    pack,
    pb::envoy::extensions::upstreams::http::v3::{
        HttpProtocolOptions,
        http_protocol_options::{
            ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
            explicit_http_config::ProtocolConfig,
        },
    },
};

use super::{ClusterFeature, ClusterRole};

/// HTTP/1.1 for `http` and HTTP/2 for `http2` and `grpc`, as the application expects; for original destinations the
/// version of the caller.
pub(crate) struct HttpVersion;

impl ClusterFeature for HttpVersion {
    fn add(&self, role: ClusterRole<'_>, cluster: &mut Cluster) {
        let protocol = match role {
            ClusterRole::Target { listener, .. } => listener.protocol,
            ClusterRole::Local { protocol, .. } => protocol,
            ClusterRole::OriginalDestination => {
                let options = UseDownstreamHttpConfig {
                    http_protocol_options: Some(Http1ProtocolOptions::default()),
                    http2_protocol_options: Some(Http2ProtocolOptions::default()),
                    ..Default::default()
                };
                set(
                    cluster,
                    UpstreamProtocolOptions::UseDownstreamProtocolConfig(options),
                );
                return;
            }
        };
        let version = match protocol {
            Protocol::Tcp => return,
            Protocol::Http => ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default()),
            Protocol::Http2 | Protocol::Grpc => {
                ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default())
            }
        };
        let options = ExplicitHttpConfig {
            protocol_config: Some(version),
        };
        set(
            cluster,
            UpstreamProtocolOptions::ExplicitHttpConfig(options),
        );
    }
}

fn set(cluster: &mut Cluster, options: UpstreamProtocolOptions) {
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(options),
        ..Default::default()
    };
    cluster.typed_extension_protocol_options.insert(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
        pack(&options),
    );
}
