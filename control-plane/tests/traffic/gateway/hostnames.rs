//! Gateway routes with and without host names beside each other.

use evermesh_testkit::envoy::EnvoyVersion;
use http::StatusCode;

use super::add_services;
use crate::mesh_hosts::{Manifests, MeshHosts, Proxy, gateway_route, get, target};

const PORT: u16 = 8088;

async fn host_names_select_routes(version: EnvoyVersion) {
    let mut manifests = Manifests::new();
    manifests.gateway(&[(PORT, "http")]);
    add_services(&mut manifests);
    let http = |name: &str, matches: &str, service: &str| {
        gateway_route(name, "httpRoute", matches, service)
    };
    manifests.gateway_routes(&[
        http("any", "{prefix: /any}", "s1"),
        http("exact", "{hostname: {exact: Api.example.com}}", "s2"),
        http(
            "exact-path",
            "{hostname: {exact: api.example.com}, prefix: /own}",
            "s3",
        ),
        http("suffix", "{hostname: {suffix: .example.com}}", "s4"),
        http(
            "suffix-path",
            "{hostname: {suffix: .example.com}, prefix: /all}",
            "s5",
        ),
        http("without-dot", "{hostname: {suffix: example.org}}", "s3"),
    ]);
    let hosts = MeshHosts::start(version, manifests, &[Proxy::Gate]).await;
    hosts.has_no_error().await;
    for (host, path, expected) in [
        // Names are compared without case and without the port.
        ("api.example.com", "/", Some(2)),
        ("API.example.com", "/", Some(2)),
        ("api.example.com:443", "/", Some(2)),
        ("api.example.com", "/own", Some(3)),
        // A route for the suffix and one for every name apply to a host that has routes of its own.
        ("api.example.com", "/all", Some(5)),
        ("api.example.com", "/any", Some(1)),
        ("www.example.com", "/", Some(4)),
        ("a.b.example.com:8088", "/all/x", Some(5)),
        ("www.example.com", "/any", Some(1)),
        ("www.example.com", "/own", Some(4)),
        // The suffix begins with a dot.
        ("example.com", "/", None),
        ("wwwexample.com", "/", None),
        ("example.com", "/any", Some(1)),
        ("example.org", "/", Some(3)),
        ("www.example.org", "/", Some(3)),
        ("wwwexample.org", "/", Some(3)),
        ("example.org.evil", "/", None),
    ] {
        let response = get(path).send(&hosts.gate.loopback(PORT), host).await;
        assert_eq!(target(&response), expected, "{host}{path}");
        if expected.is_none() {
            assert_eq!(response.status, StatusCode::NOT_FOUND, "{host}{path}");
        }
    }
}

#[tokio::test]
async fn oldest_envoy_selects_gateway_routes_by_host_name() {
    host_names_select_routes(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_selects_gateway_routes_by_host_name() {
    host_names_select_routes(EnvoyVersion::Newest).await;
}
