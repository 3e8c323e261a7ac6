//! The schema of each leaf.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

/// The part of a leaf's schema that this test needs.
pub(crate) struct LeafSchema {
    pub(crate) is_selector: bool,
    /// The permitted values; empty if any value of the type is permitted.
    pub(crate) values: Vec<String>,
}

/// The schemas of all kinds.
pub(crate) struct Schemas(BTreeMap<String, JSONSchemaProps>);

impl Default for Schemas {
    fn default() -> Self {
        let definitions = evermesh_crds::all().into_iter().map(|definition| {
            let version = definition.spec.versions.into_iter().next().unwrap();
            let schema = version.schema.unwrap().open_api_v3_schema.unwrap();
            (definition.spec.names.kind, schema)
        });
        Self(definitions.collect())
    }
}

impl Schemas {
    /// The schema of a leaf, such as `.spec.routes[].name`.
    pub(crate) fn leaf(&self, kind: &str, path: &str) -> LeafSchema {
        let mut schema = &self.0[kind];
        for step in super::case::steps(path) {
            schema = match step {
                "[]" => match &schema.items {
                    Some(JSONSchemaPropsOrArray::Schema(items)) => items,
                    _ => panic!("{kind} {path}: no items"),
                },
                "{*}" => match &schema.additional_properties {
                    Some(JSONSchemaPropsOrBool::Schema(values)) => values,
                    _ => panic!("{kind} {path}: no additional properties"),
                },
                name => &schema.properties.as_ref().unwrap()[name],
            };
        }
        let values = schema.enum_.iter().flatten();
        LeafSchema {
            is_selector: schema.x_kubernetes_map_type.is_some(),
            values: values
                .map(|value| value.0.as_str().unwrap().to_owned())
                .collect(),
        }
    }
}
