//! The order in which the routes of a router are tried, whatever their order in the manifest.

use evermesh_testkit::envoy::EnvoyVersion;
use http::Method;

use crate::{
    call::{Call, get, grpc, target},
    manifests::{Manifests, RouteText, route},
    mesh_hosts::{MeshHosts, Proxy},
};

struct OrderCase {
    service: &'static str,
    routes: Vec<RouteText>,
    /// Requests with the target that gets them.
    expected: Vec<(Call, u16)>,
}

fn http(name: &str, matches: &str, target: &str) -> RouteText {
    route(name, "httpRoute", matches, target)
}

fn case(service: &'static str, routes: Vec<RouteText>, expected: Vec<(Call, u16)>) -> OrderCase {
    OrderCase {
        service,
        routes,
        expected,
    }
}

#[allow(clippy::too_many_lines)] // a table
fn cases() -> Vec<OrderCase> {
    vec![
        case(
            "priority",
            vec![
                http("exact", "{path: {exact: /a}}", "t1").priority(2),
                http("all", "{prefix: /}", "t2").priority(1),
                http("first", "{prefix: /a/b}", "t3").priority(0),
            ],
            vec![(get("/a"), 2), (get("/a/b"), 3), (get("/b"), 2)],
        ),
        case(
            "no-priority-is-last",
            vec![
                http("exact", "{path: {exact: /a}}", "t1"),
                http("all", "{prefix: /}", "t2").priority(1000),
            ],
            vec![(get("/a"), 2)],
        ),
        case(
            "equal-priority",
            vec![
                http("get", "{prefix: /, method: GET}", "t1").priority(10),
                http("post", "{prefix: /, method: POST}", "t2").priority(10),
            ],
            vec![(get("/"), 1), (get("/").method(Method::POST), 2)],
        ),
        case(
            "kinds-of-paths",
            vec![
                http("root", "{prefix: /}", "t1"),
                http("prefix", "{prefix: /a/b}", "t2"),
                http("expression", "{path: {regex: '/a/.'}}", "t3"),
                http("exact", "{path: {exact: /a/b}}", "t4"),
            ],
            vec![
                (get("/a/b"), 4),
                (get("/a/c"), 3),
                (get("/a/b/c"), 2),
                (get("/a"), 1),
            ],
        ),
        case(
            "expression-before-prefix",
            vec![
                http("prefix", "{prefix: /users/1}", "t1"),
                http("expression", "{path: {regex: '/users/[0-9]+'}}", "t2"),
            ],
            vec![(get("/users/12"), 2), (get("/users/1x"), 1)],
        ),
        case(
            "longer-path",
            vec![
                http("one", "{prefix: /}", "t1"),
                http("three", "{prefix: /a/b}", "t3"),
                http("two", "{prefix: /a}", "t2"),
            ],
            vec![
                (get("/a/b/c"), 3),
                (get("/a/c"), 2),
                (get("/ab"), 2),
                (get("/c"), 1),
            ],
        ),
        case(
            "more-conditions",
            vec![
                http("none", "{prefix: /}", "t1"),
                http("one", "{prefix: /, headers: [{name: x-a}]}", "t2"),
                http(
                    "two",
                    "{prefix: /, headers: [{name: x-a}], queryParameters: [{name: a}]}",
                    "t3",
                ),
                // The path counts before the conditions.
                http("path", "{prefix: /b}", "t4"),
            ],
            vec![
                (get("/"), 1),
                (get("/").header("x-a", "1"), 2),
                (get("/?a").header("x-a", "1"), 3),
                (get("/?a"), 1),
                (get("/b?a").header("x-a", "1"), 4),
            ],
        ),
        case(
            "grpc",
            vec![
                route("all", "grpcRoute", "{}", "g1"),
                route("service", "grpcRoute", "{serviceName: shop.Cart}", "g2"),
                route(
                    "method",
                    "grpcRoute",
                    "{serviceName: shop.Cart, methodName: Add}",
                    "g3",
                ),
                route(
                    "metadata",
                    "grpcRoute",
                    "{serviceName: shop.Cart, methodName: Add, metadata: [{name: x-a}]}",
                    "g4",
                ),
            ],
            vec![
                (grpc("/shop.Order/Add"), 1),
                (grpc("/shop.Cart/Remove"), 2),
                (grpc("/shop.Cart/Add"), 3),
                (grpc("/shop.Cart/Add").header("x-a", "1"), 4),
            ],
        ),
    ]
}

async fn routes_are_tried_in_order(version: EnvoyVersion) {
    let cases = cases();
    let mut manifests = Manifests::new();
    for case in &cases {
        let protocol = if case.service == "grpc" {
            "grpc"
        } else {
            "http"
        };
        let mut reversed = case.routes.clone();
        reversed.reverse();
        let listeners = [(8080, protocol)];
        manifests.routed_service(case.service, &listeners, &case.routes);
        manifests.routed_service(&format!("{}-reversed", case.service), &listeners, &reversed);
    }
    let hosts = MeshHosts::start(version, manifests, &[Proxy::Front]).await;
    hosts.has_no_error().await;
    for case in &cases {
        for service in [
            case.service.to_owned(),
            format!("{}-reversed", case.service),
        ] {
            for (call, expected) in &case.expected {
                let response = hosts.call(&service, call).await;
                assert_eq!(target(&response), Some(*expected), "{service}: {call:?}");
            }
        }
    }
}

#[tokio::test]
async fn oldest_envoy_tries_routes_in_order() {
    routes_are_tried_in_order(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_tries_routes_in_order() {
    routes_are_tried_in_order(EnvoyVersion::Newest).await;
}
