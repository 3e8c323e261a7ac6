//! The rules of all messages, compiled once from the descriptor set.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;

use super::{
    condition::{RuleValue, ValueRules},
    descriptor::{EnumType, Field, FieldType, File, FileSet, Label, MessageType},
};
use crate::pb::validate::{FieldRules, MapRules, RepeatedRules, field_rules::Type};

/// The messages that have rules, directly or in a message that they contain.
pub(super) struct RuleTable {
    /// Full names, ascending, with the indexes of the messages.
    names: Vec<(String, usize)>,
    messages: Vec<MessageTable>,
}

/// The fields of a message that have rules or contain messages with rules, ascending by number. Fields are counted as bits
/// of a number.
#[derive(Default)]
pub(super) struct MessageTable {
    pub(super) fields: Vec<FieldTable>,
    /// The fields whose absence is a violation.
    pub(super) required: u128,
    /// The names of the oneofs of which one field has to be present, and these fields.
    pub(super) oneofs: Vec<(String, u128)>,
}

pub(super) struct FieldTable {
    pub(super) number: u32,
    pub(super) name: String,
    pub(super) content: Content,
    pub(super) is_repeated: bool,
    /// Whether an absent field has the default value, to which the conditions apply.
    has_default: bool,
    /// The rules of the value, or of each item if the field is repeated.
    pub(super) value: ValueRules,
    pub(super) items: Option<ItemRules>,
}

/// Limits of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ItemRules {
    pub(super) least: usize,
    pub(super) most: usize,
    pub(super) is_unique: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Scalar(FieldType),
    /// A message such as `google.protobuf.UInt32Value`, whose field 1 has this type.
    Wrapper(FieldType),
    /// `google.protobuf.Duration`
    Duration,
    /// `google.protobuf.Any`
    Any,
    Message(usize),
    /// A message without rules.
    Opaque,
}

impl RuleTable {
    /// Compiles a `FileDescriptorSet`. The error names a rule that is not known here.
    pub(super) fn compile(descriptors: &[u8]) -> Result<Self, String> {
        let set = FileSet::decode(descriptors).map_err(|error| error.to_string())?;
        let mut types = Types::default();
        set.file.iter().for_each(|file| types.add_file(file));
        let mut messages = types.compile()?;
        keep_fields_with_rules(&mut messages);
        for message in &mut messages {
            message.collect_required();
        }
        let names = types.names.into_iter();
        Ok(Self {
            names: names
                .filter(|(_, index)| !messages[*index].fields.is_empty())
                .collect(),
            messages,
        })
    }

    pub(super) fn message(&self, index: usize) -> &MessageTable {
        &self.messages[index]
    }

    /// The message of this full name, if it has rules.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        let found = self
            .names
            .binary_search_by(|(other, _)| (**other).cmp(name));
        found.ok().map(|place| self.names[place].1)
    }
}

/// Removes the fields that have no rule and lead to none.
fn keep_fields_with_rules(messages: &mut [MessageTable]) {
    let mut relevant: BTreeSet<usize> = BTreeSet::new();
    loop {
        let leads_to_rules = |message: &MessageTable| {
            !message.oneofs.is_empty() || message.fields.iter().any(|it| it.is_relevant(&relevant))
        };
        let found = (0..messages.len()).filter(|index| leads_to_rules(&messages[*index]));
        let found: BTreeSet<usize> = found.collect();
        if found == relevant {
            break;
        }
        relevant = found;
    }
    for message in messages {
        let oneofs = message.oneofs.iter();
        let in_oneofs = oneofs.fold(0, |all, (_, fields)| all | fields);
        let is_kept = |place: usize, field: &FieldTable| {
            field.is_relevant(&relevant) || in_oneofs & (1 << place) != 0
        };
        let fields = std::mem::take(&mut message.fields);
        let (mut kept, mut places) = (Vec::new(), Vec::new());
        for (place, field) in fields.into_iter().enumerate() {
            if is_kept(place, &field) {
                places.push(place);
                kept.push(field);
            }
        }
        for (_, fields) in &mut message.oneofs {
            let moved = places.iter().enumerate();
            let moved = moved.filter(|(_, before)| *fields & (1 << **before) != 0);
            *fields = moved.fold(0, |all, (after, _)| all | (1 << after));
        }
        message.fields = kept;
        for field in &mut message.fields {
            if let Content::Message(index) = field.content
                && !relevant.contains(&index)
            {
                field.content = Content::Opaque;
            }
        }
    }
}

