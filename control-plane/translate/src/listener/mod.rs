//! Listeners: sockets, listener filters and filter chains.
//!
//! A node has one listener for each direction; iptables redirects every connection to one of the two, and the
//! original destination port chooses the filter chain. A node whose traffic nobody redirects has one for each of its
//! local ports. A gateway listens on its own ports.

mod egress;
mod gateway;
mod ingress;
mod local;

use evermesh_proto::{
    Any,
    listener::{
        FilterChain, FilterChainMatch, ListenerFilter, ListenerFilterChainMatchPredicate,
        listener_filter, listener_filter_chain_match_predicate::Rule,
    },
    pack,
    pb::envoy::extensions::filters::listener::{
        original_dst::v3::OriginalDst, tls_inspector::v3::TlsInspector,
    },
    types::Int32Range,
};

pub(crate) use egress::{NodeEgress, node_egress, node_egress_routes};
pub(crate) use gateway::{GatewayResources, gateway_resources};
pub(crate) use ingress::{NodeIngress, node_ingress};
pub(crate) use local::{local_egress, local_egress_routes, local_ports};

use crate::wire;

/// HTTPS, the only port on which the server name counts.
const TLS_PORT: u16 = 443;

/// A filter chain for connections that were made to `port`.
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

/// Finds out where a redirected connection was going; filter chains match on that port.
fn original_dst() -> ListenerFilter {
    listener_filter(
        "envoy.filters.listener.original_dst",
        pack(&OriginalDst::default()),
    )
}

/// TrackedReads the server name of TLS connections to port 443 and nothing else: on another port it would wait for a
/// client that waits for its server to speak first (SMTP, some databases).
fn tls_inspector() -> ListenerFilter {
    let tls = ListenerFilterChainMatchPredicate {
        rule: Some(Rule::DestinationPortRange(Int32Range {
            start: TLS_PORT.into(),
            end: i32::from(TLS_PORT) + 1,
        })),
    };
    ListenerFilter {
        filter_disabled: Some(ListenerFilterChainMatchPredicate {
            rule: Some(Rule::NotMatch(Box::new(tls))),
        }),
        ..listener_filter(
            "envoy.filters.listener.tls_inspector",
            pack(&TlsInspector::default()),
        )
    }
}

fn listener_filter(name: &str, config: Any) -> ListenerFilter {
    ListenerFilter {
        name: name.to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}
