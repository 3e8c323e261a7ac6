//! Nodes and gateways, their settings, and the backend groups of nodes.

use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};

use super::{maybe, member, name, namespace, port, protocol, reference, target};

/// The listeners of a router, or those of a node or gateway, which have settings.
pub(super) fn listeners(with_settings: bool) -> BoxedStrategy<Value> {
    let mode = select(&["DISABLED", "STRICT"][..])
        .prop_map(move |mode| json!({ "mode": mode, "certificate": {} }));
    let settings = if with_settings {
        let mode = prop_oneof![12 => Just(Value::Null), 1 => mode];
        (mode, settings())
            .prop_map(|(tls, mut settings)| {
                settings["tls"] = tls;
                settings
            })
            .boxed()
    } else {
        Just(json!({})).boxed()
    };
    let listener = (port(), protocol(), settings).prop_map(|(port, protocol, mut listener)| {
        listener["portMapping"] = json!({ "port": port, "protocol": protocol });
        listener
    });
    maybe(prop::collection::vec(listener, 1..3).prop_map(Value::from))
}

/// A health check, outlier detection, a connection pool and timeouts. An API server prunes those that gateways lack.
fn settings() -> BoxedStrategy<Value> {
    let path = maybe(select(&["/", "/a b", "ready", ""][..]).prop_map(Value::from));
    let check = (protocol(), path, port()).prop_map(|(protocol, path, port)| {
        json!({
            "protocol": protocol, "path": path, "port": port, "healthyThreshold": 2, "unhealthyThreshold": 2,
            "intervalMillis": 5000, "timeoutMillis": 2000,
        })
    });
    let duration = || {
        select(&[0, 1, u64::MAX][..])
            .prop_map(|value| json!({ "unit": "ms", "value": value % (1 << 62) }))
    };
    let outlier = (duration(), duration()).prop_map(|(interval, base)| {
        json!({
            "maxServerErrors": 1, "interval": interval, "baseEjectionDuration": base, "maxEjectionPercent": 0,
        })
    });
    let pool = (protocol(), 1..=1_u64 << 33).prop_map(|(protocol, limit)| match protocol {
        "tcp" | "http" => json!({ protocol: { "maxConnections": limit } }),
        _ => json!({ protocol: { "maxRequests": limit } }),
    });
    let timeout = (protocol(), duration(), any::<bool>()).prop_map(|(protocol, idle, both)| {
        let second = if both { "http" } else { protocol };
        json!({ protocol: { "idle": idle }, second: { "idle": idle } })
    });
    let empty = || Just(json!({}));
    (
        maybe(check),
        maybe(outlier),
        maybe(prop_oneof![6 => pool, 1 => empty()]),
        maybe(prop_oneof![6 => timeout, 1 => empty()]),
    )
        .prop_map(|(check, outlier, pool, timeout)| {
            json!({
                "healthCheck": check, "outlierDetection": outlier, "connectionPool": pool, "timeout": timeout,
            })
        })
        .boxed()
}

/// `logging` with usable and unusable formats.
fn logging() -> BoxedStrategy<Value> {
    let text = || select(&["%PROTOCOL%", "100%%", "50%", "%UNKNOWN%", "%REQ(a)"][..]);
    let json = prop::collection::vec((name(), text()), 0..3).prop_map(|fields| {
        let fields = fields.into_iter();
        let fields: Vec<Value> = fields
            .map(|(key, value)| json!({ "key": key, "value": value }))
            .collect();
        json!({ "json": fields })
    });
    let format = prop_oneof![
        text().prop_map(|text| json!({ "text": text })),
        json,
        Just(json!({})),
    ];
    let path = select(&["/dev/stdout", "relative", "/folder/"][..]);
    let file =
        (path, maybe(format)).prop_map(|(path, format)| json!({ "path": path, "format": format }));
    maybe(maybe(file).prop_map(|file| json!({ "accessLog": { "file": file } })))
}

fn policy() -> BoxedStrategy<Value> {
    let policy = any::<bool>().prop_map(
        |enforce| json!({ "tls": { "enforce": enforce, "validation": { "trust": {} } } }),
    );
    prop_oneof![12 => Just(Value::Null), 1 => policy].boxed()
}

