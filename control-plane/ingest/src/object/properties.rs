//! Properties of parsing that hold for arbitrary documents.

use evermesh_model::Severity;
use proptest::prelude::*;

use super::{
    tests::{find, valid},
    *,
};

fn any_json() -> impl Strategy<Value = Value> {
    let words = prop_oneof![
        Just("spec"),
        Just("name"),
        Just("port"),
        Just("match"),
        Just("listeners"),
        Just("httpRoute"),
        Just("metadata"),
        Just("weightedTargets"),
    ];
    let key = prop_oneof![words.prop_map(str::to_owned), ".{0,4}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-1..70_000_i64).prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..6)
                .prop_map(|fields| fields.into_iter().collect()),
        ]
    })
}

/// All leaf values of a document.
fn leaves(value: &mut Value) -> Vec<&mut Value> {
    let mut found = Vec::new();
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        if value.as_object().is_some_and(|fields| !fields.is_empty()) {
            open.extend(value.as_object_mut().unwrap().values_mut());
        } else if value.as_array().is_some_and(|items| !items.is_empty()) {
            open.extend(value.as_array_mut().unwrap());
        } else {
            found.push(value);
        }
    }
    found
}

/// Asserts that a document without object has a problem, that a document with an object has no error, and that the object
/// is parsed again without problems from its serialised form.
fn check(document: Value) -> Result<(), TestCaseError> {
    let parsed = parse(document);
    let has_error = parsed
        .problems
        .iter()
        .any(|problem| problem.severity == Severity::Error);
    prop_assert!(parsed.object.is_none() || !has_error);
    prop_assert!(parsed.object.is_some() || !parsed.problems.is_empty());
    if let Some((id, object)) = parsed.object {
        prop_assert_eq!(Some(&id), parsed.id.as_ref());
        let again = match &object {
            Object::Mesh(object) => serde_json::to_value(&**object),
            Object::VirtualNode(object) => serde_json::to_value(&**object),
            Object::VirtualService(object) => serde_json::to_value(&**object),
            Object::VirtualRouter(object) => serde_json::to_value(&**object),
            Object::VirtualGateway(object) => serde_json::to_value(&**object),
            Object::GatewayRoute(object) => serde_json::to_value(&**object),
            Object::BackendGroup(object) => serde_json::to_value(&**object),
            Object::Route(object) => serde_json::to_value(&**object),
            Object::Namespace(object) => serde_json::to_value(&**object),
            Object::Service(object) => serde_json::to_value(&**object),
            Object::EndpointSlice(object) => serde_json::to_value(&**object),
            Object::Pod(object) => serde_json::to_value(&**object),
            Object::Node(object) => serde_json::to_value(&**object),
            // A Secret is not serialised, because it may contain a private key.
            Object::Secret(_) => return Ok(()),
        };
        let again = parse(again.unwrap());
        prop_assert_eq!(again.problems, vec![]);
        prop_assert_eq!(again.object, Some((id, object)));
    }
    Ok(())
}

proptest! {
    #[test]
    fn arbitrary_json_is_parsed(document in any_json()) {
        check(document)?;
    }

    #[test]
    fn arbitrary_body_of_any_kind_is_parsed(
        kind in prop::sample::select(Kind::ALL.to_vec()),
        metadata in any_json(),
        spec in any_json(),
        status in any_json(),
    ) {
        let mut document = find(kind);
        if let Value::Object(metadata) = metadata {
            document["metadata"].as_object_mut().unwrap().extend(metadata);
        }
        document["spec"] = spec;
        document["status"] = status;
        check(document)?;
    }

    #[test]
    fn changed_valid_document_is_parsed(
        document in prop::sample::select(valid().to_vec()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any_json()), 1..4),
    ) {
        let mut document = document;
        for (index, value) in changes {
            let mut leaves = leaves(&mut document);
            let leaf = index.index(leaves.len());
            *leaves.swap_remove(leaf) = value;
        }
        check(document)?;
    }
}
