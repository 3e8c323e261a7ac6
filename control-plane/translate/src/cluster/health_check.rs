//! Checks of endpoints by the proxies of callers (`health_checks`).

use evermesh_model::{ActiveHealthCheck, Protocol, ResolvedNode};
use evermesh_proto::{
    cluster::Cluster,
    core::{
        self,
        health_check::{
            GrpcHealthCheck, HealthChecker, HttpHealthCheck, TcpHealthCheck, TlsOptions,
        },
    },
    types::{CodecClientType, Int64Range},
};

use super::{ClusterFeature, ClusterRole};
use crate::{names, tls, wire};

/// The `healthCheck` of the target's listener. A request to a node of which every endpoint fails its checks is sent to
/// any of them, because Envoy's panic threshold stays at its default of 50%.
pub(crate) struct HealthChecks;

impl ClusterFeature for HealthChecks {
    fn add(&self, role: ClusterRole<'_>, cluster: &mut Cluster) {
        if let ClusterRole::Target {
            node,
            listener,
            tls: transport,
        } = role
            && let Some(check) = &listener.health_check
        {
            // The protocol of the check, not that of the listener, has to be negotiated.
            let alpn = tls::alpn(check.protocol)
                .filter(|it| transport.is_some() && tls::alpn(listener.protocol) != Some(*it));
            cluster.health_checks.push(core::HealthCheck {
                tls_options: alpn.map(|alpn| TlsOptions {
                    alpn_protocols: vec![alpn.to_owned()],
                }),
                ..to_proto(check, &host(node))
            });
        }
    }
}

/// The name by which the node is discovered, for `Host`. Without it, Envoy sends the name of the cluster, and some servers
/// answer 400 because it contains underscores. Empty if the name is not valid in a header.
fn host(node: &ResolvedNode) -> String {
    let name = names::discovery_name(node).unwrap_or_default();
    let is_valid = name.bytes().all(|byte| byte.is_ascii_graphic());
    if is_valid {
        name.into_owned()
    } else {
        String::new()
    }
}

fn to_proto(check: &ActiveHealthCheck, host: &str) -> core::HealthCheck {
    let ActiveHealthCheck {
        protocol,
        path,
        healthy_threshold,
        unhealthy_threshold,
        interval,
        timeout,
    } = check;
    let http = |codec: CodecClientType| {
        HealthChecker::HttpHealthCheck(HttpHealthCheck {
            host: host.to_owned(),
            path: path.to_string(),
            codec_client_type: codec.into(),
            // Without this, one answer with another status than 200 would count as many failures as the threshold.
            retriable_statuses: vec![Int64Range {
                start: 100,
                end: 600,
            }],
            ..Default::default()
        })
    };
    core::HealthCheck {
        timeout: Some(wire::duration(*timeout)),
        interval: Some(wire::duration(*interval)),
        // Envoy's default is a minute, until the proxy has called the node for the first time.
        no_traffic_interval: Some(wire::duration(*interval)),
        healthy_threshold: Some(wire::uint32(*healthy_threshold)),
        unhealthy_threshold: Some(wire::uint32(*unhealthy_threshold)),
        health_checker: Some(match protocol {
            Protocol::Http => http(CodecClientType::Http1),
            Protocol::Http2 => http(CodecClientType::Http2),
            Protocol::Grpc => HealthChecker::GrpcHealthCheck(GrpcHealthCheck {
                authority: host.to_owned(),
                ..Default::default()
            }),
            Protocol::Tcp => HealthChecker::TcpHealthCheck(TcpHealthCheck::default()),
        }),
        ..Default::default()
    }
}
