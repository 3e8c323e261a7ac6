//! Every kind of match: which requests a route accepts and which it leaves to the next route.

use evermesh_testkit::envoy::EnvoyVersion;
use http::{Method, StatusCode};

use crate::{
    call::{Call, get, grpc, target},
    manifests::{Manifests, route},
    mesh_hosts::{MeshHosts, Proxy},
};

/// A service with two routes: the one with this match leads to target 1, and one that matches everything to target 2.
struct MatchCase {
    service: &'static str,
    /// The field that holds the route.
    kind: &'static str,
    /// The match in YAML's flow style.
    matches: &'static str,
    accepted: Vec<Call>,
    refused: Vec<Call>,
}

fn http(
    service: &'static str,
    matches: &'static str,
    accepted: Vec<Call>,
    refused: Vec<Call>,
) -> MatchCase {
    MatchCase {
        service,
        kind: "httpRoute",
        matches,
        accepted,
        refused,
    }
}

/// A case about the header `x-a`: the values that are accepted and refused. `None` stands for a request without the
/// header.
fn header_case(
    service: &'static str,
    matches: &'static str,
    accepted: &[Option<&str>],
    refused: &[Option<&str>],
) -> MatchCase {
    let calls = |values: &[Option<&str>]| {
        values
            .iter()
            .map(|value| match value {
                Some(value) => get("/").header("x-a", value),
                None => get("/"),
            })
            .collect()
    };
    http(service, matches, calls(accepted), calls(refused))
}

/// Like [`header_case`], for gRPC metadata.
fn metadata_case(
    service: &'static str,
    matches: &'static str,
    accepted: &[Option<&str>],
    refused: &[Option<&str>],
) -> MatchCase {
    let calls = |values: &[Option<&str>]| {
        values
            .iter()
            .map(|value| match value {
                Some(value) => grpc("/shop.Cart/Add").header("x-a", value),
                None => grpc("/shop.Cart/Add"),
            })
            .collect()
    };
    MatchCase {
        kind: "grpcRoute",
        ..http(service, matches, calls(accepted), calls(refused))
    }
}

fn paths() -> Vec<MatchCase> {
    vec![
        http(
            "prefix",
            "{prefix: /api}",
            vec![
                get("/api"),
                get("/api?x=1"),
                get("/api/x"),
                get("/apix"),
                // Paths are normalised before they are matched.
                get("//api"),
                get("/x/../api"),
            ],
            vec![get("/"), get("/ap"), get("/API"), get("/x/api")],
        ),
        http(
            "exact",
            "{path: {exact: /api}}",
            vec![get("/api"), get("/api?x=1")],
            vec![get("/api/"), get("/apix"), get("/API"), get("/")],
        ),
        http(
            "regex",
            "{path: {regex: '/users/[0-9]+'}}",
            vec![get("/users/7"), get("/users/12?x=/y")],
            // The expression has to match the complete path.
            vec![get("/users/"), get("/users/12/x"), get("/x/users/12")],
        ),
    ]
}

