//! The schemas of App Mesh's kinds have exactly the leaves that are recorded in `testdata/leaves.tsv`.
#![allow(clippy::unwrap_used)] // a test may panic, and so may its helpers

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

/// Type, required mark and limits of each leaf, by kind and path.
type Leaves = BTreeMap<String, String>;

#[test]
fn leaves_equal_those_of_app_mesh() {
    let recorded = recorded();
    assert_eq!(recorded.len(), 433);
    let generated: Leaves = app_mesh()
        .iter()
        .flat_map(|definition| leaves(&definition.spec.names.kind, root(definition)))
        .collect();

    let differences: Vec<String> = recorded
        .keys()
        .chain(generated.keys())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .filter_map(|leaf| match (recorded.get(leaf), generated.get(leaf)) {
            (Some(was), None) => Some(format!("{leaf} is missing; it was {was}")),
            (None, Some(is)) => Some(format!("{leaf} is new: {is}")),
            (Some(was), Some(is)) if was != is => Some(format!("{leaf} was {was}, is {is}")),
            _ => None,
        })
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn app_mesh_schemas_have_no_defaults_rules_or_nulls() {
    for definition in app_mesh() {
        let kind = &definition.spec.names.kind;
        each(kind, root(&definition), &mut |path, schema| {
            assert!(schema.default.is_none(), "{path} has a default");
            assert!(
                schema.x_kubernetes_validations.is_none(),
                "{path} has a validation rule"
            );
            assert!(schema.nullable.is_none(), "{path} is nullable");
            let is_root = path == kind;
            assert_eq!(
                schema.x_kubernetes_preserve_unknown_fields,
                is_root.then_some(true),
                "{path}: unknown fields must be preserved at the root, and nowhere else"
            );
            assert!(
                !is_root || schema.required.is_none(),
                "{path}: a field of the root is required"
            );
        });
    }
}

#[test]
fn label_selectors_are_atomic() {
    let selectors = [
        ("Mesh", "namespaceSelector"),
        ("VirtualNode", "podSelector"),
        ("VirtualGateway", "namespaceSelector"),
        ("VirtualGateway", "gatewayRouteSelector"),
        ("VirtualGateway", "podSelector"),
    ];
    for (kind, field) in selectors {
        let definition = find(kind);
        let selector = &properties(&properties(root(&definition))["spec"])[field];
        assert_eq!(
            selector.x_kubernetes_map_type.as_deref(),
            Some("atomic"),
            "{kind}: {field}"
        );
    }
}

#[test]
fn every_field_is_described() {
    for definition in evermesh_crds::all() {
        let kind = &definition.spec.names.kind;
        each(kind, root(&definition), &mut |path, schema| {
            let item = path.ends_with("[]") || path.ends_with("{*}");
            assert!(item || schema.description.is_some(), "{path}");
        });
    }
}

/// Without an empty description of the type, schemars replaces the description of an optional field by that of its
/// enumeration.
#[test]
fn optional_enumerations_keep_the_description_of_the_field() {
    let mesh = find("Mesh");
    let discovery = &properties(&properties(root(&mesh))["spec"])["meshServiceDiscovery"];
    assert_eq!(
        properties(discovery)["ipPreference"].description.as_deref(),
        Some(
            "The only IP family of endpoints: `IPv4_ONLY` or `IPv6_ONLY`. Proxies then listen on both families. Default: endpoints of both families, and proxies listen on IPv4 only."
        )
    );
    for definition in evermesh_crds::all() {
        let kind = &definition.spec.names.kind;
        each(kind, root(&definition), &mut |path, schema| {
            for field in schema.properties.iter().flatten() {
                let (name, field) = field;
                let optional = !schema.required.iter().flatten().any(|other| other == name);
                assert!(
                    field.enum_.is_none() || !optional || {
                        let description = field.description.as_deref().unwrap();
                        description.contains("Default: ")
                    },
                    "{path}.{name}"
                );
            }
        });
    }
}

#[test]
fn names_scopes_and_columns_are_stable() {
    let facts: Vec<String> = evermesh_crds::all()
        .iter()
        .map(|definition| {
            let spec = &definition.spec;
            let [version] = spec.versions.as_slice() else {
                panic!("{} does not have exactly one version", spec.names.kind);
            };
            assert!(version.served && version.storage);
            assert!(version.subresources.as_ref().unwrap().status.is_some());
            assert!(version.subresources.as_ref().unwrap().scale.is_none());
            assert!(spec.names.short_names.is_none());
            let columns: Vec<_> = version
                .additional_printer_columns
                .iter()
                .flatten()
                .map(|column| format!("{}={}", column.name, column.json_path))
                .collect();
            format!(
                "{}/{} {} {} {} {:?} {}",
                spec.group,
                version.name,
                spec.names.plural,
                spec.names.singular.as_deref().unwrap(),
                spec.scope,
                spec.names.categories.as_deref().unwrap_or_default(),
                columns.join(" ")
            )
        })
        .collect();
    let age = "AGE=.metadata.creationTimestamp";
    let condition = |name, field| format!(".status.conditions[?(@.type==\"{name}\")].{field}");
    let programmed = format!("PROGRAMMED={}", condition("Programmed", "status"));
    let weights = format!("WEIGHTS={}", condition("WeightsAcked", "message"));
    let provider = "HOST=.spec.awsName PROVIDER=.spec.provider..name";
    assert_eq!(
        facts,
        [
            format!(
                "appmesh.k8s.aws/v1beta2 meshes mesh Cluster [] {programmed} ARN=.status.meshARN {age}"
            ),
            format!(
                "appmesh.k8s.aws/v1beta2 virtualnodes virtualnode Namespaced [\"all\"] {programmed} ARN=.status.virtualNodeARN {age}"
            ),
            format!(
                "appmesh.k8s.aws/v1beta2 virtualservices virtualservice Namespaced [\"all\"] {provider} {programmed} ARN=.status.virtualServiceARN {age}"
            ),
            format!(
                "appmesh.k8s.aws/v1beta2 virtualrouters virtualrouter Namespaced [\"all\"] {weights} {programmed} ARN=.status.virtualRouterARN {age}"
            ),
            format!(
                "appmesh.k8s.aws/v1beta2 virtualgateways virtualgateway Namespaced [\"all\"] {programmed} ARN=.status.virtualGatewayARN {age}"
            ),
            format!(
                "appmesh.k8s.aws/v1beta2 gatewayroutes gatewayroute Namespaced [\"all\"] {programmed} ARN=.status.gatewayRouteARN {age}"
            ),
            "appmesh.k8s.aws/v1beta2 backendgroups backendgroup Namespaced [\"all\"] ".to_owned(),
            format!(
                "evermesh.dev/v1alpha1 routes route Namespaced [\"all\"] ROUTER=.spec.virtualRouterRef.name {weights} {programmed} {age}"
            ),
        ]
    );
}

/// An inline route and a `Route` object have the same fields, except `name` and `virtualRouterRef`.
#[test]
fn route_has_the_fields_of_an_inline_route() {
    let router = find("VirtualRouter");
    let inline = &properties(&properties(root(&router))["spec"])["routes"];
    let Some(JSONSchemaPropsOrArray::Schema(inline)) = &inline.items else {
        panic!("the schema of routes has no items");
    };
    let route = find("Route");
    let own = &properties(root(&route))["spec"];

    let mut inline = leaves("", inline);
    assert!(inline.remove(".name").is_some());
    let mut own = leaves("", own);
    own.retain(|path, _| !path.starts_with(".virtualRouterRef"));
    assert_eq!(inline, own);
}

fn app_mesh() -> Vec<CustomResourceDefinition> {
    let mut definitions = evermesh_crds::all();
    definitions.retain(|definition| definition.spec.group == "appmesh.k8s.aws");
    assert_eq!(definitions.len(), 7);
    definitions
}

fn find(kind: &str) -> CustomResourceDefinition {
    evermesh_crds::all()
        .into_iter()
        .find(|definition| definition.spec.names.kind == kind)
        .unwrap()
}

fn root(definition: &CustomResourceDefinition) -> &JSONSchemaProps {
    let schema = definition.spec.versions[0].schema.as_ref().unwrap();
    schema.open_api_v3_schema.as_ref().unwrap()
}

fn properties(schema: &JSONSchemaProps) -> &BTreeMap<String, JSONSchemaProps> {
    schema.properties.as_ref().unwrap()
}

fn recorded() -> Leaves {
    include_str!("testdata/leaves.tsv")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let [kind, path, what @ ..] = &line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("not a record of a leaf: {line}");
            };
            (format!("{kind}{path}"), what.join(" "))
        })
        .collect()
}

