//! The names of all resources, filter chains and virtual hosts.
//!
//! The names are those of App Mesh, because users search logs and configuration dumps for them and alert on them. They
//! depend on names, protocols and ports alone.

use std::{borrow::Cow, fmt::Display, sync::Arc};

use evermesh_model::{
    CloudMapService, Discovery, ResolvedNode, ResourceName, SecretName, ServicePort,
};

use crate::tls::SecretDirection;

/// The port to which interception redirects the inbound connections of a node.
pub(crate) const INGRESS_PORT: u16 = 15000;
/// The port to which interception redirects the outbound connections of a node, and on which a gateway calls itself.
pub(crate) const EGRESS_PORT: u16 = 15001;

/// The header in which a gateway passes virtual service and port (`color.ns:8080`) to its own egress listener.
pub(crate) const SERVICE_HEADER: &str = "x-app-mesh-virtual-service";

/// The virtual host of a gateway for requests that keep the `Host` of the client.
pub(crate) const DEFAULT_BACKEND: &str = "default_backend";

/// `lds_ingress_0.0.0.0_15000`; for gateways and for nodes with local ports, the name has the listener's own port.
/// The address is part of the name only; the listener may bind another.
pub(crate) fn ingress_listener(port: u16) -> Arc<str> {
    format!("lds_ingress_0.0.0.0_{port}").into()
}

/// `lds_egress_0.0.0.0_15001`
pub(crate) fn egress_listener() -> Arc<str> {
    format!("lds_egress_0.0.0.0_{EGRESS_PORT}").into()
}

/// `lds_egress_127.0.0.1_9001`, a local port on which the application calls a backend. The address is part of the name
/// only; the listener may bind another.
pub(crate) fn local_listener(port: u16) -> Arc<str> {
    format!("lds_egress_127.0.0.1_{port}").into()
}

/// `rds_ingress_http_8080`
pub(crate) fn ingress_routes(ServicePort { port, protocol }: ServicePort) -> Arc<str> {
    format!("rds_ingress_{protocol}_{port}").into()
}

/// `rds_egress_http_8080`
pub(crate) fn egress_routes(ServicePort { port, protocol }: ServicePort) -> Arc<str> {
    format!("rds_egress_{protocol}_{port}").into()
}

/// `http_8080`, for inbound and outbound filter chains.
pub(crate) fn filter_chain(ServicePort { port, protocol }: ServicePort) -> String {
    format!("{protocol}_{port}")
}

/// `tcp_6379_cache.ns`, for the outbound filter chain of one of several services that share a port.
pub(crate) fn service_filter_chain(port: ServicePort, hostname: &str) -> String {
    format!("{}_{hostname}", filter_chain(port))
}

/// `cds_ingress_shop_color_ns_http_8080`, the application beside the proxy of a node.
pub(crate) fn local_cluster(
    ResourceName { mesh, name, .. }: &ResourceName,
    ServicePort { port, protocol }: ServicePort,
) -> Arc<str> {
    format!("cds_ingress_{mesh}_{name}_{protocol}_{port}").into()
}

/// `cds_egress_shop_color_ns_http_8080`, the cluster by which callers reach a node. The load assignment has the same
/// name.
pub(crate) fn node_cluster(
    ResourceName { mesh, name, .. }: &ResourceName,
    ServicePort { port, protocol }: ServicePort,
) -> Arc<str> {
    format!("cds_egress_{mesh}_{name}_{protocol}_{port}").into()
}

/// `cds_egress_shop_color_ns_http_8080@paint@ns`, the cluster by which one caller reaches a node as the backend `paint.ns`,
/// if another backend of this caller reaches the same node with another client policy. `@` is part of no other name.
pub(crate) fn caller_cluster(node_cluster: &str, hostname: &str) -> Arc<str> {
    // A dot would end the name of the cluster in statistics.
    format!("{node_cluster}@{}", hostname.replace('.', "@")).into()
}

