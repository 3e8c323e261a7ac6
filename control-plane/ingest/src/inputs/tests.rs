use serde_json::{Value, json};

use super::*;
use crate::object::parse;

fn read(document: Value) -> (ObjectRef, Object) {
    let parsed = parse(document);
    parsed
        .object
        .unwrap_or_else(|| panic!("{:?}", parsed.problems))
}

#[test]
fn object_of_every_kind_is_stored_and_removed_once() {
    let documents = include_str!("../../testdata/object/valid.yaml");
    let documents: Vec<Value> = serde_saphyr::from_multiple(documents).unwrap();
    let mut kinds = Vec::new();
    for document in documents {
        let mut inputs = Inputs::default();
        let (reference, object) = read(document);
        let unknown = ObjectRef::new(
            reference.kind,
            Arc::clone(&reference.namespace),
            "other".to_owned(),
        );
        // The inputs contain only a digested form of a Secret.
        let stored = (reference.kind != Kind::Secret).then(|| object.clone());
        assert_eq!(inputs.get(&reference), None);
        assert!(!inputs.apply(reference.clone(), None), "{reference}");
        assert!(inputs.apply(reference.clone(), Some(object.clone())));
        assert_eq!(inputs.get(&reference), stored);
        assert!(
            !inputs.apply(reference.clone(), Some(object)),
            "{reference}"
        );
        assert!(!inputs.apply(unknown, None), "{reference}");
        assert_eq!(inputs.get(&reference), stored);
        assert!(inputs.apply(reference.clone(), None), "{reference}");
        assert_eq!(inputs.get(&reference), None);
        assert!(!inputs.apply(reference.clone(), None), "{reference}");
        kinds.push(reference.kind);
    }
    assert_eq!(kinds, Kind::ALL);
}

/// An `EndpointSlice` with one address.
fn slice(name: &str, service: Option<&str>, address: &str) -> (ObjectRef, Object) {
    read(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": name, "namespace": "shop",
            "labels": service.map(|service| json!({ "kubernetes.io/service-name": service })),
        },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [address] }],
    }))
}

/// The owners of slices, each with the number of its slices.
fn owners(inputs: &Inputs) -> Vec<(&str, usize)> {
    let slices = inputs.endpoint_slices.by_owner().iter();
    slices
        .map(|(service, slices)| (&*service.name, slices.len()))
        .collect()
}

#[test]
fn object_with_another_owner_leaves_the_last_one() {
    let mut inputs = Inputs::default();
    let mut apply = |slice: (ObjectRef, Object)| {
        let (reference, object) = slice;
        let is_changed = inputs.apply(reference, Some(object));
        let owners = owners(&inputs).into_iter();
        let owners: Vec<_> = owners
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        (is_changed, owners.join(", "))
    };
    let changed = |owners: &str| (true, owners.to_owned());
    assert_eq!(
        apply(slice("a", Some("color"), "10.0.0.1")),
        changed("color 1")
    );
    assert_eq!(
        apply(slice("b", Some("color"), "10.0.0.2")),
        changed("color 2")
    );
    assert_eq!(
        apply(slice("a", Some("tone"), "10.0.0.1")),
        changed("color 1, tone 1")
    );
    assert_eq!(
        apply(slice("a", Some("tone"), "10.0.0.3")),
        changed("color 1, tone 1")
    );
    assert_eq!(
        apply(slice("a", Some("tone"), "10.0.0.3")),
        (false, "color 1, tone 1".to_owned())
    );
    assert_eq!(apply(slice("a", None, "10.0.0.3")), changed("color 1"));
    assert_eq!(
        apply(slice("a", None, "10.0.0.3")),
        (false, "color 1".to_owned())
    );
}

#[test]
fn namespaces_of_owned_objects_are_listed_once() {
    let mut inputs = Inputs::default();
    for (namespace, name) in [("b", "x"), ("a", "x"), ("a", "y"), ("a-b", "x"), ("a", "z")] {
        let (reference, object) = read(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": namespace },
            "spec": { "containers": [] },
        }));
        assert!(inputs.apply(reference, Some(object)));
    }
    let namespaces: Vec<&str> = inputs.pods.namespaces().map(|it| &**it).collect();
    assert_eq!(namespaces, ["a", "a-b", "b"]);
}

#[test]
fn cloud_map_service_without_a_state_is_forgotten() {
    let mut inputs = Inputs::default();
    let service = |service: &str| CloudMapService {
        namespace: "shop.local".into(),
        service: service.into(),
    };
    inputs.set_cloud_map(service("color"), Some(Arc::default()));
    inputs.set_cloud_map(service("tone"), Some(Arc::default()));
    inputs.set_cloud_map(service("color"), None);
    assert!(inputs.cloud_map.into_keys().eq([service("tone")]));
}

#[test]
fn settings_are_compared_by_value() {
    let settings = |endpoint_slices| IngestSettings { endpoint_slices };
    assert!(settings(false).fast_eq(&settings(false)));
    assert!(!settings(false).fast_eq(&settings(true)));
}
