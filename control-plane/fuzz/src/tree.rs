//! Changes values of JSON and YAML documents at random.

use fastrand::Rng;
use serde_json::{Map, Value, json};

use crate::mutation::{change_text, word};

/// Changes one JSON value. `None` if the input is not JSON.
pub(crate) fn mutate_json(input: &[u8], other: &[u8], random: &mut Rng) -> Option<Vec<u8>> {
    let mut documents = vec![serde_json::from_slice(input).ok()?];
    let others: Vec<Value> = serde_json::from_slice(other).into_iter().collect();
    change(&mut documents, &others, random);
    Some(documents.first()?.to_string().into_bytes())
}

/// Changes YAML documents; each is then written as JSON, which is YAML. `None` if the input is not YAML.
pub(crate) fn mutate_yaml(input: &[u8], other: &[u8], random: &mut Rng) -> Option<Vec<u8>> {
    let read = |bytes: &[u8]| -> Option<Vec<Value>> {
        serde_saphyr::from_multiple(str::from_utf8(bytes).ok()?).ok()
    };
    let mut documents = read(input)?;
    let others = read(other).unwrap_or_default();
    match random.u8(..8) {
        0 => documents.extend(random.choice(&others).cloned()),
        1 if documents.len() > 1 => drop(documents.remove(random.usize(..documents.len()))),
        _ => change(&mut documents, &others, random),
    }
    let texts: Vec<String> = documents.iter().map(Value::to_string).collect();
    Some(texts.join("\n---\n").into_bytes())
}

fn change(documents: &mut [Value], others: &[Value], random: &mut Rng) {
    for _ in 0..random.u8(1..=4) {
        if documents.is_empty() {
            return;
        }
        let source = if others.is_empty() || random.bool() {
            &*documents
        } else {
            others
        };
        let inserted = any_value(&source[random.usize(..source.len())], random).clone();
        let at = random.usize(..documents.len());
        let document = &mut documents[at];
        let pointer = any_pointer(document, random);
        if let Some(value) = document.pointer_mut(&pointer) {
            change_value(value, inserted, random);
        }
    }
}

fn change_value(value: &mut Value, inserted: Value, random: &mut Rng) {
    match (random.u8(..10), value) {
        (0 | 1, value) => *value = scalar(random),
        (2, value) => *value = inserted,
        (3, Value::Object(fields)) => {
            fields.insert(word(random).to_owned(), inserted);
        }
        (_, Value::Object(fields)) => change_fields(fields, inserted, random),
        (3 | 4, Value::Array(items)) if !items.is_empty() => {
            items.remove(random.usize(..items.len()));
        }
        (5, Value::Array(items)) => items.push(inserted),
        (_, Value::Array(items)) => {
            if let Some(item) = random.choice(&*items).cloned() {
                let count = random.usize(1..4);
                items.extend(std::iter::repeat_n(item, count));
            }
        }
        (_, Value::String(text)) => *text = change_text(text, random),
        (_, value) => *value = scalar(random),
    }
}

fn change_fields(fields: &mut Map<String, Value>, inserted: Value, random: &mut Rng) {
    let Some(name) = random.choice(fields.keys()).cloned() else {
        return;
    };
    let Some(value) = fields.remove(&name) else {
        return;
    };
    match random.u8(..4) {
        0 => {}
        1 => drop(fields.insert(change_text(&name, random), value)),
        2 => drop(fields.insert(name, inserted)),
        _ => drop(fields.insert(name, json!([value]))),
    }
}

/// A random value at any depth.
fn any_value<'a>(document: &'a Value, random: &mut Rng) -> &'a Value {
    let pointer = any_pointer(document, random);
    document.pointer(&pointer).unwrap_or(document)
}

/// The JSON pointer of a random value at any depth.
fn any_pointer(document: &Value, random: &mut Rng) -> String {
    let mut pointers = Vec::new();
    collect(document, &mut String::new(), &mut pointers);
    random.choice(pointers).unwrap_or_default()
}

fn collect(value: &Value, pointer: &mut String, pointers: &mut Vec<String>) {
    pointers.push(pointer.clone());
    let length = pointer.len();
    let mut child = |name: &str, value| {
        pointer.push('/');
        pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
        collect(value, pointer, pointers);
        pointer.truncate(length);
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| child(name, value)),
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items.for_each(|(index, value)| child(&index.to_string(), value));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn scalar(random: &mut Rng) -> Value {
    match random.u8(..16) {
        0 => Value::Null,
        1 => random.bool().into(),
        2 => 0.into(),
        3 => (-1).into(),
        4 => random.u16(..).into(),
        5 => i64::from(i32::MAX).into(),
        6 => i64::MIN.into(),
        7 => u64::MAX.into(),
        8 => 0.5.into(),
        9 => 1e300.into(),
        10 => json!([]),
        11 => json!({}),
        12 => "a".repeat(random.usize(1..600)).into(),
        13 => "".into(),
        _ => word(random).into(),
    }
}