impl FieldTable {
    fn is_relevant(&self, relevant: &BTreeSet<usize>) -> bool {
        let leads_to_rules = match self.content {
            Content::Any => true,
            Content::Message(index) => relevant.contains(&index) && !self.value.skips_message,
            Content::Scalar(_) | Content::Wrapper(_) | Content::Duration | Content::Opaque => false,
        };
        leads_to_rules
            || self.items.is_some()
            || self.value.is_required
            || !self.value.conditions.is_empty()
    }

    /// The rule that an absent field violates.
    pub(super) fn rule_if_absent(&self) -> Option<String> {
        if self.value.is_required {
            return Some("must be set".to_owned());
        }
        if let Some(items) = self.items.filter(|it| it.least > 0) {
            return Some(items.at_least());
        }
        let default = match self.content {
            Content::Scalar(FieldType::String | FieldType::Bytes) => RuleValue::Text(b""),
            Content::Scalar(FieldType::Double | FieldType::Float) => RuleValue::Float(0.0),
            _ => RuleValue::Integer(0),
        };
        let is_checked = self.has_default && !self.value.ignores_empty;
        let mut conditions = self.value.conditions.iter().filter(|_| is_checked);
        let violated = conditions.find(|it| !it.holds(default));
        violated.map(ToString::to_string)
    }
}

impl ItemRules {
    pub(super) fn at_least(self) -> String {
        match self.least {
            1 => "must have at least 1 item".to_owned(),
            least => format!("must have at least {least} items"),
        }
    }
}

impl MessageTable {
    fn collect_required(&mut self) {
        let missed = self.fields.iter().enumerate();
        let missed = missed.filter(|(_, field)| field.rule_if_absent().is_some());
        self.required = missed.fold(0, |all, (place, _)| all | (1 << place));
    }
}

/// The types of all files by full name.
#[derive(Default)]
struct Types<'a> {
    names: BTreeMap<String, usize>,
    messages: Vec<&'a MessageType>,
    enums: BTreeMap<String, Vec<i32>>,
}

impl<'a> Types<'a> {
    /// Adds the types of a file that is not one of protobuf's own or of the rules themselves.
    fn add_file(&mut self, file: &'a File) {
        if matches!(file.package.as_str(), "google.protobuf" | "validate") {
            return;
        }
        self.add_enums(&file.package, &file.enum_type);
        for message in &file.message_type {
            self.add_message(&file.package, message);
        }
    }

    fn add_message(&mut self, scope: &str, message: &'a MessageType) {
        let name = format!("{scope}.{}", message.name);
        self.add_enums(&name, &message.enum_type);
        for nested in &message.nested_type {
            self.add_message(&name, nested);
        }
        self.names.insert(name, self.messages.len());
        self.messages.push(message);
    }

    fn add_enums(&mut self, scope: &str, enums: &[EnumType]) {
        for it in enums {
            let numbers = it.value.iter().map(|value| value.number).collect();
            self.enums.insert(format!("{scope}.{}", it.name), numbers);
        }
    }

    fn compile(&self) -> Result<Vec<MessageTable>, String> {
        let mut compiled = self
            .messages
            .iter()
            .map(|message| self.compile_message(message))
            .collect::<Result<Vec<_>, _>>()?;
        for field in self.messages.iter().flat_map(|message| &message.field) {
            if let Some(Type::Map(rules)) = field.rules().and_then(|it| it.r#type.as_ref()) {
                let entry = self.names.get(field.type_name.trim_start_matches('.'));
                let entry = entry.ok_or("a map has no entries")?;
                add_map_rules(&mut compiled[*entry], rules)?;
            }
        }
        Ok(compiled)
    }

    fn compile_message(&self, message: &MessageType) -> Result<MessageTable, String> {
        let mut sorted: Vec<&Field> = message.field.iter().collect();
        sorted.sort_by_key(|field| field.number);
        if sorted.len() > 128 {
            return Err(format!("{} has more than 128 fields", message.name));
        }
        let fields = sorted.iter().map(|field| self.compile_field(field));
        let fields = fields.collect::<Result<Vec<_>, _>>();
        let oneofs = message.oneof_decl.iter().zip(0_u32..);
        let oneofs = oneofs.filter(|(it, _)| it.options.as_ref().is_some_and(|it| it.is_required));
        let oneofs = oneofs.map(|(oneof, index)| {
            let places = sorted.iter().enumerate();
            let own = places.filter(|(_, field)| field.oneof_index == Some(index));
            let own = own.fold(0, |all, (place, _)| all | (1 << place));
            (oneof.name.clone(), own)
        });
        Ok(MessageTable {
            fields: fields.map_err(|error| format!("{}.{error}", message.name))?,
            required: 0,
            oneofs: oneofs.collect(),
        })
    }

