//! Every rule of `Route` accepts what it should and refuses the rest, with its message.
#![allow(clippy::unwrap_used)] // a test may panic, its helpers too

use evermesh_crds::extension::Route;
use serde_json::{Value, json};

/// What is refused, as `path: message`.
fn refused(spec: &Value) -> Vec<String> {
    let route: Route = serde_json::from_value(json!({
        "apiVersion": "evermesh.dev/v1alpha1",
        "kind": "Route",
        "metadata": { "name": "color", "namespace": "shop" },
        "spec": spec
    }))
    .unwrap();
    match route.validate_cel() {
        Ok(()) => vec![],
        Err(errors) => errors
            .into_vec()
            .into_iter()
            .map(|error| format!("{}: {}", error.field_path, error.message))
            .collect(),
    }
}

fn action() -> Value {
    json!({ "weightedTargets": [{ "virtualNodeRef": { "name": "blue" }, "weight": 1 }] })
}

fn spec(kind: &str, matches: &Value, action: &Value) -> Value {
    json!({
        "virtualRouterRef": { "name": "color" },
        kind: { "match": matches, "action": action }
    })
}

/// Checks one rule on HTTP routes of both kinds.
fn http(accepted: &[Value], denied: &[Value], message: &str) {
    for kind in ["httpRoute", "http2Route"] {
        matches(kind, accepted, denied, message);
    }
}

/// Checks one rule on the match of a kind of route.
fn matches(kind: &str, accepted: &[Value], denied: &[Value], message: &str) {
    for matches in accepted {
        assert_eq!(
            refused(&spec(kind, matches, &action())),
            [""; 0],
            "{matches}"
        );
    }
    for matches in denied {
        let refused = refused(&spec(kind, matches, &action()));
        assert_eq!(refused, [format!("spec.{kind}: {message}")], "{matches}");
    }
}

/// Checks one rule on the action of every kind of route.
fn actions(accepted: &[Value], denied: &[Value], message: &str) {
    let kinds = [
        ("httpRoute", json!({ "prefix": "/" })),
        ("http2Route", json!({ "prefix": "/" })),
        ("grpcRoute", json!({})),
        ("tcpRoute", json!({})),
    ];
    for (kind, matches) in &kinds {
        for targets in accepted {
            let action = json!({ "weightedTargets": targets });
            assert_eq!(refused(&spec(kind, matches, &action)), [""; 0], "{targets}");
        }
        for targets in denied {
            let action = json!({ "weightedTargets": targets });
            let refused = refused(&spec(kind, matches, &action));
            assert_eq!(refused, [format!("spec.{kind}: {message}")], "{targets}");
        }
    }
}

#[test]
fn exactly_one_kind_of_route() {
    let message = "spec: set exactly one of httpRoute, http2Route, grpcRoute and tcpRoute";
    let router = json!({ "virtualRouterRef": { "name": "color" } });
    assert_eq!(refused(&router), [message]);
    let mut two = spec("httpRoute", &json!({ "prefix": "/" }), &action());
    two["tcpRoute"] = json!({ "action": action() });
    assert_eq!(refused(&two), [message]);
    let tcp =
        json!({ "virtualRouterRef": { "name": "color" }, "tcpRoute": { "action": action() } });
    assert_eq!(refused(&tcp), [""; 0]);
}

#[test]
fn prefix_or_path() {
    http(
        &[
            json!({ "prefix": "/" }),
            json!({ "path": { "exact": "/a" } }),
        ],
        &[
            json!({}),
            json!({ "prefix": "/", "path": { "exact": "/a" } }),
        ],
        "set exactly one of match.prefix and match.path; match.prefix / takes every path",
    );
}

#[test]
fn path_exact_or_regex() {
    http(
        &[
            json!({ "path": { "exact": "/a" } }),
            json!({ "path": { "regex": "/a.*" } }),
        ],
        &[
            json!({ "path": {} }),
            json!({ "path": { "exact": "/a", "regex": "/a" } }),
        ],
        "set exactly one of match.path.exact and match.path.regex",
    );
}

#[test]
fn prefix_starts_with_a_slash() {
    http(
        &[json!({ "prefix": "/paint" })],
        &[json!({ "prefix": "paint" }), json!({ "prefix": "" })],
        "start match.prefix with a slash",
    );
}

#[test]
fn one_way_to_compare_a_header() {
    let header =
        |value: Value| json!({ "prefix": "/", "headers": [{ "name": "x", "match": value }] });
    http(
        &[
            header(json!({ "exact": "a" })),
            header(json!({ "range": { "start": 1, "end": 2 } })),
            json!({ "prefix": "/", "headers": [{ "name": "x" }] }),
        ],
        &[
            header(json!({})),
            header(json!({ "exact": "a", "suffix": "a" })),
        ],
        "set exactly one of exact, prefix, range, regex and suffix in the match of each of match.headers, or leave the match out",
    );
}

#[test]
fn ranges_of_headers_are_not_empty() {
    let range = |start: i64, end: i64| {
        let range = json!({ "range": { "start": start, "end": end } });
        json!({ "prefix": "/", "headers": [{ "name": "x", "match": range }] })
    };
    http(
        &[range(-2, -1)],
        &[range(1, 1), range(2, 1)],
        "let range.start be below range.end in each of match.headers; end itself does not fit",
    );
}

#[test]
fn one_way_to_compare_metadata() {
    let metadata = |value: Value| json!({ "metadata": [{ "name": "x", "match": value }] });
    matches(
        "grpcRoute",
        &[
            metadata(json!({ "prefix": "a" })),
            json!({ "metadata": [{ "name": "x" }] }),
        ],
        &[
            metadata(json!({})),
            metadata(json!({ "prefix": "a", "regex": "a" })),
        ],
        "set exactly one of exact, prefix, range, regex and suffix in the match of each of match.metadata, or leave the match out",
    );
}

#[test]
fn ranges_of_metadata_are_not_empty() {
    let range = |start: i64, end: i64| {
        let range = json!({ "range": { "start": start, "end": end } });
        json!({ "metadata": [{ "name": "x", "match": range }] })
    };
    matches(
        "grpcRoute",
        &[range(0, 1)],
        &[range(1, 1)],
        "let range.start be below range.end in each of match.metadata; end itself does not fit",
    );
}

#[test]
fn a_method_needs_its_service() {
    matches(
        "grpcRoute",
        &[
            json!({ "serviceName": "a.B" }),
            json!({ "serviceName": "a.B", "methodName": "c" }),
        ],
        &[json!({ "methodName": "c" })],
        "set match.serviceName too: match.methodName is a method of that service",
    );
}

#[test]
fn a_target_has_one_name() {
    let arn = "arn:aws:appmesh:eu-west-1:111122223333:mesh/m/virtualNode/blue";
    actions(
        &[json!([{ "virtualNodeARN": arn, "weight": 1 }])],
        &[
            json!([{ "weight": 1 }]),
            json!([{ "virtualNodeRef": { "name": "blue" }, "virtualNodeARN": arn, "weight": 1 }]),
        ],
        "set exactly one of virtualNodeRef and virtualNodeARN in each of action.weightedTargets",
    );
}

#[test]
fn some_target_has_weight() {
    let target = |weight: u32| json!({ "virtualNodeRef": { "name": "blue" }, "weight": weight });
    actions(
        &[json!([target(0), target(100)])],
        &[json!([target(0)]), json!([target(0), target(0)])],
        "give at least one of action.weightedTargets a weight above 0",
    );
}
