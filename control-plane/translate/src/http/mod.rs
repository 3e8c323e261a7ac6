//! The HTTP connection manager.
//!
//! A connection manager names the route configuration that the proxy fetches over RDS. Its HTTP filters are in
//! [`filter`].

pub(crate) mod filter;
mod router;

use evermesh_model::{AccessLogFile, ServicePort};
use evermesh_proto::{
    hcm::{
        HttpConnectionManager, Rds,
        http_connection_manager::{
            PathWithEscapedSlashesAction, RouteSpecifier, Tracing, UpgradeConfig,
        },
    },
    listener::{Filter, filter as network_filter},
    pack, protobuf,
};

use crate::{access_log, wire};

/// The direction of the listener that a connection manager or TCP proxy belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListenerDirection {
    /// Traffic that arrives on this port of a node or gateway.
    Ingress(ServicePort),
    /// Traffic from the application to other nodes, and the second pass through a gateway.
    Egress,
}

impl ListenerDirection {
    /// The prefix of the filter's statistics, such as `http.egress.downstream_rq_total` and
    /// `http.ingress.http.8080.downstream_rq_total`. App Mesh's tag rules in the bootstrap turn the protocol and port of
    /// the latter into tags, so both have a short prefix in Prometheus.
    pub(crate) fn stat_prefix(self) -> String {
        match self {
            Self::Ingress(ServicePort { port, protocol }) => format!("ingress.{protocol}.{port}"),
            Self::Egress => "egress".to_owned(),
        }
    }
}

/// The settings of a proxy that every connection manager and TCP proxy of a listener needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ListenerContext<'a> {
    pub(crate) direction: ListenerDirection,
    pub(crate) access_log: Option<&'a AccessLogFile>,
    /// Whether the address of the client is added to `X-Forwarded-For`.
    pub(crate) forwards_client_address: bool,
}

/// A connection manager that fetches the route configuration `routes` over RDS.
///
/// The settings are those of App Mesh: paths are normalised and repeated slashes merged, WebSocket upgrades are allowed,
/// a tracer of the bootstrap takes effect, and `use_remote_address` is off unless the address of the client is forwarded.
/// `stream_idle_timeout` applies until the route is chosen; then the idle timeout of the route replaces it, if set.
pub(crate) fn connection_manager(
    context: ListenerContext<'_>,
    routes: &str,
    stream_idle_timeout: Option<protobuf::Duration>,
) -> Filter {
    let manager = HttpConnectionManager {
        stat_prefix: context.direction.stat_prefix(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(wire::ads()),
            route_config_name: routes.to_owned(),
        })),
        http_filters: filter::chain(context),
        access_log: access_log::access_logs(context.access_log),
        use_remote_address: context.forwards_client_address.then(|| wire::bool(true)),
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
        config_type: Some(network_filter::ConfigType::TypedConfig(pack(&manager))),
    }
}
