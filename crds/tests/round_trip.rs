//! The types deserialize every field of their schema, and serialize it unchanged.
#![allow(clippy::unwrap_used)] // a test may panic, and so may its helpers

use evermesh_crds::{extension, v1beta2};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

#[test]
fn every_field_survives_a_round_trip() {
    check::<v1beta2::Mesh>("Mesh");
    check::<v1beta2::VirtualNode>("VirtualNode");
    check::<v1beta2::VirtualService>("VirtualService");
    check::<v1beta2::VirtualRouter>("VirtualRouter");
    check::<v1beta2::VirtualGateway>("VirtualGateway");
    check::<v1beta2::GatewayRoute>("GatewayRoute");
    check::<v1beta2::BackendGroup>("BackendGroup");
    check::<extension::Route>("Route");
}

fn check<T: Serialize + DeserializeOwned>(kind: &str) {
    let definition = evermesh_crds::all()
        .into_iter()
        .find(|definition| definition.spec.names.kind == kind)
        .unwrap();
    let schema = definition.spec.versions[0].schema.as_ref().unwrap();
    let schema = schema.open_api_v3_schema.as_ref().unwrap();
    for choice in [None].into_iter().chain((0..9).map(Some)) {
        let mut object = example(schema, choice);
        object["apiVersion"] = format!(
            "{}/{}",
            definition.spec.group, definition.spec.versions[0].name
        )
        .into();
        object["kind"] = kind.into();
        object["metadata"] = json!({ "name": "example" });
        if object.get("spec").is_none() {
            object["spec"] = json!({});
        }
        let read: T = serde_json::from_value(object.clone()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), object);
    }
}

/// An example for a schema: without a choice, the required fields only; else all fields, with the value of this index
/// for each enumeration.
fn example(schema: &JSONSchemaProps, choice: Option<usize>) -> Value {
    let required = |name: &String| schema.required.iter().flatten().any(|other| other == name);
    match schema.type_.as_deref().unwrap() {
        "object" => {
            let mut fields: Map<String, Value> = schema
                .properties
                .iter()
                .flatten()
                .filter(|(name, _)| choice.is_some() || required(name))
                .map(|(name, field)| (name.clone(), example(field, choice)))
                .collect();
            if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
                fields.insert("key".to_owned(), example(values, choice));
            }
            fields.into()
        }
        "array" => {
            let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items else {
                panic!("an array schema without items");
            };
            json!([example(items, choice), example(items, choice)])
        }
        "string" => match &schema.enum_ {
            Some(values) => values[choice.unwrap_or_default() % values.len()].0.clone(),
            None if schema.format.as_deref() == Some("date-time") => "2026-09-30T00:00:00Z".into(),
            None => "text".into(),
        },
        "integer" => {
            let bound = if choice.is_some() {
                schema.maximum
            } else {
                schema.minimum
            };
            #[expect(clippy::cast_possible_truncation)] // all limits are small integers
            bound.map_or(7, |bound| bound as i64).into()
        }
        "boolean" => choice.is_some_and(|choice| choice % 2 == 0).into(),
        other => panic!("unexpected type `{other}` in a schema"),
    }
}
