//! Pruning and validation of objects by the schemas of their custom resource definitions, as an API server does.
//!
//! One walk along the schema prunes unknown fields and collects violations. The depth of the recursion is that of the
//! schema, not that of the input.

use std::{collections::BTreeMap, sync::LazyLock};

use evermesh_model::{FieldPath, Kind, Reason};
use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::{
        JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::core::cel::{CompiledSchema, Validator, compile_schema};
use serde::Deserialize;
use serde_json::{Map, Value};

/// A field that does not conform to the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaViolation {
    /// The field, from the object's root.
    pub field: FieldPath,
    /// [`Reason::UnknownField`] (pruned) or [`Reason::InvalidValue`].
    pub reason: Reason,
    /// Description of the violation and of valid values.
    pub message: String,
}

/// The schema of a kind; `None` for kinds of Kubernetes itself, which have no custom resource definition.
pub fn of(kind: Kind) -> Option<&'static JSONSchemaProps> {
    static SCHEMAS: LazyLock<BTreeMap<String, JSONSchemaProps>> = LazyLock::new(|| {
        evermesh_crds::all()
            .into_iter()
            .filter_map(|definition| {
                let version = definition.spec.versions.into_iter().next()?;
                let schema = version.schema?.open_api_v3_schema?;
                Some((definition.spec.names.kind, schema))
            })
            .collect()
    });
    SCHEMAS.get(kind.as_str())
}

/// The schema of labels and annotations: a map of strings.
pub static TEXTS: LazyLock<JSONSchemaProps> = LazyLock::new(|| {
    let text = JSONSchemaProps {
        type_: Some("string".to_owned()),
        ..JSONSchemaProps::default()
    };
    JSONSchemaProps {
        type_: Some("object".to_owned()),
        additional_properties: Some(JSONSchemaPropsOrBool::Schema(Box::new(text))),
        ..JSONSchemaProps::default()
    }
});

/// Prunes and validates `value`. Null fields are treated as absent.
pub fn check(schema: &JSONSchemaProps, value: &mut Value, at: &FieldPath) -> Vec<SchemaViolation> {
    let mut walk = Walk::default();
    walk.any(schema, value, at);
    walk.violations
}

/// Evaluates the CEL rules of a kind for an object that conforms to the schema. Only `Route` has such rules.
pub fn check_rules(kind: Kind, object: &Value) -> Vec<SchemaViolation> {
    static ROUTE: LazyLock<Option<CompiledSchema>> = LazyLock::new(|| {
        let schema = serde_json::to_value(of(Kind::Route)?).ok()?;
        Some(compile_schema(&schema))
    });
    let (Kind::Route, Some(rules)) = (kind, &*ROUTE) else {
        return Vec::new();
    };
    let Err(broken) = Validator::new().validate_compiled(rules, object, None) else {
        return Vec::new();
    };
    broken
        .into_vec()
        .into_iter()
        .map(|rule| SchemaViolation {
            field: FieldPath::root().field(&rule.field_path),
            reason: Reason::InvalidValue,
            message: rule.message,
        })
        .collect()
}

#[derive(Default)]
struct Walk {
    violations: Vec<SchemaViolation>,
}

impl Walk {
    fn any(&mut self, schema: &JSONSchemaProps, value: &mut Value, at: &FieldPath) {
        let expected = schema.type_.as_deref().unwrap_or_default();
        match (expected, value) {
            ("object", Value::Object(fields)) => self.object(schema, fields, at),
            ("array", Value::Array(items)) => self.array(schema, items, at),
            ("string", Value::String(text)) => self.string(schema, text, at),
            ("boolean", Value::Bool(_)) => {}
            ("integer", value) if let Some(number) = integer(value) => {
                *value = number.into();
                self.integer(schema, number, at);
            }
            (expected, value) => {
                let message = format!(
                    "must be {}, not {}",
                    with_article(expected),
                    describe(value)
                );
                self.invalid(at, message);
            }
        }
    }

    fn object(
        &mut self,
        schema: &JSONSchemaProps,
        fields: &mut Map<String, Value>,
        at: &FieldPath,
    ) {
        let values = match &schema.additional_properties {
            Some(JSONSchemaPropsOrBool::Schema(values)) => Some(&**values),
            _ => None,
        };
        fields.retain(|name, value| {
            let at = || at.field(name);
            match schema
                .properties
                .as_ref()
                .and_then(|known| known.get(name))
                .or(values)
            {
                Some(_) if value.is_null() => false,
                Some(schema) => {
                    self.any(schema, value, &at());
                    true
                }
                None => {
                    self.unknown(schema, &at());
                    false
                }
            }
        });
        for name in schema.required.iter().flatten() {
            if !fields.contains_key(name) {
                self.invalid(&at.field(name), "is required".to_owned());
            }
        }
    }

