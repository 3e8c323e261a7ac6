//! Envoy's own rules for its messages (`validate.rules` of the protos), evaluated on encoded messages.
//!
//! Envoy refuses a message that violates a rule, and with it the whole resource: a route configuration with one header name
//! that is not valid stays as it was, with all its hosts. [`violations`] finds this before the resource is served.
//!
//! ```
//! use evermesh_proto::{route::QueryParameterMatcher, rules::violations};
//! use prost::{Message, Name};
//!
//! let matcher = QueryParameterMatcher::default();
//! let found = violations(&QueryParameterMatcher::full_name(), &matcher.encode_to_vec());
//! assert_eq!(found[0].to_string(), "name must not be empty");
//! ```
//!
//! The rules come from the descriptor set, so none is written here. A table of the fields that have rules, or contain
//! messages that have some, is compiled at the first use. An encoded message is walked once, without decoding it, and
//! the contents of each `Any` with it. A valid message costs no allocation.
//!
//! Envoy checks more than these rules when it builds its objects, such as the syntax of regular expressions.

mod condition;
mod descriptor;
mod table;
mod wire;

use std::{fmt, sync::LazyLock};

use self::{
    condition::{FieldCondition, RuleValue},
    descriptor::FieldType,
    table::{Content, FieldTable, ItemRules, RuleTable},
    wire::{Malformed, RawField, WireFields, WireValue, packed_varints},
};

static TABLE: LazyLock<RuleTable> = LazyLock::new(|| {
    RuleTable::compile(crate::json::DESCRIPTORS).expect("the evaluator knows every rule of the set")
});

/// The depth of messages in messages that protobuf allows.
const MAX_DEPTH: usize = 100;

/// A rule that a message violates.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleViolation {
    /// The field by proto names: `virtual_hosts[0].routes[2].match.headers[0].name`. Empty for the message itself.
    pub field: String,
    /// The rest of a sentence about the field: `must not be empty`.
    pub rule: String,
}

impl fmt::Display for RuleViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, rule } = self;
        write!(f, "{field} {rule}")
    }
}

/// The rules that an encoded message violates. `message_name` is its full name, such as
/// `envoy.config.cluster.v3.Cluster`; a message of another name than those of the set has no rules.
///
/// The fields of a message have to be encoded at most once each, as prost encodes them, except repeated ones.
pub fn violations(message_name: &str, body: &[u8]) -> Vec<RuleViolation> {
    let mut walk = Walk::default();
    if let Some(index) = TABLE.find(message_name) {
        walk.message(index, body, None);
    }
    walk.found
}

#[derive(Default)]
struct Walk {
    depth: usize,
    found: Vec<RuleViolation>,
}

/// The place of a field: the field in its message, and the place of the message.
#[derive(Clone, Copy)]
struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    field: &'a FieldTable,
    message: &'a [u8],
    /// Offset of the field in the message.
    start: usize,
}

impl Walk {
    fn message(&mut self, index: usize, message: &[u8], parent: Option<&Place<'_>>) {
        if self.depth == MAX_DEPTH {
            return self.add(
                parent,
                "",
                "must not contain more than 100 messages in each other",
            );
        }
        self.depth += 1;
        let table = TABLE.message(index);
        let mut seen = 0_u128;
        for field in WireFields::new(message) {
            let Ok(RawField {
                number,
                value,
                start,
            }) = field
            else {
                self.add(parent, "", "must be an encoded message");
                break;
            };
            let found = table.fields.binary_search_by_key(&number, |it| it.number);
            if let Ok(index) = found {
                seen |= 1 << index;
                let place = Place {
                    parent,
                    field: &table.fields[index],
                    message,
                    start,
                };
                if self.value(&place, value).is_err() {
                    self.add(Some(&place), "", "must be encoded as its type");
                }
            }
        }
        self.depth -= 1;
        let missing = table.required & !seen;
        for (index, field) in table.fields.iter().enumerate() {
            let is = |fields: u128| fields & (1 << index) != 0;
            if is(missing) {
                let rule = field.rule_if_absent().unwrap_or_default();
                self.add(parent, &field.name, &rule);
            } else if is(seen)
                && let Some(items) = field.items
            {
                self.items(field, items, message, parent);
            }
        }
        for (name, fields) in &table.oneofs {
            if fields & seen == 0 {
                self.add(parent, name, "must be one of its fields");
            }
        }
    }

