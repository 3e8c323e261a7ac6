use std::slice;

use evermesh_model::{Kind, ObjectRef, Protocol, ServicePort};
use serde_json::{Value, json};

use super::*;
use crate::{object::Object, seniority::ObjectAge};

fn node(backends: Option<&str>, application: Option<&str>) -> ObjectMeta {
    let annotations = [(BACKENDS, backends), (APPLICATION, application)];
    let annotations = annotations
        .into_iter()
        .filter_map(|(name, text)| Some((name.to_owned(), text?.to_owned())));
    ObjectMeta {
        annotations: Some(annotations.collect()),
        ..ObjectMeta::default()
    }
}

fn backend(hostname: &str, ports: &[u16]) -> IndexEntry<ServiceName> {
    let ports = ports.iter().map(|&port| ServicePort {
        port,
        protocol: Protocol::Http,
    });
    IndexEntry {
        name: ServiceName {
            mesh: "m".into(),
            hostname: hostname.into(),
        },
        object: ObjectRef::new(Kind::VirtualService, "a", hostname),
        ports: ports.collect(),
        virtual_ips: Vec::new(),
        age: ObjectAge::default(),
    }
}

/// The local ports and problems of a node with these annotations, the listeners 8080 and 9090 and three backends.
fn read(backends: &str, application: &str) -> (LocalPorts, Vec<(Reason, String)>) {
    let object = ObjectRef::new(Kind::VirtualNode, "a", "x");
    let mut problems = Problems::of(&object);
    let node = node(Some(backends), Some(application));
    let unresolved = parse(&node, &BTreeSet::from([8080, 9090]), &mut problems).unwrap();
    let served = [
        backend("Color.shop", &[80]),
        backend("many.shop", &[80, 81]),
        backend("unprovided.shop", &[]),
    ];
    let ports = unresolved.resolve(served.iter().map(|entry| (entry, true)), &mut problems);
    let problems = problems.into_list().into_iter();
    (
        ports,
        problems
            .map(|problem| (problem.reason, problem.message))
            .collect(),
    )
}

const BACKENDS_OK: &str = "color.shop=9001, many.shop:81=9002";
const APPLICATION_OK: &str = "8080=18080,9090=19090";

#[test]
fn both_annotations_are_parsed() {
    let (ports, problems) = read(
        " COLOR.shop = 9001 ,, many.shop : 81 = 9002,many.shop:80=9003",
        APPLICATION_OK,
    );
    assert_eq!(problems, []);
    let backends = ports.backends.iter().map(|(local, backend)| {
        let LocalBackend { service, port } = backend;
        format!("{local} {service} {port}")
    });
    assert_eq!(
        backends.collect::<Vec<_>>(),
        [
            "9001 Color.shop 80",
            "9002 many.shop 81",
            "9003 many.shop 80"
        ]
    );
    let application = [(8080, 18080), (9090, 19090)];
    assert_eq!(ports.application, application.into());
}

#[test]
fn traffic_is_intercepted_without_annotations_only() {
    for (node, is_intercepted) in [
        (node(None, None), true),
        (node(Some(""), None), false),
        (node(None, Some("")), false),
        (ObjectMeta::default(), true),
    ] {
        assert_eq!(super::is_intercepted(&node), is_intercepted);
        let object = ObjectRef::new(Kind::VirtualNode, "a", "x");
        let mut problems = Problems::of(&object);
        let unresolved = parse(&node, &BTreeSet::new(), &mut problems);
        assert_eq!(unresolved.is_none(), is_intercepted);
        assert_eq!(problems.into_list(), []);
    }
}

#[test]
fn invalid_backend_entry_does_not_affect_other_entries() {
    for (item, reason) in [
        ("color.shop", Reason::InvalidValue),
        ("=9009", Reason::InvalidValue),
        (":80=9009", Reason::InvalidValue),
        ("color.shop=", Reason::InvalidValue),
        ("color.shop=0", Reason::InvalidValue),
        ("color.shop=65536", Reason::InvalidValue),
        ("color.shop=-1", Reason::InvalidValue),
        ("color.shop:0=9009", Reason::InvalidValue),
        ("color.shop:x=9009", Reason::InvalidValue),
        ("color.shop=15000", Reason::PortConflict),
        ("color.shop=15001", Reason::PortConflict),
        ("color.shop=9901", Reason::PortConflict),
        ("color.shop=8080", Reason::PortConflict),
        ("color.shop=18080", Reason::PortConflict),
        ("color.shop=9002", Reason::PortConflict),
        ("other.shop=9009", Reason::ReferenceNotFound),
        ("color.shop:81=9009", Reason::PortNotFound),
        ("unprovided.shop=9009", Reason::PortNotFound),
        ("unprovided.shop:80=9009", Reason::PortNotFound),
        ("many.shop=9009", Reason::PortRequired),
    ] {
        let (ports, problems) = read(&format!("{BACKENDS_OK},{item}"), APPLICATION_OK);
        assert!(ports.backends.keys().eq(&[9001, 9002]), "{item}: {ports:?}");
        assert_eq!(ports.application.len(), 2, "{item}");
        let [(found, message)] = problems.as_slice() else {
            panic!("{item}: {problems:?}")
        };
        assert_eq!(*found, reason, "{item}: {message}");
    }
}

