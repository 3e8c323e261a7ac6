//! The Envoy fields in which two sets of resources differ.
#![allow(clippy::iter_over_hash_type)] // the result is a sorted set

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evermesh_proto::{Resource, ResourceKey, ResourceType, json};
use prost_reflect::{DynamicMessage, FieldDescriptor, ReflectMessage, Value};

/// Resources by proxy and key.
pub(crate) type Resources = BTreeMap<(String, ResourceKey), Arc<Resource>>;

/// Full names of the fields that differ, such as `envoy.config.core.v3.HealthCheck.timeout`, and of the fields that
/// contain them.
///
/// A resource that has another name in the other set is compared with the one that takes its place in the order of its
/// type.
pub(crate) fn changed_fields(one: &Resources, other: &Resources) -> BTreeSet<String> {
    let mut changed = BTreeSet::new();
    for (key, resource) in one {
        if let Some(same) = other.get(key)
            && same.body != resource.body
        {
            compare(&message(resource), &message(same), &mut changed);
        }
    }
    for kind in ResourceType::ALL {
        let (ours, theirs) = (renamed(kind, one, other), renamed(kind, other, one));
        for (index, resource) in ours.iter().enumerate() {
            match theirs.get(index) {
                Some(successor) => compare(&message(resource), &message(successor), &mut changed),
                None => collect(&message(resource), &mut changed),
            }
        }
        for resource in theirs.iter().skip(ours.len()) {
            collect(&message(resource), &mut changed);
        }
    }
    changed
}

/// The resources of a type that the other set does not have.
fn renamed<'a>(
    kind: ResourceType,
    resources: &'a Resources,
    other: &Resources,
) -> Vec<&'a Resource> {
    let renamed = resources
        .iter()
        .filter(|(key, _)| key.1.kind == kind && !other.contains_key(*key));
    renamed.map(|(_, resource)| &**resource).collect()
}

fn message(resource: &Resource) -> DynamicMessage {
    json::decode(resource.kind.message_name(), &resource.body).unwrap()
}

fn compare(one: &DynamicMessage, other: &DynamicMessage, changed: &mut BTreeSet<String>) {
    if one == other {
        return;
    }
    if let (Some(one), Some(other)) = (unpacked(one), unpacked(other)) {
        if one.descriptor() == other.descriptor() {
            compare(&one, &other, changed);
        } else {
            collect(&one, changed);
            collect(&other, changed);
        }
        return;
    }
    for field in one.descriptor().fields() {
        match (one.has_field(&field), other.has_field(&field)) {
            (true, true) => compare_values(
                &field,
                &one.get_field(&field),
                &other.get_field(&field),
                changed,
            ),
            (true, false) => collect_value(&field, &one.get_field(&field), changed),
            (false, true) => collect_value(&field, &other.get_field(&field), changed),
            (false, false) => {}
        }
    }
}

fn compare_values(
    field: &FieldDescriptor,
    one: &Value,
    other: &Value,
    changed: &mut BTreeSet<String>,
) {
    if one == other {
        return;
    }
    changed.insert(field.full_name().to_owned());
    match (one, other) {
        (Value::Message(one), Value::Message(other)) if !is_value(field) => {
            compare(one, other, changed);
        }
        (Value::List(one), Value::List(other)) => {
            let (one, other) = match (by_name(one), by_name(other)) {
                (Some(one), Some(other)) => {
                    (shared_first(&one, &other), shared_first(&other, &one))
                }
                _ => (one.iter().collect(), other.iter().collect()),
            };
            for (one, other) in one.iter().zip(&other) {
                compare_values(field, one, other, changed);
            }
            let shared = one.len().min(other.len());
            for added in one[shared..].iter().chain(&other[shared..]) {
                collect_value(field, added, changed);
            }
        }
        (Value::Map(one), Value::Map(other)) => {
            for (key, value) in one {
                match other.get(key) {
                    Some(same) => compare_values(field, value, same, changed),
                    None => collect_value(field, value, changed),
                }
            }
            for (_, added) in other.iter().filter(|(key, _)| !one.contains_key(key)) {
                collect_value(field, added, changed);
            }
        }
        _ => {}
    }
}

/// Items of a list with their names and, for items of the same name, their number. In the order of the list.
type NamedItems<'a> = Vec<((String, usize), &'a Value)>;

/// The items of a list by `name`, if they have names.
fn by_name(items: &[Value]) -> Option<NamedItems<'_>> {
    let mut named = NamedItems::new();
    for item in items {
        let name = item.as_message()?.get_field_by_name("name")?;
        let name = name.as_str()?.to_owned();
        let number = named
            .iter()
            .filter(|((other, _), _)| *other == name)
            .count();
        named.push(((name, number), item));
    }
    Some(named)
}

fn contains(items: &NamedItems<'_>, name: &(String, usize)) -> bool {
    items.iter().any(|(other, _)| other == name)
}

/// The items that the other list has too, by name, and then the rest.
fn shared_first<'a>(items: &NamedItems<'a>, other: &NamedItems<'_>) -> Vec<&'a Value> {
    let mut items = items.clone();
    items.sort_by_key(|(name, _)| (!contains(other, name), name.clone()));
    items.into_iter().map(|(_, item)| item).collect()
}

/// Adds every field of a message that exists on one side only.
fn collect(message: &DynamicMessage, changed: &mut BTreeSet<String>) {
    if let Some(message) = unpacked(message) {
        return collect(&message, changed);
    }
    for (field, value) in message.fields() {
        collect_value(&field, value, changed);
    }
}

fn collect_value(field: &FieldDescriptor, value: &Value, changed: &mut BTreeSet<String>) {
    changed.insert(field.full_name().to_owned());
    match value {
        Value::Message(message) if !is_value(field) => collect(message, changed),
        Value::List(items) => {
            for item in items {
                collect_value(field, item, changed);
            }
        }
        Value::Map(values) => {
            for value in values.values() {
                collect_value(field, value, changed);
            }
        }
        _ => {}
    }
}

/// Whether the field's type is a message that stands for a single value, such as `google.protobuf.Duration`.
fn is_value(field: &FieldDescriptor) -> bool {
    let kind = field.kind();
    let name = kind
        .as_message()
        .map(|message| message.full_name().to_owned());
    name.is_some_and(|name| name.starts_with("google.protobuf.") && name != "google.protobuf.Any")
}

/// The content of an `Any`.
fn unpacked(message: &DynamicMessage) -> Option<DynamicMessage> {
    if message.descriptor().full_name() != "google.protobuf.Any" {
        return None;
    }
    let url = message.get_field_by_name("type_url")?;
    let value = message.get_field_by_name("value")?;
    let (_, name) = url.as_str()?.split_once('/')?;
    Some(json::decode(name, value.as_bytes()?).unwrap())
}
