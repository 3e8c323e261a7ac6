//! Each validation rule of `Route` accepts valid objects and refuses others with its message.
#![allow(clippy::unwrap_used)] // a test may panic, and so may its helpers

use evermesh_crds::extension::Route;
use serde_json::{Value, json};

/// The violations of a spec, as `path: message`.
fn violations(spec: &Value) -> Vec<String> {
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

/// Checks one rule for the matches of `httpRoute` and `http2Route`.
fn http(accepted: &[Value], denied: &[Value], message: &str) {
    for kind in ["httpRoute", "http2Route"] {
        matches(kind, accepted, denied, message);
    }
}

/// Checks one rule for the match of one kind of route.
fn matches(kind: &str, accepted: &[Value], denied: &[Value], message: &str) {
    for matches in accepted {
        assert_eq!(
            violations(&spec(kind, matches, &action())),
            [""; 0],
            "{matches}"
        );
    }
    for matches in denied {
        let violations = violations(&spec(kind, matches, &action()));
        assert_eq!(violations, [format!("spec.{kind}: {message}")], "{matches}");
    }
}

/// Checks one rule for the action of every kind of route.
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
            assert_eq!(
                violations(&spec(kind, matches, &action)),
                [""; 0],
                "{targets}"
            );
        }
        for targets in denied {
            let action = json!({ "weightedTargets": targets });
            let violations = violations(&spec(kind, matches, &action));
            assert_eq!(violations, [format!("spec.{kind}: {message}")], "{targets}");
        }
    }
}

#[test]
fn exactly_one_kind_of_route_is_required() {
    let message = "spec: set exactly one of httpRoute, http2Route, grpcRoute and tcpRoute";
    let router = json!({ "virtualRouterRef": { "name": "color" } });
    assert_eq!(violations(&router), [message]);
    let mut two = spec("httpRoute", &json!({ "prefix": "/" }), &action());
    two["tcpRoute"] = json!({ "action": action() });
    assert_eq!(violations(&two), [message]);
    let tcp =
        json!({ "virtualRouterRef": { "name": "color" }, "tcpRoute": { "action": action() } });
    assert_eq!(violations(&tcp), [""; 0]);
}

#[test]
fn either_prefix_or_path_is_required() {
    http(
        &[
            json!({ "prefix": "/" }),
            json!({ "path": { "exact": "/a" } }),
        ],
        &[
            json!({}),
            json!({ "prefix": "/", "path": { "exact": "/a" } }),
        ],
        "set exactly one of match.prefix and match.path; match.prefix `/` matches every path",
    );
}

#[test]
fn path_is_either_exact_or_regex() {
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
fn header_has_one_way_to_match() {
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
fn header_range_is_not_empty() {
    let range = |start: i64, end: i64| {
        let range = json!({ "range": { "start": start, "end": end } });
        json!({ "prefix": "/", "headers": [{ "name": "x", "match": range }] })
    };
    http(
        &[range(-2, -1)],
        &[range(1, 1), range(2, 1)],
        "set range.start below range.end in each of match.headers; the range does not include end",
    );
}

#[test]
fn metadata_has_one_way_to_match() {
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
fn metadata_range_is_not_empty() {
    let range = |start: i64, end: i64| {
        let range = json!({ "range": { "start": start, "end": end } });
        json!({ "metadata": [{ "name": "x", "match": range }] })
    };
    matches(
        "grpcRoute",
        &[range(0, 1)],
        &[range(1, 1)],
        "set range.start below range.end in each of match.metadata; the range does not include end",
    );
}

#[test]
fn method_requires_service() {
    matches(
        "grpcRoute",
        &[
            json!({ "serviceName": "a.B" }),
            json!({ "serviceName": "a.B", "methodName": "c" }),
        ],
        &[json!({ "methodName": "c" })],
        "match.methodName requires match.serviceName: set the service of the method",
    );
}

#[test]
fn target_has_exactly_one_reference() {
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
fn weights_do_not_sum_to_zero() {
    let target = |weight: u32| json!({ "virtualNodeRef": { "name": "blue" }, "weight": weight });
    actions(
        &[json!([target(0), target(100)])],
        &[json!([target(0)]), json!([target(0), target(0)])],
        "give at least one of action.weightedTargets a weight above 0",
    );
}
