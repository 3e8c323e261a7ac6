use std::sync::LazyLock;

use evermesh_model::Severity;

use super::*;

/// A valid document of every kind.
pub(super) fn valid() -> &'static [Value] {
    static VALID: LazyLock<Vec<Value>> = LazyLock::new(|| {
        serde_saphyr::from_multiple(include_str!("../../testdata/object/valid.yaml")).unwrap()
    });
    &VALID
}

pub(super) fn find(kind: Kind) -> Value {
    let has_kind = |document: &&Value| document["kind"] == kind.as_str();
    valid().iter().find(has_kind).unwrap().clone()
}

/// A valid document with one value changed. `at` is a JSON pointer; its last step may be a new field.
fn with(kind: Kind, at: &str, value: Value) -> Value {
    let mut document = find(kind);
    let (parent, step) = at.rsplit_once('/').unwrap();
    document.pointer_mut(parent).unwrap()[step] = value;
    document
}

/// A valid document without the field to which the JSON pointer `at` refers.
fn without(kind: Kind, at: &str) -> Value {
    let mut document = find(kind);
    let (parent, step) = at.rsplit_once('/').unwrap();
    let parent = document.pointer_mut(parent).unwrap();
    assert!(
        parent.as_object_mut().unwrap().remove(step).is_some(),
        "{at}"
    );
    document
}

/// All problems as `E FIELD: MESSAGE` (error) or `W FIELD: MESSAGE` (warning).
fn problems(parsed: &ParsedDocument) -> Vec<String> {
    parsed
        .problems
        .iter()
        .map(|problem| {
            assert_eq!(problem.object, parsed.id);
            let mark = match problem.severity {
                Severity::Error => 'E',
                Severity::Warning => 'W',
            };
            format!("{mark} {}: {}", problem.field, problem.message)
        })
        .collect()
}

#[track_caller]
fn assert_rejected(document: Value, expected: &[&str]) {
    let parsed = parse(document);
    assert_eq!(problems(&parsed), expected);
    assert!(parsed.object.is_none());
    assert!(parsed.id.is_some());
}

#[test]
fn valid_document_of_every_kind_is_accepted() {
    let mut kinds = Vec::new();
    for document in valid() {
        let parsed = parse(document.clone());
        assert_eq!(problems(&parsed), [""; 0]);
        let (id, _) = parsed.object.unwrap();
        assert_eq!(parsed.id.as_ref(), Some(&id));
        kinds.push(id.kind);
    }
    assert_eq!(kinds, Kind::ALL);
}

#[test]
fn every_field_of_a_valid_document_is_kept() {
    let Some((id, Object::VirtualNode(node))) = parse(find(Kind::VirtualNode)).object else {
        panic!("a virtual node");
    };
    assert_eq!(id.to_string(), "VirtualNode/shop/blue");
    assert_eq!(
        serde_json::to_value(&*node).unwrap(),
        find(Kind::VirtualNode)
    );
}

#[test]
fn unknown_fields_in_real_app_mesh_manifests_are_pruned() {
    let tls = "/spec/backends/0/virtualService/clientPolicy/tls/mode";
    let parsed = parse(with(Kind::VirtualNode, tls, json!("STRICT")));
    assert_eq!(
        problems(&parsed),
        [
            "W spec.backends[0].virtualService.clientPolicy.tls.mode: unknown field, ignored; known fields: certificate, enforce, ports, validation"
        ]
    );
    assert_eq!(parsed.object, parse(find(Kind::VirtualNode)).object);

    let tcp = "/spec/routes/1/tcpRoute/match";
    let parsed = parse(with(Kind::VirtualRouter, tcp, json!({ "prefix": "/" })));
    assert_eq!(
        problems(&parsed),
        ["W spec.routes[1].tcpRoute.match.prefix: unknown field, ignored; known fields: port"]
    );
    let expected = parse(with(Kind::VirtualRouter, tcp, json!({})));
    assert!(expected.object.is_some());
    assert_eq!(parsed.object, expected.object);
}