fn headers() -> Vec<MatchCase> {
    vec![
        header_case(
            "present",
            "{prefix: /, headers: [{name: X-A}]}",
            &[Some("1"), Some("")],
            &[None],
        ),
        header_case(
            "absent",
            "{prefix: /, headers: [{name: x-a, invert: true}]}",
            &[None],
            &[Some("1"), Some("")],
        ),
        header_case(
            "header-exact",
            "{prefix: /, headers: [{name: x-a, match: {exact: one}}]}",
            &[Some("one")],
            &[None, Some("One"), Some("ones"), Some("")],
        ),
        // As in App Mesh, a request without the header does not match.
        header_case(
            "header-not-exact",
            "{prefix: /, headers: [{name: x-a, match: {exact: one}, invert: true}]}",
            &[Some("two"), Some("")],
            &[Some("one"), None],
        ),
        header_case(
            "header-prefix",
            "{prefix: /, headers: [{name: x-a, match: {prefix: one}}]}",
            &[Some("one"), Some("ones")],
            &[None, Some("on"), Some("a one")],
        ),
        header_case(
            "header-suffix",
            "{prefix: /, headers: [{name: x-a, match: {suffix: one}}]}",
            &[Some("one"), Some("bone")],
            &[None, Some("ones")],
        ),
        header_case(
            "header-regex",
            "{prefix: /, headers: [{name: x-a, match: {regex: '(ab)+'}}]}",
            &[Some("ab"), Some("abab")],
            &[None, Some("aba"), Some("xab")],
        ),
        header_case(
            "header-not-regex",
            "{prefix: /, headers: [{name: x-a, match: {regex: '(ab)+'}, invert: true}]}",
            &[Some("aba")],
            &[Some("ab"), None],
        ),
        header_case(
            "header-range",
            "{prefix: /, headers: [{name: x-a, match: {range: {start: -1, end: 10}}}]}",
            &[Some("-1"), Some("0"), Some("9")],
            &[None, Some("-2"), Some("10"), Some("1.5"), Some("one")],
        ),
        header_case(
            "header-not-range",
            "{prefix: /, headers: [{name: x-a, match: {range: {start: -1, end: 10}}, invert: true}]}",
            &[Some("10"), Some("one")],
            &[Some("9"), None],
        ),
        http(
            "all-headers",
            "{prefix: /, headers: [{name: x-a, match: {exact: one}}, {name: x-b}]}",
            vec![get("/").header("x-a", "one").header("x-b", "two")],
            vec![get("/").header("x-a", "one"), get("/").header("x-b", "two")],
        ),
        http(
            "cookie",
            "{prefix: /, headers: [{name: cookie, match: {regex: '^(.*;\\s*)?canary=always(;.*)?$'}}]}",
            vec![
                get("/").header("cookie", "canary=always"),
                get("/").header("cookie", "a=b; canary=always; c=d"),
            ],
            vec![get("/").header("cookie", "canary=never"), get("/")],
        ),
        // App Mesh refused names that begin with a colon.
        http(
            "authority",
            "{prefix: /, headers: [{name: ':authority', match: {suffix: ':8080'}}]}",
            vec![get("/").host("authority.shop:8080")],
            vec![get("/")],
        ),
    ]
}

fn other_parts() -> Vec<MatchCase> {
    vec![
        http(
            "query-present",
            "{prefix: /, queryParameters: [{name: a}]}",
            vec![get("/?a"), get("/?a="), get("/?b=1&a=2")],
            vec![get("/"), get("/?ab=1"), get("/?A=1")],
        ),
        http(
            "query-exact",
            "{prefix: /, queryParameters: [{name: a, match: {exact: '1'}}, {name: b}]}",
            vec![get("/?a=1&b"), get("/x?b=2&a=1")],
            vec![get("/?a=1"), get("/?a=12&b"), get("/?b=1")],
        ),
        MatchCase {
            kind: "http2Route",
            ..http(
                "scheme-http",
                "{prefix: /, scheme: http}",
                vec![get("/"), get("/").http2()],
                vec![get("/").header("x-forwarded-proto", "https")],
            )
        },
        MatchCase {
            kind: "http2Route",
            ..http(
                "scheme-https",
                "{prefix: /, scheme: https}",
                vec![
                    get("/").header("x-forwarded-proto", "https"),
                    get("/").scheme("https"),
                ],
                vec![get("/"), get("/").http2()],
            )
        },
        http(
            "everything",
            "{prefix: /api, method: PUT, headers: [{name: x-a}], queryParameters: [{name: a}]}",
            vec![get("/api/x?a").method(Method::PUT).header("x-a", "1")],
            vec![
                get("/x?a").method(Method::PUT).header("x-a", "1"),
                get("/api/x?a").header("x-a", "1"),
                get("/api/x?a").method(Method::PUT),
                get("/api/x").method(Method::PUT).header("x-a", "1"),
            ],
        ),
    ]
}