    fn value(&mut self, place: &Place<'_>, value: WireValue<'_>) -> Result<(), Malformed> {
        match (place.field.content, value) {
            (Content::Scalar(kind), WireValue::Delimited(packed))
                if place.field.is_repeated && is_varint(kind) =>
            {
                for item in packed_varints(packed) {
                    self.conditions(place, scalar(kind, WireValue::Varint(item?))?);
                }
            }
            (Content::Scalar(kind), value) => self.conditions(place, scalar(kind, value)?),
            (Content::Wrapper(kind), WireValue::Delimited(wrapper)) => {
                let content = WireFields::new(wrapper).next().transpose()?;
                let content = content.map_or_else(|| default(kind), |field| field.value);
                self.conditions(place, scalar(kind, content)?);
            }
            (Content::Duration, WireValue::Delimited(duration)) => {
                self.conditions(place, nanoseconds(duration)?);
            }
            (Content::Any, WireValue::Delimited(any)) => self.any(place, any)?,
            (Content::Message(index), WireValue::Delimited(message)) => {
                if !place.field.value.skips_message {
                    self.message(index, message, Some(place));
                }
            }
            (Content::Opaque, WireValue::Delimited(_)) => {}
            _ => return Err(Malformed),
        }
        Ok(())
    }

    /// The content of an `Any`, if its type has rules.
    fn any(&mut self, place: &Place<'_>, any: &[u8]) -> Result<(), Malformed> {
        let (mut name, mut content) = ("", &[][..]);
        for field in WireFields::new(any) {
            match field? {
                RawField {
                    number: 1,
                    value: WireValue::Delimited(url),
                    ..
                } => {
                    let url = std::str::from_utf8(url).ok().ok_or(Malformed)?;
                    name = url.rsplit('/').next().unwrap_or(url);
                }
                RawField {
                    number: 2,
                    value: WireValue::Delimited(value),
                    ..
                } => content = value,
                _ => {}
            }
        }
        if let Some(index) = TABLE.find(name) {
            self.message(index, content, Some(place));
        }
        Ok(())
    }

    fn conditions(&mut self, place: &Place<'_>, value: RuleValue<'_>) {
        let rules = &place.field.value;
        if rules.ignores_empty && matches!(value, RuleValue::Text([])) {
            return;
        }
        let violated: Option<&FieldCondition> = rules.conditions.iter().find(|it| !it.holds(value));
        if let Some(condition) = violated {
            self.add(Some(place), "", &condition.to_string());
        }
    }

    /// The limits of a list that is not empty.
    fn items(
        &mut self,
        field: &FieldTable,
        items: ItemRules,
        message: &[u8],
        parent: Option<&Place<'_>>,
    ) {
        let ItemRules {
            least,
            most,
            is_unique,
        } = items;
        if least <= 1 && most == usize::MAX && !is_unique {
            return;
        }
        let values = values(message, field.number);
        if values.len() < least {
            self.add(parent, &field.name, &items.at_least());
        }
        if values.len() > most {
            self.add(
                parent,
                &field.name,
                &format!("must have at most {most} items"),
            );
        }
        let mut sorted = values;
        sorted.sort_unstable();
        if is_unique && sorted.windows(2).any(|pair| pair[0] == pair[1]) {
            self.add(parent, &field.name, "must not have an item twice");
        }
    }

    /// Adds a violation at `place`, or at the field `name` of the message at `place`.
    fn add(&mut self, place: Option<&Place<'_>>, name: &str, rule: &str) {
        let mut field = place.map_or_else(String::new, Place::path);
        if !field.is_empty() && !name.is_empty() {
            field.push('.');
        }
        field.push_str(name);
        self.found.push(RuleViolation {
            field,
            rule: rule.to_owned(),
        });
    }
}