#[test]
fn unknown_field_at_the_root_is_a_warning() {
    let parsed = parse(with(Kind::Mesh, "/sepc", json!({ "awsName": "other" })));
    assert_eq!(
        problems(&parsed),
        ["W sepc: unknown field, ignored; known fields: spec, status"]
    );
    assert_eq!(parsed.object, parse(find(Kind::Mesh)).object);
}

#[test]
fn unknown_fields_of_native_kinds_are_not_reported() {
    let parsed = parse(with(Kind::Service, "/spec/fromTheFuture", json!(1)));
    assert_eq!(problems(&parsed), [""; 0]);
    assert_eq!(parsed.object, parse(find(Kind::Service)).object);
}

#[test]
fn wrong_types_are_rejected() {
    assert_rejected(
        with(
            Kind::VirtualNode,
            "/spec/listeners/0/portMapping/port",
            json!("8080"),
        ),
        &["E spec.listeners[0].portMapping.port: must be a 64-bit integer, not the string `8080`"],
    );
    assert_rejected(
        with(Kind::VirtualNode, "/spec/listeners", json!({})),
        &["E spec.listeners: must be a list, not an object"],
    );
    assert_rejected(
        with(Kind::VirtualNode, "/spec/listeners", json!([null])),
        &["E spec.listeners[0]: must be an object, not null"],
    );
    assert_rejected(
        with(Kind::VirtualService, "/spec/awsName", json!(["a"])),
        &["E spec.awsName: must be a string, not a list"],
    );
    assert_rejected(
        with(
            Kind::VirtualRouter,
            "/spec/routes/0/httpRoute/match/headers/0/invert",
            json!(1.5),
        ),
        &[
            "E spec.routes[0].httpRoute.match.headers[0].invert: must be true or false, not the number 1.5",
        ],
    );
    assert_rejected(
        with(
            Kind::Mesh,
            "/spec/namespaceSelector/matchLabels/mesh",
            json!(true),
        ),
        &["E spec.namespaceSelector.matchLabels.mesh: must be a string, not true"],
    );
    assert_rejected(
        with(
            Kind::VirtualNode,
            "/metadata/labels",
            json!({ "version": 2 }),
        ),
        &["E metadata.labels.version: must be a string, not the number 2"],
    );
    assert_rejected(
        with(Kind::Mesh, "/spec", json!(7)),
        &["E spec: must be an object, not the number 7"],
    );
}

#[test]
fn values_out_of_bounds_are_rejected() {
    let port = "/spec/listeners/0/portMapping/port";
    assert_rejected(
        with(Kind::VirtualNode, port, json!(0)),
        &["E spec.listeners[0].portMapping.port: must be at least 1, not 0"],
    );
    assert_rejected(
        with(Kind::VirtualNode, port, json!(65536)),
        &["E spec.listeners[0].portMapping.port: must be at most 65535, not 65536"],
    );
    for huge in [json!(u64::MAX), json!(1e300)] {
        let message = format!(
            "E spec.listeners[0].portMapping.port: must be a 64-bit integer, not the number {huge}"
        );
        assert_rejected(with(Kind::VirtualNode, port, huge), &[&message]);
    }
    assert_rejected(
        with(
            Kind::VirtualNode,
            "/spec/logging/accessLog/file/path",
            json!(""),
        ),
        &["E spec.logging.accessLog.file.path: must not be empty"],
    );
    assert_rejected(
        with(
            Kind::VirtualNode,
            "/spec/logging/accessLog/file/path",
            json!("ä".repeat(256)),
        ),
        &["E spec.logging.accessLog.file.path: must have at most 255 characters, not 256"],
    );
    assert_rejected(
        with(Kind::VirtualRouter, "/spec/listeners", json!([])),
        &["E spec.listeners: must not be empty"],
    );
    let targets = vec![json!({ "weight": 1 }); 11];
    assert_rejected(
        with(
            Kind::VirtualRouter,
            "/spec/routes/1/tcpRoute/action/weightedTargets",
            json!(targets),
        ),
        &["E spec.routes[1].tcpRoute.action.weightedTargets: must have at most 10 items, not 11"],
    );
    assert_rejected(
        with(Kind::Mesh, "/spec/egressFilter/type", json!("ALLOW")),
        &["E spec.egressFilter.type: must be one of ALLOW_ALL, DROP_ALL, not `ALLOW`"],
    );
}

