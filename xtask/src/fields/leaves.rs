//! The leaves of the CRDs in `crds/yaml`, by kind and path.
//!
//! A leaf is a field with a value of its own: a scalar, a label selector, a list with limits, and every required field.
//! `crds/tests/schema.rs` compares the same leaves with those of App Mesh.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::files;

/// Every leaf as `Kind path`, such as `Mesh .spec.awsName`.
///
/// # Errors
///
/// If a definition cannot be read or has no schema.
pub(crate) fn of_all_kinds() -> Result<BTreeSet<String>> {
    let mut leaves = BTreeSet::new();
    for file in files::with_suffix(&[".yaml"])? {
        if file.path.starts_with("crds/yaml/") {
            let definition = serde_saphyr::from_str(&file.text).context(file.path.clone())?;
            leaves.extend(of_kind(&definition).context(file.path)?);
        }
    }
    Ok(leaves)
}

/// The leaves of one definition.
fn of_kind(definition: &Value) -> Result<BTreeSet<String>> {
    let kind = definition["spec"]["names"]["kind"].as_str();
    let kind = kind.context("the definition has no spec.names.kind")?;
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut leaves = BTreeSet::new();
    for part in ["spec", "status"] {
        let schema = &schema["properties"][part];
        collect(&format!("{kind} .{part}"), schema, false, &mut leaves);
    }
    Ok(leaves)
}

fn collect(at: &str, schema: &Value, is_required: bool, leaves: &mut BTreeSet<String>) {
    let is_selector = schema["x-kubernetes-map-type"].is_string();
    let children = if is_selector {
        Vec::new()
    } else {
        children(schema)
    };
    let is_leaf = match schema["type"].as_str() {
        Some("object") => is_required || children.is_empty(),
        Some("array") => {
            let has_limits = schema["minItems"].is_u64() || schema["maxItems"].is_u64();
            is_required || has_limits
        }
        Some(_) => true,
        None => false,
    };
    if is_leaf {
        leaves.insert(at.to_owned());
    }
    let required = schema["required"].as_array();
    for (step, child) in children {
        let is_required = required
            .into_iter()
            .flatten()
            .any(|name| name.as_str() == step.strip_prefix('.'));
        collect(&format!("{at}{step}"), child, is_required, leaves);
    }
}

fn children(schema: &Value) -> Vec<(String, &Value)> {
    let properties = schema["properties"].as_object().into_iter().flatten();
    let mut children: Vec<(String, &Value)> = properties
        .map(|(name, child)| (format!(".{name}"), child))
        .collect();
    let lists = [("[]", "items"), (".{*}", "additionalProperties")];
    children.extend(lists.into_iter().filter_map(|(step, field)| {
        let child = schema.get(field)?;
        child.is_object().then(|| (step.to_owned(), child))
    }));
    children
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(spec: &str) -> Vec<String> {
        let yaml = format!(
            "spec: {{names: {{kind: K}}, versions: [{{schema: {{openAPIV3Schema: \
             {{type: object, properties: {{spec: {spec}}}}}}}}}]}}"
        );
        let leaves = of_kind(&serde_saphyr::from_str(&yaml).unwrap()).unwrap();
        leaves.into_iter().collect()
    }

    #[test]
    fn scalars_selectors_and_values_of_maps_are_leaves() {
        assert_eq!(
            leaves(
                "{type: object, properties: {a: {type: string}, \
                 s: {type: object, x-kubernetes-map-type: atomic, properties: {m: {type: string}}}, \
                 m: {type: object, additionalProperties: {type: integer}}}}"
            ),
            ["K .spec.a", "K .spec.m.{*}", "K .spec.s"]
        );
    }

    #[test]
    fn objects_are_leaves_if_they_are_required_or_empty() {
        assert_eq!(
            leaves(
                "{type: object, required: [r], properties: {\
                 r: {type: object, properties: {a: {type: string}}}, \
                 o: {type: object, properties: {b: {type: string}}}, \
                 e: {type: object}}}"
            ),
            ["K .spec.e", "K .spec.o.b", "K .spec.r", "K .spec.r.a"]
        );
    }

    #[test]
    fn lists_are_leaves_if_they_are_required_or_limited() {
        assert_eq!(
            leaves(
                "{type: object, required: [r], properties: {\
                 r: {type: array, items: {type: string}}, \
                 l: {type: array, maxItems: 2, items: {type: object, properties: {a: {type: string}}}}, \
                 o: {type: array, items: {type: object, properties: {b: {type: string}}}}}}"
            ),
            [
                "K .spec.l",
                "K .spec.l[].a",
                "K .spec.o[].b",
                "K .spec.r",
                "K .spec.r[]"
            ]
        );
    }
}
