//! The TCP proxy filter, for ports that carry connections instead of requests.

use std::{sync::Arc, time::Duration};

use evermesh_model::{RouteTarget, route::TcpRule};
use evermesh_proto::{
    listener::{Filter, filter},
    pack, tcp_proxy,
    tcp_proxy::{
        TcpProxy,
        tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight},
    },
};

use crate::{access_log, http::ListenerContext, tls::ClusterNames, wire};

/// A TCP proxy that sends every connection to one cluster.
pub(crate) fn proxy_to_cluster(
    context: ListenerContext<'_>,
    cluster: &str,
    idle: Option<Duration>,
) -> Filter {
    proxy(context, ClusterSpecifier::Cluster(cluster.to_owned()), idle)
}

/// The filters for a TCP rule, and the clusters that they name.
///
/// Targets of weight 0 are left out, because Envoy's `TcpProxy` refuses a weight below 1. If no target is left, the
/// filter chain has no filter and Envoy closes its connections at once.
pub(crate) fn proxy_by_rule(
    context: ListenerContext<'_>,
    rule: &TcpRule,
    names: ClusterNames<'_>,
) -> (Vec<Filter>, Vec<Arc<str>>) {
    let TcpRule { targets, idle } = rule;
    let weighted: Vec<(Arc<str>, &RouteTarget)> = targets
        .iter()
        .filter(|target| target.weight > 0)
        .map(|target| (names.of(target), target))
        .collect();
    let filters = match weighted.as_slice() {
        [] => Vec::new(),
        [(cluster, _)] => vec![proxy_to_cluster(context, cluster, *idle)],
        several => {
            let clusters = several
                .iter()
                .map(|(cluster, target)| ClusterWeight {
                    name: cluster.to_string(),
                    weight: target.weight,
                    ..Default::default()
                })
                .collect();
            let specifier = ClusterSpecifier::WeightedClusters(WeightedCluster { clusters });
            vec![proxy(context, specifier, *idle)]
        }
    };
    let clusters = weighted.into_iter().map(|(cluster, _)| cluster).collect();
    (filters, clusters)
}

fn proxy(
    context: ListenerContext<'_>,
    clusters: ClusterSpecifier,
    idle: Option<Duration>,
) -> Filter {
    let proxy = tcp_proxy::TcpProxy {
        stat_prefix: context.direction.stat_prefix(),
        idle_timeout: idle.map(wire::duration),
        access_log: access_log::access_logs(context.access_log),
        cluster_specifier: Some(clusters),
        ..TcpProxy::default()
    };
    Filter {
        name: "envoy.filters.network.tcp_proxy".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(pack(&proxy))),
    }
}