#[test]
fn long_values_are_cut_in_messages() {
    let long = "é".repeat(100);
    assert_rejected(
        with(Kind::Mesh, "/spec/egressFilter/type", json!(long)),
        &[&format!(
            "E spec.egressFilter.type: must be one of ALLOW_ALL, DROP_ALL, not `{}…`",
            "é".repeat(64)
        )],
    );
}

#[test]
fn length_is_counted_in_characters() {
    let path = "/spec/logging/accessLog/file/path";
    let parsed = parse(with(Kind::VirtualNode, path, json!("ä".repeat(255))));
    assert_eq!(problems(&parsed), [""; 0]);
}

#[test]
fn missing_required_field_is_rejected() {
    assert_rejected(
        without(Kind::VirtualRouter, "/spec/routes/0/httpRoute/action"),
        &["E spec.routes[0].httpRoute.action: is required"],
    );
    assert_rejected(
        with(Kind::VirtualRouter, "/spec/routes/0/name", json!(null)),
        &["E spec.routes[0].name: is required"],
    );
    assert_rejected(without(Kind::Route, "/spec"), &["E spec: is required"]);
}

#[test]
fn all_violations_are_reported_at_once() {
    let mut document = with(
        Kind::VirtualNode,
        "/spec/listeners/0/portMapping",
        json!({ "port": 0 }),
    );
    document["spec"]["podSelector"] = json!("all");
    document["spec"]["pods"] = json!("all");
    assert_rejected(
        document,
        &[
            "E spec.listeners[0].portMapping.port: must be at least 1, not 0",
            "E spec.listeners[0].portMapping.protocol: is required",
            "E spec.podSelector: must be an object, not the string `all`",
            "W spec.pods: unknown field, ignored; known fields: awsName, backendDefaults, backendGroups, backends, listeners, logging, meshRef, podSelector, serviceDiscovery",
        ],
    );
}

#[test]
fn null_field_counts_as_absent() {
    let parsed = parse(with(Kind::VirtualService, "/spec/provider", json!(null)));
    assert_eq!(problems(&parsed), [""; 0]);
    let expected = parse(without(Kind::VirtualService, "/spec/provider"));
    assert_eq!(parsed.object, expected.object);
    let parsed = parse(with(Kind::VirtualService, "/metadata/labels", json!(null)));
    assert_eq!(parsed.object, parse(find(Kind::VirtualService)).object);
}

#[test]
fn app_mesh_objects_do_not_require_a_spec() {
    for spec in [json!(null), json!({})] {
        let parsed = parse(with(Kind::Mesh, "/spec", spec));
        assert_eq!(problems(&parsed), [""; 0]);
        assert!(parsed.object.is_some());
    }
    assert!(parse(without(Kind::VirtualNode, "/spec")).object.is_some());
}

#[test]
fn float_without_fraction_is_an_integer() {
    let port = "/spec/listeners/0/portMapping/port";
    let parsed = parse(with(Kind::VirtualNode, port, json!(8080.0)));
    assert_eq!(parsed.object, parse(find(Kind::VirtualNode)).object);
    assert_rejected(
        with(Kind::VirtualNode, port, json!(8080.5)),
        &["E spec.listeners[0].portMapping.port: must be a 64-bit integer, not the number 8080.5"],
    );
}