/// All leaves of a schema, in the form of the record.
fn leaves(at: &str, schema: &JSONSchemaProps) -> Leaves {
    let mut leaves = Leaves::new();
    collect(at, schema, false, &mut leaves);
    leaves
}

fn collect(at: &str, schema: &JSONSchemaProps, required: bool, into: &mut Leaves) {
    let kind = schema.type_.as_deref().unwrap();
    let selector = schema.x_kubernetes_map_type.is_some();
    let mut limits = limits(schema);
    if selector {
        limits = String::from("label selector");
    }
    let children = if selector { vec![] } else { children(schema) };
    let is_leaf = match kind {
        "object" => required || children.is_empty(),
        "array" => required || !limits.is_empty(),
        _ => true,
    };
    if is_leaf {
        let mark = if required { "R" } else { "" };
        into.insert(at.to_owned(), format!("{kind} {mark} {limits}"));
    }
    for (step, child) in children {
        let required = (schema.required.iter().flatten()).any(|name| step == format!(".{name}"));
        collect(&format!("{at}{step}"), child, required, into);
    }
}

fn children(schema: &JSONSchemaProps) -> Vec<(String, &JSONSchemaProps)> {
    let properties = schema.properties.iter().flatten();
    let mut children: Vec<_> = properties
        .map(|(name, child)| (format!(".{name}"), child))
        .collect();
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        children.push(("[]".to_owned(), items));
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
        children.push((".{*}".to_owned(), values));
    }
    children
}

