//! Settings of listeners: health checks, ejection of endpoints, limits, timeouts, and access logs.

mod access_logs;
mod failing_endpoints;
mod limits;
mod timeouts;

use crate::{
    common::eventually,
    manifests::{Manifests, route},
    mesh_hosts::{MeshHosts, Proxy},
};

/// Adds the service `side`, which sends each of these ports to the same port of the node `side`, without retries.
fn side_service(manifests: &mut Manifests, ports: &[(u16, &str)]) {
    let routes = ports.iter().map(|(port, protocol)| {
        let kind = match *protocol {
            "http" => "httpRoute",
            "http2" => "http2Route",
            "grpc" => "grpcRoute",
            _ => "tcpRoute",
        };
        let prefix = if protocol.starts_with("http") { "prefix: /, " } else { "" };
        let matches = format!("{{{prefix}port: {port}}}");
        let target = format!("{{virtualNodeRef: {{name: side}}, port: {port}, weight: 1}}");
        let route = route(protocol, kind, &matches, "side").raw_targets(&target);
        if kind == "tcpRoute" {
            return route;
        }
        route.with(
            "retryPolicy: {maxRetries: 0, perRetryTimeout: {unit: s, value: 1}, httpRetryEvents: [server-error]}",
        )
    });
    let routes: Vec<_> = routes.collect();
    manifests.routed_service("side", ports, &routes);
}

/// Waits until the proxy has logged this line.
async fn is_logged(hosts: &MeshHosts, proxy: Proxy, line: &str) {
    eventually(line, async || hosts.log(proxy).iter().any(|it| it == line)).await;
}

/// A statistic of the cluster by which `front` calls a node.
async fn target_stat(hosts: &MeshHosts, cluster: &str, stat: &str) -> u64 {
    let name = format!("cluster.cds_egress_shop_{cluster}.{stat}");
    hosts.stat(Proxy::Front, &name).await
}