#[test]
fn invalid_status_is_removed() {
    let conditions = |time: &str| json!({ "conditions": [{ "type": "MeshActive", "status": "True", "lastTransitionTime": time }] });
    let parsed = parse(with(
        Kind::Mesh,
        "/status",
        conditions("2026-09-30T00:00:00Z"),
    ));
    let Some((_, Object::Mesh(mesh))) = parsed.object else {
        panic!("a mesh");
    };
    assert_eq!(
        mesh.status
            .as_ref()
            .unwrap()
            .conditions
            .as_ref()
            .unwrap()
            .len(),
        1
    );
    for status in [conditions("yesterday"), json!("fine")] {
        let parsed = parse(with(Kind::Mesh, "/status", status));
        assert_eq!(problems(&parsed), [""; 0]);
        assert_eq!(parsed.object, parse(find(Kind::Mesh)).object);
    }
}

#[test]
fn cel_rules_of_route_are_evaluated() {
    assert_rejected(
        without(Kind::Route, "/spec/httpRoute"),
        &["E spec: set exactly one of httpRoute, http2Route, grpcRoute and tcpRoute"],
    );
    assert_rejected(
        with(Kind::Route, "/spec/httpRoute/match/prefix", json!("beta")),
        &["E spec.httpRoute: start match.prefix with a slash"],
    );
    let mut of_wrong_type = with(Kind::Route, "/spec/httpRoute/match/prefix", json!("beta"));
    of_wrong_type["spec"]["priority"] = json!("high");
    assert_rejected(
        of_wrong_type,
        &["E spec.priority: must be a 64-bit integer, not the string `high`"],
    );
}

#[test]
fn missing_namespace_is_default_and_cluster_scoped_kinds_have_none() {
    let parsed = parse(without(Kind::VirtualNode, "/metadata/namespace"));
    let Some((id, Object::VirtualNode(node))) = parsed.object else {
        panic!("a virtual node");
    };
    assert_eq!(&*id.namespace, "default");
    assert_eq!(node.metadata.namespace.as_deref(), Some("default"));

    for namespace in [json!("shop"), json!(7)] {
        let parsed = parse(with(Kind::Mesh, "/metadata/namespace", namespace));
        assert_eq!(problems(&parsed), [""; 0]);
        assert_eq!(parsed.object, parse(find(Kind::Mesh)).object);
    }
}

#[test]
fn names_must_be_dns_subdomains() {
    for name in ["a", "0", "a-b.c-d", &"a".repeat(253)] {
        assert!(
            parse(with(Kind::Mesh, "/metadata/name", json!(name)))
                .object
                .is_some(),
            "{name}"
        );
    }
    for name in [
        "",
        "-a",
        "a-",
        "a..b",
        ".a",
        "a.",
        "A",
        "a_b",
        "ä",
        &"a".repeat(254),
    ] {
        let parsed = parse(with(Kind::Mesh, "/metadata/name", json!(name)));
        assert_eq!(
            problems(&parsed),
            [
                "E metadata.name: Mesh: must be a DNS subdomain (RFC 1123): at most 253 lower-case letters, digits, `-` and `.`, with a letter or digit at both ends and around each `.`"
            ],
            "{name}"
        );
        assert!(parsed.object.is_none() && parsed.id.is_none());
    }
    let longest = "a".repeat(63);
    let parsed = parse(with(Kind::Pod, "/metadata/namespace", json!(longest)));
    assert!(parsed.object.is_some());
    for namespace in ["", "a.b", "Shop", &"a".repeat(64)] {
        let parsed = parse(with(Kind::Pod, "/metadata/namespace", json!(namespace)));
        assert_eq!(
            problems(&parsed),
            [
                "E metadata.namespace: Pod: must be a DNS label (RFC 1123): at most 63 lower-case letters, digits and `-`, with a letter or digit at both ends"
            ],
            "{namespace}"
        );
    }
    assert_eq!(
        problems(&parse(without(Kind::Mesh, "/metadata/name"))),
        ["E metadata.name: Mesh: is required"]
    );
    assert_eq!(
        problems(&parse(without(Kind::Mesh, "/metadata"))),
        ["E metadata: Mesh: must be an object with a name"]
    );
    assert_eq!(
        problems(&parse(with(Kind::Mesh, "/metadata/name", json!(7)))),
        ["E metadata.name: Mesh: must be a string"]
    );
}

