//! Every kind of match of a gateway route, on listeners of every protocol, and the order of gateway routes.

use evermesh_testkit::envoy::EnvoyVersion;
use http::{Method, StatusCode};

use super::add_services;
use crate::{
    call::{self, Call, get, grpc, header, target},
    manifests::{GatewayRouteText, Manifests, gateway_route},
    mesh_hosts::{MeshHosts, Proxy},
};

/// The ports of the gateway.
const HTTP: u16 = 8088;
const HTTP2: u16 = 8089;
const GRPC: u16 = 8090;

/// A gateway route for one host name that leads to target 1. Another one with the same host name leads everything else
/// to target 2.
struct GatewayCase {
    name: &'static str,
    /// The match without the host name, in YAML's flow style and without braces.
    matches: &'static str,
    accepted: Vec<Call>,
    refused: Vec<Call>,
}

fn case(
    name: &'static str,
    matches: &'static str,
    accepted: Vec<Call>,
    refused: Vec<Call>,
) -> GatewayCase {
    GatewayCase {
        name,
        matches,
        accepted,
        refused,
    }
}

fn with_header(values: &[&str]) -> Vec<Call> {
    values
        .iter()
        .map(|value| get("/").header("x-a", value))
        .collect()
}

fn http_cases() -> Vec<GatewayCase> {
    vec![
        case(
            "prefix",
            "prefix: /api",
            vec![get("/api"), get("/api/x"), get("/apix"), get("/api?x=1")],
            vec![get("/"), get("/ap"), get("/x/api")],
        ),
        case(
            "exact",
            "path: {exact: /api}",
            vec![get("/api"), get("/api?x=1")],
            vec![get("/api/"), get("/apix"), get("/")],
        ),
        case(
            "regex",
            "path: {regex: '/users/[0-9]+'}",
            vec![get("/users/7"), get("/users/12?x=/y")],
            vec![get("/users/"), get("/users/12/x"), get("/x/users/12")],
        ),
        case(
            "method",
            "prefix: /, method: DELETE",
            vec![get("/").method(Method::DELETE)],
            vec![get("/"), get("/").method(Method::POST)],
        ),
        case(
            "query",
            "prefix: /, queryParameters: [{name: a, match: {exact: '1'}}, {name: b}]",
            vec![get("/?a=1&b"), get("/x?b=2&a=1")],
            vec![get("/?a=1"), get("/?a=2&b"), get("/")],
        ),
        case(
            "header-exact",
            "prefix: /, headers: [{name: x-a, match: {exact: one}}]",
            with_header(&["one"]),
            with_header(&["ones", "One"]),
        ),
        case(
            "header-prefix",
            "prefix: /, headers: [{name: x-a, match: {prefix: one}}]",
            with_header(&["ones"]),
            with_header(&["bone"]),
        ),
        case(
            "header-suffix",
            "prefix: /, headers: [{name: x-a, match: {suffix: one}}]",
            with_header(&["bone"]),
            with_header(&["ones"]),
        ),
        case(
            "header-regex",
            "prefix: /, headers: [{name: x-a, match: {regex: '(ab)+'}}]",
            with_header(&["abab"]),
            with_header(&["aba"]),
        ),
        case(
            "header-range",
            "prefix: /, headers: [{name: x-a, match: {range: {start: 1, end: 10}}}]",
            with_header(&["1", "9"]),
            with_header(&["0", "10", "one"]),
        ),
        case(
            "header-present",
            "prefix: /, headers: [{name: x-a}]",
            with_header(&["one"]),
            vec![get("/")],
        ),
        case(
            "header-absent",
            "prefix: /, headers: [{name: x-a, invert: true}]",
            vec![get("/")],
            with_header(&["one"]),
        ),
        case(
            "header-not",
            "prefix: /, headers: [{name: x-a, match: {exact: one}, invert: true}]",
            with_header(&["two"]),
            with_header(&["one"]),
        ),
    ]
}

fn grpc_cases() -> Vec<GatewayCase> {
    let add = || grpc("/shop.Cart/Add");
    let with = |value| vec![add().header("x-a", value)];
    vec![
        case(
            "service",
            "serviceName: shop.Cart",
            vec![add(), grpc("/shop.Cart/Remove")],
            vec![grpc("/shop.CartX/Add"), grpc("/shop.Order/Add")],
        ),
        case(
            "metadata-present",
            "serviceName: shop.Cart, metadata: [{name: x-a}]",
            with("1"),
            vec![add()],
        ),
        case(
            "metadata-absent",
            "serviceName: shop.Cart, metadata: [{name: x-a, invert: true}]",
            vec![add()],
            with("1"),
        ),
        case(
            "metadata-exact",
            "serviceName: shop.Cart, metadata: [{name: x-a, match: {exact: one}}]",
            with("one"),
            with("ones"),
        ),
        case(
            "metadata-prefix",
            "serviceName: shop.Cart, metadata: [{name: x-a, match: {prefix: one}}]",
            with("ones"),
            with("bone"),
        ),
        case(
            "metadata-suffix",
            "serviceName: shop.Cart, metadata: [{name: x-a, match: {suffix: one}}]",
            with("bone"),
            with("ones"),
        ),
        case(
            "metadata-regex",
            "serviceName: shop.Cart, metadata: [{name: x-a, match: {regex: '(ab)+'}}]",
            with("abab"),
            with("aba"),
        ),
        case(
            "metadata-range",
            "serviceName: shop.Cart, metadata: [{name: x-a, match: {range: {start: 0, end: 10}}}]",
            with("0"),
            with("10"),
        ),
    ]
}

