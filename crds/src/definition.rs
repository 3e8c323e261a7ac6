//! Adjusts the custom resource definitions that the derive macro of kube generates.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

/// Adjusts the definition of an App Mesh kind. As in App Mesh's own definitions, `spec` is optional and unknown fields at
/// the root of an object are preserved.
pub(crate) fn app_mesh(definition: CustomResourceDefinition) -> CustomResourceDefinition {
    with_root(definition, |root| {
        root.required = None;
        root.x_kubernetes_preserve_unknown_fields = Some(true);
    })
}

/// Adjusts the definition of a kind that only Evermesh has.
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

/// Removes from a schema what only Rust needs.
///
/// An optional field may be absent and not null. Integers have the format `int64` and the limits `minimum` and
/// `maximum`, because Kubernetes has no unsigned formats. Descriptions have no line breaks.
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
