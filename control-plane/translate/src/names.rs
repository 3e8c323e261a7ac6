//! Every name that Envoy sees is made here. They are App Mesh's: users search logs and configuration dumps
//! for them, and alert on them.
//!
//! Must not depend on anything but names, protocols and ports.

use std::{fmt::Display, sync::Arc};

use evermesh_model::{ResourceName, ServicePort};

/// Where intercepted inbound connections of a node arrive.
pub(crate) const INGRESS_PORT: u16 = 15000;
/// Where intercepted outbound connections of a node arrive, and where a gateway calls itself.
pub(crate) const EGRESS_PORT: u16 = 15001;

/// The header by which a gateway tells its own egress listener which port of which virtual service is meant.
pub(crate) const SERVICE_HEADER: &str = "x-app-mesh-virtual-service";

/// A gateway's virtual host for requests that keep their client's `Host`.
pub(crate) const DEFAULT_BACKEND: &str = "default_backend";

/// `lds_ingress_0.0.0.0_15000`; of a gateway, and of a node that nobody intercepts, its own port. The address is part of
/// the name, not what it binds.
pub(crate) fn ingress_listener(port: u16) -> Arc<str> {
    format!("lds_ingress_0.0.0.0_{port}").into()
}

/// `lds_egress_0.0.0.0_15001`
pub(crate) fn egress_listener() -> Arc<str> {
    format!("lds_egress_0.0.0.0_{EGRESS_PORT}").into()
}

/// `lds_egress_127.0.0.1_9001`: where a node that nobody intercepts calls a backend. The address is part of the name,
/// not what it binds.
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

/// `http_8080`: a filter chain of either listener.
pub(crate) fn filter_chain(ServicePort { port, protocol }: ServicePort) -> String {
    format!("{protocol}_{port}")
}

/// `cds_ingress_shop_color_ns_http_8080`: the application beside a node's proxy.
pub(crate) fn local_cluster(
    ResourceName { mesh, name, .. }: &ResourceName,
    ServicePort { port, protocol }: ServicePort,
) -> Arc<str> {
    format!("cds_ingress_{mesh}_{name}_{protocol}_{port}").into()
}

/// `cds_egress_shop_color_ns_http_8080`: a node, as others call it. Its load assignment has the same name.
pub(crate) fn node_cluster(
    ResourceName { mesh, name, .. }: &ResourceName,
    ServicePort { port, protocol }: ServicePort,
) -> Arc<str> {
    format!("cds_egress_{mesh}_{name}_{protocol}_{port}").into()
}

/// `cds_egress_shop_amazonaws`: the AWS APIs, at whatever address the application asked for.
pub(crate) fn amazonaws_cluster(mesh: &str) -> Arc<str> {
    format!("cds_egress_{mesh}_amazonaws").into()
}

/// `cds_egress_shop_mesh-allow-all`: what no backend claims, at whatever address the application asked for.
pub(crate) fn allow_all_cluster(mesh: &str) -> Arc<str> {
    format!("cds_egress_{mesh}_mesh-allow-all").into()
}

/// `cds_ingress_shop_gate_ns_self_redirect_http_15001`: a gateway's own egress listener. With several
/// listeners each has its own, `…_self_redirect_8080_http_15001`.
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

/// The virtual host of a gateway for one domain: `self_redirect` for `*`.
pub(crate) fn gateway_host(domain: &str) -> String {
    if domain == "*" {
        "self_redirect".to_owned()
    } else {
        format!("self_redirect_{domain}")
    }
}

/// `color.ns:8080`: a virtual service on one of its ports: a domain, and the value of [`SERVICE_HEADER`].
pub(crate) fn authority(hostname: &str, port: impl Display) -> String {
    format!("{hostname}:{port}")
}
