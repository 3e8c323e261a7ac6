//! Validation of created and changed objects.

use super::*;

fn checked(new: &Value, operation: Operation<'_>) -> String {
    check(write(new, operation)).map_or_else(|denial| denial.to_string(), |()| "passes".into())
}

#[test]
fn immutable_fields_cannot_be_changed() {
    const REF: &str = "{name: m, uid: u}";
    const OTHER: &str = "{name: m, uid: another}";
    const ROUTE: &str = "httpRoute: {match: {prefix: /}, action: {target: {virtualService: {virtualServiceRef: {name: s}}}}}";
    fn with(kind: Kind, field: &str, value: &str) -> Value {
        let rest = match kind {
            Kind::GatewayRoute => ROUTE,
            Kind::Route => {
                "httpRoute: {match: {prefix: /}, action: {weightedTargets: [{virtualNodeRef: {name: x}, weight: 1}]}}"
            }
            _ => "",
        };
        object(kind, &format!("{{{field}: {value}, {rest}}}"))
    }
    let gateway = "{name: g, namespace: shop, uid: u}";
    for (kind, field, old, new) in [
        (Kind::Mesh, "awsName", "a", "b"),
        (Kind::VirtualNode, "awsName", "a", "b"),
        (Kind::VirtualService, "awsName", "a", "b"),
        (Kind::VirtualRouter, "awsName", "a", "b"),
        (Kind::VirtualGateway, "awsName", "a", "b"),
        (Kind::GatewayRoute, "awsName", "a", "b"),
        (Kind::VirtualNode, "meshRef", REF, OTHER),
        (Kind::VirtualService, "meshRef", REF, OTHER),
        (Kind::VirtualRouter, "meshRef", REF, OTHER),
        (Kind::VirtualGateway, "meshRef", REF, OTHER),
        (Kind::GatewayRoute, "meshRef", REF, OTHER),
        (Kind::BackendGroup, "meshRef", REF, OTHER),
        (Kind::GatewayRoute, "virtualGatewayRef", gateway, REF),
        (Kind::VirtualNode, "meshRef", REF, "null"),
        (Kind::Route, "virtualRouterRef", "{name: a}", "{name: b}"),
    ] {
        let old = with(kind, field, old);
        let changed = checked(
            &with(kind, field, new),
            Operation::Update {
                old: Cow::Borrowed(&old),
            },
        );
        let message = format!("spec.{field}: cannot be changed from ");
        assert!(changed.starts_with(&message), "{kind} {field}: {changed}");
        assert!(changed.ends_with("(Immutable)"), "{changed}");
        let mut kept = old.clone();
        kept["spec"]["unknown"] = json!(1);
        let kept = checked(
            &kept,
            Operation::Update {
                old: Cow::Borrowed(&old),
            },
        );
        assert_eq!(kept, "passes", "{kind} {field}");
    }
}

#[test]
fn annotations_by_which_a_router_admits_routes_are_checked_when_they_change() {
    let router = |selector: &str| {
        let mut router = object(Kind::VirtualRouter, "{}");
        router["metadata"]["annotations"] = json!({ "evermesh.dev/allowed-routes": selector });
        router
    };
    let (good, bad) = (router("team in (red)"), router("team in (red"));
    let (of_good, of_bad) = (
        Operation::Update {
            old: Cow::Borrowed(&good),
        },
        Operation::Update {
            old: Cow::Borrowed(&bad),
        },
    );
    for (new, operation, passes) in [
        (&good, Operation::Create, true),
        (&bad, Operation::Create, false),
        (&bad, of_good, false),
        (&good, of_bad.clone(), true),
        (&bad, of_bad, true),
    ] {
        let answer = checked(new, operation);
        assert_eq!(answer == "passes", passes, "{answer}");
        assert!(
            passes || answer.starts_with("metadata.annotations[evermesh.dev/allowed-routes]: ")
        );
    }
}