#[test]
fn invalid_application_entry_does_not_affect_other_entries() {
    for (item, reason) in [
        ("9090=", Reason::InvalidValue),
        ("9090=0", Reason::InvalidValue),
        ("9090=65536", Reason::InvalidValue),
        ("9090=x", Reason::InvalidValue),
        ("9090=15001", Reason::PortConflict),
        ("9090=9901", Reason::PortConflict),
        // The proxy would call itself.
        ("9090=9090", Reason::PortConflict),
        ("9090=8080", Reason::PortConflict),
    ] {
        let (ports, problems) = read(BACKENDS_OK, &format!("8080=18080,{item}"));
        assert_eq!(ports.application, [(8080, 18080)].into(), "{item}");
        assert_eq!(ports.backends.len(), 2, "{item}");
        let [(found, message)] = problems.as_slice() else {
            panic!("{item}: {problems:?}")
        };
        assert_eq!(*found, reason, "{item}: {message}");
    }
    for (item, reason) in [
        ("9090", Reason::InvalidValue),
        ("x=19090", Reason::InvalidValue),
        ("9091=19091", Reason::PortNotFound),
        ("8080=28080", Reason::PortConflict),
    ] {
        let (ports, problems) = read(BACKENDS_OK, &format!("{APPLICATION_OK},{item}"));
        let application = [(8080, 18080), (9090, 19090)];
        assert_eq!(ports.application, application.into(), "{item}");
        let reasons = problems.iter().map(|(reason, _)| reason);
        assert!(reasons.eq(slice::from_ref(&reason)), "{item}: {problems:?}");
    }
}

#[test]
fn missing_listeners_and_backends_are_problems() {
    let (ports, problems) = read("color.shop=9001", "8080=18080");
    assert_eq!((ports.backends.len(), ports.application.len()), (1, 1));
    let expected = ["listener 9090", "cannot call `many.shop`"];
    assert_eq!(problems.len(), expected.len(), "{problems:?}");
    for ((reason, message), part) in problems.iter().zip(expected) {
        assert_eq!(*reason, Reason::PortRequired);
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn listener_on_a_port_of_the_proxy_is_rejected_without_interception() {
    let object = ObjectRef::new(Kind::VirtualNode, "a", "x");
    let mut problems = Problems::of(&object);
    let node = node(None, Some("15001=8080"));
    let unresolved = parse(&node, &BTreeSet::from([15001]), &mut problems).unwrap();
    assert_eq!(unresolved.application, BTreeMap::new());
    let problems = problems.into_list();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].reason, Reason::PortConflict);
    assert_eq!(
        problems[0].field.as_str(),
        "metadata.annotations[evermesh.dev/application-ports]"
    );
}

#[test]
fn strict_listener_without_an_application_port_is_unprotected() {
    let node = |annotations: &Value| {
        let listener = |port: u16, mode: &str| {
            json!({
                "portMapping": { "port": port, "protocol": "http" },
                "tls": { "mode": mode, "certificate": {} },
            })
        };
        let parsed = crate::object::parse(json!({
            "apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "VirtualNode",
            "metadata": { "name": "x", "namespace": "a", "annotations": annotations },
            "spec": { "listeners": [
                listener(8080, "STRICT"),
                listener(8081, "PERMISSIVE"),
                { "portMapping": { "port": 8082, "protocol": "http" } },
                listener(8443, "STRICT"),
            ] },
        }));
        match parsed.object {
            Some((_, Object::VirtualNode(node))) => node,
            other => panic!("{other:?}: {:?}", parsed.problems),
        }
    };
    for (annotations, expected) in [
        (json!({}), &[][..]),
        (json!({ BACKENDS: "" }), &[8080, 8443]),
        (json!({ APPLICATION: "" }), &[8080, 8443]),
        (json!({ APPLICATION: "8080=18080,8081=18081" }), &[8443]),
        (json!({ APPLICATION: "8080=18080,8443=0" }), &[8443]),
        (json!({ APPLICATION: "8080=18080,8443=18443" }), &[]),
    ] {
        assert_eq!(unprotected(&node(&annotations)), expected, "{annotations}");
    }
}