pub(super) fn node() -> BoxedStrategy<Value> {
    let hostname = select(&["one", "one.red", "two.blue.svc.x.", "example.com", ""][..]);
    let cloud_map = (name(), maybe(name().prop_map(Value::from))).prop_map(|(service, version)| {
        let attributes = if version.is_null() {
            json!([])
        } else {
            json!([{ "key": "version", "value": version }])
        };
        json!({ "awsCloudMap": {
            "namespaceName": "local", "serviceName": service, "attributes": attributes,
        } })
    });
    let discovery = prop_oneof![
        hostname.prop_map(|hostname| json!({ "dns": { "hostname": hostname } })),
        cloud_map,
    ];
    let policies = policy().prop_map(|policy| json!({ "clientPolicy": policy }));
    let backend = target("virtualService", policies.boxed())
        .prop_map(|service| json!({ "virtualService": service }));
    let spec = (
        listeners(true),
        maybe(discovery.boxed()),
        (prop::collection::vec(backend, 0..4), groups()),
        policy(),
        maybe(
            name()
                .prop_map(|app| json!({ "matchLabels": { "app": app } }))
                .boxed(),
        ),
    );
    let node = member(
        "VirtualNode",
        spec.prop_map(|(listeners, discovery, (backends, groups), policy, pods)| {
            json!({
                "podSelector": pods, "listeners": listeners, "serviceDiscovery": discovery, "backends": backends,
                "backendGroups": groups, "backendDefaults": { "clientPolicy": policy },
            })
        }),
    );
    (node, local_ports(), logging())
        .prop_map(|(mut node, ports, logging)| {
            node["metadata"]["annotations"] = ports;
            node["spec"]["logging"] = logging;
            node
        })
        .boxed()
}

/// References of a node to backend groups.
fn groups() -> impl Strategy<Value = Vec<Value>> {
    let every_service = maybe(namespace().prop_map(Value::from))
        .prop_map(|namespace| json!({ "name": "*", "namespace": namespace }));
    prop::collection::vec(prop_oneof![3 => reference(), 1 => every_service], 0..3)
}

pub(super) fn backend_group() -> BoxedStrategy<Value> {
    let services = prop::collection::vec(reference(), 0..3);
    member(
        "BackendGroup",
        services.prop_map(|services| json!({ "virtualservices": services })),
    )
}

/// The annotations for local ports, or none.
fn local_ports() -> BoxedStrategy<Value> {
    let local = || select(&[0, 80, 9001, 9002, 15001][..]);
    let backend = (
        name(),
        namespace(),
        select(&["", ":80", ":81"][..]),
        local(),
    )
        .prop_map(|(name, namespace, port, local)| format!("{name}.{namespace}{port}={local}"));
    let application = (port(), local()).prop_map(|(port, local)| format!("{port}={local}"));
    let list = |item: BoxedStrategy<String>| {
        let items = prop::collection::vec(item, 0..4);
        maybe(items.prop_map(|items| items.join(",").into()))
    };
    let both =
        (list(backend.boxed()), list(application.boxed())).prop_map(|(backends, application)| {
            json!({
                "evermesh.dev/backend-ports": backends,
                "evermesh.dev/application-ports": application,
            })
        });
    prop_oneof![2 => Just(Value::Null), 1 => both].boxed()
}

pub(super) fn gateway() -> BoxedStrategy<Value> {
    let gate = maybe(name().prop_map(|name| json!({ "matchLabels": { "gate": name } })));
    let spec = (
        listeners(true),
        maybe(Just(json!({}))),
        gate,
        policy(),
        logging(),
    );
    member(
        "VirtualGateway",
        spec.prop_map(|(listeners, namespaces, routes, policy, logging)| {
            json!({
                "listeners": listeners, "namespaceSelector": namespaces,
                "gatewayRouteSelector": routes, "logging": logging,
                "backendDefaults": { "clientPolicy": policy },
            })
        }),
    )
}
