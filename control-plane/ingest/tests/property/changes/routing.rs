//! Services, routers and routes.

use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};

use super::{maybe, member, name, namespace, port, proxies::listeners, reference, target};

pub(super) fn service() -> BoxedStrategy<Value> {
    let none = || Just(json!({})).boxed();
    let provider = prop_oneof![
        target("virtualNode", none()).prop_map(|node| json!({ "virtualNode": node })),
        target("virtualRouter", none()).prop_map(|router| json!({ "virtualRouter": router })),
    ];
    member(
        "VirtualService",
        maybe(provider.boxed()).prop_map(|provider| json!({ "provider": provider })),
    )
}

fn http_match(more: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    let prefix = select(&["/", "/x", "/x/y"][..]).prop_map(Value::from);
    let path = select(&["exact", "regex"][..]).prop_map(|field| json!({ field: "/x" }));
    let paths = prop_oneof![
        6 => (prefix.clone(), Just(Value::Null)),
        3 => (Just(Value::Null), path.clone()),
        1 => (Just(json!("relative")), Just(Value::Null)),
        1 => (maybe(prefix), maybe(path)),
    ];
    let port = prop_oneof![3 => Just(Value::Null), 1 => port().prop_map(Value::from)];
    (paths, port, more)
        .prop_map(|((prefix, path), port, mut more)| {
            more["prefix"] = prefix;
            more["path"] = path;
            more["port"] = port;
            more
        })
        .boxed()
}

/// The fields of a route that an inline one and an object share.
fn rule() -> BoxedStrategy<Value> {
    let port = prop_oneof![3 => Just(Value::Null), 1 => port().prop_map(Value::from)];
    let more =
        (0..3_u32, port).prop_map(|(weight, port)| json!({ "weight": weight, "port": port }));
    let targets = prop::collection::vec(target("virtualNode", more.boxed()), 1..3);
    (
        maybe((0..3_u32).prop_map(Value::from)),
        select(
            &[
                "httpRoute",
                "httpRoute",
                "httpRoute",
                "http2Route",
                "grpcRoute",
                "tcpRoute",
            ][..],
        ),
        http_match(Just(json!({})).boxed()),
        targets,
    )
        .prop_map(|(priority, field, mut matched, targets)| {
            if field == "grpcRoute" || field == "tcpRoute" {
                matched["prefix"] = Value::Null;
                matched["path"] = Value::Null;
            }
            json!({
                "priority": priority,
                field: { "match": matched, "action": { "weightedTargets": targets } },
            })
        })
        .boxed()
}

pub(super) fn router() -> BoxedStrategy<Value> {
    let route = (name(), rule()).prop_map(|(name, mut rule)| {
        rule["name"] = json!(name);
        rule
    });
    let spec = (listeners(false), prop::collection::vec(route, 0..3));
    member(
        "VirtualRouter",
        spec.prop_map(|(listeners, routes)| json!({ "listeners": listeners, "routes": routes })),
    )
}

pub(super) fn route() -> BoxedStrategy<Value> {
    let spec = (reference(), rule()).prop_map(|(router, mut rule)| {
        rule["virtualRouterRef"] = router;
        rule
    });
    member("Route", spec)
}

pub(super) fn gateway_route() -> BoxedStrategy<Value> {
    let hostname = maybe(
        select(&["exact", "suffix"][..])
            .prop_map(|field| json!({ field: "example.com" }))
            .boxed(),
    );
    let gateway = (name(), namespace())
        .prop_map(|(name, namespace)| json!({ "name": name, "namespace": namespace, "uid": "" }));
    let spec = (
        select(&["httpRoute", "http2Route"][..]),
        http_match(
            hostname
                .prop_map(|hostname| json!({ "hostname": hostname }))
                .boxed(),
        ),
        target("virtualService", Just(json!({})).boxed()),
        prop_oneof![3 => Just(Value::Null), 1 => port().prop_map(Value::from)],
        maybe(gateway),
    );
    member(
        "GatewayRoute",
        spec.prop_map(|(field, matched, service, port, gateway)| {
            json!({
                "virtualGatewayRef": gateway,
                field: {
                    "match": matched,
                    "action": { "target": { "virtualService": service, "port": port } },
                },
            })
        }),
    )
}
