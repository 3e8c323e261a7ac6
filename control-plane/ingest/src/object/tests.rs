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
    let is_it = |document: &&Value| document["kind"] == kind.as_str();
    valid().iter().find(is_it).unwrap().clone()
}

/// A valid document with one value set; `at` is a JSON pointer below which the last step may be new.
fn with(kind: Kind, at: &str, value: Value) -> Value {
    let mut document = find(kind);
    let (parent, step) = at.rsplit_once('/').unwrap();
    document.pointer_mut(parent).unwrap()[step] = value;
    document
}

/// Without the field at the end of a JSON pointer.
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

/// The fields and messages of all problems, with their severity's first letter.
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
fn refuses(document: Value, expected: &[&str]) {
    let parsed = parse(document);
    assert_eq!(problems(&parsed), expected);
    assert!(parsed.object.is_none());
    assert!(parsed.id.is_some());
}

#[test]
fn takes_a_valid_document_of_every_kind() {
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
fn keeps_every_field_of_a_valid_document() {
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
fn prunes_what_manifests_of_app_mesh_really_hold() {
    let tls = "/spec/backends/0/virtualService/clientPolicy/tls/mode";
    let parsed = parse(with(Kind::VirtualNode, tls, json!("STRICT")));
    assert_eq!(
        problems(&parsed),
        [
            "W spec.backends[0].virtualService.clientPolicy.tls.mode: unknown field, without effect; known here: certificate, enforce, ports, validation"
        ]
    );
    assert_eq!(parsed.object, parse(find(Kind::VirtualNode)).object);

    let tcp = "/spec/routes/1/tcpRoute/match";
    let parsed = parse(with(Kind::VirtualRouter, tcp, json!({ "prefix": "/" })));
    assert_eq!(
        problems(&parsed),
        ["W spec.routes[1].tcpRoute.match.prefix: unknown field, without effect; known here: port"]
    );
    let expected = parse(with(Kind::VirtualRouter, tcp, json!({})));
    assert!(expected.object.is_some());
    assert_eq!(parsed.object, expected.object);
}

#[test]
fn warns_of_unknown_fields_at_the_root() {
    let parsed = parse(with(Kind::Mesh, "/sepc", json!({ "awsName": "other" })));
    assert_eq!(
        problems(&parsed),
        ["W sepc: unknown field, without effect; known here: spec, status"]
    );
    assert_eq!(parsed.object, parse(find(Kind::Mesh)).object);
}

#[test]
fn does_not_report_unknown_fields_of_native_kinds() {
    let parsed = parse(with(Kind::Service, "/spec/fromTheFuture", json!(1)));
    assert_eq!(problems(&parsed), [""; 0]);
    assert_eq!(parsed.object, parse(find(Kind::Service)).object);
}

#[test]
fn refuses_wrong_types() {
    refuses(
        with(
            Kind::VirtualNode,
            "/spec/listeners/0/portMapping/port",
            json!("8080"),
        ),
        &[
            "E spec.listeners[0].portMapping.port: must be an integer of 64 bits, not the text \"8080\"",
        ],
    );
    refuses(
        with(Kind::VirtualNode, "/spec/listeners", json!({})),
        &["E spec.listeners: must be a list, not an object"],
    );
    refuses(
        with(Kind::VirtualNode, "/spec/listeners", json!([null])),
        &["E spec.listeners[0]: must be an object, not null"],
    );
    refuses(
        with(Kind::VirtualService, "/spec/awsName", json!(["a"])),
        &["E spec.awsName: must be a text, not a list"],
    );
    refuses(
        with(
            Kind::VirtualRouter,
            "/spec/routes/0/httpRoute/match/headers/0/invert",
            json!(1.5),
        ),
        &[
            "E spec.routes[0].httpRoute.match.headers[0].invert: must be true or false, not the number 1.5",
        ],
    );
    refuses(
        with(
            Kind::Mesh,
            "/spec/namespaceSelector/matchLabels/mesh",
            json!(true),
        ),
        &["E spec.namespaceSelector.matchLabels.mesh: must be a text, not true"],
    );
    refuses(
        with(
            Kind::VirtualNode,
            "/metadata/labels",
            json!({ "version": 2 }),
        ),
        &["E metadata.labels.version: must be a text, not the number 2"],
    );
    refuses(
        with(Kind::Mesh, "/spec", json!(7)),
        &["E spec: must be an object, not the number 7"],
    );
}

#[test]
fn refuses_what_is_out_of_bounds() {
    let port = "/spec/listeners/0/portMapping/port";
    refuses(
        with(Kind::VirtualNode, port, json!(0)),
        &["E spec.listeners[0].portMapping.port: must be at least 1, not 0"],
    );
    refuses(
        with(Kind::VirtualNode, port, json!(65536)),
        &["E spec.listeners[0].portMapping.port: must be at most 65535, not 65536"],
    );
    for huge in [json!(u64::MAX), json!(1e300)] {
        let message = format!(
            "E spec.listeners[0].portMapping.port: must be an integer of 64 bits, not the number {huge}"
        );
        refuses(with(Kind::VirtualNode, port, huge), &[&message]);
    }
    refuses(
        with(
            Kind::VirtualNode,
            "/spec/logging/accessLog/file/path",
            json!(""),
        ),
        &["E spec.logging.accessLog.file.path: must not be empty"],
    );
    refuses(
        with(
            Kind::VirtualNode,
            "/spec/logging/accessLog/file/path",
            json!("ä".repeat(256)),
        ),
        &["E spec.logging.accessLog.file.path: must have at most 255 characters, not 256"],
    );
    refuses(
        with(Kind::VirtualRouter, "/spec/listeners", json!([])),
        &["E spec.listeners: must not be empty"],
    );
    let targets = vec![json!({ "weight": 1 }); 11];
    refuses(
        with(
            Kind::VirtualRouter,
            "/spec/routes/1/tcpRoute/action/weightedTargets",
            json!(targets),
        ),
        &["E spec.routes[1].tcpRoute.action.weightedTargets: must have at most 10 items, not 11"],
    );
    refuses(
        with(Kind::Mesh, "/spec/egressFilter/type", json!("ALLOW")),
        &["E spec.egressFilter.type: must be one of ALLOW_ALL, DROP_ALL, not \"ALLOW\""],
    );
}

#[test]
fn cuts_long_values_in_messages() {
    let long = "é".repeat(100);
    refuses(
        with(Kind::Mesh, "/spec/egressFilter/type", json!(long)),
        &[&format!(
            "E spec.egressFilter.type: must be one of ALLOW_ALL, DROP_ALL, not \"{}\"…",
            "é".repeat(64)
        )],
    );
}

#[test]
fn counts_characters_not_bytes() {
    let path = "/spec/logging/accessLog/file/path";
    let parsed = parse(with(Kind::VirtualNode, path, json!("ä".repeat(255))));
    assert_eq!(problems(&parsed), [""; 0]);
}

#[test]
fn refuses_what_lacks_a_required_field() {
    refuses(
        without(Kind::VirtualRouter, "/spec/routes/0/httpRoute/action"),
        &["E spec.routes[0].httpRoute.action: is required, but missing"],
    );
    refuses(
        with(Kind::VirtualRouter, "/spec/routes/0/name", json!(null)),
        &["E spec.routes[0].name: is required, but missing"],
    );
    refuses(
        without(Kind::Route, "/spec"),
        &["E spec: is required, but missing"],
    );
}

#[test]
fn tells_everything_that_is_wrong_at_once() {
    let mut document = with(
        Kind::VirtualNode,
        "/spec/listeners/0/portMapping",
        json!({ "port": 0 }),
    );
    document["spec"]["podSelector"] = json!("all");
    document["spec"]["pods"] = json!("all");
    refuses(
        document,
        &[
            "E spec.listeners[0].portMapping.port: must be at least 1, not 0",
            "E spec.listeners[0].portMapping.protocol: is required, but missing",
            "E spec.podSelector: must be an object, not the text \"all\"",
            "W spec.pods: unknown field, without effect; known here: awsName, backendDefaults, backendGroups, backends, listeners, logging, meshRef, podSelector, serviceDiscovery",
        ],
    );
}

#[test]
fn null_is_absent() {
    let parsed = parse(with(Kind::VirtualService, "/spec/provider", json!(null)));
    assert_eq!(problems(&parsed), [""; 0]);
    let expected = parse(without(Kind::VirtualService, "/spec/provider"));
    assert_eq!(parsed.object, expected.object);
    let parsed = parse(with(Kind::VirtualService, "/metadata/labels", json!(null)));
    assert_eq!(parsed.object, parse(find(Kind::VirtualService)).object);
}

#[test]
fn a_kind_of_app_mesh_needs_no_spec() {
    for spec in [json!(null), json!({})] {
        let parsed = parse(with(Kind::Mesh, "/spec", spec));
        assert_eq!(problems(&parsed), [""; 0]);
        assert!(parsed.object.is_some());
    }
    assert!(parse(without(Kind::VirtualNode, "/spec")).object.is_some());
}

#[test]
fn an_integer_may_have_a_fraction_of_zero() {
    let port = "/spec/listeners/0/portMapping/port";
    let parsed = parse(with(Kind::VirtualNode, port, json!(8080.0)));
    assert_eq!(parsed.object, parse(find(Kind::VirtualNode)).object);
    refuses(
        with(Kind::VirtualNode, port, json!(8080.5)),
        &[
            "E spec.listeners[0].portMapping.port: must be an integer of 64 bits, not the number 8080.5",
        ],
    );
}

#[test]
fn a_wrong_status_is_left_out() {
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
fn applies_the_rules_of_route() {
    refuses(
        without(Kind::Route, "/spec/httpRoute"),
        &["E spec: set exactly one of httpRoute, http2Route, grpcRoute and tcpRoute"],
    );
    refuses(
        with(Kind::Route, "/spec/httpRoute/match/prefix", json!("beta")),
        &["E spec.httpRoute: start match.prefix with a slash"],
    );
}

#[test]
fn namespaces_are_filled_in_or_left_out() {
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
fn names_are_subdomains() {
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
                "E metadata.name: Mesh: must be at most 253 small letters, digits, dashes and dots, with a letter or digit at both ends and around each dot"
            ],
            "{name}"
        );
        assert!(parsed.object.is_none() && parsed.id.is_none());
    }
    for namespace in ["", "a.b", "Shop", &"a".repeat(64)] {
        let parsed = parse(with(Kind::Pod, "/metadata/namespace", json!(namespace)));
        assert_eq!(
            problems(&parsed),
            [
                "E metadata.namespace: Pod: must be at most 63 small letters, digits and dashes, with a letter or digit at both ends"
            ],
            "{namespace}"
        );
    }
    assert_eq!(
        problems(&parse(without(Kind::Mesh, "/metadata/name"))),
        ["E metadata.name: Mesh: is required, but missing"]
    );
    assert_eq!(
        problems(&parse(without(Kind::Mesh, "/metadata"))),
        ["E metadata: Mesh: must be an object with a name"]
    );
    assert_eq!(
        problems(&parse(with(Kind::Mesh, "/metadata/name", json!(7)))),
        ["E metadata.name: Mesh: must be a text"]
    );
}

#[test]
fn names_a_kind_it_does_not_know() {
    let document = |api_version: &str, kind: &str| {
        parse(json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": "color" } }))
    };
    let parsed = document("apps/v1", "Deployment");
    assert_eq!(
        problems(&parsed),
        ["W : apps/v1 Deployment color: no kind that a mesh is made of"]
    );
    assert_eq!(parsed.problems[0].reason, Reason::UnknownKind);
    assert_eq!(
        problems(&document("appmesh.k8s.aws/v1beta1", "VirtualNode")),
        [
            "W : appmesh.k8s.aws/v1beta1 VirtualNode color: no kind that a mesh is made of; the version known here is appmesh.k8s.aws/v1beta2"
        ]
    );
    assert_eq!(
        problems(&document("route.openshift.io/v1", "Route")),
        ["W : route.openshift.io/v1 Route color: no kind that a mesh is made of"]
    );
}

#[test]
fn refuses_what_is_no_object() {
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
            ["E : not a Kubernetes object: apiVersion and kind are needed, both as text"]
        );
        assert_eq!(parsed.problems[0].reason, Reason::InvalidYaml);
        assert!(parsed.object.is_none() && parsed.id.is_none());
    }
}

#[test]
fn refuses_a_native_object_that_cannot_be_read() {
    refuses(
        with(Kind::Service, "/spec/ports", json!(8080)),
        &["E : cannot be read as a Service: invalid type: integer `8080`, expected a sequence"],
    );
    refuses(
        with(Kind::Mesh, "/metadata/generation", json!("two")),
        &["E : cannot be read as a Mesh: invalid type: string \"two\", expected i64"],
    );
}

#[test]
fn refuses_what_is_nested_too_deep() {
    let deep = |levels| (0..levels).fold(json!(1), |inner, _| Value::Array(vec![inner]));
    for kind in Kind::ALL {
        for at in ["/spec", "/metadata/labels", "/unknown", "/status"] {
            let parsed = parse(with(kind, at, deep(2000)));
            assert_eq!(problems(&parsed), ["E : nested more than 128 levels deep"]);
            assert!(parsed.object.is_none() && parsed.id.is_some());
        }
        assert!(parse(with(kind, "/unknown", deep(120))).object.is_some());
    }
}
