//! Listeners with their filter chains, and the route configurations that they name.
//!
//! A node has one listener for each direction. Interception redirects each connection to one of the two, and the original
//! destination port selects the filter chain. A node with local ports is not intercepted: it has one listener for each
//! of its own ports and one for each local port of a backend. A gateway has one listener for each of its ports and one
//! for itself.

mod egress;
mod gateway;
mod ingress;
mod local;

use std::sync::Arc;

use evermesh_proto::{
    Any, EncodedPart,
    listener::{
        self, FilterChain, FilterChainMatch, ListenerFilter, ListenerFilterChainMatchPredicate,
        listener_filter,
        listener_filter_chain_match_predicate::{MatchSet, Rule},
    },
    pack,
    pb::envoy::extensions::filters::listener::{
        original_dst::v3::OriginalDst, tls_inspector::v3::TlsInspector,
    },
    route::VirtualHost,
    types::Int32Range,
};
use prost::Message;

pub(crate) use egress::{NodeEgress, node_egress, node_egress_routes};
pub(crate) use gateway::{GatewayResources, gateway_resources};
pub(crate) use ingress::{NodeIngress, node_ingress};
pub(crate) use local::{local_egress, local_egress_routes, local_ports};

use crate::{service, wire};

/// The HTTPS port, the only one on which filter chains match the TLS server name.
const TLS_PORT: u16 = 443;

/// A filter chain for connections whose original destination port is `port`.
fn chain_for_port(
    name: String,
    port: u16,
    filters: Vec<evermesh_proto::listener::Filter>,
) -> FilterChain {
    FilterChain {
        name,
        filter_chain_match: Some(FilterChainMatch {
            destination_port: Some(wire::uint32(port.into())),
            ..Default::default()
        }),
        filters,
        ..Default::default()
    }
}

/// The base of a listener or route configuration: `message` without its filter chains or virtual hosts.
fn base_part(
    message: &impl Message,
    needs: Option<Arc<str>>,
    origins: Arc<[Arc<str>]>,
) -> EncodedPart {
    EncodedPart {
        body: message.encode_to_vec().into(),
        name: Arc::default(),
        needs: needs.into_iter().collect(),
        origins,
    }
}

/// Filter chains as a part of their listener. `name` stands for the connections that they match: the port, for which a
/// listener has one part, so that no combination of versions matches a connection twice.
fn chains_part(
    name: &str,
    filter_chains: Vec<FilterChain>,
    needs: Vec<Arc<str>>,
    origins: Vec<Arc<str>>,
) -> EncodedPart {
    let listener = listener::Listener {
        filter_chains,
        ..Default::default()
    };
    EncodedPart {
        body: listener.encode_to_vec().into(),
        name: name.into(),
        needs: wire::sorted(needs).into(),
        origins: wire::sorted(origins).into(),
    }
}

/// A virtual host as a part of its route configuration. `name` stands for the domains that it matches.
fn host_part(
    name: &str,
    host: VirtualHost,
    needs: Vec<Arc<str>>,
    origins: Vec<Arc<str>>,
) -> EncodedPart {
    EncodedPart {
        body: service::encode_virtual_host(host),
        name: name.into(),
        needs: wire::sorted(needs).into(),
        origins: wire::sorted(origins).into(),
    }
}

/// Restores the original destination of a redirected connection; filter chains match its port.
fn original_dst() -> ListenerFilter {
    listener_filter(
        "envoy.filters.listener.original_dst",
        pack(&OriginalDst::default()),
    )
}

/// Finds out, on these ports, whether a connection begins with TLS, and reads the server name. `None` without ports.
///
/// On other ports the filter is disabled. It would wait for the first bytes of the client, which never come in protocols
/// where the server speaks first (SMTP, some databases).
fn tls_inspector(ports: &[u16]) -> Option<ListenerFilter> {
    let predicate = |rule| ListenerFilterChainMatchPredicate { rule: Some(rule) };
    let mut rules: Vec<_> = ports
        .iter()
        .map(|port| {
            predicate(Rule::DestinationPortRange(Int32Range {
                start: i32::from(*port),
                end: i32::from(*port) + 1,
            }))
        })
        .collect();
    // Envoy refuses a set of one rule.
    let inspected = match rules.len() {
        0 | 1 => rules.pop()?,
        _ => predicate(Rule::OrMatch(MatchSet { rules })),
    };
    Some(ListenerFilter {
        filter_disabled: Some(predicate(Rule::NotMatch(Box::new(inspected)))),
        ..listener_filter(
            "envoy.filters.listener.tls_inspector",
            pack(&TlsInspector::default()),
        )
    })
}

fn listener_filter(name: &str, config: Any) -> ListenerFilter {
    ListenerFilter {
        name: name.to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}