fn limits(schema: &JSONSchemaProps) -> String {
    let mut limits = Vec::new();
    let lengths = [
        ("minLength", schema.min_length),
        ("maxLength", schema.max_length),
        ("minItems", schema.min_items),
        ("maxItems", schema.max_items),
    ];
    limits.extend(
        lengths
            .iter()
            .filter_map(|(name, limit)| Some(format!("{name}={}", (*limit)?))),
    );
    let bounds = [("minimum", schema.minimum), ("maximum", schema.maximum)];
    limits.extend(
        bounds
            .iter()
            .filter_map(|(name, limit)| Some(format!("{name}={}", (*limit)?))),
    );
    if let Some(values) = &schema.enum_ {
        let values: Vec<_> = values
            .iter()
            .map(|value| format!("'{}'", value.0.as_str().unwrap()))
            .collect();
        limits.push(format!("enum=[{}]", values.join(", ")));
    }
    match (schema.type_.as_deref(), schema.format.as_deref()) {
        (Some("integer"), format) => assert_eq!(format, Some("int64")),
        (_, Some(format)) => limits.push(format!("format={format}")),
        (_, None) => {}
    }
    limits.join(", ")
}

/// Visits the schema and all schemas inside it.
fn each(at: &str, schema: &JSONSchemaProps, visit: &mut impl FnMut(&str, &JSONSchemaProps)) {
    visit(at, schema);
    for (step, child) in children(schema) {
        each(&format!("{at}{step}"), child, visit);
    }
}
