//! The custom resource definitions, brought from what the derive makes to what we want.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

/// A definition of a kind of App Mesh: its `spec` may be absent, and fields at the root of an object
/// that the schema does not know are kept.
pub(crate) fn app_mesh(definition: CustomResourceDefinition) -> CustomResourceDefinition {
    with_root(definition, |root| {
        root.required = None;
        root.x_kubernetes_preserve_unknown_fields = Some(true);
    })
}

/// A definition of a kind of our own.
pub(crate) fn extension(definition: CustomResourceDefinition) -> CustomResourceDefinition {
    with_root(definition, |_| {})
}

fn with_root(
    mut definition: CustomResourceDefinition,
    edit: impl Fn(&mut JSONSchemaProps),
) -> CustomResourceDefinition {
    definition
        .spec
        .versions
        .iter_mut()
        .filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut())
        .for_each(|root| {
            root.title = None;
            tidy(root);
            edit(root);
        });
    definition
}

/// Takes out of a schema what only Rust needs. An absent field is absent, not null; an integer is one of
/// 64 bits, limited by `minimum` and `maximum`, since Kubernetes knows no unsigned ones; and a
/// description is one line.
fn tidy(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if let Some(values) = &mut schema.enum_ {
        values.retain(|value| !value.0.is_null());
    }
    if schema.type_.as_deref() == Some("integer") {
        schema.format = Some("int64".to_owned());
    }
    if let Some(description) = &mut schema.description {
        *description = description.replace('\n', " ");
    }
    schema
        .properties
        .iter_mut()
        .flat_map(|properties| properties.values_mut())
        .for_each(tidy);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        tidy(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        tidy(values);
    }
}
