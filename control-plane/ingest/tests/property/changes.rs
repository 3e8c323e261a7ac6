//! Strategies for valid and invalid objects of every kind. The names come from a small set, so that objects refer to each
//! other.

use evermesh_model::{
    CloudMapService, CloudMapState, Instance, Kind, ObjectRef, endpoint::CloudMapFailure,
};
use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};

/// One change of the inputs.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Put(Value),
    Remove(ObjectRef),
    CloudMap(CloudMapService, Option<CloudMapState>),
    EndpointSlices(bool),
}

fn name() -> impl Strategy<Value = &'static str> + Clone {
    select(&["one", "two"][..])
}

fn namespace() -> impl Strategy<Value = &'static str> + Clone {
    select(&["red", "blue"][..])
}

/// A value or null, which [`without_nulls`] removes.
fn maybe(value: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Value> {
    prop_oneof![1 => Just(Value::Null), 3 => value].boxed()
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, without_nulls(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

fn reference() -> impl Strategy<Value = Value> + Clone {
    (name(), maybe(namespace().prop_map(Value::from)))
        .prop_map(|(name, namespace)| json!({ "name": name, "namespace": namespace }))
}

/// An object with the fields of `more` and `…Ref`, `…ARN`, both or neither.
fn target(field: &'static str, more: BoxedStrategy<Value>) -> impl Strategy<Value = Value> {
    let arn =
        (select(&["m", "other"][..]), name(), namespace()).prop_map(move |(mesh, name, ns)| {
            let dot = if field == "virtualService" { '.' } else { '_' };
            json!(format!(
                "arn:aws:appmesh:r:1:mesh/{mesh}/{field}/{name}{dot}{ns}"
            ))
        });
    let references = prop_oneof![
        8 => (reference(), Just(Value::Null)),
        2 => (Just(Value::Null), arn.clone()),
        1 => (reference(), arn),
        1 => (Just(Value::Null), Just(Value::Null)),
    ];
    (references, more).prop_map(move |((reference, arn), mut more)| {
        more[format!("{field}Ref")] = reference;
        more[format!("{field}ARN")] = arn;
        more
    })
}

fn port() -> impl Strategy<Value = u16> {
    select(&[80, 81][..])
}

fn protocol() -> impl Strategy<Value = &'static str> {
    select(&["http", "http2", "grpc", "tcp"][..])
}

/// The listeners of a router, or those of a node or gateway, which have settings.
fn listeners(with_settings: bool) -> BoxedStrategy<Value> {
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

fn mesh_reference() -> BoxedStrategy<Value> {
    let reference =
        select(&["m", "other", "missing"][..]).prop_map(|name| json!({ "name": name, "uid": "" }));
    prop_oneof![12 => Just(Value::Null), 1 => reference].boxed()
}

fn policy() -> BoxedStrategy<Value> {
    let policy = any::<bool>().prop_map(
        |enforce| json!({ "tls": { "enforce": enforce, "validation": { "trust": {} } } }),
    );
    prop_oneof![12 => Just(Value::Null), 1 => policy].boxed()
}

fn mesh() -> impl Strategy<Value = Value> {
    let selector = prop_oneof![
        1 => Just(json!({})),
        3 => Just(json!({ "matchLabels": { "mesh": "yes" } })),
    ];
    (
        select(&["m", "other"][..]),
        maybe(selector.boxed()),
        maybe(select(&["m", "other"][..]).prop_map(Value::from)),
        maybe(select(&["IPv4_ONLY", "IPv6_ONLY"][..]).prop_map(Value::from)),
        acm_secrets(),
    )
        .prop_map(|(name, selector, aws_name, preference, secrets)| {
            json!({
                "apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "Mesh",
                "metadata": { "name": name, "annotations": secrets },
                "spec": {
                    "namespaceSelector": selector, "awsName": aws_name,
                    "meshServiceDiscovery": { "ipPreference": preference },
                },
            })
        })
}

/// The annotation that maps ARNs to Secrets, some of which do not exist.
fn acm_secrets() -> impl Strategy<Value = Value> {
    let resource = select(
        &[
            "acm:r:1:certificate",
            "acm-pca:r:1:certificate-authority",
            "bad",
        ][..],
    );
    let users = select(&["", " for red, blue", " for *"][..]);
    let line = (resource, name(), namespace(), name(), users).prop_map(
        |(resource, id, namespace, name, users)| {
            format!("arn:aws:{resource}/{id}: {namespace}/{name}{users}\n")
        },
    );
    maybe(
        prop::collection::vec(line, 0..4)
            .prop_map(|lines| json!({ "evermesh.dev/acm-secrets": lines.concat() })),
    )
}

/// A Secret with a certificate, an authority, both or neither, each valid or not.
fn secret() -> impl Strategy<Value = Value> {
    let entry = |valid: &'static str| maybe(select(vec![valid, "broken"]).prop_map(Value::from));
    let certificate = (
        entry(include_str!("tls.crt")),
        entry(include_str!("tls.key")),
        entry(include_str!("ca.crt")),
    );
    (name(), namespace(), certificate).prop_map(|(name, namespace, (chain, key, authorities))| {
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": name, "namespace": namespace },
            "stringData": { "tls.crt": chain, "tls.key": key, "ca.crt": authorities },
        })
    })
}

fn member(
    kind: &'static str,
    spec: impl Strategy<Value = Value> + 'static,
) -> BoxedStrategy<Value> {
    let api_version = if kind == "Route" {
        "evermesh.dev/v1alpha1"
    } else {
        "appmesh.k8s.aws/v1beta2"
    };
    let aws_name = prop_oneof![
        20 => Just(Value::Null),
        1 => Just(json!("same")),
        1 => Just(json!("Same")),
        1 => Just(json!("bad/name")),
    ];
    (name(), namespace(), aws_name, mesh_reference(), spec)
        .prop_map(move |(name, namespace, aws_name, mesh, mut spec)| {
            if kind != "Route" {
                spec["meshRef"] = mesh;
            }
            if !["Route", "BackendGroup"].contains(&kind) {
                spec["awsName"] = aws_name;
            }
            json!({
                "apiVersion": api_version, "kind": kind,
                "metadata": { "name": name, "namespace": namespace, "labels": { "gate": name } },
                "spec": spec,
            })
        })
        .boxed()
}

fn node() -> BoxedStrategy<Value> {
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

fn backend_group() -> BoxedStrategy<Value> {
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

fn service() -> BoxedStrategy<Value> {
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

fn router() -> BoxedStrategy<Value> {
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

fn route() -> BoxedStrategy<Value> {
    let spec = (reference(), rule()).prop_map(|(router, mut rule)| {
        rule["virtualRouterRef"] = router;
        rule
    });
    member("Route", spec)
}

fn gateway() -> BoxedStrategy<Value> {
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

fn gateway_route() -> BoxedStrategy<Value> {
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

fn kubernetes() -> BoxedStrategy<Value> {
    let slice = (
        name(),
        name(),
        namespace(),
        select(&["IPv4", "IPv6"][..]),
        any::<bool>(),
    )
        .prop_map(|(name, service, namespace, family, ready)| {
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": name, "namespace": namespace,
                    "labels": { "kubernetes.io/service-name": service },
                },
                "addressType": family,
                "endpoints": [{
                    "addresses": [if family == "IPv4" { "10.0.0.1" } else { "fd00::1" }],
                    "conditions": { "ready": ready, "terminating": true },
                    "nodeName": "host", "zone": "z",
                }],
                "ports": [{ "port": 8080 }],
            })
        });
    let virtual_ips = select(&["10.1.0.1", "10.1.0.2", "fd01::1", "None"][..]);
    let virtual_ips = prop::collection::vec(virtual_ips, 0..3);
    let service =
        (name(), namespace(), port(), virtual_ips).prop_map(|(name, namespace, port, ips)| {
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": { "name": name, "namespace": namespace },
                "spec": { "ports": [{ "port": port }], "clusterIP": ips.first(), "clusterIPs": ips },
            })
        });
    let host = select(&["region-a", "region-b"][..]).prop_map(|region| {
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": "host", "labels": { "topology.kubernetes.io/region": region } },
        })
    });
    let pod = (name(), namespace(), name(), any::<[bool; 2]>()).prop_map(
        |(name, namespace, app, [ready, leaving])| {
            let leaving = leaving.then_some("2026-01-01T00:00:00Z");
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": name, "namespace": namespace, "labels": { "app": app }, "deletionTimestamp": leaving,
                },
                "spec": { "nodeName": "host" },
                "status": {
                    "podIP": if ready { "10.0.0.9" } else { "10.0.0.1" },
                    "conditions": [{ "type": "ContainersReady", "status": if ready { "True" } else { "False" } }],
                },
            })
        },
    );
    let labelled = (namespace(), any::<bool>()).prop_map(|(name, is_member)| {
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": name, "labels": { "mesh": if is_member { "yes" } else { "no" } } },
        })
    });
    prop_oneof![4 => slice, 3 => service, 3 => pod, 1 => host, 2 => labelled].boxed()
}