    fn compile_field(&self, field: &Field) -> Result<FieldTable, String> {
        let numbers = self.enums.get(field.type_name.trim_start_matches('.'));
        let numbers = numbers.map_or(&[][..], Vec::as_slice);
        let named = |rule: String| format!("{}: {rule}", field.name);
        let is_repeated = field.label() == Label::Repeated;
        let content = self.content(field);
        let (mut value, mut items) = (ValueRules::default(), None);
        match field.rules() {
            None => {}
            Some(rules) => match &rules.r#type {
                Some(Type::Repeated(it)) => {
                    items = Some(item_rules(it).map_err(named)?);
                    if let Some(rules) = &it.items {
                        value = ValueRules::new(rules, numbers).map_err(named)?;
                    }
                }
                // The rules of keys and values belong to the message of the entries.
                Some(Type::Map(it)) => items = Some(pair_rules(it).map_err(named)?),
                _ => value = ValueRules::new(rules, numbers).map_err(named)?,
            },
        }
        // Envoy checks a field of a oneof only if it is the one that is set.
        value.is_required &= field.oneof_index.is_none();
        Ok(FieldTable {
            number: field.number,
            name: field.name.clone(),
            content,
            is_repeated,
            has_default: !is_repeated
                && field.oneof_index.is_none()
                && matches!(content, Content::Scalar(_)),
            value,
            items,
        })
    }

    fn content(&self, field: &Field) -> Content {
        let wrapped = match field.type_name.as_str() {
            ".google.protobuf.Any" => return Content::Any,
            ".google.protobuf.Duration" => return Content::Duration,
            ".google.protobuf.DoubleValue" => FieldType::Double,
            ".google.protobuf.FloatValue" => FieldType::Float,
            ".google.protobuf.Int64Value" => FieldType::Int64,
            ".google.protobuf.UInt64Value" => FieldType::Uint64,
            ".google.protobuf.Int32Value" => FieldType::Int32,
            ".google.protobuf.UInt32Value" => FieldType::Uint32,
            ".google.protobuf.BoolValue" => FieldType::Bool,
            ".google.protobuf.StringValue" => FieldType::String,
            ".google.protobuf.BytesValue" => FieldType::Bytes,
            name => match (field.r#type(), self.names.get(name.trim_start_matches('.'))) {
                (FieldType::Message, Some(index)) => return Content::Message(*index),
                (FieldType::Message | FieldType::Group, _) => return Content::Opaque,
                (scalar, _) => return Content::Scalar(scalar),
            },
        };
        Content::Wrapper(wrapped)
    }
}

impl Field {
    fn rules(&self) -> Option<&FieldRules> {
        self.options.as_ref()?.rules.as_ref()
    }
}

fn item_rules(rules: &RepeatedRules) -> Result<ItemRules, String> {
    let RepeatedRules {
        min_items,
        max_items,
        unique,
        items: _,
        ignore_empty,
    } = rules;
    if ignore_empty.is_some() {
        return Err(format!("{rules:?}"));
    }
    Ok(ItemRules {
        least: min_items.map_or(0, size),
        most: max_items.map_or(usize::MAX, size),
        is_unique: *unique == Some(true),
    })
}

fn pair_rules(rules: &MapRules) -> Result<ItemRules, String> {
    let MapRules {
        min_pairs,
        max_pairs,
        no_sparse,
        keys: _,
        values: _,
        ignore_empty,
    } = rules;
    if no_sparse.is_some() || ignore_empty.is_some() {
        return Err(format!("{rules:?}"));
    }
    Ok(ItemRules {
        least: min_pairs.map_or(0, size),
        most: max_pairs.map_or(usize::MAX, size),
        is_unique: false,
    })
}

/// Adds the rules of keys and values, which are the fields 1 and 2 of each entry of a map.
fn add_map_rules(entry: &mut MessageTable, rules: &MapRules) -> Result<(), String> {
    for (number, rules) in [(1, &rules.keys), (2, &rules.values)] {
        let field = entry.fields.iter_mut().find(|field| field.number == number);
        if let (Some(field), Some(rules)) = (field, rules) {
            field.value = ValueRules::new(rules, &[])?;
        }
    }
    Ok(())
}

fn size(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
