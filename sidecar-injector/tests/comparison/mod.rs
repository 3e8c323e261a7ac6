//! Differences between two JSON values, in a form that is read in a snapshot.
//!
//! Objects are compared field by field and lists of named objects (containers, variables, volumes, clusters) entry by
//! entry. Every other list is shown whole if it differs, and so is a list whose entries changed their order, so that no
//! difference is lost.

use serde_json::{Map, Value, json};

/// The parts of `value` that differ from `base`, or nothing if both are equal.
pub(crate) fn differences(base: &Value, value: &Value) -> Option<Value> {
    if base == value {
        return None;
    }
    let differences = match (base, value) {
        (Value::Object(base), Value::Object(value)) => Some(of_objects(base, value)),
        (Value::Array(base), Value::Array(value)) => of_named_lists(base, value),
        _ => None,
    };
    Some(differences.unwrap_or_else(|| value.clone()))
}

fn of_objects(base: &Map<String, Value>, value: &Map<String, Value>) -> Value {
    let absent = base.keys().filter(|key| !value.contains_key(*key));
    let absent = absent.map(|key| (key.clone(), json!("(absent)")));
    let others = value.iter().filter_map(|(key, value)| {
        let shown = match base.get(key) {
            Some(base) => differences(base, value)?,
            None => value.clone(),
        };
        Some((key.clone(), shown))
    });
    Value::Object(absent.chain(others).collect())
}

/// Nothing if an entry has no name or two have the same, or if the entries of `base` that remain are not the first ones
/// of `value`, in their order.
fn of_named_lists(base: &[Value], value: &[Value]) -> Option<Value> {
    let base_names = names(base)?;
    let value_names = names(value)?;
    let remaining: Vec<&str> = base_names
        .iter()
        .copied()
        .filter(|name| value_names.contains(name))
        .collect();
    if !value_names.starts_with(&remaining) {
        return None;
    }
    let mut shown = Vec::new();
    for (name, base) in base_names.iter().zip(base) {
        match value_names.iter().position(|it| it == name) {
            Some(index) => {
                if let Some(mut differences) = differences(base, &value[index]) {
                    differences["name"] = json!(name);
                    shown.push(differences);
                }
            }
            None => shown.push(json!(format!("{name} (absent)"))),
        }
    }
    shown.extend(value[remaining.len()..].iter().cloned());
    Some(shown.into())
}

fn names(list: &[Value]) -> Option<Vec<&str>> {
    let mut names = Vec::new();
    for entry in list {
        let name = entry["name"].as_str()?;
        if names.contains(&name) {
            return None;
        }
        names.push(name);
    }
    Some(names)
}