impl Place<'_> {
    fn path(&self) -> String {
        let name = &self.field.name;
        let path = match self.parent {
            Some(parent) => format!("{}.{name}", parent.path()),
            None => name.clone(),
        };
        if !self.field.is_repeated {
            return path;
        }
        let number = self.field.number;
        let before = WireFields::new(&self.message[..self.start]).flatten();
        let index = before.filter(|field| field.number == number).count();
        format!("{path}[{index}]")
    }
}

/// The encoded items of a list of strings, bytes or messages.
fn values(message: &[u8], number: u32) -> Vec<&[u8]> {
    let fields = WireFields::new(message).flatten();
    let values = fields.filter_map(|field| match field.value {
        WireValue::Delimited(value) if field.number == number => Some(value),
        _ => None,
    });
    values.collect()
}

fn is_varint(kind: FieldType) -> bool {
    scalar(kind, WireValue::Varint(0)).is_ok()
}

/// The value of an absent field.
fn default(kind: FieldType) -> WireValue<'static> {
    match kind {
        FieldType::Double | FieldType::Fixed64 | FieldType::Sfixed64 => WireValue::Fixed64([0; 8]),
        FieldType::Float | FieldType::Fixed32 | FieldType::Sfixed32 => WireValue::Fixed32([0; 4]),
        FieldType::String | FieldType::Bytes => WireValue::Delimited(&[]),
        _ => WireValue::Varint(0),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)] // as protobuf encodes negative numbers
fn scalar(kind: FieldType, value: WireValue<'_>) -> Result<RuleValue<'_>, Malformed> {
    let integer = match (kind, value) {
        (FieldType::Bool, WireValue::Varint(value)) => (value != 0).into(),
        (FieldType::Uint64, WireValue::Varint(value)) => value.into(),
        (FieldType::Uint32, WireValue::Varint(value)) => (value as u32).into(),
        (FieldType::Int64, WireValue::Varint(value)) => (value as i64).into(),
        (FieldType::Int32 | FieldType::Enum, WireValue::Varint(value)) => (value as i32).into(),
        (FieldType::Sint32 | FieldType::Sint64, WireValue::Varint(value)) => {
            ((value >> 1) as i64 ^ -((value & 1) as i64)).into()
        }
        (FieldType::Fixed32, WireValue::Fixed32(value)) => u32::from_le_bytes(value).into(),
        (FieldType::Sfixed32, WireValue::Fixed32(value)) => i32::from_le_bytes(value).into(),
        (FieldType::Fixed64, WireValue::Fixed64(value)) => u64::from_le_bytes(value).into(),
        (FieldType::Sfixed64, WireValue::Fixed64(value)) => i64::from_le_bytes(value).into(),
        (FieldType::Float, WireValue::Fixed32(value)) => {
            return Ok(RuleValue::Float(f32::from_le_bytes(value).into()));
        }
        (FieldType::Double, WireValue::Fixed64(value)) => {
            return Ok(RuleValue::Float(f64::from_le_bytes(value)));
        }
        (FieldType::String | FieldType::Bytes, WireValue::Delimited(value)) => {
            return Ok(RuleValue::Text(value));
        }
        _ => return Err(Malformed),
    };
    Ok(RuleValue::Integer(integer))
}

/// The nanoseconds of an encoded `google.protobuf.Duration`.
#[allow(clippy::cast_possible_wrap)] // as protobuf encodes negative numbers
fn nanoseconds(duration: &[u8]) -> Result<RuleValue<'static>, Malformed> {
    let mut total = 0;
    for field in WireFields::new(duration) {
        match field? {
            RawField {
                number: 1,
                value: WireValue::Varint(seconds),
                ..
            } => total += i128::from(seconds as i64) * 1_000_000_000,
            RawField {
                number: 2,
                value: WireValue::Varint(nanos),
                ..
            } => total += i128::from(nanos as i64),
            _ => {}
        }
    }
    Ok(RuleValue::Integer(total))
}