/// A mesh that selects all namespaces.
pub(crate) fn common_mesh() -> Value {
    json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "Mesh",
        "metadata": { "name": "m" },
        "spec": { "namespaceSelector": {} },
    })
}

pub(crate) fn object() -> impl Strategy<Value = Value> {
    prop_oneof![
        6 => node(),
        4 => service(),
        3 => router(),
        2 => route(),
        1 => gateway(),
        2 => gateway_route(),
        2 => backend_group(),
        3 => kubernetes(),
    ]
    .prop_map(without_nulls)
}

fn cloud_map() -> impl Strategy<Value = (CloudMapService, Option<CloudMapState>)> {
    let state = (any::<bool>(), any::<bool>(), name()).prop_map(|(is_down, is_full, version)| {
        CloudMapState {
            is_full,
            instances: vec![Instance {
                id: "i".into(),
                ipv4: Some([10, 0, 0, 9].into()),
                ipv6: None,
                attributes: [("version".into(), version.into())].into(),
            }],
            failure: is_down.then(|| CloudMapFailure::Unavailable("down".into())),
        }
    });
    (name(), prop::option::of(state)).prop_map(|(service, state)| {
        let service = CloudMapService {
            namespace: "local".into(),
            service: service.into(),
        };
        (service, state)
    })
}

pub(crate) fn change() -> impl Strategy<Value = Change> {
    let kinds = select(&Kind::ALL[..]);
    let removed = (kinds, namespace(), name()).prop_map(|(kind, namespace, name)| {
        let namespace = if kind.is_namespaced() { namespace } else { "" };
        Change::Remove(ObjectRef::new(kind, namespace, name))
    });
    prop_oneof![
        12 => object().prop_map(Change::Put),
        2 => secret().prop_map(without_nulls).prop_map(Change::Put),
        2 => mesh().prop_map(without_nulls).prop_map(Change::Put),
        4 => removed,
        2 => cloud_map().prop_map(|(service, state)| Change::CloudMap(service, state)),
        1 => any::<bool>().prop_map(Change::EndpointSlices),
    ]
}
