//! The listener of a pod for Envoy's pages `/ready` and `/stats/prometheus`, for the kubelet and Prometheus.
//!
//! Envoy's admin interface can stop Envoy and shows its whole configuration, so it listens on loopback. This listener
//! forwards the two pages to it, from the same port of the pod's other addresses:
//!
//! ```text
//! kubelet, Prometheus ──► 0.0.0.0:9901 ── GET /ready, /stats/prometheus ──► 127.0.0.1:9901, the admin interface
//! kubectl port-forward, a container of the pod ───────── any page ────────►
//! ```
//!
//! Both sockets have `SO_REUSEPORT`, which Linux needs to bind an address and the wildcard at one port. It gives a
//! connection to the socket with the most specific address. Envoy accepts connections only after its first complete
//! configuration; before, the page `/ready` would answer 503.

use evermesh_proto::{
    cluster::{
        Cluster,
        cluster::{ClusterDiscoveryType, DiscoveryType},
    },
    core::{SocketOption, socket_option},
    hcm::{
        HttpConnectionManager, HttpFilter, http_connection_manager::RouteSpecifier, http_filter,
    },
    listener::{Filter, FilterChain, Listener, filter},
    matcher::{StringMatcher, string_matcher::MatchPattern},
    pack,
    pb::envoy::extensions::filters::http::router::v3::Router,
    route::{
        HeaderMatcher, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
        header_matcher::HeaderMatchSpecifier, route, route_action::ClusterSpecifier,
        route_match::PathSpecifier,
    },
};

use super::{HostPort, duration, endpoints, socket};

/// Name of the listener and of its statistics, which are excluded.
pub(super) const LISTENER: &str = "evermesh_pages";
/// Name of the cluster, whose statistics are excluded.
pub(super) const CLUSTER: &str = "evermesh_admin";

const PAGES: [&str; 2] = ["/ready", "/stats/prometheus"];

/// `SO_REUSEPORT` for the socket of the admin interface. Listeners have it by default.
pub(super) fn reuse_port() -> SocketOption {
    /// `SOL_SOCKET` and `SO_REUSEPORT` of Linux.
    const LEVEL_AND_NAME: (i64, i64) = (1, 15);
    SocketOption {
        description: "SO_REUSEPORT".to_owned(),
        level: LEVEL_AND_NAME.0,
        name: LEVEL_AND_NAME.1,
        value: Some(socket_option::Value::IntValue(1)),
        state: socket_option::SocketState::StatePrebind.into(),
        ..Default::default()
    }
}

pub(super) fn listener(address: &HostPort) -> Listener {
    let manager = HttpConnectionManager {
        stat_prefix: LISTENER.to_owned(),
        route_specifier: Some(RouteSpecifier::RouteConfig(RouteConfiguration {
            virtual_hosts: vec![VirtualHost {
                name: LISTENER.to_owned(),
                domains: vec!["*".to_owned()],
                routes: PAGES.map(page).into(),
                ..Default::default()
            }],
            ..Default::default()
        })),
        http_filters: vec![HttpFilter {
            name: "envoy.filters.http.router".to_owned(),
            config_type: Some(http_filter::ConfigType::TypedConfig(pack(
                &Router::default(),
            ))),
            ..Default::default()
        }],
        ..Default::default()
    };
    Listener {
        name: LISTENER.to_owned(),
        stat_prefix: LISTENER.to_owned(),
        address: Some(socket(address)),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: "envoy.filters.network.http_connection_manager".to_owned(),
                config_type: Some(filter::ConfigType::TypedConfig(pack(&manager))),
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// The route for `GET` requests for a page.
fn page(path: &str) -> Route {
    let is_get = HeaderMatcher {
        name: ":method".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(MatchPattern::Exact("GET".to_owned())),
            ..Default::default()
        })),
        ..Default::default()
    };
    Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Path(path.to_owned())),
            headers: vec![is_get],
            ..Default::default()
        }),
        action: Some(route::Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(CLUSTER.to_owned())),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// The cluster of the admin interface.
pub(super) fn cluster(admin: &HostPort) -> Cluster {
    Cluster {
        name: CLUSTER.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        connect_timeout: Some(duration(1)),
        load_assignment: Some(endpoints(CLUSTER, socket(admin))),
        ..Default::default()
    }
}
