//! Other values for a field.

use serde_json::{Value, json};

use super::schema::LeafSchema;

/// Values to try in the place of `value`: neighbours of the value, and the values that the field has elsewhere in the
/// case, which may be names of other objects. The schema may refuse some of them.
pub(crate) fn other_values(value: &Value, elsewhere: &[Value], schema: &LeafSchema) -> Vec<Value> {
    let mut others: Vec<Value> = match value {
        Value::Bool(value) => vec![(!value).into()],
        Value::Number(number) => {
            let number = number.as_i64().unwrap();
            vec![(number + 1).into(), (number - 1).into()]
        }
        Value::String(_) if !schema.values.is_empty() => {
            schema.values.iter().map(|it| it.as_str().into()).collect()
        }
        Value::String(text) => vec![format!("{text}x").into(), format!("/x{text}").into()],
        Value::Object(_) if schema.is_selector => {
            vec![json!({ "matchLabels": { "other": "label" } })]
        }
        Value::Object(_) | Value::Array(_) | Value::Null => return Vec::new(),
    };
    for other in elsewhere {
        if !others.contains(other) {
            others.push(other.clone());
        }
    }
    others.retain(|other| other != value);
    others
}