    fn array(&mut self, schema: &JSONSchemaProps, items: &mut [Value], at: &FieldPath) {
        self.size("items", items.len(), schema.min_items, schema.max_items, at);
        if let Some(JSONSchemaPropsOrArray::Schema(schema)) = &schema.items {
            for (index, item) in items.iter_mut().enumerate() {
                self.any(schema, item, &at.index(index));
            }
        }
    }

    fn string(&mut self, schema: &JSONSchemaProps, text: &str, at: &FieldPath) {
        let length = text.chars().count();
        self.size(
            "characters",
            length,
            schema.min_length,
            schema.max_length,
            at,
        );
        if let Some(allowed) = &schema.enum_ {
            let allowed = || allowed.iter().filter_map(|value| value.0.as_str());
            if !allowed().any(|value| value == text) {
                let allowed: Vec<_> = allowed().collect();
                let message = format!("must be one of {}, not {}", allowed.join(", "), quote(text));
                self.invalid(at, message);
            }
        }
        let is_time = schema.format.as_deref() == Some("date-time");
        if is_time && Time::deserialize(&Value::from(text)).is_err() {
            let message = format!(
                "must be a time such as 2026-09-30T00:00:00Z, not {}",
                quote(text)
            );
            self.invalid(at, message);
        }
    }

    fn integer(&mut self, schema: &JSONSchemaProps, number: i64, at: &FieldPath) {
        #[expect(clippy::cast_precision_loss)] // limits in schemas are far below 2^53
        let value = number as f64;
        if let Some(minimum) = schema.minimum.filter(|minimum| value < *minimum) {
            self.invalid(at, format!("must be at least {minimum}, not {number}"));
        }
        if let Some(maximum) = schema.maximum.filter(|maximum| value > *maximum) {
            self.invalid(at, format!("must be at most {maximum}, not {number}"));
        }
    }

    fn size(
        &mut self,
        unit: &str,
        size: usize,
        least: Option<i64>,
        most: Option<i64>,
        at: &FieldPath,
    ) {
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        if least == Some(1) && size == 0 {
            self.invalid(at, "must not be empty".to_owned());
        } else if let Some(least) = least.filter(|least| size < *least) {
            self.invalid(at, format!("must have at least {least} {unit}, not {size}"));
        }
        if let Some(most) = most.filter(|most| size > *most) {
            self.invalid(at, format!("must have at most {most} {unit}, not {size}"));
        }
    }

    fn unknown(&mut self, parent: &JSONSchemaProps, at: &FieldPath) {
        let known: Vec<_> = parent
            .properties
            .iter()
            .flatten()
            .map(|(name, _)| name.as_str())
            .collect();
        self.violations.push(SchemaViolation {
            field: at.clone(),
            reason: Reason::UnknownField,
            message: format!("unknown field, ignored; known fields: {}", known.join(", ")),
        });
    }

    fn invalid(&mut self, at: &FieldPath, message: String) {
        self.violations.push(SchemaViolation {
            field: at.clone(),
            reason: Reason::InvalidValue,
            message,
        });
    }
}

/// Converts a number to an integer. Like an API server, accepts floats without a fraction, such as `8080.0`.
fn integer(value: &Value) -> Option<i64> {
    /// 2^53: up to this value, floats represent integers exactly.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let float = || {
        value
            .as_f64()
            .filter(|float| float.fract() == 0.0 && float.abs() <= EXACT)
    };
    #[expect(clippy::cast_possible_truncation)] // an integer within the limit
    value.as_i64().or_else(|| float().map(|float| float as i64))
}

fn with_article(kind: &str) -> &str {
    match kind {
        "object" => "an object",
        "array" => "a list",
        "string" => "a string",
        "boolean" => "true or false",
        "integer" => "a 64-bit integer",
        other => other,
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the string {}", quote(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// Formats a string for a message: in backticks, limited to 64 characters.
pub(crate) fn quote(text: &str) -> String {
    const MAX_CHARS: usize = 64;
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("`{}…`", text[..end].escape_debug()),
        None => format!("`{}`", text.escape_debug()),
    }
}

#[cfg(test)]
mod tests;