#[test]
fn cloud_map_discovery_is_immutable_once_set() {
    const DNS: &str = "{serviceDiscovery: {dns: {hostname: a}}}";
    const MAP: &str = "{serviceDiscovery: {awsCloudMap: {namespaceName: ns, serviceName: s}}}";
    const OTHER: &str = "{serviceDiscovery: {awsCloudMap: {namespaceName: ns, serviceName: t}}}";
    let change = |old: &str, new: &str| {
        let old = object(Kind::VirtualNode, old);
        let new = object(Kind::VirtualNode, new);
        checked(
            &new,
            Operation::Update {
                old: Cow::Borrowed(&old),
            },
        )
    };
    assert_eq!(change(DNS, MAP), "passes");
    assert_eq!(
        change(MAP, OTHER),
        r#"spec.serviceDiscovery.awsCloudMap: cannot be changed from `{"namespaceName":"ns","serviceName":"s"}` to `{"namespaceName":"ns","serviceName":"t"}`; keep the value, or delete and recreate the object (Immutable)"#
    );
    assert!(
        change(MAP, DNS)
            .ends_with("to absent; keep the value, or delete and recreate the object (Immutable)")
    );
}

#[test]
fn rules_of_each_kind_are_checked() {
    let target = "action: {target: {virtualService: {virtualServiceRef: {name: s}}}}";
    let rewrite = "action: {target: {virtualService: {virtualServiceRef: {name: s}}}, rewrite: {prefix: {value: /}}}";
    for (kind, accepted, rejected, message) in [
        (
            Kind::VirtualNode,
            "{serviceDiscovery: {dns: {hostname: a.}}, listeners: [{portMapping: {port: 1, protocol: http}}]}".to_owned(),
            "{listeners: [{portMapping: {port: 1, protocol: http}}]}".to_owned(),
            "spec.serviceDiscovery: a node with listeners requires serviceDiscovery",
        ),
        (
            Kind::VirtualRouter,
            "{routes: [{name: a}, {name: b}]}".to_owned(),
            "{routes: [{name: a}, {name: a}]}".to_owned(),
            "spec.routes[1].name: route name `a` is already used",
        ),
        (
            Kind::VirtualGateway,
            "{listeners: [{portMapping: {port: 1, protocol: http}, connectionPool: {http: {maxConnections: 1}}}]}".to_owned(),
            "{listeners: [{portMapping: {port: 1, protocol: http}, connectionPool: {http: {maxConnections: 1}, http2: {maxRequests: 1}}}]}".to_owned(),
            "spec.listeners[0].connectionPool: connection pools for several protocols are set",
        ),
        (
            Kind::GatewayRoute,
            format!("{{httpRoute: {{match: {{prefix: /}}, {target}}}}}"),
            format!("{{httpRoute: {{match: {{}}, {target}}}}}"),
            "spec.httpRoute.match: set at least one of prefix, path and hostname",
        ),
        (
            Kind::GatewayRoute,
            format!("{{httpRoute: {{match: {{prefix: /}}, {rewrite}}}}}"),
            format!("{{httpRoute: {{match: {{prefix: x}}, {rewrite}}}}}"),
            "spec.httpRoute.match.prefix: `x` does not match any path; begin it with `/`",
        ),
        (
            Kind::GatewayRoute,
            format!("{{grpcRoute: {{match: {{serviceName: x, metadata: [{{name: h, match: {{exact: a}}}}]}}, {target}}}}}"),
            format!("{{grpcRoute: {{match: {{serviceName: x, metadata: [{{name: h, match: {{exact: a, prefix: b}}}}]}}, {target}}}}}"),
            "spec.grpcRoute.match.metadata[0].match: set only one of exact, prefix, range, regex and suffix",
        ),
        (
            Kind::Mesh,
            "{meshServiceDiscovery: {ipPreference: IPv4_ONLY}}".to_owned(),
            "{meshServiceDiscovery: {ipPreference: IPv5_ONLY}}".to_owned(),
            "spec.meshServiceDiscovery.ipPreference: must be one of IPv6_ONLY, IPv4_ONLY",
        ),
    ] {
        let accepted = object(kind, &accepted);
        let rejected = object(kind, &rejected);
        assert_eq!(checked(&accepted, Operation::Create), "passes", "{kind}");
        for operation in [Operation::Create, Operation::Update { old: Cow::Borrowed(&accepted) }] {
            let answer = checked(&rejected, operation);
            assert!(answer.starts_with(message), "{kind}: {answer}");
        }
    }
}