#[test]
fn unknown_kind_is_a_warning_with_its_name() {
    let document = |api_version: &str, kind: &str| {
        parse(json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": "color" } }))
    };
    let parsed = document("apps/v1", "Deployment");
    assert_eq!(
        problems(&parsed),
        ["W : Evermesh does not use kind `Deployment` of `apps/v1`, so `color` is ignored"]
    );
    assert_eq!(parsed.problems[0].reason, Reason::UnknownKind);
    assert_eq!(
        problems(&document("appmesh.k8s.aws/v1beta1", "VirtualNode")),
        [
            "W : Evermesh does not use kind `VirtualNode` of `appmesh.k8s.aws/v1beta1`, so `color` is ignored; use apiVersion appmesh.k8s.aws/v1beta2"
        ]
    );
    assert_eq!(
        problems(&document("appmesh.k8s.aws/v1beta2", "VirtualCluster")),
        [
            "W : Evermesh does not use kind `VirtualCluster` of `appmesh.k8s.aws/v1beta2`, so `color` is ignored"
        ]
    );
    assert_eq!(
        problems(&document("route.openshift.io/v1", "Route")),
        [
            "W : Evermesh does not use kind `Route` of `route.openshift.io/v1`, so `color` is ignored"
        ]
    );
    let long = "x".repeat(100);
    let message = format!(
        "W : Evermesh does not use kind `a\\nb` of `{}…`, so `color` is ignored",
        &long[..64]
    );
    assert_eq!(problems(&document(&long, "a\nb")), [message]);
}

#[test]
fn document_that_is_not_an_object_is_rejected() {
    for document in [
        json!(null),
        json!([]),
        json!("Mesh"),
        json!({}),
        json!({ "kind": "Mesh" }),
        json!({ "apiVersion": 1, "kind": "Mesh" }),
    ] {
        let parsed = parse(document);
        assert_eq!(
            problems(&parsed),
            ["E : the document is not a Kubernetes object; set apiVersion and kind to strings"]
        );
        assert_eq!(parsed.problems[0].reason, Reason::InvalidYaml);
        assert!(parsed.object.is_none() && parsed.id.is_none());
    }
}

#[test]
fn unparsable_native_object_is_rejected() {
    assert_rejected(
        with(Kind::Service, "/spec/ports", json!(8080)),
        &["E : cannot be parsed as Service: invalid type: integer `8080`, expected a sequence"],
    );
    assert_rejected(
        with(Kind::Mesh, "/metadata/generation", json!("two")),
        &["E : cannot be parsed as Mesh: invalid type: string \"two\", expected i64"],
    );
}

#[test]
fn deeply_nested_document_is_rejected() {
    let deep = |levels| (0..levels).fold(json!(1), |inner, _| Value::Array(vec![inner]));
    for kind in Kind::ALL {
        for at in ["/spec", "/metadata/labels", "/unknown", "/status"] {
            let parsed = parse(with(kind, at, deep(2000)));
            assert_eq!(
                problems(&parsed),
                ["E : the document is nested more than 128 levels deep; reduce the nesting"]
            );
            assert!(parsed.object.is_none() && parsed.id.is_some());
        }
        // The document, its field and 127 lists.
        assert!(parse(with(kind, "/unknown", deep(127))).object.is_some());
        assert!(parse(with(kind, "/unknown", deep(128))).object.is_none());
    }
}