/// `cds_egress_shop_amazonaws`, the original destination of connections to AWS APIs.
pub(crate) fn amazonaws_cluster(mesh: &str) -> Arc<str> {
    format!("cds_egress_{mesh}_amazonaws").into()
}

/// `cds_egress_shop_mesh-allow-all`, the original destination of traffic that belongs to no backend.
pub(crate) fn allow_all_cluster(mesh: &str) -> Arc<str> {
    format!("cds_egress_{mesh}_mesh-allow-all").into()
}

/// `cds_ingress_shop_gate_ns_self_redirect_http_15001`, the egress listener of the gateway itself. A gateway with
/// several listeners has one such cluster for each: `…_self_redirect_8080_http_15001`.
pub(crate) fn self_redirect_cluster(
    ResourceName { mesh, name, .. }: &ResourceName,
    ServicePort { port, protocol }: ServicePort,
    only_listener: bool,
) -> Arc<str> {
    let which = if only_listener {
        String::new()
    } else {
        format!("{port}_")
    };
    format!("cds_ingress_{mesh}_{name}_self_redirect_{which}{protocol}_{EGRESS_PORT}").into()
}

/// `ingress:certificate:/tls/tls.crt:/tls/tls.key`, a secret with the paths of a certificate and its key.
pub(crate) fn file_certificate(
    direction: SecretDirection,
    chain: &str,
    private_key: &str,
) -> Arc<str> {
    let (chain, private_key) = (path(chain), path(private_key));
    format!("{}:certificate:{chain}:{private_key}", direction.as_str()).into()
}

/// `egress:authorities:/tls/ca.crt`, a secret with the path of certificate authorities.
pub(crate) fn file_trust(direction: SecretDirection, authorities: &str) -> Arc<str> {
    format!("{}:authorities:{}", direction.as_str(), path(authorities)).into()
}

/// A path without colons, which separate the parts of a name.
fn path(path: &str) -> String {
    path.replace('%', "%25").replace(':', "%3A")
}

/// `secret/shop/color-tls`, the certificate and key of a Kubernetes Secret.
pub(crate) fn stored_certificate(SecretName { namespace, name }: &SecretName) -> Arc<str> {
    format!("secret/{namespace}/{name}").into()
}

/// `secret/shop/color-tls/ca`, the authorities of a Kubernetes Secret. Those of several have one resource together:
/// `secret/shop/one+shop/two/ca`.
pub(crate) fn stored_trust(secrets: &[SecretName]) -> Arc<str> {
    let names: Vec<String> = secrets.iter().map(ToString::to_string).collect();
    format!("secret/{}/ca", names.join("+")).into()
}

/// `self_redirect_shop.example.com`, the virtual host of a gateway for one domain; `self_redirect` for `*`.
pub(crate) fn gateway_host(domain: &str) -> String {
    if domain == "*" {
        "self_redirect".to_owned()
    } else {
        format!("self_redirect_{domain}")
    }
}

/// `color.ns:8080`, a virtual service with one of its ports: a domain, and a value of [`SERVICE_HEADER`].
pub(crate) fn authority(hostname: &str, port: impl Display) -> String {
    format!("{hostname}:{port}")
}

/// The name by which callers discover the node, without a dot at its end: the DNS name, or `SERVICE.NAMESPACE` for Cloud
/// Map.
pub(crate) fn discovery_name(node: &ResolvedNode) -> Option<Cow<'_, str>> {
    match node.discovery.as_ref()? {
        Discovery::Dns { hostname, .. } | Discovery::Slices { hostname, .. } => {
            let name = hostname.strip_suffix('.').unwrap_or(hostname);
            Some(Cow::Borrowed(name))
        }
        Discovery::CloudMap {
            service: CloudMapService { namespace, service },
            ..
        } => Some(Cow::Owned(format!("{service}.{namespace}"))),
    }
}
