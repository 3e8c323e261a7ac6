//! Conditions on single values, as `validate.rules` state them and as Envoy's validators check them.

use std::{cmp::Ordering, fmt};

use crate::pb::{
    google::protobuf::Duration,
    validate::{
        AnyRules, BytesRules, EnumRules, FieldRules, KnownRegex, StringRules, field_rules::Type,
        string_rules::WellKnown,
    },
};

/// A value of a field, or the content of a wrapper such as `google.protobuf.UInt32Value`.
#[derive(Debug, Clone, Copy)]
pub(super) enum RuleValue<'a> {
    /// Also bool and enums; nanoseconds of a duration.
    Integer(i128),
    Float(f64),
    /// A string or bytes.
    Text(&'a [u8]),
}

/// A condition that a value has to fulfil. Its text completes a sentence about the field.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum FieldCondition {
    Bound(Comparison, Limit),
    MinCharacters(usize),
    MinBytes(usize),
    MaxBytes(usize),
    Prefix(String),
    Suffix(String),
    /// One of these texts.
    OneOf(Vec<String>),
    /// A number of the enum.
    Defined(Vec<i32>),
    NotIn(Vec<i32>),
    IsTrue,
    HeaderName,
    HeaderValue,
    /// Without NUL, CR and LF.
    OneLine,
    Pattern(Pattern),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    LessThan,
    AtMost,
    MoreThan,
    AtLeast,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Limit {
    Integer(i128),
    Float(f64),
    Nanoseconds(i128),
}

/// The regular expressions that occur in rules, without an engine for regular expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pattern {
    /// `^[^?#]+[^?#/]$`
    PathPrefix,
    /// `^[0-9a-zA-Z_\-\./~:]+$`
    ResourceId,
    /// `^[0-9a-zA-Z_\-\.~:]+$`
    EntryName,
}

/// The rules for each value of a field.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ValueRules {
    pub(super) conditions: Vec<FieldCondition>,
    /// Whether an empty value fulfils every condition.
    pub(super) ignores_empty: bool,
    /// Whether the field has to be present.
    pub(super) is_required: bool,
    /// Whether the rules inside the message do not apply.
    pub(super) skips_message: bool,
}

impl FieldCondition {
    pub(super) fn holds(&self, value: RuleValue<'_>) -> bool {
        match (self, value) {
            (Self::Bound(comparison, limit), value) => {
                let order = match (value, *limit) {
                    (
                        RuleValue::Integer(value),
                        Limit::Integer(limit) | Limit::Nanoseconds(limit),
                    ) => Some(value.cmp(&limit)),
                    (RuleValue::Float(value), Limit::Float(limit)) => value.partial_cmp(&limit),
                    _ => None,
                };
                comparison.holds(order)
            }
            (Self::Defined(numbers), RuleValue::Integer(value)) => {
                numbers.iter().any(|it| i128::from(*it) == value)
            }
            (Self::NotIn(numbers), RuleValue::Integer(value)) => {
                numbers.iter().all(|it| i128::from(*it) != value)
            }
            (Self::IsTrue, RuleValue::Integer(value)) => value == 1,
            (condition, RuleValue::Text(text)) => condition.holds_for_text(text),
            _ => true,
        }
    }

    fn holds_for_text(&self, text: &[u8]) -> bool {
        match self {
            Self::MinCharacters(count) => has_characters(text, *count),
            Self::MinBytes(count) => text.len() >= *count,
            Self::MaxBytes(count) => text.len() <= *count,
            Self::Prefix(prefix) => text.starts_with(prefix.as_bytes()),
            Self::Suffix(suffix) => text.ends_with(suffix.as_bytes()),
            Self::OneOf(texts) => texts.iter().any(|it| it.as_bytes() == text),
            Self::HeaderName => {
                let name = text.strip_prefix(b":").unwrap_or(text);
                !name.is_empty() && name.iter().all(|byte| is_header_name_byte(*byte))
            }
            Self::HeaderValue => !text
                .iter()
                .any(|byte| byte.is_ascii_control() && *byte != b'\t'),
            Self::OneLine => !text.iter().any(|byte| b"\0\r\n".contains(byte)),
            Self::Pattern(pattern) => pattern.matches(text),
            Self::Bound(..) | Self::Defined(_) | Self::NotIn(_) | Self::IsTrue => true,
        }
    }
}

impl Comparison {
    fn holds(self, order: Option<Ordering>) -> bool {
        match self {
            Self::LessThan => order == Some(Ordering::Less),
            Self::AtMost => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            Self::MoreThan => order == Some(Ordering::Greater),
            Self::AtLeast => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        }
    }
}

impl Pattern {
    fn parse(expression: &str) -> Option<Self> {
        [Self::PathPrefix, Self::ResourceId, Self::EntryName]
            .into_iter()
            .find(|pattern| pattern.expression() == expression)
    }