fn grpc_calls() -> Vec<MatchCase> {
    vec![
        MatchCase {
            kind: "grpcRoute",
            ..http(
                "grpc-service",
                "{serviceName: shop.Cart}",
                vec![grpc("/shop.Cart/Add"), grpc("/shop.Cart/Remove")],
                vec![grpc("/shop.CartX/Add"), grpc("/shop.Order/Add")],
            )
        },
        MatchCase {
            kind: "grpcRoute",
            ..http(
                "grpc-method",
                "{serviceName: shop.Cart, methodName: Add}",
                vec![grpc("/shop.Cart/Add")],
                vec![grpc("/shop.Cart/AddAll"), grpc("/shop.Cart/Remove")],
            )
        },
        metadata_case(
            "metadata-present",
            "{serviceName: shop.Cart, metadata: [{name: x-a}]}",
            &[Some("1")],
            &[None],
        ),
        metadata_case(
            "metadata-absent",
            "{serviceName: shop.Cart, metadata: [{name: x-a, invert: true}]}",
            &[None],
            &[Some("1")],
        ),
        metadata_case(
            "metadata-exact",
            "{serviceName: shop.Cart, metadata: [{name: x-a, match: {exact: one}}]}",
            &[Some("one")],
            &[Some("ones"), None],
        ),
        metadata_case(
            "metadata-prefix",
            "{serviceName: shop.Cart, metadata: [{name: x-a, match: {prefix: one}}]}",
            &[Some("ones")],
            &[Some("bone"), None],
        ),
        metadata_case(
            "metadata-suffix",
            "{serviceName: shop.Cart, metadata: [{name: x-a, match: {suffix: one}}]}",
            &[Some("bone")],
            &[Some("ones"), None],
        ),
        metadata_case(
            "metadata-regex",
            "{serviceName: shop.Cart, metadata: [{name: x-a, match: {regex: '(ab)+'}}]}",
            &[Some("abab")],
            &[Some("aba"), None],
        ),
        metadata_case(
            "metadata-range",
            "{serviceName: shop.Cart, metadata: [{name: x-a, match: {range: {start: 0, end: 10}}}]}",
            &[Some("0"), Some("9")],
            &[Some("10"), None],
        ),
    ]
}

fn methods() -> Vec<MatchCase> {
    [
        ("delete", "{prefix: /, method: DELETE}", Method::DELETE),
        ("get", "{prefix: /, method: GET}", Method::GET),
        ("head", "{prefix: /, method: HEAD}", Method::HEAD),
        ("options", "{prefix: /, method: OPTIONS}", Method::OPTIONS),
        ("patch", "{prefix: /, method: PATCH}", Method::PATCH),
        ("post", "{prefix: /, method: POST}", Method::POST),
        ("put", "{prefix: /, method: PUT}", Method::PUT),
        ("trace", "{prefix: /, method: TRACE}", Method::TRACE),
    ]
    .map(|(service, matches, method)| {
        let other = if method == Method::GET {
            Method::POST
        } else {
            Method::GET
        };
        let call = |method| get("/").method(method);
        http(service, matches, vec![call(method)], vec![call(other)])
    })
    .into()
}

/// Adds the service of a case. A route of one protocol stands beside a route of the same protocol.
fn add(case: &MatchCase, manifests: &mut Manifests) {
    let (protocol, rest, [first, second]) = match case.kind {
        "grpcRoute" => ("grpc", "{}", ["g1", "g2"]),
        "http2Route" => ("http2", "{prefix: /}", ["t1", "t2"]),
        _ => ("http", "{prefix: /}", ["t1", "t2"]),
    };
    let routes = [
        route("case", case.kind, case.matches, first).priority(1),
        route("rest", case.kind, rest, second),
    ];
    manifests.routed_service(case.service, &[(8080, protocol)], &routes);
}

async fn matching_requests_take_the_route(version: EnvoyVersion) {
    let cases: Vec<MatchCase> = [paths(), headers(), methods(), other_parts(), grpc_calls()]
        .into_iter()
        .flatten()
        .collect();
    let mut manifests = Manifests::new();
    for case in &cases {
        add(case, &mut manifests);
    }
    let connect = route("connect", "httpRoute", "{prefix: /, method: CONNECT}", "t1");
    manifests.routed_service("connect", &[(8080, "http")], &[connect]);
    let hosts = MeshHosts::start(version, manifests, &[Proxy::Front]).await;
    hosts.has_no_error().await;
    let mut wrong = Vec::new();
    for case in &cases {
        let accepted = case.accepted.iter().map(|call| (call, 1));
        let refused = case.refused.iter().map(|call| (call, 2));
        for (call, expected) in accepted.chain(refused) {
            let response = hosts.call(case.service, call).await;
            if target(&response) != Some(expected) {
                let found = (response.status, target(&response));
                wrong.push(format!(
                    "{}: {call:?}: {found:?} instead of {expected}",
                    case.service
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // Envoy does not route CONNECT requests by paths, so nothing matches them.
    let call = get("connect.shop:8080").method(Method::CONNECT);
    let response = hosts.call("connect", &call).await;
    assert_eq!(response.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn oldest_envoy_matches_requests() {
    matching_requests_take_the_route(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_matches_requests() {
    matching_requests_take_the_route(EnvoyVersion::Newest).await;
}
