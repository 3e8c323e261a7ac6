//! Gateway routes with and without host names beside each other.

use evermesh_testkit::envoy::EnvoyVersion;
use http::StatusCode;

use super::add_services;
use crate::{
    call::{get, target},
    manifests::{Manifests, gateway_route},
    mesh_hosts::{MeshHosts, Proxy},
};

const PORT: u16 = 8088;

async fn host_names_select_routes(version: EnvoyVersion) {
    let mut manifests = Manifests::new();
    manifests.gateway(&[(PORT, "http")]);
    add_services(&mut manifests);
    let http = |name: &str, matches: &str, service: &str| {
        gateway_route(name, "httpRoute", matches, service)
    };
    manifests.gateway_routes(&[
        http("any", "{prefix: /}", "s1"),
        http("any-path", "{prefix: /any}", "s5"),
        http("exact", "{hostname: {exact: Api.example.com}}", "s2"),
        http(
            "exact-path",
            "{hostname: {exact: api.example.com}, prefix: /own}",
            "s3",
        ),
        http(
            "only-path",
            "{hostname: {exact: only.example.net}, prefix: /own}",
            "s2",
        ),
        http("suffix", "{hostname: {suffix: .example.com}}", "s4"),
        http(
            "longer-suffix",
            "{hostname: {suffix: .eu.example.com}}",
            "s3",
        ),
        http("without-dot", "{hostname: {suffix: example.org}}", "s3"),
    ]);
    let hosts = MeshHosts::start(version, manifests, &[Proxy::Gate]).await;
    hosts.has_no_error().await;
    for (host, path, expected) in [
        // Names are compared without case and without the port.
        ("api.example.com", "/", 2),
        ("API.example.com", "/", 2),
        ("api.example.com:443", "/", 2),
        ("api.example.com", "/own", 3),
        // A route for the name of the request precedes those for other names, whatever their paths.
        ("api.example.com", "/any", 2),
        ("www.example.com", "/any", 4),
        ("a.b.example.com:8088", "/own", 4),
        ("www.eu.example.com", "/", 3),
        ("eu.example.com", "/", 4),
        // Routes for any name serve what the routes for the name leave.
        ("only.example.net", "/own", 2),
        ("only.example.net", "/any", 5),
        ("only.example.net", "/", 1),
        // The suffix begins with a dot.
        ("example.com", "/", 1),
        ("wwwexample.com", "/", 1),
        ("example.org", "/", 3),
        ("www.example.org", "/", 3),
        ("wwwexample.org", "/", 3),
        ("example.org.evil", "/", 1),
        ("other", "/any", 5),
    ] {
        let response = get(path).send(&hosts.gate.loopback(PORT), host).await;
        assert_eq!(target(&response), Some(expected), "{host}{path}");
    }
}

async fn other_names_are_answered_404(version: EnvoyVersion) {
    let mut manifests = Manifests::new();
    manifests.gateway(&[(PORT, "http")]);
    add_services(&mut manifests);
    let matches = "{hostname: {exact: api.example.com}, prefix: /own}";
    manifests.gateway_routes(&[gateway_route("own", "httpRoute", matches, "s1")]);
    let hosts = MeshHosts::start(version, manifests, &[Proxy::Gate]).await;
    hosts.has_no_error().await;
    for (host, path, expected) in [
        ("api.example.com", "/own", StatusCode::OK),
        ("api.example.com", "/", StatusCode::NOT_FOUND),
        ("example.com", "/own", StatusCode::NOT_FOUND),
    ] {
        let response = get(path).send(&hosts.gate.loopback(PORT), host).await;
        assert_eq!(response.status, expected, "{host}{path}");
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

#[tokio::test]
async fn oldest_envoy_answers_404_for_other_host_names() {
    other_names_are_answered_404(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_answers_404_for_other_host_names() {
    other_names_are_answered_404(EnvoyVersion::Newest).await;
}