#[test]
fn paths_and_expressions_of_routes_are_checked() {
    let route = |rest: &str| {
        object(
            Kind::Route,
            &format!("{{virtualRouterRef: {{name: r}}, {rest}}}"),
        )
    };
    let http = |word: &str, matches: &str| {
        route(&format!(
            "{word}: {{match: {matches}, action: {{weightedTargets: [{{virtualNodeRef: {{name: blue}}, weight: 1}}]}}}}"
        ))
    };
    for accepted in [
        http("httpRoute", "{path: {regex: '/v[0-9]+'}}"),
        http("http2Route", "{path: {exact: /a}}"),
        http(
            "httpRoute",
            "{prefix: /, headers: [{name: a, match: {regex: 'a.*'}}]}",
        ),
        http(
            "grpcRoute",
            "{metadata: [{name: a, match: {regex: 'a.*'}}]}",
        ),
    ] {
        assert_eq!(checked(&accepted, Operation::Create), "passes");
    }
    for (rejected, message) in [
        (
            http("httpRoute", "{path: {regex: '/('}}"),
            "spec.httpRoute.match.path.regex: Envoy may refuse the regular expression `/(`, so the route is left out: a `(` has no `)`; write `\\(` for the character (InvalidValue)",
        ),
        (
            http("http2Route", "{path: {exact: a}}"),
            "spec.http2Route.match.path.exact: `a` does not match any path; begin it with `/` (InvalidValue)",
        ),
        (
            http(
                "httpRoute",
                "{prefix: /, headers: [{name: a, match: {regex: '['}}]}",
            ),
            "spec.httpRoute.match.headers[0].match.regex: Envoy may refuse the regular expression `[`, so the route is left out: a `[` has no `]`; write `\\[` for the character (InvalidValue)",
        ),
        (
            http("http2Route", "{prefix: /, queryParameters: [{name: ''}]}"),
            "spec.http2Route.match.queryParameters[0].name: the name has 0 bytes, so the route is left out; use a name of 1 to 1024 bytes (InvalidValue)",
        ),
        (
            http("grpcRoute", "{metadata: [{name: a, match: {regex: '*'}}]}"),
            "spec.grpcRoute.match.metadata[0].match.regex: Envoy may refuse the regular expression `*`, so the route is left out: `*` has nothing to repeat; write `\\*` for the text (InvalidValue)",
        ),
    ] {
        assert_eq!(checked(&rejected, Operation::Create), message);
    }
    let two_kinds = checked(&route("tcpRoute: {}, httpRoute: {}"), Operation::Create);
    assert!(
        two_kinds.contains("weightedTargets") || two_kinds.contains("action"),
        "{two_kinds}"
    );
}

#[test]
fn terminating_object_and_unchanged_spec_always_pass() {
    let invalid = object(
        Kind::VirtualNode,
        "{awsName: a, listeners: [{portMapping: {port: 1, protocol: http}}]}",
    );
    assert_ne!(checked(&invalid, Operation::Create), "passes");
    let update = Operation::Update {
        old: Cow::Borrowed(&invalid),
    };
    let mut labelled = invalid.clone();
    labelled["metadata"]["labels"] = json!({ "a": "b" });
    assert_eq!(checked(&labelled, update.clone()), "passes");
    let mut changed = invalid.clone();
    changed["spec"]["awsName"] = "b".into();
    assert_ne!(checked(&changed, update.clone()), "passes");
    changed["metadata"]["deletionTimestamp"] = "2026-09-30T00:00:00Z".into();
    assert_eq!(checked(&changed, update), "passes");
}
