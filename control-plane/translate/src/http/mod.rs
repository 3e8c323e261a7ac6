//! The HTTP connection manager and its filters.
//!
//! Must not know what the routes are: they come under the name given here.

use evermesh_model::ServicePort;
use evermesh_proto::{
    Any, hcm,
    hcm::{
        HttpConnectionManager, Rds,
        http_connection_manager::{
            PathWithEscapedSlashesAction, RouteSpecifier, Tracing, UpgradeConfig,
        },
        http_filter,
    },
    listener::{Filter, filter},
    pack,
    pb::envoy::extensions::filters::http::router::v3::Router,
    protobuf,
};

use crate::wire;

/// The direction of the proxy that a connection manager or a TCP proxy is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListenerDirection {
    /// From others to the application, on this port of a node or gateway
    Ingress(ServicePort),
    /// From the application to others
    Egress,
}

impl ListenerDirection {
    /// In names of statistics: `http.egress.downstream_rq_total`, `http.ingress.http.8080.downstream_rq_total`. App
    /// Mesh's tags take protocol and port out of the latter, so that in Prometheus both have a short prefix.
    pub(crate) fn stat_prefix(self) -> String {
        match self {
            Self::Ingress(ServicePort { port, protocol }) => format!("ingress.{protocol}.{port}"),
            Self::Egress => "egress".to_owned(),
        }
    }
}

/// The filters of the connection manager, **declared in the order of the chain**.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum HttpFilter {
    /// Sends the request on; always the last.
    Router,
}

impl HttpFilter {
    fn to_proto(self) -> hcm::HttpFilter {
        let (name, config): (&str, Any) = match self {
            Self::Router => ("envoy.filters.http.router", pack(&Router::default())),
        };
        hcm::HttpFilter {
            name: name.to_owned(),
            config_type: Some(http_filter::ConfigType::TypedConfig(config)),
            ..Default::default()
        }
    }
}

/// A connection manager whose routes come over RDS under `routes`.
///
/// As App Mesh had it: paths are normalised and their slashes merged, websockets may be asked for, a tracer in the
/// bootstrap takes effect, and callers count as part of the mesh (no `use_remote_address`).
/// `stream_idle_timeout` bounds a request until its route is known; the route's own holds from there.
pub(crate) fn connection_manager(
    direction: ListenerDirection,
    routes: &str,
    stream_idle_timeout: Option<protobuf::Duration>,
) -> Filter {
    let manager = HttpConnectionManager {
        stat_prefix: direction.stat_prefix(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(wire::ads()),
            route_config_name: routes.to_owned(),
        })),
        http_filters: vec![HttpFilter::Router.to_proto()],
        stream_idle_timeout,
        tracing: Some(Tracing::default()),
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..Default::default()
        }],
        normalize_path: Some(wire::bool(true)),
        merge_slashes: true,
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::KeepUnchanged.into(),
        ..Default::default()
    };
    Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(pack(&manager))),
    }
}