/// The two gateway routes of a case, and its calls with the targets that they reach.
fn add(case: &GatewayCase, kind: &'static str, manifests: &mut Manifests) {
    let GatewayCase { name, matches, .. } = case;
    let [first, second] = match kind {
        "grpcRoute" => ["c1", "c2"],
        _ => ["s1", "s2"],
    };
    let hostname = format!("hostname: {{exact: {name}.example.com}}");
    let matching = format!("{{{hostname}, {matches}}}");
    let routes = [
        gateway_route(name, kind, &matching, first).priority(1),
        gateway_route(
            &format!("{name}-rest"),
            kind,
            &format!("{{{hostname}}}"),
            second,
        ),
    ];
    manifests.gateway_routes(&routes);
}

/// Calls that reach another target than they should.
async fn wrong(hosts: &MeshHosts, case: &GatewayCase, port: u16) -> Vec<String> {
    let accepted = case.accepted.iter().map(|call| (call, 1));
    let refused = case.refused.iter().map(|call| (call, 2));
    let mut wrong = Vec::new();
    for (call, expected) in accepted.chain(refused) {
        let host = format!("{}.example.com", case.name);
        let response = call.send(&hosts.gate.loopback(port), &host).await;
        if target(&response) != Some(expected) {
            let found = (response.status, target(&response));
            wrong.push(format!("{host} {call:?}: {found:?} instead of {expected}"));
        }
    }
    wrong
}

async fn matching_requests_take_the_gateway_route(version: EnvoyVersion) {
    let mut manifests = Manifests::new();
    manifests.gateway(&[(HTTP, "http"), (HTTP2, "http2"), (GRPC, "grpc")]);
    add_services(&mut manifests);
    let (http, grpc) = (http_cases(), grpc_cases());
    for case in &http {
        add(case, "httpRoute", &mut manifests);
    }
    for case in &grpc {
        add(case, "grpcRoute", &mut manifests);
    }
    let hosts = MeshHosts::start(version, manifests, &[Proxy::Gate]).await;
    hosts.has_no_error().await;
    let mut failures = Vec::new();
    for port in [HTTP, HTTP2] {
        for case in &http {
            failures.extend(wrong(&hosts, case, port).await);
        }
    }
    for port in [HTTP2, GRPC] {
        for case in &grpc {
            failures.extend(wrong(&hosts, case, port).await);
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));

    let unmatched = get("/")
        .send(&hosts.gate.loopback(HTTP), "x.example.com")
        .await;
    assert_eq!(unmatched.status, StatusCode::NOT_FOUND);
    let unmatched = call::grpc("/shop.Cart/Add");
    let unmatched = unmatched
        .send(&hosts.gate.loopback(GRPC), "x.example.com")
        .await;
    assert_eq!(header(&unmatched, "grpc-status"), "12");
}

fn http_route(name: &str, matches: &str, service: &str) -> GatewayRouteText {
    gateway_route(name, "httpRoute", matches, service)
}

async fn gateway_routes_are_tried_in_order(version: EnvoyVersion) {
    let mut manifests = Manifests::new();
    manifests.gateway(&[(HTTP, "http"), (HTTP2, "http2")]);
    add_services(&mut manifests);
    manifests.object(
        "VirtualNode",
        "two-ports",
        "{listeners: [{portMapping: {port: 9003, protocol: http}}, {portMapping: {port: 9004, protocol: http}}], \
          serviceDiscovery: {dns: {hostname: BACK, responseType: ENDPOINTS}}}",
    );
    manifests.node_service("two-ports", "two-ports");
    manifests.gateway_routes(&[
        http_route("root", "{prefix: /}", "s1"),
        http_route("short", "{prefix: /a}", "s2"),
        http_route("long", "{prefix: /a/b}", "s3"),
        http_route("exact", "{path: {exact: /a/b}}", "s4"),
        http_route("expression", "{path: {regex: '/a/x+'}}", "s5"),
        http_route("late", "{path: {exact: /late}}", "s2").priority(2),
        http_route("early", "{prefix: /la}", "s3").priority(1),
        gateway_route(
            "only-http2",
            "http2Route",
            "{prefix: /port, port: 8089}",
            "s4",
        ),
        http_route("three", "{prefix: /three}", "two-ports").port(9003),
        http_route("four", "{prefix: /four}", "two-ports").port(9004),
    ]);
    let hosts = MeshHosts::start(version, manifests, &[Proxy::Gate]).await;
    hosts.has_no_error().await;
    for (port, path, expected) in [
        (HTTP, "/", 1),
        (HTTP, "/b", 1),
        (HTTP, "/a", 2),
        (HTTP, "/a/c", 2),
        (HTTP, "/a/b", 4),
        (HTTP, "/a/b/c", 3),
        (HTTP, "/a/xx", 5),
        (HTTP, "/late", 3),
        (HTTP, "/port", 1),
        (HTTP2, "/port", 4),
        (HTTP2, "/a/b", 4),
        (HTTP, "/three", 3),
        (HTTP, "/four", 4),
    ] {
        let response = get(path)
            .send(&hosts.gate.loopback(port), "any.example.com")
            .await;
        assert_eq!(target(&response), Some(expected), "{path} on {port}");
    }
}

#[tokio::test]
async fn oldest_envoy_matches_gateway_routes() {
    matching_requests_take_the_gateway_route(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_matches_gateway_routes() {
    matching_requests_take_the_gateway_route(EnvoyVersion::Newest).await;
}

#[tokio::test]
async fn oldest_envoy_tries_gateway_routes_in_order() {
    gateway_routes_are_tried_in_order(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_tries_gateway_routes_in_order() {
    gateway_routes_are_tried_in_order(EnvoyVersion::Newest).await;
}