    const fn expression(self) -> &'static str {
        match self {
            Self::PathPrefix => "^[^?#]+[^?#/]$",
            Self::ResourceId => r"^[0-9a-zA-Z_\-\./~:]+$",
            Self::EntryName => r"^[0-9a-zA-Z_\-\.~:]+$",
        }
    }

    fn matches(self, text: &[u8]) -> bool {
        let is_entry = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.~:".contains(&byte);
        match self {
            Self::PathPrefix => {
                has_characters(text, 2)
                    && !text.ends_with(b"/")
                    && !text.iter().any(|byte| b"?#".contains(byte))
            }
            Self::ResourceId => {
                !text.is_empty() && text.iter().all(|byte| is_entry(*byte) || *byte == b'/')
            }
            Self::EntryName => !text.is_empty() && text.iter().all(|byte| is_entry(*byte)),
        }
    }
}

/// Whether a text in UTF-8 has at least `count` characters.
fn has_characters(text: &[u8], count: usize) -> bool {
    let is_first = |byte: &&u8| !(0x80..0xc0).contains(*byte);
    text.iter().filter(is_first).take(count).count() == count
}

/// A byte of `[0-9a-zA-Z!#$%&'*+-.^_|~\x60]`, in which `+-.` is a range: it contains the comma.
fn is_header_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+,-.^_|~`".contains(&byte)
}

impl fmt::Display for FieldCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bound(comparison, limit) => {
                let words = match comparison {
                    Comparison::LessThan => "less than",
                    Comparison::AtMost => "at most",
                    Comparison::MoreThan => "more than",
                    Comparison::AtLeast => "at least",
                };
                write!(f, "must be {words} {limit}")
            }
            Self::MinCharacters(1) => f.write_str("must not be empty"),
            Self::MinCharacters(count) => write!(f, "must have at least {count} characters"),
            Self::MinBytes(count) => write!(f, "must have at least {count} bytes"),
            Self::MaxBytes(count) => write!(f, "must have at most {count} bytes"),
            Self::Prefix(prefix) => write!(f, "must begin with `{prefix}`"),
            Self::Suffix(suffix) => write!(f, "must end with `{suffix}`"),
            Self::OneOf(texts) => write!(f, "must be one of: {}", texts.join(", ")),
            Self::Defined(_) => f.write_str("must be a defined value of its enum"),
            Self::NotIn(numbers) => write!(f, "must not be one of: {numbers:?}"),
            Self::IsTrue => f.write_str("must be true"),
            Self::HeaderName => f.write_str("must be a valid header name"),
            Self::HeaderValue => f.write_str("must not contain control characters"),
            Self::OneLine => f.write_str("must not contain NUL, CR or LF"),
            Self::Pattern(pattern) => write!(f, "must match `{}`", pattern.expression()),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(limit) => write!(f, "{limit}"),
            Self::Float(limit) => write!(f, "{limit}"),
            Self::Nanoseconds(limit) if limit % 1_000_000 == 0 => {
                write!(f, "{} ms", limit / 1_000_000)
            }
            Self::Nanoseconds(limit) => write!(f, "{limit} ns"),
        }
    }
}

/// Nanoseconds of a duration.
pub(super) fn nanoseconds(Duration { seconds, nanos }: &Duration) -> i128 {
    i128::from(*seconds) * 1_000_000_000 + i128::from(*nanos)
}

/// Collects the conditions of a message of rules: each field that is read here, and an error for any other that is set.
macro_rules! bounds {
    ($rules:expr, $limit:expr, $into:expr) => {{
        let bounds = [
            (Comparison::LessThan, $rules.lt),
            (Comparison::AtMost, $rules.lte),
            (Comparison::MoreThan, $rules.gt),
            (Comparison::AtLeast, $rules.gte),
        ];
        let set = bounds.into_iter();
        $into.extend(set.filter_map(|(comparison, limit)| {
            Some(FieldCondition::Bound(comparison, $limit(limit?)))
        }));
        let others =
            $rules.r#const.is_some() || !$rules.r#in.is_empty() || !$rules.not_in.is_empty();
        !others
    }};
}

impl ValueRules {
    /// The rules of one value. `numbers` are those of the field's enum. The error is a rule that is not known here.
    pub(super) fn new(rules: &FieldRules, numbers: &[i32]) -> Result<Self, String> {
        let mut value = Self::default();
        if let Some(message) = &rules.message {
            value.is_required = message.required();
            value.skips_message = message.skip();
        }
        let into = &mut value.conditions;
        let integer = |limit| Limit::Integer(limit);
        let is_known = match &rules.r#type {
            None => true,
            Some(Type::Uint32(it)) => {
                bounds!(it, |limit: u32| integer(limit.into()), into) && it.ignore_empty.is_none()
            }
            Some(Type::Uint64(it)) => {
                bounds!(it, |limit: u64| integer(limit.into()), into) && it.ignore_empty.is_none()
            }
            Some(Type::Double(it)) => bounds!(it, Limit::Float, into) && it.ignore_empty.is_none(),
            Some(Type::Duration(it)) => {
                value.is_required |= it.required();
                bounds!(
                    it.clone(),
                    |limit: Duration| Limit::Nanoseconds(nanoseconds(&limit)),
                    into
                )
            }
            Some(Type::Bool(it)) => {
                into.extend(it.r#const.map(|_| FieldCondition::IsTrue));
                it.r#const != Some(false)
            }
            Some(Type::Enum(EnumRules {
                r#const,
                defined_only,
                r#in,
                not_in,
            })) => {
                if *defined_only == Some(true) {
                    into.push(FieldCondition::Defined(numbers.to_vec()));
                }
                if !not_in.is_empty() {
                    into.push(FieldCondition::NotIn(not_in.clone()));
                }
                r#const.is_none() && r#in.is_empty()
            }
            Some(Type::Any(AnyRules {
                required,
                r#in,
                not_in,
            })) => {
                value.is_required |= *required == Some(true);
                r#in.is_empty() && not_in.is_empty()
            }
            Some(Type::String(it)) => {
                value.ignores_empty = it.ignore_empty();
                add_text(it, into)
            }
            Some(Type::Bytes(it)) => add_bytes(it, into),
            Some(_) => false,
        };
        if is_known {
            Ok(value)
        } else {
            Err(format!("{rules:?}"))
        }
    }
}

/// Adds the conditions of a string. Returns false if there is a rule that is not known here.
fn add_text(rules: &StringRules, into: &mut Vec<FieldCondition>) -> bool {
    let StringRules {
        r#const,
        len,
        min_len,
        max_len,
        len_bytes,
        min_bytes,
        max_bytes,
        pattern,
        prefix,
        suffix,
        contains,
        not_contains,
        r#in,
        not_in,
        strict,
        ignore_empty: _,
        well_known,
    } = rules;
    let expression = pattern.as_deref().map(Pattern::parse);
    let header = well_known.map(|it| header_condition(it, strict.unwrap_or(true)));
    into.extend(min_len.map(|count| FieldCondition::MinCharacters(size(count))));
    into.extend(min_bytes.map(|count| FieldCondition::MinBytes(size(count))));
    into.extend(max_bytes.map(|count| FieldCondition::MaxBytes(size(count))));
    into.extend(prefix.clone().map(FieldCondition::Prefix));
    into.extend(suffix.clone().map(FieldCondition::Suffix));
    into.extend((!r#in.is_empty()).then(|| FieldCondition::OneOf(r#in.clone())));
    into.extend(expression.flatten().map(FieldCondition::Pattern));
    into.extend(header.clone().flatten());
    let is_unknown = r#const.is_some()
        || len.is_some()
        || max_len.is_some()
        || len_bytes.is_some()
        || contains.is_some()
        || not_contains.is_some()
        || !not_in.is_empty()
        || expression == Some(None)
        || header == Some(None);
    !is_unknown
}

fn header_condition(rule: WellKnown, is_strict: bool) -> Option<FieldCondition> {
    let WellKnown::WellKnownRegex(regex) = rule else {
        return None;
    };
    match (KnownRegex::try_from(regex).ok()?, is_strict) {
        (KnownRegex::HttpHeaderName, true) => Some(FieldCondition::HeaderName),
        (KnownRegex::HttpHeaderValue, true) => Some(FieldCondition::HeaderValue),
        (KnownRegex::HttpHeaderName | KnownRegex::HttpHeaderValue, false) => {
            Some(FieldCondition::OneLine)
        }
        (KnownRegex::Unknown, _) => None,
    }
}

/// Adds the conditions of bytes. Returns false if there is a rule that is not known here.
fn add_bytes(rules: &BytesRules, into: &mut Vec<FieldCondition>) -> bool {
    let BytesRules {
        r#const,
        len,
        min_len,
        max_len,
        pattern,
        prefix,
        suffix,
        contains,
        r#in,
        not_in,
        ignore_empty,
        well_known,
    } = rules;
    into.extend(min_len.map(|count| FieldCondition::MinBytes(size(count))));
    into.extend(max_len.map(|count| FieldCondition::MaxBytes(size(count))));
    let is_unknown = r#const.is_some()
        || len.is_some()
        || pattern.is_some()
        || prefix.is_some()
        || suffix.is_some()
        || contains.is_some()
        || !r#in.is_empty()
        || !not_in.is_empty()
        || ignore_empty.is_some()
        || well_known.is_some();
    !is_unknown
}

fn size(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
